"""The residual block of the TCN as a torch op, forward and backward, against torch's own convolutions."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from affekt import ops

torch = pytest.importorskip("torch")

from affekt.nn import TCN  # noqa: E402
from affekt.nn.tcn import _Block  # noqa: E402
from affekt.ops import tcn as native  # noqa: E402


@pytest.fixture(autouse=True)
def _loaded():
    if ops.binary_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    ops.load_library()


@pytest.fixture
def in_plain_torch(monkeypatch):
    """A function that runs another with the module in plain torch."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(_Block, "_by_op", lambda self, x: False)
            return function()

    return run


def tensors(batch, time, width, out, taps, residual, dtype=torch.float64, seed=0):
    """What the op takes up to the keys: x, weights and biases, all with gradients."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * scale).to(dtype).requires_grad_()

    return [
        normal(batch, time, width),
        normal(out, width, taps, scale=(width * taps) ** -0.5),
        normal(out, scale=0.2),
        normal(out, out, taps, scale=(out * taps) ** -0.5),
        normal(out, scale=0.2),
        normal(out, width, 1, scale=width**-0.5) if residual else None,
        normal(out, scale=0.2) if residual else None,
    ]


def op(args, keys=None, dilation=1, slope=0.01, dropout=0.0):
    return torch.ops.affekt._tcn_block(*args, keys, dilation, slope, dropout, False)


def gradients(y, args, grad):
    given = [a for a in args if a is not None]
    return torch.autograd.grad(y, given, grad)


def close(got, expected, tolerance):
    """Within `tolerance` of the largest value."""
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        if a.numel():
            assert (a.double() - b.double()).abs().max() <= tolerance * (1e-3 + b.abs().max())


def definition(outputs, options, x, weight1, bias1, weight2, bias2, residual=None, residual_bias=None):
    """The block in torch's convolutions, in float64.

    What is dropped and on which side of a rectifier a value lies is taken from the op's outputs, where its
    rounding decides; elsewhere it is what the value says, to rounding.
    """
    (y, h1, h2), (dilation, slope, dropout), functional = outputs, options, torch.nn.functional

    def rectified(z, from_op):
        assert ((z.detach() > 1e-4) <= (from_op > 0) | ((from_op == 0) & from_op.signbit())).all()
        assert ((z.detach() < -1e-4) <= (from_op <= 0)).all()
        return torch.where(from_op > 0, z, slope * z)

    def conv(x, weight, bias, h):
        x = functional.pad(x.transpose(1, 2), ((weight.shape[2] - 1) * dilation, 0))
        z = functional.conv1d(x, weight, bias, dilation=dilation).transpose(1, 2)
        return rectified(z, h).masked_fill((h == 0) & h.signbit(), 0) / (1 - dropout)

    inner = conv(conv(x, weight1, bias1, h1), weight2, bias2, h2)
    aside = x
    if residual is not None:
        aside = functional.conv1d(x.transpose(1, 2), residual, residual_bias).transpose(1, 2)
    return rectified(inner + aside, y)


@settings(max_examples=40)
@example(2, 300, 33, 49, 5, 8, True, 0.0, 0.1, torch.float32)  # two blocks of steps, ragged panels and tiles
@example(1, 3, 2, 2, 4, 7, False, 0.01, 0.0, torch.float32)  # all but the last tap reach before the start
@given(
    batch=st.integers(0, 4),
    time=st.integers(1, 70),
    width=st.integers(1, 40),
    out=st.integers(1, 70),
    taps=st.integers(1, 5),
    dilation=st.integers(1, 9),
    residual=st.booleans(),
    slope=st.sampled_from([0.0, 0.01, 0.3, 1.5]),
    dropout=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_agrees_with_torch_in_float64(
    batch, time, width, out, taps, dilation, residual, slope, dropout, dtype
):
    if not residual:
        width = out
    args = tensors(batch, time, width, out, taps, residual, dtype)
    options = dilation, slope, dropout
    y, h1, h2 = op(args, torch.tensor([3, -4]), *options)
    wide = [None if a is None else a.detach().double().requires_grad_() for a in args]
    expected = definition([v.detach() for v in (y, h1, h2)], options, *wide)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    close([y], [expected], tolerance)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    close(gradients(y, args, grad), gradients(expected, wide, grad.double()), tolerance)


@pytest.mark.parametrize(
    ("width", "channels", "taps", "activation", "normed"),
    [
        (29, (32, 32, 32, 32), 5, "leaky_relu", True),
        (20, (48, 48, 24), 3, "relu", True),
        (8, (8, 8), 3, "leaky_relu", False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_module_is_the_one_of_plain_torch(
    width, channels, taps, activation, normed, dtype, in_plain_torch
):
    torch.manual_seed(2)
    tcn = TCN(width, channels, taps, activation=activation, weight_norm=normed, dropout=0.0).to(dtype)
    x = torch.randn(3, 100, width, dtype=dtype, requires_grad=True)
    assert all(block._by_op(x.new_zeros(1, 1, 1)) for block in tcn.blocks)

    def run():
        y = tcn(x)
        return y, *torch.autograd.grad(y.square().sum(), [x, *tcn.parameters()])

    close(run(), in_plain_torch(run), 1e-5 if dtype == torch.float32 else 1e-11)
    assert all(name.startswith("blocks.") for name in tcn.state_dict())
    assert ("blocks.0.conv1.parametrizations.weight.original0" in tcn.state_dict()) == normed


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("residual", [False, True])
def test_gradients_of_first_and_second_order(residual, dropout):
    args = tensors(2, 5, 3, 3, 2, residual)
    given, keys = [a for a in args if a is not None], torch.tensor([5, 6])

    def run(*values):
        return native.block(*values, *(7 - len(values)) * [None], keys, 2, 0.1, dropout, False)

    def registered(*values):
        return op([*values, *(7 - len(values)) * [None]], keys, 2, 0.1, dropout)[0]

    for function in (run, registered):
        assert torch.autograd.gradcheck(function, given)
        assert torch.autograd.gradgradcheck(function, given)


def test_only_what_needs_a_gradient_gets_one(in_plain_torch):
    torch.manual_seed(3)
    tcn = TCN(6, (5, 5), 3, dropout=0.0)
    x = torch.randn(2, 30, 6)
    tcn(x).sum().backward()
    assert all(p.grad is not None for p in tcn.parameters())
    assert not tcn.requires_grad_(False)(x).requires_grad
    x.requires_grad_()
    (found,) = torch.autograd.grad(tcn(x).sum(), x)
    (expected,) = in_plain_torch(lambda: torch.autograd.grad(tcn(x).sum(), x))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_any_number_of_threads_gives_the_same_bits():
    args = tensors(5, 211, 40, 56, 3, True, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y, h1, h2 = op(args, torch.tensor([1, 2]), 4, 0.01, 0.2)
            results.append((y, h1, h2, *gradients(y, args, y.detach())))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("residual", [False, True])
def test_batches_prefixes_and_layouts_give_the_same_bits(residual):
    args = tensors(4, 101, 24, 24, 3, residual, torch.float32)
    y = op(args)[0]
    x, *rest = args
    for b in range(4):
        assert torch.equal(op([x[b : b + 1], *rest])[0], y[b : b + 1])
    for steps in (1, 7, 100):
        assert torch.equal(op([x[:, :steps], *rest])[0], y[:, :steps])
    turned = x.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0)
    weight = rest[0].detach().permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not turned.is_contiguous()
    assert torch.equal(op([turned, weight, *rest[1:]])[0], y)
    grad = torch.randn(24, 101, 4).permute(2, 1, 0)
    for a, b in zip(gradients(y, args, grad), gradients(op(args)[0], args, grad.contiguous()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_independently(p, dtype):
    args = tensors(4, 500, 45, 45, 1, False, dtype)
    _, h1, h2 = op(args, torch.tensor([7, 8]), 1, 0.01, p)
    masks = [((h == 0) & h.signbit()).double() for h in (h1, h2)]
    n = masks[0].numel()
    bound = 4.5 * (p * (1 - p) / n) ** 0.5  # four and a half standard deviations
    for mask in masks:
        assert abs(mask.mean() - p) < bound
        flat = (mask - p).flatten()
        columns = (mask - p).transpose(1, 2).flatten()
        for lag in (1, 2, 45, 46):
            for values in (flat, columns):
                assert abs((values[lag:] * values[:-lag]).mean()) < 4.5 * p * (1 - p) / (n - lag) ** 0.5
        assert (mask.mean((0, 1)) - p).abs().max() < 5 * (p * (1 - p) / 2000) ** 0.5
        assert (mask.mean(2) - p).abs().max() < 6 * (p * (1 - p) / 45) ** 0.5
    assert abs(((masks[0] - p) * (masks[1] - p)).mean()) < bound
    again = op(args, torch.tensor([7, 8]), 1, 0.01, p)
    assert torch.equal(again[1], h1)
    assert not torch.equal(op(args, torch.tensor([9, 8]), 1, 0.01, p)[1], h1)
    # What stays is that of no dropout, scaled.
    whole = op(args, None, 1, 0.01, 0.0)[1]
    kept = masks[0] == 0
    torch.testing.assert_close(h1[kept], whole[kept] / (1 - p))


def test_zeros_that_nobody_dropped_let_gradients_pass(in_plain_torch):
    tcn = TCN(4, (4, 4), 3, dropout=0.0)
    with torch.no_grad():  # an input of zeros stays zero in every layer
        x = torch.zeros(2, 9, 4, requires_grad=True)

    def run():
        return torch.autograd.grad(tcn(x).sum(), x)

    assert run()[0].abs().max() > 0
    close(run(), in_plain_torch(run), 1e-6)
    args = tensors(1, 6, 3, 3, 2, False, torch.float32)
    with torch.no_grad():
        for a in args[:5]:
            a.mul_(-0.0)
    h1 = op(args, torch.tensor([1, 2]), 1, 0.01, 0.5)[1]
    assert 0 < h1.signbit().sum() < h1.numel()
    assert not op(args)[1].signbit().any()
    assert not op(args)[0].signbit().any()


def test_draws_follow_the_seed_of_torch():
    tcn = TCN(6, (8, 8), 3, dropout=0.5)
    x = torch.randn(2, 20, 6)
    torch.manual_seed(4)
    first, second = tcn(x), tcn(x)
    torch.manual_seed(4)
    assert torch.equal(tcn(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(tcn.eval()(x), tcn(x))


def test_not_finite_values_stay_in_their_sequence_and_future():
    args = tensors(2, 20, 4, 4, 2, False, torch.float32)
    clean = op(args)[0]
    for bad in (float("nan"), float("inf")):
        x = args[0].detach().clone()
        x[1, 10, 2] = bad
        y = op([x, *args[1:]])[0]
        assert torch.equal(y[0], clean[0])
        assert torch.equal(y[1, :10], clean[1, :10])
        assert not y[1, 10].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 3)])
def test_nothing_in_nothing_out(shape):
    tcn, x = TCN(3, (4, 2), 3), torch.zeros(shape, requires_grad=True)
    y = tcn(x)
    assert y.shape == (*shape[:2], 2)
    y.sum().backward()
    assert x.grad.shape == shape
    assert all(p.grad is not None and not p.grad.any() for p in tcn.parameters())  # zeros, of NaN none


def test_what_the_op_does_not_cover_runs_in_plain_torch():
    x = torch.randn(2, 12, 3)
    tcn = TCN(3, (4, 4), 2).eval()
    assert all(block._by_op(x.new_zeros(1, 1, 1)) for block in tcn.blocks)
    assert not TCN(3, (4, 4), 2, activation="prelu").blocks[0]._by_op(x)
    assert not TCN(3, (4, 4), 2, slope=-0.1).blocks[0]._by_op(x)
    assert not tcn.blocks[0]._by_op(x.bfloat16())
    expected = tcn(x)
    with torch.autocast("cpu"):
        found = tcn(x)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)
    each = torch.func.vmap(lambda one: tcn(one[None])[0])(x)
    torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-6)
    traced = torch.jit.trace(tcn, x)
    assert "affekt::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), expected, rtol=1e-5, atol=1e-6)
    exported = torch.export.export(tcn, (x,))
    assert "affekt" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["conv1", "conv2", "residual", "act1", "act3", "dropout"])
@pytest.mark.parametrize("kind", ["forward_pre_hook", "forward_hook", "full_backward_hook"])
def test_hooks_inside_a_block_are_called(part, kind):
    tcn, calls = TCN(3, (4, 4), 2, dropout=0.0), []
    x = torch.randn(2, 7, 3, requires_grad=True)
    expected = tcn(x)
    handle = getattr(getattr(tcn.blocks[0], part), f"register_{kind}")(lambda *_: calls.append(part))
    found = tcn(x)
    found.sum().backward()
    assert set(calls) == {part}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    handle.remove()
    assert torch.equal(tcn(x), expected)


def test_hooks_and_wrappers_of_a_block_are_called():
    class Doubled(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    tcn, x, seen = TCN(3, (4, 4), 2).eval(), torch.randn(2, 7, 3), []
    expected = tcn(x)
    with tcn.blocks[0].register_forward_hook(lambda _, args, y: seen.append((args[0].shape, y.shape))):
        assert torch.equal(tcn(x), expected)
    assert seen == [((2, 7, 3), (2, 7, 4))]
    tcn.blocks[1] = Doubled(tcn.blocks[1])
    assert torch.equal(tcn(x), 2 * expected)
    tcn.blocks[1].inner.conv2 = Doubled(tcn.blocks[1].inner.conv2)
    assert not torch.equal(tcn(x), 2 * expected)
    tcn = TCN(3, (4, 4), 2).eval()
    tcn.blocks[0].act2 = torch.nn.Tanh()
    assert not tcn.blocks[0]._by_op(x)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compiles_in_one_graph(dropout):
    tcn, x = TCN(3, (4, 5), 2, dropout=dropout), torch.randn(2, 9, 3, requires_grad=True)
    compiled = torch.compile(tcn, fullgraph=True, backend="aot_eager")
    results = []
    for function in (tcn, compiled):
        torch.manual_seed(5)
        y = function(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *tcn.parameters()])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_ops_pass_the_checks_of_torch():
    for residual, keys in ((True, torch.tensor([1, 2])), (False, None)):
        args = tensors(2, 6, 3, 3, 2, residual)
        options = 2, 0.01, 0.0 if keys is None else 0.5
        torch.library.opcheck(
            torch.ops.affekt._tcn_block.default,
            (*args, keys, *options, False),
        )
        with torch.no_grad():
            y, h1, h2 = op(args, keys, *options)
        x, weight1, _, weight2, _, aside, _ = (None if a is None else a.detach() for a in args)
        for wanted in ((True, True), (False, True), (True, False)):
            torch.library.opcheck(
                torch.ops.affekt._tcn_block_bwd.default,
                (torch.randn_like(y), x, y, h1, h2, weight1, weight2, aside, *options, *wanted, False),
                test_utils=("test_schema", "test_faketensor"),
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rectifier_without_a_slope_leaves_nothing_of_infinity(dtype, in_plain_torch):
    tcn = TCN(1, (1,), 1, activation="relu", dropout=0.0).to(dtype)
    with torch.no_grad():
        for p in tcn.parameters():
            p.fill_(1.0)
    x = torch.tensor([-torch.inf, -2.0, torch.nan, 3.0], dtype=dtype).reshape(1, 4, 1).requires_grad_()

    def run():
        y = tcn(x)
        return y, torch.autograd.grad(y[:, [0, 1, 3]].sum(), x)[0]

    y, grad = run()
    assert y[0, 0] == y[0, 1] == 0
    assert y[0, 2].isnan()
    assert grad[0, 0] == grad[0, 1] == 0
    for ours, theirs in zip((y, grad), in_plain_torch(run), strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    ones = [torch.ones(shape, dtype=dtype) for shape in ((1, 1, 1), 1, (1, 1, 1), 1)]
    reference = native._reference(None, (1, 0.0, 0.0), x, *ones, None, None)
    assert reference[0, 0] == 0


def test_the_cuda_kernel_runs_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(ops, "native", lambda x, *, cuda=False: cuda)  # as beside a GPU
    x = torch.zeros(1, 2, 3)
    for asked in (False, True):
        block = TCN(3, [4], cuda_kernel=asked).blocks[0]
        assert block._by_op(x) is asked
    assert not TCN(3, [4]).blocks[0]._by_op(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_asks_for_the_cuda_kernel_as_the_module_does():
    for asked in (False, True):
        scripted = torch.jit.freeze(torch.jit.script(TCN(3, [4], cuda_kernel=asked).eval()))
        assert ("prim::is_cuda" in str(scripted.inlined_graph)) is asked


def test_raw_ops_refuse_what_does_not_fit():
    x, w1, b1, w2, b2, r, rb = (a.detach() for a in tensors(2, 6, 3, 4, 2, True, torch.float32))
    keys = torch.tensor([1, 2])
    good = [x, w1, b1, w2, b2, r, rb, keys, 1, 0.01, 0.5, False]
    torch.ops.affekt._tcn_block(*good)
    for at, value, words in (
        (0, x[0], r"x: expected \(batch, time, width\), got \(6, 3\)"),
        (0, x.long(), "weight1: expected .* of the dtype of x"),
        (0, x[:, :, :2], r"weight1: expected \(4, 2, 2\) of the dtype of x, got \(4, 3, 2\)"),
        (1, w1[0], r"weight1: expected \(out, in, taps\)"),
        (1, w1[:, :, :0], r"weight1: expected \(out, in, taps\)"),
        (1, w1.double(), "weight1: expected"),
        (2, b1[:3], r"bias1: expected \(4\)"),
        (3, w1, r"weight2: expected \(4, 4, 2\)"),
        (4, b2[None], r"bias2: expected \(4\)"),
        (5, None, "residual: expected a weight"),
        (5, r[..., 0], r"residual: expected \(4, 3, 1\)"),
        (6, None, "residual_bias: expected one beside residual"),
        (6, rb[:1], "residual_bias: expected"),
        (7, None, "keys: expected two"),
        (7, keys.float(), "keys: expected two of int64"),
        (8, 0, "dilation: expected from 1"),
        (9, -0.5, "slope: expected at least 0"),
        (9, float("nan"), "slope: expected at least 0"),
        (9, float("inf"), "slope: expected at least 0 and finite"),
        (10, 1.0, r"dropout: expected within \[0, 1\)"),
    ):
        with pytest.raises(RuntimeError, match=words):
            torch.ops.affekt._tcn_block(*good[:at], value, *good[at + 1 :])
    whole = [a.long() if a is not None and a.dtype == torch.float32 else a for a in good[:7]]
    with pytest.raises(RuntimeError, match="x: expected dtype float32 or float64"):
        torch.ops.affekt._tcn_block(*whole, *good[7:])
    y = torch.zeros(2, 6, 4)
    back = [y, x, y, y, y, w1, w2, r, 1, 0.01, 0.5, True, True, False]
    torch.ops.affekt._tcn_block_bwd(*back)
    for at, name in ((0, "grad"), (2, "y"), (3, "h1"), (4, "h2")):
        with pytest.raises(RuntimeError, match=rf"{name}: expected \(2, 6, 4\)"):
            torch.ops.affekt._tcn_block_bwd(*back[:at], y[:, :5], *back[at + 1 :])
