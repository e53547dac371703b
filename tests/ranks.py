"""Processes of one torch.distributed job on this machine, for the tests of gathered losses.

Each runs the functions of this module that `Ranks.run` names, on its own rows of a batch that all know.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import tempfile
import warnings
import weakref
from typing import Any

import torch
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from affekt import losses, ops

WORLD = 4
PATIENCE = 60  # seconds; a test that waits longer has hung


def processes() -> Any:
    """Processes that are forked from one which has imported torch, and the compiler with it, as DDP does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    return context


def run_program(path: str, rank: int, world: int, port: int, out: Any) -> None:
    """Run a program as torchrun does; `out` gets what is left of its `loss` and `network`."""
    # Its environment, without its supervisor.
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", world), ("MASTER_PORT", port)):
        os.environ[name] = str(value)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    try:
        left = runpy.run_path(path, run_name="__main__")
        parameters = [p.tolist() for p in left["network"].parameters()]
        out.send((left["loss"].item(), parameters))
    except Exception as error:
        out.send(error)


class Ranks:
    """`WORLD` processes; groups of fewer are made within."""

    def __init__(self) -> None:
        context = processes()
        self._folder = tempfile.TemporaryDirectory()
        self._pipes, self._processes = [], []
        for rank in range(WORLD):
            ours, theirs = context.Pipe()
            args = rank, f"file://{self._folder.name}/meet", theirs
            process = context.Process(target=_serve, args=args, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: str, *args: Any, each: list[tuple[Any, ...]] | None = None) -> list[Any]:
        """Call function(*args, *each[rank]) on every rank; what each returns, or the exception it raises."""
        for rank, pipe in enumerate(self._pipes):
            pipe.send((function, (*args, *(each[rank] if each else ()))))
        found = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(PATIENCE):
                self.close()
                raise AssertionError(f"rank {rank} hangs in {function}")
            found.append(pipe.recv())
        return found

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _serve(rank: int, meet: str, pipe: Any) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=WORLD)
    # Not the first ranks of all, so that a rank in a group and in all differ.
    groups = {len(of): dist.new_group(of) for of in ([1], [1, 3], [0, 1, 3])}
    groups[WORLD] = None
    available = ops.available
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            found = globals()[function](groups, *args)
        except Exception as error:
            found = error
        ops.available = available
        pipe.send(found)


# Each as a function of a batch {a, b, c: (n, dim), labels, present, q}, a temperature and how to gather.
KINDS: dict[str, Any] = {
    "info_nce": lambda x, t, **how: losses.info_nce_loss(x["a"], x["b"], temperature=t, **how),
    "sum": lambda x, t, **how: losses.info_nce_loss(
        x["a"], x["b"], temperature=t, reduction="sum", symmetric=False, **how
    ),
    "negatives": lambda x, t, **how: losses.info_nce_loss(
        x["a"], x["b"], temperature=t, symmetric=False, negatives=x["q"], **how
    ),
    "decoupled": lambda x, t, **how: losses.info_nce_loss(
        x["a"], x["b"], temperature=t, positive_in_denominator=False, **how
    ),
    "nt_xent": lambda x, t, **how: losses.nt_xent_loss(
        x["a"], x["b"], temperature=t, negatives=x["q"], **how
    ),
    "sup_con": lambda x, t, **how: losses.sup_con_loss(
        x["a"], x["labels"], temperature=t, negatives=x["q"], **how
    ),
    "eq1": lambda x, t, **how: losses.pairwise_info_nce_loss(
        [x["a"], x["b"], x["c"]], temperature=t, present=x["present"], **how
    ),
    "clip": lambda x, t, **how: losses.pairwise_info_nce_loss(
        [x["a"], x["b"], x["c"]], temperature=t, mode="clip", reduction="sum", **how
    ),
    "two_view": lambda x, t, **how: losses.pairwise_info_nce_loss(
        [torch.cat([x["a"], x["b"]]), torch.cat([x["b"], x["c"]])], temperature=t, mode="two_view", **how
    ),
}


def batch(seed: int, n: int, dim: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the batch of all ranks; the same numbers in every dtype."""
    gen = torch.Generator().manual_seed(seed)
    common = torch.randn(n, dim, generator=gen)
    x: dict[str, torch.Tensor] = {k: common + torch.randn(n, dim, generator=gen) for k in "abc"}
    x["q"] = torch.randn(5, dim, generator=gen)
    x = {k: v.to(dtype) for k, v in x.items()}
    x["labels"] = torch.randint(-2, 3, (n,), generator=gen)
    x["present"] = torch.rand(3, n, generator=gen) < 0.8
    return x


def gradients(kind: str, x: dict[str, torch.Tensor], temperature: float, **how: Any) -> dict[str, Any]:
    """Return the loss and its gradients for a, b, c and the temperature."""
    leaves = {k: x[k].clone().requires_grad_() for k in "abc"}
    leaves["t"] = torch.tensor(temperature, dtype=x["a"].dtype, requires_grad=True)
    loss = KINDS[kind]({**x, **leaves}, leaves["t"], **how)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {"loss": loss.detach(), **dict(zip(leaves, grads, strict=True))}


def _rows_of(groups: Any, counts: list[int], x: dict[str, torch.Tensor]) -> Any:
    """Return the group of that many ranks, and this rank's part of the batch; None where it is not in it."""
    group = groups[len(counts)]
    rank = dist.get_rank(group)
    if rank < 0:
        return group, None
    first = sum(counts[:rank])
    part = slice(first, first + counts[rank])
    return group, {k: v if k == "q" else v[:, part] if k == "present" else v[part] for k, v in x.items()}


def gathered(
    groups: Any,
    kind: str,
    seed: int,
    counts: list[int],
    dim: int,
    dtype: torch.dtype,
    temperature: float,
    gather: str,
    native: bool = True,
    budget: int = 2**28,
) -> Any:
    """`gradients` of this rank's rows."""
    if not native:
        ops.available = lambda: False
    group, x = _rows_of(groups, counts, batch(seed, sum(counts), dim, dtype))
    if x is None:
        return None
    return gradients(kind, x, temperature, gather=gather, group=group, budget=budget)


def with_nan(groups: Any, gather: str, native: bool) -> Any:
    """The loss of each kind where rank 2 has one NaN, under autocast; then the finite one."""
    if not native:
        ops.available = lambda: False
    _, x = _rows_of(groups, [2] * WORLD, batch(0, 8, 5, torch.float32))
    x["a"] = x["a"].clone()
    finite = x["a"][0, 1].item()
    x["present"][:] = True
    found = {}
    for kind in KINDS:
        x["a"][0, 1] = float("nan") if dist.get_rank() == 2 else finite
        bad = KINDS[kind](x, 0.3, gather=gather).item()
        x["a"][0, 1] = finite
        good = KINDS[kind](x, 0.3, gather=gather).item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found[kind] = bad, good, KINDS[kind](x, 0.3, gather=gather).item()
    return found


def own_negatives(groups: Any, gather: str, gap: int) -> Any:
    """A queue of each rank's own, of `gap` times its rank rows; one rank wants no gradient."""
    x = batch(0, 8, 5, torch.float64)
    _, mine = _rows_of(groups, [2] * WORLD, x)
    rank = dist.get_rank()
    queue = x["q"][: gap * rank] * (1 + rank)
    a = mine["a"].clone().requires_grad_(rank != 2)
    loss = losses.info_nce_loss(
        a, mine["b"], temperature=0.2, symmetric=False, negatives=queue, reduction="sum", gather=gather
    )
    if rank in (1, 3):  # nobody waits for the others
        loss.backward()
    return loss.detach(), a.grad, loss.requires_grad


def one_anchor(groups: Any, gather: str, negatives: int) -> float:
    """The decoupled loss of one anchor, which rank 1 has with its negatives; other ranks have nothing."""
    x, here = batch(0, 1, 5, torch.float64), slice(dist.get_rank() == 1)
    return losses.info_nce_loss(
        x["a"][here],
        x["b"][here],
        temperature=0.2,
        symmetric=False,
        positive_in_denominator=False,
        negatives=x["q"][: negatives * (dist.get_rank() == 1)],
        gather=gather,
    ).item()


def refused(groups: Any, gather: str, change: dict[str, Any]) -> Any:
    """Call a loss with some arguments changed; afterwards the group must still work."""
    x = batch(0, 3, 5, torch.float32)
    how: dict[str, Any] = {"anchors": x["a"], "candidates": x["b"], "gather": gather}
    message = None
    try:
        losses.info_nce_loss(**{**how, **change})
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    return message, losses.info_nce_loss(**how).item()


def compiled_and_twice(groups: Any, gather: str) -> Any:
    """Gradients through the compiler, in eager mode, and what a second derivative says."""
    x = batch(0, 3, 5, torch.float64)
    found = []
    for wrap in (lambda f: torch.compile(f, backend="eager"), lambda f: f):
        a = x["a"].clone().requires_grad_()
        loss = wrap(lambda a: losses.info_nce_loss(a * 2, x["b"], gather=gather))(a)
        found += [loss.detach(), *torch.autograd.grad(loss, a, retain_graph=True)]
    try:
        torch.autograd.grad(loss, a, create_graph=True)
    except Exception as error:
        found.append(error)
    return found


def outsider(groups: Any, gather: str) -> Any:
    """Call a loss with the group of two ranks on all ranks."""
    x = batch(0, 3, 5, torch.float32)
    return losses.info_nce_loss(x["a"], x["b"], gather=gather, group=groups[2]).item()


def model_and_batch(seed: int = 0) -> Any:
    """A network with two inputs, and what it learns from."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)).double()
    gen = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(11, 6, dtype=torch.double, generator=gen)
    return network, x, x + 0.3 * torch.randn(11, 6, dtype=torch.double, generator=gen)


class Pair(torch.nn.Module):
    """Network and loss in one, as DistributedDataParallel takes them."""

    def __init__(self, network: torch.nn.Module, loss: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.loss(self.network(x), self.network(y))


def train(pair: torch.nn.Module, step: Any, parameters: Any) -> None:
    """Two steps of gradient descent; `step` gives the loss."""
    optimiser = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        step().backward()
        optimiser.step()


def data_parallel(groups: Any, gather: str, counts: list[int], inside: bool) -> Any:
    """Two steps under DistributedDataParallel, the loss with its temperature inside of it or outside."""
    network, x, y = model_and_batch()
    first = sum(counts[: dist.get_rank()])
    x, y = (v[first : first + counts[dist.get_rank()]] for v in (x, y))
    loss = losses.InfoNCELoss(temperature=0.2, learn_temperature=True, gather=gather).double()
    wrap = torch.nn.parallel.DistributedDataParallel
    if inside:
        model = wrap(Pair(network, loss))
        train(model, lambda: model(x, y), model.parameters())
    else:
        model = wrap(network)

        def step() -> torch.Tensor:
            u, v = model(torch.cat([x, y])).chunk(2)
            return loss(u, v)

        train(model, step, [*model.parameters(), *loss.parameters()])
    return [p.detach() for p in (*network.parameters(), *loss.parameters())]


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that live at once, of those made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        self._alive = [ref for ref in self._alive if ref() is not None]
        self._alive += [weakref.ref(t) for t in tree_leaves(found) if isinstance(t, torch.Tensor)]
        storages = {}
        for ref in self._alive:
            tensor = ref()
            if tensor is not None:
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        self.peak = max(self.peak, sum(storages.values()))
        return found


def memory(groups: Any, gather: str, size: int, n: int, dim: int) -> Any:
    """Peak of the tensors in a call, over the bytes of one side of this rank's batch."""
    group = groups[size]
    if dist.get_rank(group) < 0:
        return None
    gen = torch.Generator().manual_seed(dist.get_rank())
    a, b = (torch.randn(n, dim, generator=gen, requires_grad=True) for _ in range(2))
    with Peak() as peak:
        loss = losses.info_nce_loss(a, b, gather=gather, group=group, budget=0)
        loss.backward()
    return peak.peak / (4 * n * dim)
