"""The contrastive losses: golden values, agreement with plain torch, any tiling, edges and bad input."""

# ruff: noqa: E402
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

from affekt import ops
from affekt.errors import InputError
from affekt.losses import (
    InfoNCELoss,
    MCLLoss,
    NegativeQueue,
    NTXentLoss,
    PairwiseInfoNCELoss,
    SupConLoss,
    _contrast,
    icl_loss,
    info_nce_loss,
    mcl,
    mcl_loss,
    nt_xent_loss,
    pairwise_info_nce_loss,
    sup_con_loss,
)
from affekt.ops import losses as native

pytestmark = pytest.mark.usefixtures("native_or_plain")


def waves(modalities, n, dim, views=1):
    """Return the inputs of the published golden values, (M, views * n, dim) float64."""
    m, v, i, d = np.ogrid[1 : modalities + 1, 0:views, 1 : n + 1, 1 : dim + 1]
    return torch.tensor(np.sin(0.7 * m + 0.9 * i * d + 0.3 * v).reshape(modalities, views * n, dim))


@pytest.mark.parametrize(
    ("shape", "temperature", "eq1", "clip", "two_view"),
    [
        ((3, 4, 5), 0.07, (-7.774900, -1.943725), (13.386041, 3.346510), 4.330619),
        ((3, 4, 5), 0.50, (1.048795, 0.262199), (3.932514, 0.983129), 1.497272),
        ((4, 4, 5), 0.07, (4.088755, 1.022189), (20.815835, 5.203959), 5.686351),
        ((2, 3, 2), 0.07, (-17.660060, -5.886687), (1.771683, 0.590561), 2.077164),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_values_of_pairs(shape, temperature, eq1, clip, two_view, dtype):
    z = waves(*shape).to(dtype)
    rel = 1e-5 if dtype == torch.float32 else 1e-7
    for mode, expected in (("eq1", eq1), ("clip", clip)):
        for reduction, value in zip(("sum", "mean"), expected, strict=True):
            loss = pairwise_info_nce_loss(z, temperature=temperature, mode=mode, reduction=reduction)
            assert loss.item() == pytest.approx(value, rel=rel, abs=6e-7)
    views = waves(*shape, views=2).to(dtype)
    loss = pairwise_info_nce_loss(views, temperature=temperature, mode="two_view")
    assert loss.item() == pytest.approx(two_view, rel=rel, abs=6e-7)


@pytest.mark.parametrize(
    ("mode", "norm", "first"),
    [
        ("eq1", 4.219503, (-0.214848, 0.402284, 0.998415, 0.474325, -0.751253)),
        ("clip", 2.619070, (-0.020465, 0.150443, 0.208514, 0.100387, -0.085659)),
    ],
)
def test_golden_gradient_of_pairs(mode, norm, first):
    z = waves(3, 4, 5).requires_grad_()
    PairwiseInfoNCELoss(mode=mode)(z).backward()
    assert z.grad.norm().item() == pytest.approx(norm, abs=1e-6)
    assert z.grad[0, 0].tolist() == pytest.approx(first, abs=1e-6)


def test_limits():
    same = torch.ones(3, 6, 4, dtype=torch.double)
    for mode, value in (("eq1", math.log(5)), ("clip", math.log(6)), ("two_view", math.log(5))):
        assert pairwise_info_nce_loss(same, mode=mode).item() == pytest.approx(value)
    matched = torch.eye(4, dtype=torch.double).repeat(2, 1, 1)
    assert pairwise_info_nce_loss(matched, mode="eq1").item() == pytest.approx(-13.187102, abs=1e-6)
    assert pairwise_info_nce_loss(matched, mode="clip").item() == pytest.approx(1.8746e-6, rel=1e-4)
    # All similarities equal: log(1 + K).
    x = torch.ones(8, 3)
    assert nt_xent_loss(x, x).item() == pytest.approx(math.log(1 + 14), rel=1e-6)
    assert nt_xent_loss(x, x, negatives=torch.ones(48, 3)).item() == pytest.approx(math.log(1 + 62), rel=1e-6)
    assert info_nce_loss(x, x, symmetric=False, negatives=x).item() == pytest.approx(math.log(16), rel=1e-6)
    assert sup_con_loss(x, torch.arange(8) // 4).item() == pytest.approx(math.log(7), rel=1e-6)
    one = torch.ones(1, 3)
    assert info_nce_loss(one, one).item() == pytest.approx(0, abs=5e-6)
    assert nt_xent_loss(one, one).item() == pytest.approx(0, abs=5e-6)


def test_invariants():
    gen = torch.Generator().manual_seed(0)
    z = torch.randn(3, 7, 5, dtype=torch.double, generator=gen).requires_grad_()
    for mode in ("eq1", "clip"):
        loss = pairwise_info_nce_loss(z, mode=mode)
        (grad,) = torch.autograd.grad(loss, z)
        assert (grad * z).sum(-1).abs().max().item() < 1e-12  # only directions enter
        order = torch.randperm(7, generator=gen)
        for other in (z * 7.5, z[[2, 0, 1]], z[:, order]):
            assert pairwise_info_nce_loss(other, mode=mode).item() == pytest.approx(loss.item(), rel=1e-12)
        one_permuted = torch.stack([z[0], z[1][order], z[2]])
        assert pairwise_info_nce_loss(one_permuted, mode=mode).item() != pytest.approx(loss.item(), rel=1e-3)


@given(
    seed=st.integers(0, 10**6),
    n=st.one_of(st.integers(2, 70), st.sampled_from([511, 513, 1030])),
    dim=st.integers(1, 20),
    extra=st.sampled_from([0, 1, 33, 2100]),
    temperature=st.sampled_from([0.005, 0.02, 0.07, 0.5, 3.0]),
    symmetric=st.booleans(),
    included=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    budget=st.sampled_from([0, 10**6, 2**28]),
    strided=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_info_nce_equals_plain_torch_in_double(
    seed, n, dim, extra, temperature, symmetric, included, dtype, budget, strided
):
    gen = torch.Generator().manual_seed(seed)
    a, noise = torch.randn(2, n, dim, generator=gen, dtype=dtype)
    b = a + noise
    if strided:
        a, b = a.T.contiguous().T, b.repeat(1, 2)[:, ::2]
    negatives = torch.randn(extra, dim, generator=gen, dtype=dtype) if not symmetric else None

    def run(a, b, temperature, negatives, function):
        inputs = [v.detach().clone().requires_grad_() for v in (a, b, temperature)]
        loss = function(*inputs, negatives)
        return loss.detach(), *torch.autograd.grad(loss, inputs)

    options = {"symmetric": symmetric, "positive_in_denominator": included}
    found = run(
        *(a, b, torch.tensor(temperature, dtype=dtype), negatives),
        lambda a, b, t, q: info_nce_loss(a, b, temperature=t, negatives=q, budget=budget, **options),
    )
    weight = (0.5 if symmetric else 1) / n
    expected = run(
        *(v.double() for v in (a, b)),
        torch.tensor(temperature, dtype=dtype).double(),
        negatives if negatives is None else negatives.double(),
        lambda a, b, t, q: native.reference_info_nce(a, b, q, 1 / t, 0, not included, symmetric, weight),
    )
    compare(found, expected, (a, b), dtype, temperature, n + extra)


def compare(found, expected, embeddings, dtype, temperature, terms):
    """Logits carry an error of the type's precision over the temperature; so do the results.

    The gradient of an embedding is that of its direction over its length, and so is its error: they are
    compared times the length. The error in the temperature is a sum over all pairs, whose weights in a row
    add up to about one. BLAS, which the reference uses too, promises half an eps per term; embeddings of one
    feature have equal terms and come near that.
    """
    eps = torch.finfo(dtype).eps
    lengths = [x.detach().double().norm(dim=1, keepdim=True) for x in embeddings]
    for k, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == dtype
        if 0 < k < len(found) - 1:
            ours, theirs = ours.double() * lengths[k - 1], theirs * lengths[k - 1]
        # A gradient in cosines is 1 / temperature times larger; in the temperature, one factor more.
        size = max(
            1.0, theirs.abs().max().item(), (k > 0) / temperature, (k == len(found) - 1) / temperature**2
        )
        error = (ours.double() - theirs).abs().max().item()
        product = terms / 2 if k == len(found) - 1 else 0
        assert error < eps * (10 * (1 + 1 / temperature) + product) * size, (k, error, size)


@given(
    seed=st.integers(0, 10**6),
    n=st.one_of(st.integers(1, 70), st.sampled_from([512, 1100])),
    dim=st.integers(1, 20),
    extra=st.sampled_from([0, 1, 33, 2100]),
    classes=st.integers(1, 80),
    temperature=st.sampled_from([0.005, 0.02, 0.1, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    budget=st.sampled_from([0, 10**6, 2**28]),
)
@settings(max_examples=40, deadline=None)
def test_sup_con_equals_plain_torch_in_double(seed, n, dim, extra, classes, temperature, dtype, budget):
    gen = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dim, generator=gen, dtype=dtype).requires_grad_()
    t = torch.tensor(temperature, dtype=dtype, requires_grad=True)
    labels = torch.randint(-classes, classes, (n,), generator=gen)
    negatives = torch.randn(extra, dim, generator=gen, dtype=dtype)
    loss = sup_con_loss(z, labels, temperature=t, negatives=negatives, budget=budget)
    found = loss.detach(), *torch.autograd.grad(loss, (z, t))
    exact, s = z.detach().double().requires_grad_(), t.detach().double().requires_grad_()
    value = native.reference_sup_con(exact, labels, negatives.double(), 1 / s)
    expected = value.detach(), *torch.autograd.grad(value, (exact, s))
    compare(found, expected, (z,), dtype, temperature, n + extra)


def test_references_against_loops():
    gen = torch.Generator().manual_seed(1)
    z, q = torch.randn(6, 4, generator=gen).double(), torch.randn(3, 4, generator=gen).double()
    u, w = (v / v.norm(dim=1, keepdim=True) for v in (z, q))
    labels, t = [0, 1, 0, 2, 1, 0], 0.3

    def cross_entropy(i, p, candidates):
        logits = [(u[i] @ c / t).item() for c in candidates]
        return math.log(sum(map(math.exp, logits))) - (u[i] @ u[p] / t).item()

    losses = []
    for i in range(6):
        candidates = [u[j] for j in range(6) if j != i] + list(w)
        own = [cross_entropy(i, p, candidates) for p in range(6) if p != i and labels[p] == labels[i]]
        if own:
            losses.append(sum(own) / len(own))
    value = sup_con_loss(z, torch.tensor(labels), temperature=t, negatives=q).item()
    assert value == pytest.approx(sum(losses) / len(losses), rel=1e-12)

    pairs = [cross_entropy(i, (i + 3) % 6, [u[j] for j in range(6) if j != i] + list(w)) for i in range(6)]
    value = NTXentLoss(temperature=t)(z[:3], z[3:], q).item()
    assert value == pytest.approx(sum(pairs) / 6, rel=1e-12)

    def info_nce(a, b, included):
        logits = [[(x @ y / t).item() for y in b] for x in a]
        return sum(
            math.log(sum(math.exp(v) for j, v in enumerate(row) if included or j != i)) - row[i]
            for i, row in enumerate(logits)
        ) / len(a)

    for included in (True, False):
        module = InfoNCELoss(temperature=t, positive_in_denominator=included)
        both = (info_nce(u[:3], u[3:], included) + info_nce(u[3:], u[:3], included)) / 2
        assert module(z[:3], z[3:]).item() == pytest.approx(both, rel=1e-12)
    total = info_nce_loss(z[:3], z[3:], temperature=t, symmetric=False, reduction="sum").item()
    assert total == pytest.approx(3 * info_nce(u[:3], u[3:], True), rel=1e-12)


def losses():
    """Return each loss as a function of two batches, a temperature and extra negatives."""
    labels = torch.tensor([3, 1, 3, 1, 5])
    return {
        "info_nce": lambda a, b, t, q: info_nce_loss(a, b, temperature=t),
        "one-sided": lambda a, b, t, q: info_nce_loss(a, b, temperature=t, symmetric=False, negatives=q),
        "decoupled": lambda a, b, t, q: info_nce_loss(a, b, temperature=t, positive_in_denominator=False),
        "pairwise": lambda a, b, t, q: pairwise_info_nce_loss([a, b, a + b], temperature=t),
        "two_view": lambda a, b, t, q: pairwise_info_nce_loss(
            [torch.cat([a, b]), torch.cat([b, a * b])], temperature=t, mode="two_view"
        ),
        "nt_xent": lambda a, b, t, q: nt_xent_loss(a, b, temperature=t, negatives=q),
        "sup_con": lambda a, b, t, q: sup_con_loss(a, labels, temperature=t, negatives=q) + 0 * b.sum(),
    }


@pytest.mark.parametrize("name", [name for name in losses() if name != "sup_con"])
def test_gradients_of_inputs_that_depend_on_each_other(name):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.double, generator=gen).requires_grad_()
    q = torch.randn(4, 3, dtype=torch.double, generator=gen)
    t = torch.tensor(0.3, dtype=torch.double)
    loss = losses()[name](x, (2 * x).sin(), t, q)
    (plain,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.allclose(plain, again, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 0.02])
@pytest.mark.parametrize("name", list(losses()))
def test_gradcheck(name, temperature):
    gen = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 3, dtype=torch.double, generator=gen).requires_grad_() for _ in range(2))
    q = torch.randn(4, 3, dtype=torch.double, generator=gen)
    t = torch.tensor(temperature, dtype=torch.double, requires_grad=True)
    function = losses()[name]
    assert torch.autograd.gradcheck(lambda a, b, t: function(a, b, t, q), (a, b, t), atol=1e-4)
    if temperature == 0.3:
        assert torch.autograd.gradgradcheck(lambda a, t: function(a, b, t, q), (a, t), atol=1e-4)


@pytest.mark.parametrize("name", list(losses()))
def test_half_precision_far_scales_and_wanted_gradients(name):
    gen = torch.Generator().manual_seed(0)
    a, b, q = (torch.randn(5, 3, generator=gen) for _ in range(3))
    function = losses()[name]
    loss = function(a, b, 0.1, q)
    assert loss.dtype == torch.float32
    assert not loss.requires_grad
    half = function(a.bfloat16(), b.bfloat16(), 0.1, q.bfloat16())
    assert half.dtype == torch.float32
    exact = function(a.bfloat16().float(), b.bfloat16().float(), 0.1, q.bfloat16().float())
    assert half.item() == pytest.approx(exact.item(), rel=2e-2)
    if name not in ("pairwise", "two_view"):  # those mix a and b
        for factor in (1e-9, 1e9):
            assert function(a * factor, b / factor, 0.1, q * factor).item() == pytest.approx(
                loss.item(), rel=1e-5
            )
    b.requires_grad_()
    (grad,) = torch.autograd.grad(function(a, b, 0.1, q), b)
    assert grad.shape == b.shape
    t = torch.tensor(0.1, requires_grad=True)
    (grad,) = torch.autograd.grad(function(a, b.detach(), t, q), t)
    assert torch.isfinite(grad)


@pytest.mark.parametrize("name", list(losses()))
def test_nan_shows_and_zeros_do_not_break(name):
    a, b, q = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0)).unbind()
    function = losses()[name]
    for temperature in (0.1, 0.01):
        for bad in (math.nan, math.inf):
            broken = a.clone()
            broken[2, 1] = bad
            assert torch.isnan(function(broken, b, temperature, q))
        empty = a.clone()
        empty[2] = 0
        empty.requires_grad_()
        loss = function(empty, b, temperature, q)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(empty.grad).all()


def test_temperature_is_learned_as_a_logarithm():
    a, b = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0)).unbind()
    module = InfoNCELoss(temperature=0.2, learn_temperature=True)
    loss = module(a, b)
    assert loss.item() == pytest.approx(info_nce_loss(a, b, temperature=0.2).item(), rel=1e-6)
    loss.backward()
    step = 1e-2
    up, down = (info_nce_loss(a, b, temperature=0.2 * math.exp(s)).item() for s in (step, -step))
    assert module.log_temperature.grad.item() == pytest.approx((up - down) / (2 * step), rel=1e-2)
    assert not list(InfoNCELoss().parameters())
    assert "temperature=0.2" in repr(module)


def test_a_temperature_that_is_a_number_is_no_copy_from_the_host():
    """Such a copy waits for the GPU, and may not be in its graphs."""
    called = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(function.overloadpacket)
            return function(*args, **(kwargs or {}))

    like = torch.zeros(2, 3, device="meta", dtype=torch.bfloat16)
    with Seen():
        scale = _contrast.scale_of(0.25, like)
    assert set(called) == {torch.ops.aten.promote_types, torch.ops.aten.full}
    assert (scale.shape, scale.dtype, scale.device.type) == ((), torch.float32, "meta")
    assert _contrast.scale_of(0.25, torch.zeros(2, 3)).item() == 4


def test_negatives_get_no_gradient_and_an_empty_queue_changes_nothing():
    a, b, q = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0)).unbind()
    q.requires_grad_()
    a.requires_grad_()
    for loss in (nt_xent_loss(a, b, negatives=q), info_nce_loss(a, b, symmetric=False, negatives=q)):
        loss.backward()
    assert q.grad is None
    assert torch.equal(nt_xent_loss(a, b, negatives=q[:0]), nt_xent_loss(a, b))


def test_present_leaves_rows_out():
    gen = torch.Generator().manual_seed(0)
    z = torch.randn(3, 6, 4, dtype=torch.double, generator=gen).requires_grad_()
    present = torch.ones(3, 6, dtype=torch.bool)
    torch.testing.assert_close(pairwise_info_nce_loss(z, present=present), pairwise_info_nce_loss(z))
    present[0, 2] = present[2, :5] = False
    # Modality 2 shares one clip with each other, too few for eq1, so that (0, 1) without clip 2 remains.
    keep = [0, 1, 3, 4, 5]
    loss = pairwise_info_nce_loss(z, present=present)
    torch.testing.assert_close(loss, pairwise_info_nce_loss(z[:2, keep]))
    (grad,) = torch.autograd.grad(loss, z)
    assert grad[2].abs().max() == 0
    assert grad[:, 2].abs().max() == 0
    nothing = pairwise_info_nce_loss(z, present=torch.zeros_like(present))
    nothing.backward()
    assert nothing.item() == 0
    assert z.grad.abs().max() == 0


def test_labels_without_partners_count_for_nothing():
    z = torch.randn(4, 3, requires_grad=True)
    loss = sup_con_loss(z, torch.arange(4))
    loss.backward()
    assert loss.item() == 0
    assert z.grad.abs().max() == 0
    assert SupConLoss()(z, torch.tensor([0, 0, 1, 2], dtype=torch.int8)).item() > 0


def test_queue_is_first_in_first_out():
    queue = NegativeQueue(5, 2)
    assert queue().shape == (0, 2)
    rows = torch.arange(26.0).reshape(13, 2)
    for start, end in ((0, 2), (2, 4), (4, 7), (7, 13)):
        queue.push(rows[start:end].clone().requires_grad_())
        kept = queue()
        assert not kept.requires_grad
        assert sorted(kept.tolist()) == rows[max(0, end - 5) : end].tolist()
    other = NegativeQueue(5, 2)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other(), queue())
    kept = queue()
    queue.push(rows[:3])
    assert sorted(kept.tolist()) == rows[8:].tolist()  # a copy
    with pytest.raises(InputError, match=r"embeddings must be \(n, 2\), got \(2, 3\)"):
        queue.push(torch.zeros(2, 3))
    with pytest.raises(InputError, match="size must be at least 1, got 0"):
        NegativeQueue(0, 2)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    dim=st.integers(1, 12),
    extra=st.sampled_from([None, 0, 1, 50]),
    temperature=st.sampled_from([0.01, 0.1, 1.0]),
    softening=st.sampled_from([0.5, 1.0, 3.0]),
    budget=st.sampled_from([0, 2**28]),
)
@settings(max_examples=25, deadline=None)
def test_icl_equals_plain_torch(seed, n, dim, extra, temperature, softening, budget):
    gen = torch.Generator().manual_seed(seed)
    z = torch.randn(4, n, dim, generator=gen, dtype=torch.double).requires_grad_()
    t = torch.tensor(temperature, dtype=torch.double, requires_grad=True)
    queues = (None, None) if extra is None else torch.randn(2, extra, dim, generator=gen).double().unbind()
    options = {"negatives": queues, "temperature": t, "softening": softening}
    loss = icl_loss(z[:2], z[2:], budget=budget, **options)
    unit = torch.nn.functional.normalize(z, dim=2)
    expected = mcl._reference(*unit, *queues, 1 / t, softening)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(*(torch.autograd.grad(v, (z, t)) for v in (loss, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_mcl_is_the_sum_of_its_terms():
    gen = torch.Generator().manual_seed(0)
    q, k, n = (torch.randn(2, 5, 3, dtype=torch.double, generator=gen) for _ in range(3))
    within = sum(info_nce_loss(q[i], k[i], temperature=0.2, symmetric=False, negatives=n[i]) for i in (0, 1))
    across = icl_loss(q, k, negatives=n, temperature=0.2, softening=2.0)
    assert across.item() > 0.01
    module = MCLLoss(temperature=0.2, softening=2.0, icl_weight=0.7)
    torch.testing.assert_close(module(q, k, n), within + 0.7 * across)
    torch.testing.assert_close(mcl_loss(q, k, negatives=n, temperature=0.2, icl_weight=0), within)
    # By hand: item 0 of both directions.
    u, v, w = (x / x.norm(dim=2, keepdim=True) for x in (q, k, n))
    total = 0.0
    for i in range(5):
        p12, p21 = (np.exp((torch.cat([v[1 - m], w[1 - m]]) @ u[m, i]).numpy() / (0.2 * 2)) for m in (0, 1))
        p12, p21 = p12 / p12.sum(), p21 / p21.sum()
        total += 4 / 5 * ((p21 - p12) * (np.log(p21) - np.log(p12))).sum()
    assert across.item() == pytest.approx(total, rel=1e-10)
    same = icl_loss((q[0], q[0]), (k[0], k[0]), temperature=0.2)
    assert same.item() == pytest.approx(0, abs=1e-15)
    q.requires_grad_()
    (grad,) = torch.autograd.grad(icl_loss(q, k), q, create_graph=True)
    assert grad.requires_grad
    torch.testing.assert_close(grad, torch.autograd.grad(icl_loss(q, k), q)[0])
    assert torch.isnan(icl_loss(q * math.nan, k))


# One process, so that torch is loaded once; its environment has glibc give back every large block at once.
MEASURE = """
import gc, json, sys
from pathlib import Path
import torch
from affekt.losses import info_nce_loss

torch.set_num_threads(1)
n, dim = int(sys.argv[1]), int(sys.argv[2])

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

def run(n, budget, symmetric):
    g = torch.Generator().manual_seed(0)
    a = torch.randn(n, dim, generator=g)
    b = (a + torch.randn(n, dim, generator=g)).requires_grad_()
    a.requires_grad_()
    temperature = torch.tensor(0.07, requires_grad=True)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    loss = info_nce_loss(a, b, temperature=temperature, symmetric=symmetric, budget=budget)
    forward = resident("VmHWM") - before
    loss.backward()
    return (forward, resident("VmHWM") - before), [loss.detach(), a.grad, b.grad, temperature.grad]

found = []
for symmetric in (True, False):
    results = []
    for budget in map(int, sys.argv[3:]):
        run(2048, budget, symmetric)  # what torch and BLAS keep for ever
        peaks, values = run(n, budget, symmetric)
        results.append(values)
        found.append({"budget": budget, "symmetric": symmetric, "peaks": peaks})
    for one, other in zip(*results):
        found[-1].setdefault("apart", []).append(((one - other).abs().max() / one.abs().max()).item())
print(json.dumps(found))
"""


def test_memory_stays_within_the_budget_and_results_do_not_depend_on_it(native_or_plain):
    if native_or_plain != "native":
        pytest.skip("concerns the op")
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not reset the peak of the resident memory")
    n, dim, budgets = 16384, 64, (8 * 2**20, 256 * 2**20)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(n), str(dim), *map(str, budgets)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    )
    gradients = 2 * n * dim * 4  # in forward the op's, in backward those that autograd makes of them as well
    for row in json.loads(done.stdout):  # the whole matrix would take 1 GiB
        forward, backward = row["peaks"]
        assert forward <= row["budget"] + gradients, row
        assert backward <= max(forward, 2 * gradients + 2**20), row
        if row["budget"] == budgets[1]:
            assert forward > row["budget"] / 2, row  # what may be kept is kept, and the measure sees it
            assert max(row["apart"]) < 2e-5, row


X = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: info_nce_loss(X, X[:2]), r"one shape.*got \(2, 2\) for candidates"),
        (lambda: info_nce_loss(X[0], X[0]), r"\(n, dim\)"),
        (lambda: info_nce_loss(X[:0], X[:0]), "at least 1"),
        (lambda: info_nce_loss(X[:, :0], X[:, :0]), "at least 1"),
        (lambda: info_nce_loss(X.long(), X.long()), "anchors must be floating point"),
        (lambda: info_nce_loss(X, X, temperature=0), "temperature must be positive and finite, got 0"),
        (lambda: info_nce_loss(X, X, temperature=math.nan), "temperature must be positive"),
        (lambda: info_nce_loss(X, X, temperature=torch.tensor(-1.0)), "temperature must be positive"),
        (lambda: info_nce_loss(X, X, temperature=torch.ones(2)), "tensor of one value"),
        (lambda: info_nce_loss(X, X, negatives=X), "negatives need symmetric=False"),
        (lambda: info_nce_loss(X, X, symmetric=False, negatives=X[0]), r"negatives must be.*\(k, 2\)"),
        (lambda: info_nce_loss(X, X, reduction="none"), "reduction must be one of mean, sum, got 'none'"),
        (lambda: info_nce_loss(X, X, budget=-1), "budget must be"),
        (lambda: info_nce_loss(X[:1], X[:1], positive_in_denominator=False), "at least 2 rows"),
        (lambda: pairwise_info_nce_loss([X]), "at least 2 modalities, got 1"),
        (lambda: pairwise_info_nce_loss([X, X[:2]]), r"embeddings\[1\]"),
        (lambda: pairwise_info_nce_loss([X, X], mode="simclr"), "mode must be one of eq1, clip, two_view"),
        (lambda: pairwise_info_nce_loss([X[:1], X[:1]]), "at least 2 for mode 'eq1', got 1"),
        (lambda: pairwise_info_nce_loss([X, X], mode="two_view"), "even number of rows, at least 2"),
        (lambda: pairwise_info_nce_loss([X, X], present=torch.ones(2, 3)), "present must be boolean"),
        (lambda: nt_xent_loss(X, X, temperature=-1.0), "temperature"),
        (lambda: icl_loss([X], [X, X]), "queries must be those of 2 networks, got 1"),
        (lambda: icl_loss([X, X], [X, X[:2]]), r"got \(2, 2\) for keys\[1\]"),
        (
            lambda: icl_loss([X, X], [X, X], negatives=(X, None)),
            "as many rows for both networks, got 3 and 0",
        ),
        (lambda: mcl_loss([X, X], [X, X], softening=0), "softening must be positive and finite, got 0"),
        (lambda: mcl_loss([X, X], [X, X], temperature=0.0), "temperature must be positive"),
        (lambda: sup_con_loss(X, torch.zeros(3)), r"labels must be integers \(3,\)"),
        (lambda: sup_con_loss(X, torch.zeros(2).long()), r"got torch.int64 \(2,\)"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_ops_pass_the_checks_of_torch(native_or_plain):
    if native_or_plain != "native":
        pytest.skip("concerns the op")
    ops.load_library()
    a, b, q = torch.randn(3, 5, 3, dtype=torch.double).unbind()
    scale = torch.tensor(5.0, dtype=torch.double)
    for args, flags in (
        ((None, scale, 0, False, True), (True, True)),
        ((q, scale, 1, True, False), (True, False)),
    ):
        torch.library.opcheck(
            torch.ops.affekt._info_nce.default,
            (a.clone().requires_grad_(), b, *args, 0.2, 1000, *flags, False),
        )
    torch.library.opcheck(
        torch.ops.affekt._sup_con.default,
        (a.clone().requires_grad_(), torch.tensor([0, 0, 1, 1, 1]), q, scale, 1000, True, False),
    )
    levels = torch.zeros(5, dtype=torch.double)
    for op, args in (
        (torch.ops.affekt._log_sums, (a, b[:3], scale, False, True, 1000, True)),
        (
            torch.ops.affekt._log_sums_bwd,
            (a, b[:3], scale, levels, levels[:3], False, 1000, True, False, True),
        ),
    ):
        torch.library.opcheck(op.default, args, test_utils=("test_schema", "test_faketensor"))


def test_raw_ops_refuse_what_does_not_fit(native_or_plain):
    if native_or_plain != "native":
        pytest.skip("concerns the op")
    ops.load_library()
    one = torch.tensor(1.0)
    info_nce, sup_con = torch.ops.affekt._info_nce, torch.ops.affekt._sup_con
    log_sums, log_sums_bwd = torch.ops.affekt._log_sums, torch.ops.affekt._log_sums_bwd
    level = X[:, 0].double()
    rest = (0, False, True, 1.0, 0, True, True, False)
    for call, words in (
        (lambda: info_nce(X, X[:2], None, one, *rest), r"b: expected the shape.*got \(2, 2\)"),
        (lambda: info_nce(X[0], X[0], None, one, *rest), "a: expected"),
        (lambda: info_nce(X, X, X, one, *rest), "negatives: expected none"),
        (lambda: info_nce(X, X, None, one, 0, False, True, -0.5, *rest[4:]), "weight: expected.*got -0.5"),
        (lambda: info_nce(X, X, None, one, 0, False, True, math.nan, *rest[4:]), "weight: expected.*got nan"),
        (lambda: info_nce(X, X, None, one, 0, False, True, math.inf, *rest[4:]), "weight: expected.*got inf"),
        (
            lambda: sup_con(X[:0], torch.zeros(0).long(), None, one, 0, True, False),
            "z: expected at least one",
        ),
        (lambda: info_nce(X, X, None, -one, *rest), "temperature: expected a positive number"),
        (lambda: info_nce(X, X, None, one.double(), *rest), "scale: expected one value"),
        (lambda: info_nce(X, X, None, one, 3, *rest[1:]), "a: expected more rows"),
        (lambda: log_sums(X, X[:, :1], one, False, True, 0, True), r"b: expected \(n, 2\)"),
        (lambda: log_sums(X, X[0], one, False, True, 0, True), r"b: expected \(n, 2\)"),
        (lambda: log_sums_bwd(X, X, one, X[:, 0], None, False, 0, True, True, True), "row: expected float64"),
        (
            lambda: log_sums_bwd(X, X, one, level, level[:1], False, 0, True, True, True),
            "col: expected float64",
        ),
        (lambda: sup_con(X, torch.zeros(3), None, one, 0, True, False), "labels: expected int64"),
        (lambda: sup_con(X, torch.zeros(3).long(), X[:, :1], one, 0, True, False), "negatives: expected"),
    ):
        with pytest.raises(RuntimeError, match=words):
            call()
