"""The CCC loss: golden values, gradients, masks, and behaviour at the edges."""

# ruff: noqa: E402
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from affekt.errors import InputError
from affekt.losses import CCCLoss, ccc_loss

P = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4]], dtype=torch.double)
Q = torch.tensor([[0.0, 0.2, 0.1, 0.4, 0.3]], dtype=torch.double)


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


@pytest.mark.parametrize("over", ["time", "batch"])
@pytest.mark.parametrize("bias", ["population", "mixed"])
def test_gradcheck(over, bias):
    gen = torch.Generator().manual_seed(0)
    pred = torch.randn(3, 6, 2, dtype=torch.double, generator=gen, requires_grad=True)
    target = torch.randn(3, 6, 2, dtype=torch.double, generator=gen, requires_grad=True)
    mask = torch.rand(3, 6, generator=gen) < 0.8
    assert torch.autograd.gradcheck(lambda p, y: ccc_loss(p, y, mask, over=over, bias=bias), (pred, target))
    assert torch.autograd.gradgradcheck(lambda p: ccc_loss(p, target, mask, over=over, bias=bias), pred)


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
    exact = pred.detach().double().requires_grad_()
    ccc_loss(exact, target.double()).mul(2).backward()
    torch.testing.assert_close(pred.grad.double(), exact.grad, rtol=1e-3, atol=1e-5)


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
