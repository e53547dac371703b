"""The losses, forward and backward, against eager torch, and CCC against the cost of the built-in MSE.

Eager is what people write: normalise, one matrix of logits (as open_clip does), cross-entropy. Both sides are
checked against each other before they are timed. Torch runs on one thread.
"""

from __future__ import annotations

import importlib
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


def batches(torch, *shape: int, count: int = 2) -> list[Any]:
    """Return batches of the shape that resemble each other, with gradients."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(shape, generator=generator)
    return [(common + torch.randn(shape, generator=generator)).requires_grad_() for _ in range(count)]


def step(loss, inputs):
    """Return a function that runs the loss forward and backward, and gives its value."""

    def run():
        for x in inputs:
            x.grad = None
        value = loss(*inputs)
        value.backward()
        return value.detach()

    return run


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

    pred, target = batches(torch, 1, n)
    target = target.detach()
    functions = {"affekt": ccc_loss, "torch MSE": torch.nn.functional.mse_loss, "eager CCC": eager_ccc}
    assert abs(ccc_loss(pred, target) - eager_ccc(pred.double(), target.double())) < 1e-6
    loss = functions[name]
    contender(
        f"CCC forward + backward, {n} elements",
        name,
        step(lambda p: loss(p, target), [pred]),
        note="MSE is the cost to compare with: a ratio of 0.5 is twice its time; below some 10 k "
        "elements the difference is that of an autograd function in Python to one in C++",
        **ccc_facts(n),
    )


# ---- InfoNCE -----------------------------------------------------------------------------------------------
def eager_info_nce(torch, a, b, temperature=0.07):
    """CLIP's loss as open_clip computes it on one device."""
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
    if n >= 256:
        facts["floor"] = {"eager torch": 1.5 if (n, dim) == (8192, 256) else 1.0}
    return facts


@pytest.mark.parametrize("shape", NCE_SHAPES, ids=str)
@pytest.mark.parametrize("name", ["affekt", "eager torch", "three products alone"])
def bench_info_nce(contender, torch, name, shape):
    from affekt.losses import info_nce_loss

    a, b = batches(torch, *shape)
    if name == "three products alone":
        a, b = a.detach(), b.detach()
        run = lambda: three_products(torch, a, b)  # noqa: E731
    else:
        if shape[0] <= 1024:
            assert abs(info_nce_loss(a, b) - eager_info_nce(torch, a, b)) < 1e-5
        eager = lambda a, b: eager_info_nce(torch, a, b)  # noqa: E731
        run = step(info_nce_loss if name == "affekt" else eager, [a, b])
    contender(
        f"InfoNCE symmetric, forward + backward, {shape[0]} x {shape[1]}", name, run, **nce_facts(*shape)
    )


@pytest.mark.parametrize("shape", [(256, 512), (4096, 512)], ids=str)
@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_info_nce_at_small_temperature(contender, torch, name, shape):
    from affekt.losses import info_nce_loss

    loss = {
        "affekt": lambda a, b: info_nce_loss(a, b, temperature=0.01),
        "eager torch": lambda a, b: eager_info_nce(torch, a, b, 0.01),
    }[name]
    contender(
        f"InfoNCE symmetric at temperature 0.01, forward + backward, {shape[0]} x {shape[1]}",
        name,
        step(loss, batches(torch, *shape)),
        **nce_facts(*shape),
    )


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
    assert abs(ours(a) - eager(a)) < 1e-5
    contender(
        f"InfoNCE one-sided, queue of {extra}, forward + backward, {n} x {dim}",
        name,
        step(ours if name == "affekt" else eager, [a]),
        floor={"eager torch": 1.0},
        aim={"eager torch": 1.5},
        **products(n * (n + extra), dim, 2),
    )


@pytest.mark.parametrize("mode", ["eq1", "clip"])
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
        return (others.logsumexp(1) - logits.diagonal()).mean()

    def eager(*z):
        pairs = [(a, b) for a in range(modalities) for b in range(modalities) if a != b]
        return sum(term(z[a], z[b]) for a, b in pairs) / len(pairs)

    ours = lambda *z: pairwise_info_nce_loss(z, mode=mode)  # noqa: E731
    assert abs(ours(*z) - eager(*z)) < 1e-5
    contender(
        f"pairwise InfoNCE {mode}, {modalities} modalities, forward + backward, {n} x {dim}",
        name,
        step(ours if name == "affekt" else eager, z),
        floor={"eager terms in a loop": 1.6},
        aim={"eager terms in a loop": 2.0},
        **products(n * n, dim, 9),
    )


# ---- one batch against itself ------------------------------------------------------------------------------
def eager_nt_xent(torch, a, b, temperature=0.1):
    """SimCLR's loss as lightly computes it without a memory bank: four blocks, their diagonals cut."""
    functional = torch.nn.functional
    a, b = functional.normalize(a, dim=1), functional.normalize(b, dim=1)
    n = len(a)
    off = ~torch.eye(n, dtype=torch.bool)
    aa, ab, ba, bb = (
        torch.einsum("nc,mc->nm", x, y) / temperature for x, y in ((a, a), (a, b), (b, a), (b, b))
    )
    aa, bb = aa[off].view(n, -1), bb[off].view(n, -1)
    logits = torch.cat([torch.cat([ab, aa], 1), torch.cat([ba, bb], 1)], 0)
    return functional.cross_entropy(logits, torch.arange(n).repeat(2))


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
    assert abs(nt_xent_loss(a, b) - eager(a, b)) < 1e-5
    contender(
        f"NT-Xent, forward + backward, 2 x {shape[0]} x {shape[1]}",
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
    assert abs(ours(z) - eager(z)) < 1e-5
    contender(
        f"supervised contrastive, 8 classes, forward + backward, {shape[0]} x {shape[1]}",
        name,
        step(ours if name == "affekt" else eager, [z]),
        **SELF,
        **products(shape[0] ** 2, shape[1], 1.5),
    )


@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_nt_xent_with_queue(contender, torch, name):
    from affekt.losses import nt_xent_loss

    n, dim, extra = 256, 128, 4096
    functional = torch.nn.functional
    a, b = batches(torch, n, dim)
    queue = torch.randn(extra, dim, generator=torch.Generator().manual_seed(1))

    def eager(a, b):
        u, q = functional.normalize(torch.cat([a, b]), dim=1), functional.normalize(queue, dim=1)
        inside = (u @ u.T / 0.1).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
        other = (torch.arange(2 * n) + n) % (2 * n)
        return functional.cross_entropy(torch.cat([inside, u @ q.T / 0.1], 1), other)

    ours = lambda a, b: nt_xent_loss(a, b, negatives=queue)  # noqa: E731
    assert abs(ours(a, b) - eager(a, b)) < 1e-5
    contender(
        f"NT-Xent, queue of {extra}, forward + backward, 2 x {n} x {dim}",
        name,
        step(ours if name == "affekt" else eager, [a, b]),
        **SELF,
        **products(4 * n * n * 0.75 + 2 * n * extra, dim, 2),
    )


@pytest.mark.parametrize("name", ["affekt", "eager torch"])
def bench_icl(contender, torch, name):
    from affekt.losses import icl_loss

    n, dim, extra = 256, 128, 4096
    functional = torch.nn.functional
    z = batches(torch, n, dim, count=4)
    generator = torch.Generator().manual_seed(1)
    queues = [torch.randn(extra, dim, generator=generator) for _ in range(2)]

    def eager(*z):
        u = [functional.normalize(x, dim=1) for x in z]
        keys = [torch.cat([u[2 + m], functional.normalize(queues[m], dim=1)]) for m in range(2)]
        one, two = (u[m] @ keys[1 - m].T / 0.1 for m in range(2))
        divergence = [
            functional.kl_div(
                a.log_softmax(1), b.detach().log_softmax(1), log_target=True, reduction="batchmean"
            )
            for a, b in ((one, two), (two, one))
        ]
        return divergence[0] + divergence[1]

    ours = lambda *z: icl_loss(z[:2], z[2:], negatives=queues)  # noqa: E731
    assert abs(ours(*z) - eager(*z)) < 1e-5
    contender(
        f"MCL's ICL, queue of {extra}, forward + backward, {n} x {dim}",
        name,
        step(ours if name == "affekt" else eager, z),
        **SELF,
        **products(n * (n + extra), dim, 4),
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
