"""The losses, forward and backward, against eager torch, and CCC against the cost of the built-in MSE.

Eager is what people write: normalise, one matrix of logits, cross-entropy of it and of its transpose, as the
paper of CLIP has it (open_clip on one device computes the product twice, which takes longer); NT-Xent and
other losses of a batch against itself take one matrix with its diagonal masked. Value and gradients of all
inputs agree within 1e-5 of their peak, CCC within 1e-6 of one in float64, before anything is timed. Torch
runs on one thread.

Masked CCC of 32 x 1024 x 2 spends more than half of its time on torch's copy of the mask of (window, step) to
all columns: 415 us, of which 185 remain with a mask of the whole shape, and 133 without one; MSE, which takes
no mask, 91 in the same run. Of 64 elements, calls of Python and torch are nearly all of the time.

The bound of InfoNCE is that of three matrix products; "three products alone" is what torch's BLAS makes of
them. To be no slower than that is the aim.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

CCC_SIZES = [64, 1024, 65536, 4_000_000]
NCE_SHAPES = [(64, 128), (256, 128), (256, 512), (1024, 512), (4096, 512), (8192, 256)]
VIEW_SHAPES = [(256, 128), (1024, 256), (2048, 512)]


@pytest.fixture
def torch(peer):
    """Torch on one thread."""
    library = peer("torch")
    before = library.get_num_threads()
    library.set_num_threads(1)
    yield library
    library.set_num_threads(before)


def batches(torch, *shape: int, count: int = 2, noise: float = 1.0) -> list[Any]:
    """Return batches of the shape that resemble each other, the less the more `noise`, with gradients."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(shape, generator=generator)
    return [(common + noise * torch.randn(shape, generator=generator)).requires_grad_() for _ in range(count)]


def step(loss, inputs):
    """Return a function that runs the loss forward and backward, and gives its value."""

    def run():
        for x in inputs:
            x.grad = None
        value = loss(*inputs)
        value.backward()
        return value.detach()

    return run


COMPARED: set[str] = set()


def assert_same(
    group: str, ours: Callable, theirs: Callable, inputs: Sequence[Any], tolerance: float = 1e-5
) -> None:
    """Compare the values of two losses and the gradients of all inputs, each to its peak, once per group."""
    if group in COMPARED:
        return
    results = []
    for loss in (ours, theirs):
        value = step(loss, inputs)()
        results.append([value, *(x.grad for x in inputs)])
    for i, (a, b) in enumerate(zip(*results, strict=True)):
        apart = ((a - b).abs().max() / b.abs().max()).item()
        assert apart <= tolerance, f"{f'gradient {i}' if i else 'value'}: {apart:.2g} of the peak apart"
    COMPARED.add(group)


def products(pairs: float, dim: int, times: float) -> dict[str, Any]:
    """Return the operations of `times` products of a (n, dim) and a (dim, m) matrix with n m pairs."""
    return {"operations": 2 * pairs * dim * times}


# ---- CCC ---------------------------------------------------------------------------------------------------
def ccc_facts(n: int) -> dict[str, Any]:
    """Return floors and bounds: two reads of both inputs and one write of the gradient, float32."""
    facts: dict[str, Any] = {"floor": {"torch MSE": 1 / 2}, "bytes_moved": 20.0 * n, "working_set": 12.0 * n}
    if n >= 65536:
        facts["aim"] = {"torch MSE": 1 / 1.2}
    return facts


def eager_ccc(pred, target, eps=1e-8):
    """Lin's concordance in float32 as projects write it; loses its digits far from zero."""
    mean_p, mean_y = pred.mean(), target.mean()
    cov = ((pred - mean_p) * (target - mean_y)).mean()
    spread = pred.var(correction=0) + target.var(correction=0)
    return 1 - 2 * cov / (spread + (mean_p - mean_y) ** 2 + eps)


@pytest.mark.parametrize("n", CCC_SIZES)
@pytest.mark.parametrize("name", ["affekt", "torch MSE", "eager CCC"])
def bench_ccc(contender, torch, name, n):
    from affekt.losses import ccc_loss

    group = f"CCC forward + backward, {n} elements"
    pred, target = batches(torch, 1, n)
    target = target.detach()
    functions = {"affekt": ccc_loss, "torch MSE": torch.nn.functional.mse_loss, "eager CCC": eager_ccc}
    ours, exact = lambda p: ccc_loss(p, target), lambda p: eager_ccc(p.double(), target.double())
    assert_same(group, ours, exact, [pred], 1e-6)
    loss = functions[name]
    contender(
        group,
        name,
        step(lambda p: loss(p, target), [pred]),
        note="MSE is the cost to compare with: a ratio of 0.5 is twice its time; below some 10 k "
        "elements the difference is that of an autograd function in Python to one in C++",
        **ccc_facts(n),
    )


def eager_masked_ccc(pred, target, mask, eps=1e-8):
    """The same per window and column over the steps of a mask, and their mean."""
    weight = mask[..., None].to(pred.dtype)
    count = weight.sum(1, keepdim=True)
    mean = lambda x: (x * weight).sum(1, keepdim=True) / count  # noqa: E731
    mean_p, mean_y = mean(pred), mean(target)
    p, y = pred - mean_p, target - mean_y
    return (1 - 2 * mean(p * y) / (mean(p * p) + mean(y * y) + (mean_p - mean_y) ** 2 + eps)).mean()


def masked_mse(pred, target, mask):
    return ((pred - target) ** 2 * mask[..., None]).sum() / (mask.sum() * pred.shape[2])


@pytest.mark.parametrize("shape", [(1, 32, 2), (32, 1024, 2), (64, 31250, 2)], ids=str)
@pytest.mark.parametrize("name", ["affekt", "torch MSE", "masked MSE", "eager CCC"])
def bench_masked_ccc(contender, torch, name, shape):
    from affekt.losses import ccc_loss

    windows, steps, columns = shape
    n = windows * steps * columns
    group = f"CCC masked, per window and column, forward + backward, {windows} x {steps} x {columns}"
    pred, target = batches(torch, *shape)
    target = target.detach()
    mask = torch.rand(windows, steps, generator=torch.Generator().manual_seed(1)) < 0.8
    assert_same(
        group,
        lambda p: ccc_loss(p, target, mask),
        lambda p: eager_masked_ccc(p.double(), target.double(), mask),
        [pred],
        1e-6,
    )
    loss = {
        "affekt": lambda p: ccc_loss(p, target, mask),
        "torch MSE": lambda p: torch.nn.functional.mse_loss(p, target),
        "masked MSE": lambda p: masked_mse(p, target, mask),
        "eager CCC": lambda p: eager_masked_ccc(p, target, mask),
    }[name]
    facts = ccc_facts(n)
    facts["bytes_moved"] += 2 * mask.numel()
    contender(
        group,
        name,
        step(loss, [pred]),
        note='"torch MSE" takes no mask; the promise holds against it all the same',
        **facts,
    )


# ---- InfoNCE -----------------------------------------------------------------------------------------------
def eager_info_nce(torch, a, b, temperature=0.07):
    """CLIP's loss as its paper writes it down."""
    functional = torch.nn.functional
    a, b = functional.normalize(a, dim=1), functional.normalize(b, dim=1)
    logits = a @ b.T / temperature
    labels = torch.arange(len(a))
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


def three_products(torch, a, b):
    """The three matrix products alone: the bound of a forward and backward pass that stores the matrix."""
    matrix = a @ b.T
    return matrix @ b, matrix.T @ a


def nce_facts(n: int, dim: int) -> dict[str, Any]:
    """Return floors and bounds of one symmetric term."""
    facts: dict[str, Any] = products(n * n, dim, 3)
    facts |= {"aim": {"three products alone": 1.0}, "within": 1.0}
    if n >= 256:
        facts["floor"] = {"eager torch": 1.5 if (n, dim) == (8192, 256) else 1.0}
    return facts


@pytest.mark.parametrize("shape", NCE_SHAPES, ids=str)
@pytest.mark.parametrize("name", ["affekt", "eager torch", "three products alone"])
def bench_info_nce(contender, torch, name, shape):
    from affekt.losses import info_nce_loss

    group = f"InfoNCE symmetric, forward + backward, {shape[0]} x {shape[1]}"
    a, b = batches(torch, *shape)
    eager = lambda a, b: eager_info_nce(torch, a, b)  # noqa: E731
    assert_same(group, info_nce_loss, eager, [a, b])
    if name == "three products alone":
        a, b = a.detach(), b.detach()
        run = lambda: three_products(torch, a, b)  # noqa: E731
    else:
        run = step(info_nce_loss if name == "affekt" else eager, [a, b])
    contender(group, name, run, **nce_facts(*shape))


@pytest.mark.parametrize("shape", [(256, 512), (4096, 512)], ids=str)
@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_info_nce_at_small_temperature(contender, torch, name, shape):
    from affekt.losses import info_nce_loss

    group = f"InfoNCE symmetric at temperature 0.01, forward + backward, {shape[0]} x {shape[1]}"
    inputs = batches(torch, *shape, noise=4)  # pairs that are more alike have loss and gradient 0 here
    loss = {
        "affekt": lambda a, b: info_nce_loss(a, b, temperature=0.01),
        "eager torch": lambda a, b: eager_info_nce(torch, a, b, 0.01),
    }
    assert_same(group, *loss.values(), inputs)
    contender(group, name, step(loss[name], inputs), **nce_facts(*shape))


@pytest.mark.parametrize("shape", [(256, 512), (1024, 512)], ids=str)
@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_info_nce_learnable(contender, torch, name, shape):
    from affekt.losses import info_nce_loss

    group = f"InfoNCE symmetric, learnable temperature, forward + backward, {shape[0]} x {shape[1]}"
    inputs = [*batches(torch, *shape), torch.tensor(0.07).log().requires_grad_()]
    loss = {
        "affekt": lambda a, b, t: info_nce_loss(a, b, temperature=t.exp()),
        "eager torch": lambda a, b, t: eager_info_nce(torch, a, b, t.exp()),
    }
    assert_same(group, *loss.values(), inputs)
    contender(group, name, step(loss[name], inputs), **nce_facts(*shape))


@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_info_nce_one_sided_with_queue(contender, torch, name):
    from affekt.losses import info_nce_loss

    n, dim, extra = 256, 128, 16384
    functional = torch.nn.functional
    a, b = batches(torch, n, dim)
    b, queue = b.detach(), torch.randn(extra, dim, generator=torch.Generator().manual_seed(1))

    def eager(a):
        u, v, q = (functional.normalize(x, dim=1) for x in (a, b, queue))
        return functional.cross_entropy(torch.cat([u @ v.T, u @ q.T], 1) / 0.07, torch.arange(n))

    ours = lambda a: info_nce_loss(a, b, symmetric=False, negatives=queue)  # noqa: E731
    group = f"InfoNCE one-sided, queue of {extra}, forward + backward, {n} x {dim}"
    assert_same(group, ours, eager, [a])
    contender(
        group,
        name,
        step(ours if name == "affekt" else eager, [a]),
        floor={"eager torch": 1.0},
        aim={"eager torch": 1.5},
        **products(n * (n + extra), dim, 2),
    )


@pytest.mark.parametrize("mode", ["eq1", "clip", "two_view"])
@pytest.mark.parametrize("name", ["affekt", "eager terms in a loop"])
def bench_pairwise(contender, torch, name, mode):
    from affekt.losses import pairwise_info_nce_loss

    modalities, n, dim = 3, 1024, 512
    functional = torch.nn.functional
    z = batches(torch, n, dim, count=modalities)

    def term(a, b):
        logits = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T / 0.07
        if mode == "clip":
            return functional.cross_entropy(logits, torch.arange(n))
        others = logits.masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf)
        if mode == "two_view":  # the other view of the clip is half the rows away
            return functional.cross_entropy(others, (torch.arange(n) + n // 2) % n)
        return (others.logsumexp(1) - logits.diagonal()).mean()

    def eager(*z):
        pairs = [(a, b) for a in range(modalities) for b in range(modalities) if a != b]
        return sum(term(z[a], z[b]) for a, b in pairs) / len(pairs)

    ours = lambda *z: pairwise_info_nce_loss(z, mode=mode)  # noqa: E731
    group = f"pairwise InfoNCE {mode}, {modalities} modalities, forward + backward, {n} x {dim}"
    assert_same(group, ours, eager, z)
    contender(
        group,
        name,
        step(ours if name == "affekt" else eager, z),
        floor={"eager terms in a loop": 1.6},
        aim={"eager terms in a loop": 2.0},
        **products(n * n, dim, 9),
    )


# ---- one batch against itself ------------------------------------------------------------------------------
def eager_nt_xent(torch, a, b, queue=None, temperature=0.1):
    """SimCLR's loss with one matrix of both views and its diagonal masked; `queue`: more negatives."""
    functional = torch.nn.functional
    u, n = functional.normalize(torch.cat([a, b]), dim=1), len(a)
    logits = (u @ u.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    if queue is not None:
        logits = torch.cat([logits, u @ functional.normalize(queue, dim=1).T / temperature], 1)
    return functional.cross_entropy(logits, (torch.arange(2 * n) + n) % (2 * n))


def eager_sup_con(torch, z, labels, temperature=0.1):
    """Khosla's reference form: log-probabilities of all pairs, averaged over the positives."""
    u = torch.nn.functional.normalize(z, dim=1)
    logits = u @ u.T / temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    others = 1 - torch.eye(len(z))
    positives = (labels[:, None] == labels[None]).float() * others
    log_prob = logits - (torch.exp(logits) * others).sum(1, keepdim=True).log()
    return -((positives * log_prob).sum(1) / positives.sum(1)).mean()


SELF = {"floor": {"eager torch": 1.0}, "aim": {"eager torch": 1.5}}


@pytest.mark.parametrize("shape", VIEW_SHAPES, ids=str)
@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_nt_xent(contender, torch, name, shape):
    from affekt.losses import nt_xent_loss

    a, b = batches(torch, *shape)
    eager = lambda a, b: eager_nt_xent(torch, a, b)  # noqa: E731
    group = f"NT-Xent, forward + backward, 2 x {shape[0]} x {shape[1]}"
    assert_same(group, nt_xent_loss, eager, [a, b])
    contender(
        group,
        name,
        step(nt_xent_loss if name == "affekt" else eager, [a, b]),
        **SELF,
        **products(4 * shape[0] ** 2, shape[1], 1.5),
    )


@pytest.mark.parametrize("shape", VIEW_SHAPES, ids=str)
@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_sup_con(contender, torch, name, shape):
    from affekt.losses import sup_con_loss

    (z,) = batches(torch, *shape, count=1)
    labels = torch.arange(shape[0]) % 8
    eager = lambda z: eager_sup_con(torch, z, labels)  # noqa: E731
    ours = lambda z: sup_con_loss(z, labels)  # noqa: E731
    group = f"supervised contrastive, 8 classes, forward + backward, {shape[0]} x {shape[1]}"
    assert_same(group, ours, eager, [z])
    contender(
        group,
        name,
        step(ours if name == "affekt" else eager, [z]),
        **SELF,
        **products(shape[0] ** 2, shape[1], 1.5),
    )


@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_nt_xent_with_queue(contender, torch, name):
    from affekt.losses import nt_xent_loss

    n, dim, extra = 256, 128, 4096
    a, b = batches(torch, n, dim)
    queue = torch.randn(extra, dim, generator=torch.Generator().manual_seed(1))
    eager = lambda a, b: eager_nt_xent(torch, a, b, queue)  # noqa: E731
    ours = lambda a, b: nt_xent_loss(a, b, negatives=queue)  # noqa: E731
    group = f"NT-Xent, queue of {extra}, forward + backward, 2 x {n} x {dim}"
    assert_same(group, ours, eager, [a, b])
    contender(
        group,
        name,
        step(ours if name == "affekt" else eager, [a, b]),
        **SELF,
        **products(4 * n * n * 0.75 + 2 * n * extra, dim, 2),
    )


@pytest.mark.parametrize("terms", ["VCL", "ICL", "VCL + ICL"])
@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_mcl(contender, torch, name, terms):
    from affekt.losses import icl_loss, mcl_loss

    n, dim, extra = 256, 128, 4096
    functional = torch.nn.functional
    z = batches(torch, n, dim, count=4)
    generator = torch.Generator().manual_seed(1)
    queues = [torch.randn(extra, dim, generator=generator) for _ in range(2)]

    def eager(*z):
        u = [functional.normalize(x, dim=1) for x in z]
        keys = [torch.cat([u[2 + m], functional.normalize(queues[m], dim=1)]) for m in range(2)]
        loss = 0
        if "VCL" in terms:
            for m in range(2):
                loss = loss + functional.cross_entropy(u[m] @ keys[m].T / 0.1, torch.arange(n))
        if "ICL" in terms:
            one, two = (u[m] @ keys[1 - m].T / 0.1 for m in range(2))
            for a, b in ((one, two), (two, one)):
                loss = loss + functional.kl_div(
                    a.log_softmax(1), b.detach().log_softmax(1), log_target=True, reduction="batchmean"
                )
        return loss

    def ours(*z):
        if terms == "ICL":
            return icl_loss(z[:2], z[2:], negatives=queues)
        return mcl_loss(z[:2], z[2:], negatives=queues, icl_weight=float("ICL" in terms))

    group = f"MCL's {terms}, queue of {extra}, forward + backward, {n} x {dim}"
    assert_same(group, ours, eager, z)
    # Of each network: logits, the gradient of its queries, and that of the keys in the batch.
    pairs = 2 * n * (n + extra) + n * n
    contender(
        group,
        name,
        step(ours if name == "affekt" else eager, z),
        **SELF,
        **products(pairs, dim, 4 if terms == "VCL + ICL" else 2),
    )


def growth(name: str):
    """Return make(n) for the growth curve of symmetric InfoNCE with 256 features."""

    def make(n: int):
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)
        from affekt.losses import info_nce_loss

        eager = lambda a, b: eager_info_nce(torch, a, b)  # noqa: E731
        return step(info_nce_loss if name == "affekt" else eager, batches(torch, n, 256))

    return make
