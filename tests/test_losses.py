"""The CCC loss: golden values, gradients, masks, and behaviour at the edges."""

# ruff: noqa: E402
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from affekt import ops
from affekt.errors import InputError
from affekt.losses import CCCLoss, ccc_loss
from checklist import row

pytestmark = pytest.mark.usefixtures("native_or_plain")

P = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4]], dtype=torch.double)
Q = torch.tensor([[0.0, 0.2, 0.1, 0.4, 0.3]], dtype=torch.double)


@row("zhang", 2)
@pytest.mark.parametrize(
    ("pred", "target", "ccc"), [(P, Q, 0.8), (P, P + 0.1, 0.8), (P, 2 * P, 0.5714286), (P, P, 1.0)]
)
def test_golden_values(pred, target, ccc):
    assert 1 - ccc_loss(pred, target, eps=0).item() == pytest.approx(ccc, abs=5e-8)
    assert 1 - CCCLoss()(pred.float(), target.float()).item() == pytest.approx(ccc, abs=1e-6)


@pytest.mark.parametrize(("n", "ccc"), [(5, 0.8), (96, 0.9896), (300, 0.9967)])
def test_mixed_moments_never_reach_one(n, ccc):
    x = torch.randn(1, n, dtype=torch.double)
    assert 1 - ccc_loss(x, x, bias="mixed", eps=0).item() == pytest.approx((n - 1) / n, abs=1e-12)
    assert (n - 1) / n == pytest.approx(ccc, abs=5e-5)


def reference(p, y, eps=1e-8):
    """Lin's formula in float64 numpy."""
    p, y = np.asarray(p, np.float64), np.asarray(y, np.float64)
    cov = ((p - p.mean()) * (y - y.mean())).mean()
    return 1 - 2 * cov / (p.var() + y.var() + (p.mean() - y.mean()) ** 2 + eps)


def reference_gradient(p, y, eps=1e-8):
    """Derivative of Lin's formula with respect to p, in float64 numpy."""
    p, y = np.asarray(p, np.float64), np.asarray(y, np.float64)
    denominator = p.var() + y.var() + (p.mean() - y.mean()) ** 2 + eps
    ccc = 1 - reference(p, y, eps)
    return -2 / (p.size * denominator) * ((y - y.mean()) - ccc * (p - y.mean()))


@row("zhang", 2)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 4), time=st.integers(2, 30), dims=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_time_and_batch_aggregation_under_masks(seed, batch, time, dims):
    rng = np.random.default_rng(seed)
    pred, target = rng.normal(size=(2, batch, time, dims))
    mask = rng.random((batch, time)) < 0.7
    mask[:, 0] = True
    pred[~mask] = np.nan  # masked values may be anything
    args = torch.tensor(pred), torch.tensor(target), torch.tensor(mask)
    loss = ccc_loss(*args, reduction="none")
    assert loss.shape == (batch, dims)
    expected = [
        [reference(pred[b, mask[b], d], target[b, mask[b], d]) for d in range(dims)] for b in range(batch)
    ]
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-9)
    assert ccc_loss(*args).item() == pytest.approx(np.mean(expected))
    assert ccc_loss(*args, reduction="sum").item() == pytest.approx(np.sum(expected))
    pooled = ccc_loss(*args, over="batch", reduction="none")
    np.testing.assert_allclose(
        pooled.numpy(), [reference(pred[mask][:, d], target[mask][:, d]) for d in range(dims)]
    )
    per_dim = torch.tensor(np.broadcast_to(mask[:, :, None], pred.shape).copy())
    assert torch.equal(ccc_loss(args[0], args[1], per_dim), ccc_loss(*args))


@row("zhang", 2)
@pytest.mark.parametrize("over", ["time", "batch"])
@pytest.mark.parametrize("bias", ["population", "mixed"])
def test_gradcheck(over, bias):
    gen = torch.Generator().manual_seed(0)
    pred = torch.randn(3, 6, 2, dtype=torch.double, generator=gen, requires_grad=True)
    target = torch.randn(3, 6, 2, dtype=torch.double, generator=gen, requires_grad=True)
    mask = torch.rand(3, 6, generator=gen) < 0.8
    assert torch.autograd.gradcheck(lambda p, y: ccc_loss(p, y, mask, over=over, bias=bias), (pred, target))
    assert torch.autograd.gradgradcheck(lambda p: ccc_loss(p, target, mask, over=over, bias=bias), pred)


@row("zhang", 2)
def test_gradient_is_the_published_closed_form():
    pred, target = P.clone().requires_grad_(), Q
    ccc_loss(pred, target, eps=0).backward()
    n, mean = 5, target.mean()
    denominator = pred.var(correction=0) + target.var(correction=0) + (pred.mean() - mean) ** 2
    expected = -(2 / (n * denominator)) * ((target - mean) - 0.8 * (pred - mean))
    torch.testing.assert_close(pred.grad, expected.detach())


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4, -1e4])
def test_float32_holds_far_from_zero(mean):
    gen = torch.Generator().manual_seed(0)
    target = (mean + 1e-2 * torch.randn(2, 300, generator=gen)).float()
    pred = (target + 5e-3 * torch.randn(2, 300, generator=gen)).float().requires_grad_()
    loss = ccc_loss(pred, target, reduction="none")
    expected = [reference(p, y) for p, y in zip(pred.detach().numpy(), target.numpy(), strict=True)]
    np.testing.assert_allclose(loss.detach().numpy(), expected, atol=2e-6)
    loss.sum().backward()
    exact = [reference_gradient(p, y) for p, y in zip(pred.detach().numpy(), target.numpy(), strict=True)]
    np.testing.assert_allclose(pred.grad.numpy(), exact, rtol=1e-3, atol=1e-5)


@example(seed=0, shape=(1, 504, 2), kind="outlier first", scale=1e-15, masked=False)
@example(seed=0, shape=(1, 504, 2), kind="outlier first", scale=1.0, masked=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 2), st.integers(2, 3000), st.integers(1, 4)),
    kind=st.sampled_from(["noise", "drift", "steps", "outlier first", "outlier last"]),
    scale=st.sampled_from([1e-25, 1e-15, 1e-2, 1.0, 1e18, 1e25]),
    masked=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_float32_holds_for_any_signal_and_scale(seed, shape, kind, scale, masked):
    if not ops.available():
        shape, scale = (1, 50, 1), 1.0  # plain torch squares in float32
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, shape[1])[:, None]
    common = rng.normal(size=shape)
    if kind == "drift":
        common = 0.01 * common + 100 * t
    elif kind == "steps":
        common = np.floor(3 * t) + 0 * common
    elif kind.startswith("outlier"):
        common[:, 0 if kind.endswith("first") else -1] = 1e3
    pred = (scale * (common + 0.3 * rng.normal(size=shape))).astype(np.float32)
    target = (scale * (0.8 * common + 0.2)).astype(np.float32)
    mask = rng.random(shape) < (0.6 if masked else 2)
    mask[:, 0] = True
    expected = [
        [reference(pred[b, m, d], target[b, m, d], eps=0) for d in range(shape[2]) for m in [mask[b, :, d]]]
        for b in range(shape[0])
    ]
    pred[~mask] = np.nan
    args = torch.tensor(pred).requires_grad_(), torch.tensor(target), torch.tensor(mask) if masked else None
    loss = ccc_loss(*args, reduction="none", eps=0)
    np.testing.assert_allclose(loss.detach().numpy(), expected, atol=1e-6)
    if scale in (1e-2, 1.0):
        loss.sum().backward()
        exact = np.zeros(shape)  # of what is masked too, though NaN lies there
        for b, d in np.ndindex(shape[0], shape[2]):
            m = mask[b, :, d]
            exact[b, m, d] = reference_gradient(pred[b, m, d], target[b, m, d], eps=0)
        np.testing.assert_allclose(args[0].grad.numpy(), exact, atol=1e-5 * np.abs(exact).max())


def test_small_losses_keep_their_digits(native_or_plain):
    if native_or_plain != "native":
        pytest.skip("concerns the op")
    rng = np.random.default_rng(0)
    target = rng.normal(size=(1, 5000)).astype(np.float32)
    pred = (target + 1e-4 * rng.normal(size=target.shape)).astype(np.float32)
    loss = ccc_loss(torch.tensor(pred), torch.tensor(target), eps=0).item()
    assert loss == pytest.approx(reference(pred, target, eps=0), rel=1e-3)
    assert ccc_loss(torch.tensor(pred), torch.tensor(pred), eps=0).item() == 0


@row("zhang", 2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_inputs_give_one_and_no_gradient(dtype):
    flat = torch.full((1, 8), 0.3, dtype=dtype)
    for pred, target in ((flat, flat), (flat, flat + 0.5)):
        pred = pred.clone().requires_grad_()
        loss = ccc_loss(pred, target)
        loss.backward()
        assert loss.item() == 1
        assert pred.grad.abs().max() == 0
    moving = torch.linspace(0, 1, 8, dtype=dtype)[None].requires_grad_()
    loss = ccc_loss(moving, flat)
    loss.backward()
    assert loss.item() == 1
    assert torch.isfinite(moving.grad).all()


def test_windows_without_labels_do_not_count():
    pred = torch.randn(3, 5, requires_grad=True)
    target = torch.randn(3, 5)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1] = False
    torch.testing.assert_close(ccc_loss(pred, target, mask), ccc_loss(pred[[0, 2]], target[[0, 2]]))
    assert ccc_loss(pred, target, mask, reduction="none")[1].item() == 0
    nothing = ccc_loss(pred, target, torch.zeros_like(mask))
    nothing.backward()
    assert nothing.item() == 0
    assert pred.grad.abs().max() == 0


def test_half_precision_is_computed_in_single():
    x = torch.randn(1, 50)
    loss = ccc_loss(x.half(), x.half() + 0.5)
    assert loss.dtype == torch.float32
    assert math.isclose(
        loss.item(), reference(x.half().float()[0], (x.half() + 0.5).float()[0]), abs_tol=1e-5
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 4)), {}, "pred and target"),
        ((torch.zeros(3), torch.zeros(3)), {}, "batch, time"),
        ((torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3)), {}, "floating"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)), {}, "mask must be boolean"),
        (
            (torch.zeros(2, 3), torch.zeros(2, 3)),
            {"over": "all"},
            "over must be one of time, batch, got 'all'",
        ),
    ],
)
def test_bad_arguments_are_named(args, kwargs, words):
    with pytest.raises(InputError, match=words):
        ccc_loss(*args, **kwargs)


@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(0, 3),
    time=st.integers(0, 40),
    dims=st.sampled_from([None, 0, 1, 2, 3, 4, 7, 17, 70]),
    masked=st.sampled_from(["no", "steps", "elements"]),
    over=st.sampled_from(["time", "batch"]),
    bias=st.sampled_from(["population", "mixed"]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    strided=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_any_configuration_equals_the_reference_in_double(
    seed, batch, time, dims, masked, over, bias, reduction, dtype, strided
):
    gen = torch.Generator().manual_seed(seed)
    shape = (batch, time) if dims is None else (batch, time, dims)
    mask = None
    if masked != "no":
        mask = torch.rand(shape if masked == "elements" else shape[:2], generator=gen) < 0.7
    values = [torch.randn(shape, generator=gen, dtype=dtype) for _ in range(2)]
    if strided:
        values = [v.transpose(0, 1).contiguous().transpose(0, 1) for v in values]
    options = {"over": over, "bias": bias, "reduction": reduction}

    def run(values, function):
        values = [v.detach().clone().requires_grad_() for v in values]
        loss = function(*values, mask, **options)
        loss.backward(
            torch.linspace(0.5, 1.5, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].reshape(
                loss.shape
            )
        )
        return loss.detach(), *(v.grad for v in values)

    found = run(values, ccc_loss)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "available", lambda: False)
        expected = run([v.double() for v in values], ccc_loss)
    atol = 2e-6 if dtype == torch.float32 else 1e-12
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=20 * atol, atol=atol)


@pytest.mark.parametrize("length", [1, 63, 16384, 16385, 300_000])
@pytest.mark.parametrize("dims", [1, 3, 5])
def test_long_columns_and_threads(length, dims, native_or_plain):
    gen = torch.Generator().manual_seed(length)
    target = 3 + torch.randn(2, length // dims + 1, dims, generator=gen)
    pred = (target + 0.5 * torch.randn(target.shape, generator=gen)).requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            loss = ccc_loss(pred, target, reduction="none")
            results.append((loss.detach(), *torch.autograd.grad(loss.sum(), pred)))
    finally:
        torch.set_num_threads(before)
    expected = [[reference(pred[b, :, d].detach(), target[b, :, d]) for d in range(dims)] for b in range(2)]
    np.testing.assert_allclose(results[0][0].numpy(), expected, atol=1e-6)
    if native_or_plain == "native":
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_is_exactly_zero(dtype):
    x = torch.randn(4, 321, 3, dtype=dtype)
    if dtype == torch.float64:
        assert ccc_loss(x, x.clone(), eps=0).item() == pytest.approx(0, abs=1e-15)
    else:
        assert ccc_loss(x, x.clone(), eps=0).item() == pytest.approx(0, abs=2e-7)


def test_no_denominator_at_all_is_a_loss_of_one():
    flat = torch.full((2, 9), 0.7, requires_grad=True)
    loss = ccc_loss(flat, flat.detach(), eps=0)
    loss.backward()
    assert loss.item() == 1
    assert flat.grad.abs().max() == 0


def test_nan_in_a_valid_step_shows():
    pred = torch.randn(2, 20)
    pred[1, 3] = float("nan")
    loss = ccc_loss(pred, torch.randn(2, 20), reduction="none")
    assert torch.isfinite(loss[0])
    assert torch.isnan(loss[1])


def test_only_what_needs_a_gradient_gets_one():
    pred, target = torch.randn(2, 2, 20).unbind()
    pred.requires_grad_()
    ccc_loss(pred, target).backward()
    assert pred.grad.shape == pred.shape
    assert not ccc_loss(pred.detach(), target).requires_grad
    target.requires_grad_()
    (only,) = torch.autograd.grad(ccc_loss(pred, target), target)
    assert only.shape == target.shape


def test_gradients_of_inputs_that_depend_on_each_other():
    x = torch.randn(2, 20, dtype=torch.double).requires_grad_()
    loss = ccc_loss(x, (2 * x).sin())
    (plain,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.allclose(plain, again, rtol=1e-9, atol=1e-12)


def test_ops_pass_the_checks_of_torch(native_or_plain):
    if native_or_plain != "native":
        pytest.skip("concerns the op")
    ops.load_library()
    pred, target = torch.randn(2, 2, 7, 3, dtype=torch.double).unbind()
    mask = torch.rand(2, 7, 3) < 0.8
    for args in ((None, False, 0), (mask, True, 2)):
        torch.library.opcheck(
            torch.ops.affekt._ccc_fwd.default,
            (pred.clone().requires_grad_(), target, *args, 1e-8, False),
            test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
        )
    _, columns = torch.ops.affekt._ccc_fwd(pred, target, None, False, 0, 1e-8, False)
    torch.library.opcheck(
        torch.ops.affekt._ccc_bwd.default,
        (torch.tensor(1.0, dtype=torch.double), pred, target, None, columns, False, True, False),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_raw_ops_refuse_what_does_not_fit(native_or_plain):
    if native_or_plain != "native":
        pytest.skip("concerns the op")
    ops.load_library()
    x = torch.randn(2, 5)
    run = torch.ops.affekt._ccc_fwd
    for args, words in (
        ((x, x[:1], None, False, 0, 1e-8, False), r"target: expected the shape .*\(2, 5\), got \(1, 5\)"),
        ((x[0], x[0], None, False, 0, 1e-8, False), "pred: expected"),
        ((x, x, x, False, 0, 1e-8, False), r"mask: expected bool \(2, 5\)"),
        ((x, x, None, False, 3, 1e-8, False), "reduction: expected"),
        ((x.long(), x.long(), None, False, 0, 1e-8, False), "pred: expected dtype"),
    ):
        with pytest.raises(RuntimeError, match=words):
            run(*args)
    with pytest.raises(RuntimeError, match="columns: expected"):
        torch.ops.affekt._ccc_bwd(x[0, 0], x, x, None, torch.zeros(1), False, True, True)


def test_without_the_library_one_warning_and_the_same_numbers(monkeypatch):
    monkeypatch.undo()
    ops._loaded.cache_clear()
    ops._load_library.cache_clear()
    monkeypatch.setattr(ops, "binary_path", lambda: None)
    pred, target = torch.randn(2, 3, 50, dtype=torch.double).unbind()
    try:
        with pytest.warns(UserWarning, match="no torch ops.*Plain torch") as found:
            losses = [ccc_loss(pred, target) for _ in range(2)]
        assert len(found) == 1
        assert torch.equal(*losses)
    finally:
        ops._loaded.cache_clear()
    assert losses[0].item() == pytest.approx(
        np.mean([reference(p, y) for p, y in zip(pred, target, strict=True)])
    )


def test_function_transforms():
    pred, target = torch.randn(2, 4, 30, dtype=torch.double).unbind()
    (expected,) = torch.autograd.grad(ccc_loss(pred.requires_grad_(), target, reduction="sum"), pred)
    pred = pred.detach()
    grad = torch.func.grad(lambda p: ccc_loss(p, target, reduction="sum"))(pred)
    torch.testing.assert_close(grad, expected)
    each = torch.func.vmap(lambda p, y: ccc_loss(p[None], y[None]))(pred, target)
    torch.testing.assert_close(each, ccc_loss(pred, target, reduction="none"))
