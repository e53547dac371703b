"""Torch building blocks: exact sizes, causality, and batches that equal loops under padding."""

# ruff: noqa: E402
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from affekt import nn
from affekt.errors import InputError
from affekt.nn.pool import POOL_KINDS
from checklist import row

# input -> channels, and parameters at k = 3, 5, 7 (weight norm folded)
SIZES = [
    (512, (256, 256, 128, 128), (1_394_560, 2_213_760, 3_032_960)),
    (128, (128, 128, 64, 64), (267_072, 439_104, 611_136)),
    (29, (32, 32, 32, 32), (25_504, 41_696, 57_888)),
    (39, (32, 32, 32, 32), (26_784, 43_616, 60_448)),
    (136, (128, 128, 64, 64), (287_680, 461_760, 635_840)),
    (768, (256, 256, 128, 128), (1_656_704, 2_606_976, 3_557_248)),
    (192, (128, 128), (246_400, 393_856, 541_312)),
    (512, (128, 128), (410_240,)),
]


@pytest.mark.parametrize(("width", "channels", "counts"), SIZES)
def test_tcn_parameter_counts(width, channels, counts):
    for kernel, count in zip((3, 5, 7), counts, strict=False):
        plain = nn.TCN(width, channels, kernel, weight_norm=False)
        normed = nn.TCN(width, channels, kernel)
        assert plain.num_parameters() == normed.num_parameters() == count
        assert normed.num_parameters(folded=False) == count + 2 * sum(channels)
        assert sum(t.size for t in normed.folded().values()) == count


@row("zhang", 3)
@pytest.mark.parametrize(
    ("levels", "kernel", "field"), [(4, 3, 61), (4, 5, 121), (4, 7, 181), (2, 3, 13), (2, 5, 25), (2, 7, 37)]
)
def test_tcn_receptive_field_is_exact(levels, kernel, field):
    tcn = nn.TCN(2, [3] * levels, kernel, activation="prelu", init="xavier").double().eval()
    assert tcn.receptive_field == field
    x = torch.randn(1, field + 20, 2, dtype=torch.double, requires_grad=True)
    reach = torch.autograd.grad(tcn(x)[0, -1].sum(), x)[0][0].abs().sum(-1).nonzero()[:, 0]
    assert reach.min() == x.shape[1] - field
    assert torch.autograd.grad(tcn(x)[0, 5].sum(), x)[0][0, 6:].abs().max() == 0  # nothing from the future


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "prelu"])
def test_tcn_folded_weights_reproduce_the_module(activation):
    torch.manual_seed(0)
    tcn = nn.TCN(5, (7, 7, 4), 3, activation=activation, init="xavier").eval()
    with torch.no_grad():
        for p in tcn.parameters():
            p.add_(0.1 * torch.randn_like(p))
    plain = nn.TCN(5, (7, 7, 4), 3, activation=activation, weight_norm=False).eval()
    plain.load_folded(tcn.folded("x"), "x")
    x = torch.randn(2, 40, 5)
    assert torch.equal(tcn(x), plain(x))
    again = nn.TCN(5, (7, 7, 4), 3, activation=activation).eval()
    again.load_folded(tcn.folded())
    torch.testing.assert_close(again(x), tcn(x))
    tcn.fold_()
    assert torch.equal(tcn(x), plain(x))
    assert not tcn.weight_norm


@row("zhang", 3)
def test_tcn_against_the_written_recurrence():
    """Two blocks by loops over time and taps."""
    torch.manual_seed(1)
    tcn = nn.TCN(3, (4, 2), 3).double().eval()
    w = {k: v.astype(np.float64) for k, v in tcn.folded("t").items()}
    x = np.random.default_rng(0).normal(size=(30, 3))

    def conv(x, weight, bias, d):
        y = np.tile(bias, (len(x), 1))
        for t in range(len(x)):
            for j in range(weight.shape[2]):
                s = t - (weight.shape[2] - 1 - j) * d
                if s >= 0:
                    y[t] += weight[:, :, j] @ x[s]
        return y

    def act(v):
        return np.where(v > 0, v, 0.01 * v)

    y = x
    for level, d in enumerate((1, 2)):
        p = f"t.{level}."
        h = act(conv(y, w[p + "conv1.weight"], w[p + "conv1.bias"], d))
        h = act(conv(h, w[p + "conv2.weight"], w[p + "conv2.bias"], d))
        y = act(h + y @ w[p + "residual.weight"].T + w[p + "residual.bias"])
    got = tcn(torch.tensor(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(got, y, atol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"channels": []}, "channels"),
        ({"activation": "gelu"}, "gelu"),
        ({"dilations": [1]}, "dilations must be 2"),
        ({"dropout": 1.0}, "dropout"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"init": "zeros"}, "init"),
    ],
)
def test_tcn_names_a_bad_argument(kwargs, words):
    with pytest.raises(InputError, match=words):
        nn.TCN(**{"in_features": 3, "channels": [4, 4], **kwargs})
    with pytest.raises(InputError, match=r"\(batch, time, 3\)"):
        nn.TCN(3, [4])(torch.zeros(2, 5, 4))


def test_dropout_keeps_the_mean_passes_its_mask_to_the_gradient_and_is_off_in_evaluation():
    torch.manual_seed(0)
    drop = nn.TCN(1, [1], dropout=0.3).blocks[0].dropout
    x = torch.ones(200, 500, requires_grad=True)
    y = drop(x)
    kept = y != 0
    assert kept.double().mean().item() == pytest.approx(0.7, abs=0.006)  # 4 sd of 100,000 draws
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.7))
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    assert drop.eval()(x) is x


def pooled_by_hand(x, pool):
    """The formula of the model card, one window, float64."""
    x = x[-pool.window :].double().numpy()
    age = np.arange(len(x))[::-1]
    a = np.ones(len(x)) if pool.half_life is None else 0.5 ** (age / pool.half_life)
    parts = []
    if pool.score is not None:
        s = x @ pool.score.weight[0].detach().double().numpy() + pool.score.bias.item()
        w = a * np.exp(s - s.max())
        parts.append((w / w.sum()) @ x)
    if pool.kind != "attention":
        v = a / a.sum()
        mean = v @ x
        parts.append(mean)
        if pool.kind != "mean":
            parts.append(np.sqrt(np.maximum(v @ (x - mean) ** 2, 0) + 1e-5))
    return np.concatenate(parts)


def make_pool(kind, window, half_life, hop=3):
    torch.manual_seed(2)
    pool = nn.Pool(6, kind, window=window, half_life=half_life, hop=hop)
    if pool.score is not None:
        torch.nn.init.normal_(pool.score.weight)
        torch.nn.init.normal_(pool.score.bias)
    return pool


@pytest.mark.parametrize("kind", ["attention_statistics", "attention", "statistics", "mean"])
@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    window=st.integers(1, 30),
    half_life=st.one_of(st.none(), st.floats(0.5, 40)),
    junk=st.sampled_from([0.0, 1e6]),
)
@settings(max_examples=25, deadline=None)
def test_pool_of_a_padded_batch_equals_the_loop_and_the_formula(kind, lengths, window, half_life, junk):
    pool = make_pool(kind, window, half_life)
    gen = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randn(n, 6, generator=gen) for n in lengths]
    x = torch.full((len(rows), max(lengths) + 2, 6), junk)
    for i, r in enumerate(rows):
        x[i, : len(r)] = r
    out = pool(x, nn.lengths_to_mask(lengths, x.shape[1]))
    assert out.shape == (len(rows), pool.out_features)
    for i, r in enumerate(rows):
        torch.testing.assert_close(out[i], pool(r[None])[0], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(out[i].detach().numpy(), pooled_by_hand(r, pool), atol=2e-5)


@given(time=st.integers(1, 40), hop=st.integers(1, 7), window=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
@example(time=1, hop=5, window=3)
def test_pool_trace_equals_pooling_each_prefix(time, hop, window):
    pool = make_pool("attention_statistics", window, 4.0, hop)
    x = torch.randn(2, time, 6, generator=torch.Generator().manual_seed(time))
    trace, rows = pool.trace(x)
    expected = [t for t in range(time) if (t + 1) % hop == 0 or t == time - 1]
    assert rows.tolist() == expected
    for j, t in enumerate(expected):
        torch.testing.assert_close(trace[:, j], pool(x[:, : t + 1]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", POOL_KINDS)
@pytest.mark.parametrize("apart", [0.0, 300.0, -300.0])
def test_fast_pool_trace_agrees_however_far_scores_lie_apart(kind, apart):
    pool = nn.Pool(6, kind, window=6, half_life=4.0, hop=2)
    x = torch.randn(2, 31, 6, generator=torch.Generator().manual_seed(4))
    if pool.score is not None:
        with torch.no_grad():
            pool.score.weight.copy_(torch.tensor([[100.0, 0.3, 0.0, 0.0, 0.0, 0.0]]))
        x[:, :, 0] = 0.0
        x[:, :15, 0] = apart / 100
    mask = torch.rand(2, 31, generator=torch.Generator().manual_seed(5)) < 0.7
    for counted in (None, mask):
        exact, rows = pool.trace(x, counted)
        fast, same = pool.trace(x, counted, fast=True)
        assert torch.equal(rows, same)
        torch.testing.assert_close(fast, exact, atol=1e-4, rtol=1e-4)


def test_pool_forgets_what_is_older_than_its_window():
    pool = make_pool("attention_statistics", 10, 5.0)
    x = torch.randn(1, 50, 6)
    y = x.clone()
    y[:, :40] = 1e8
    assert torch.equal(pool(x), pool(y))


def test_pool_skips_masked_rows_inside():
    pool = make_pool("attention_statistics", 20, None)
    x = torch.randn(1, 12, 6)
    mask = torch.tensor([[1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 0]], dtype=torch.bool)
    torch.testing.assert_close(pool(x, mask), pool(x[mask][None]))
    with pytest.raises(InputError, match="valid row"):
        pool(x, torch.zeros_like(mask))
    with pytest.raises(InputError, match="boolean"):
        pool(x, mask.float())


def test_pool_gradients():
    pool = make_pool("attention_statistics", 5, 3.0).double()
    x = torch.randn(2, 7, 6, dtype=torch.double, requires_grad=True)
    mask = nn.lengths_to_mask([7, 4])
    assert torch.autograd.gradcheck(lambda v: pool(v, mask), x)
    constant = torch.ones(1, 5, 6, dtype=torch.double, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(pool(constant).sum(), constant)[0]).all()


@given(time=st.integers(1, 30), size=st.integers(1, 5), stride=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_stack_concatenates_oldest_first(time, size, stride):
    x = torch.arange(time * 2.0).view(1, time, 2)
    stack = nn.Stack(size, stride)
    if time < size:
        with pytest.raises(InputError, match="at least"):
            stack(x)
        return
    rows, mask = stack(x, nn.lengths_to_mask([max(1, time - 2)], time))
    assert rows.shape == (1, (time - size) // stride + 1, 2 * size)
    for j in range(rows.shape[1]):
        assert torch.equal(rows[0, j], x[0, j * stride : j * stride + size].flatten())
        assert bool(mask[0, j]) == (j * stride + size <= max(1, time - 2))


def test_standardise():
    norm = nn.Standardise(2)
    norm.set([1.0, -2.0], [2.0, 0.0])
    torch.testing.assert_close(norm(torch.tensor([[3.0, -2.0]])), torch.tensor([[1.0, 0.0]]))
    with pytest.raises(InputError, match="mean must be 2 finite"):
        norm.set([1.0, float("nan")], [1.0, 1.0])


def test_augment_is_off_in_evaluation_and_keeps_shapes_in_training():
    augment = nn.FeatureAugment(
        gain=3,
        tempo=0.2,
        shift=2,
        crop=0.3,
        time_masks=2,
        time_width=9,
        feature_masks=1,
        feature_width=4,
        noise=0.1,
    )
    x = torch.randn(3, 50, 8)
    mask = nn.lengths_to_mask([50, 31, 1], 50)
    same, same_mask = augment.eval()(x, mask)
    assert same is x
    assert same_mask is mask
    augment.train()
    for seed in range(20):
        torch.manual_seed(seed)
        y, valid = augment(x, mask)
        assert y.shape[:2] == valid.shape
        assert y.shape[2] == 8
        assert torch.isfinite(y).all()
        lengths = valid.sum(1)
        assert lengths.min() >= 1
        assert (lengths <= torch.tensor([50, 31, 1]) / 0.8 + 1).all()
        assert torch.equal(valid, nn.lengths_to_mask(lengths, y.shape[1]))
    torch.manual_seed(3)
    one = augment(x, mask)
    torch.manual_seed(3)
    two = augment(x, mask)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_augment_gain_is_one_constant_per_recording():
    torch.manual_seed(0)
    augment = nn.FeatureAugment(gain=3.0).train()
    x = torch.randn(4, 20, 8)
    delta = augment(x, nn.lengths_to_mask([20] * 4))[0] - x
    assert delta.flatten(1).std(1).max() < 1e-5
    assert delta[:, 0, 0].std() > 0.1
    with pytest.raises(InputError, match="tempo"):
        nn.FeatureAugment(tempo=1.0)


@pytest.mark.parametrize("options", [{"crop": 0.9}, {"tempo": 0.6}, {"crop": 0.9, "tempo": 0.6}])
def test_augment_leaves_the_least_rows_of_a_recording(options) -> None:
    torch.manual_seed(0)
    augment = nn.FeatureAugment(**options, least=12).train()
    lengths = torch.tensor([5, 12, 13, 30, 200])
    x = torch.arange(200.0)[None, :, None].expand(5, -1, 2)
    mask = nn.lengths_to_mask(lengths, 200)
    shortest = lengths
    for _ in range(100):
        y, kept = augment(x, mask)
        new = kept.sum(1)
        shortest = torch.minimum(shortest, new)
        assert (new >= lengths.clamp(max=12)).all()
        for rows, n, length in zip(y[..., 0], new, lengths, strict=True):
            step = rows[:n].diff()
            assert (rows[:n] <= length - 1).all()
            assert (step > 0)[:-1].all()  # rows of the recording, not one of them over and over
    if "crop" in options:
        assert shortest[3] < 15
    with pytest.raises(InputError, match="least"):
        nn.FeatureAugment(least=0)


def test_speech_trains_on_short_recordings_under_strong_cropping() -> None:
    from affekt.systems import create

    torch.manual_seed(0)
    system = create(
        "speech",
        front_end={"n_mels": 4, "n_fft": 512},
        stack={"size": 12, "stride": 12},
        tcn={"channels": [4]},
        heads={"emotion": {"labels": ["a", "b"]}},
        augment={"crop": 0.9, "tempo": 0.3},
    ).train()
    lengths = torch.tensor([12, 13, 24, 40])
    batch = {
        "features": torch.randn(4, 40, 4),
        "mask": nn.lengths_to_mask(lengths, 40),
        "labels": {"emotion": torch.tensor([0, 1, 0, 1])},
    }
    for _ in range(50):
        assert torch.isfinite(system.loss(batch)["loss"])
