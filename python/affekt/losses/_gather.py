"""Contrastive losses over the batches of all ranks of a process group.

A loss is a weighted sum of log-sum-exps over the rows (and columns) of one matrix of cosines, less the
cosines of its positives. Each rank owns the rows of its own anchors. The candidates visit it rank by rank:
once for the log-sum-exps, those of the candidates travelling with them, and once more, where anybody wants
gradients, for these, the gradient of the candidates travelling along. Both happen in the forward pass: the
backward pass needs no other rank, so nothing waits where one of them leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch._compile import _disable_dynamo
from torch.nn.functional import normalize

from affekt.errors import AffektError, InputError
from affekt.ops.losses import log_sums, log_sums_bwd

GATHERS = ("none", "all", "ring")
Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def gatherable(loss: Loss) -> Loss:
    """Let the compiler step around `loss` where it is gathered: it fails on talk between ranks."""
    # torch.compiler.disable, but the compiler is imported by the first such call, not here.
    aside = _disable_dynamo(loss)

    @wraps(loss)
    def call(*args: Any, **options: Any) -> Tensor:
        alone = options.get("gather", "none") == "none"
        return (loss if alone else aside)(*args, **options)

    return cast(Loss, call)


def together(gather: str, group: Any) -> Any:
    """Return a context that gives the `Ranks` which share the loss, or None for ``"none"``."""
    if gather not in GATHERS and not (dist.is_available() and dist.is_initialized()):
        raise _unknown(gather)
    return nullcontext() if gather == "none" else Ranks(gather, group)


def _unknown(gather: str) -> InputError:
    return InputError(f"gather must be one of {', '.join(GATHERS)}, got {gather!r}")


class Ranks:
    """The ranks of a process group that take one loss together.

    As a context: bad input of one rank, raised before `agree`, is an error on all of them.
    """

    def __init__(self, gather: str, group: Any) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError(f"gather={gather!r} needs torch.distributed.init_process_group() first")
        self.group, self.gather, self.ring = group, gather, gather == "ring"
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise InputError(f"group must contain this process, rank {dist.get_rank()} of all")
        self.wanted = False, False
        self._told = False

    def __enter__(self) -> Ranks:
        if self.gather not in GATHERS:
            error = _unknown(self.gather)
            self.__exit__(InputError, error, None)
            raise error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not self._told:
            self._tell(f"{type(error).__name__}: {error}", (), (False, False), {})

    def _tell(self, *mine: Any) -> list[Any]:
        self._told = True
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, self.group)
        return found

    def agree(self, rows: Sequence[int], wants: tuple[bool, bool], **alike: Any) -> list[list[int]]:
        """Tell the others the numbers of rows and learn theirs: for each entry of `rows`, those of all ranks.

        `wants`: whose gradients this rank needs, anchors and candidates; `wanted` then holds what any does.
        `alike` must be the same everywhere.
        """
        found = self._tell(None, tuple(rows), wants, alike)
        for rank, (problem, *_) in enumerate(found):
            if problem is not None:
                raise InputError(f"rank {rank} of the group refused its input: {problem}")
        # Two devices may differ in the last digit of a learned temperature.
        for name, value in found[0][3].items():
            for rank, (*_, other) in enumerate(found):
                came = other.get(name)
                close = isinstance(value, float) and isinstance(came, float)
                if came != value and not (close and abs(came - value) <= 1e-5 * abs(value)):
                    raise InputError(
                        f"{name} must be the same on all ranks, "
                        f"got {value} on rank 0 and {came} on rank {rank}"
                    )
        self.wanted = any(w[0] for _, _, w, _ in found), any(w[1] for _, _, w, _ in found)
        return [list(counts) for counts in zip(*(r for _, r, _, _ in found), strict=True)]

    def collect(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Return the rows `x` of each rank."""
        if self.size == 1:
            return [x]
        x = x.contiguous()  # else NCCL refuses it on this rank, while the others wait
        most = max(counts)
        mine = x if len(x) == most else torch.cat([x, x.new_zeros((most - len(x), *x.shape[1:]))])
        found = list(x.new_empty((self.size, most, *x.shape[1:])))
        dist.all_gather(found, mine, self.group)
        return [part[:count] for part, count in zip(found, counts, strict=True)]

    def total(self, x: Tensor) -> Tensor:
        """Return the sum over the ranks, the same bits on each."""
        return torch.stack(self.collect(x[None], [1] * self.size)).sum(0)[0]

    def tour(
        self,
        chunk: Sequence[Tensor],
        counts: Sequence[int],
        visit: Callable[[int, Sequence[Tensor]], Tensor | None],
        merge: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor | None:
        """Call visit(rank, its chunk) for each rank; what all ranks returned for this one's chunk, merged.

        A chunk is tensors of `counts[rank]` rows, and so is what a visit returns, unless it is always None.
        Nothing here depends on timing: the order of every merge is fixed.
        """
        return (self._tour_ring if self.ring else self._tour_all)(chunk, counts, visit, merge)

    def _tour_all(self, chunk: Any, counts: Any, visit: Any, merge: Any) -> Tensor | None:
        chunks = list(zip(*(self.collect(x, counts) for x in chunk), strict=True))
        # Everybody begins with the chunk of its own.
        found: list[Any] = [None] * self.size
        for origin in ((self.rank - step) % self.size for step in range(self.size)):
            found[origin] = visit(origin, chunks[origin])
        if found[0] is None:
            return None
        if self.size == 1:
            return found[0]
        sent = torch.cat(found)
        came = sent.new_empty((self.size * len(chunk[0]), *sent.shape[1:]))
        dist.all_to_all_single(came, sent, [len(chunk[0])] * self.size, list(counts), self.group)
        parts = came.view(self.size, len(chunk[0]), *sent.shape[1:])
        merged = parts[0].clone()
        for part in parts[1:]:
            merged = merge(merged, part)
        return merged

    def _tour_ring(self, chunk: Any, counts: Any, visit: Any, merge: Any) -> Tensor | None:
        held, found = list(chunk), None
        for step in range(self.size):
            origin, coming = ((self.rank - step - k) % self.size for k in (0, 1))
            # The next chunk is on its way while this one is worked on.
            last = step == self.size - 1
            following, underway = ([], []) if last else self._pass_on(held, counts[coming], 0)
            partial = visit(origin, held)
            if partial is not None:
                found = partial if found is None else merge(found, partial)
            for work in underway:
                work.wait()
            held = following
            if found is not None and self.size > 1:
                (found,), underway = self._pass_on([found], counts[coming], len(chunk))
                for work in underway:
                    work.wait()
        return found

    def _pass_on(self, given: Sequence[Tensor], rows: int, tag: int) -> tuple[list[Tensor], list[Any]]:
        """Begin to send `given` to the next rank and to take the like, of `rows` rows, from the last one."""
        came = [x.new_empty((rows, *x.shape[1:])) for x in given]
        transfers = []
        for k, pair in enumerate(zip(given, came, strict=True)):
            for x, begin, peer in zip(pair, (dist.isend, dist.irecv), (1, -1), strict=True):
                if x.numel():
                    peer = (self.rank + peer) % self.size
                    transfers.append(dist.P2POp(begin, x, group=self.group, tag=tag + k, group_peer=peer))
        return came, dist.batch_isend_irecv(transfers) if transfers else []


def gathered_info_nce(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    ranks: Ranks,
    counts: Sequence[int],
    *,
    weight: float,
    columns: bool,
    exclude: bool,
    shift: int,
    negatives: Tensor | None,
    budget: int,
) -> Tensor:
    """Return the loss over all ranks; the positive of row i is row (i + shift) mod n of this rank's b."""
    weights = torch.full((len(a),), weight, dtype=torch.float64, device=a.device)

    def positives(u: Tensor, v: Tensor) -> Tensor:
        cosines = (u * v.roll(-shift, 0)).sum(1)
        return (2 if columns else 1) * weight * cosines.double().sum()

    return _loss(a, b, scale, ranks, counts, weights, positives, columns, exclude, negatives, budget)


def gathered_sup_con(
    z: Tensor,
    labels: Tensor,
    scale: Tensor,
    ranks: Ranks,
    counts: Sequence[int],
    *,
    negatives: Tensor | None,
    budget: int,
) -> Tensor:
    """Return the supervised contrastive loss over all ranks."""
    # Labels are few bytes: each rank sees all of them.
    _, classes, sizes = torch.cat(ranks.collect(labels, counts)).unique(
        return_inverse=True, return_counts=True
    )
    own, at = classes.split(list(counts))[ranks.rank].unique(return_inverse=True)
    if sizes.max() < 2:
        return 0 * (z[:0].sum() + scale)  # a sum of 16-bit numbers may be infinite
    partners = sizes[own][at] - 1
    weights = (partners > 0).double() / sizes[sizes > 1].sum().clamp(min=1)
    # Where the classes of this rank's rows have their sum; the sum of its positives is that less the row.
    place = torch.full((len(sizes),), -1, device=z.device)
    place[own] = torch.arange(len(own), device=z.device)
    sums = torch.zeros((len(own), z.shape[1]), dtype=scale.dtype, device=z.device)

    def add(origin: int, rows: Tensor) -> None:
        to = place[classes.split(list(counts))[origin]]
        sums.index_add_(0, to[to >= 0], normalize(rows[to >= 0].to(scale.dtype), dim=1))

    def positives(u: Tensor, _: Tensor) -> Tensor:
        share = weights / partners.clamp(min=1)
        matched = (share * (u * (sums[at] - u.detach())).sum(1)).sum()
        # Every cosine counts for both of its rows, whose weights and classes are the same; half of the
        # derivative is another rank's.
        return 2 * matched - matched.detach()

    return _loss(z, z, scale, ranks, counts, weights, positives, False, True, negatives, budget, add)


def _loss(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    ranks: Ranks,
    counts: Sequence[int],
    weights: Tensor,
    positives: Callable[[Tensor, Tensor], Tensor],
    columns: bool,
    exclude: bool,
    negatives: Tensor | None,
    budget: int,
    see: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Return the sum over all ranks of weights . (log-sum-exps) - scale positives(unit a, unit b).

    `see` is shown every rank's candidates before `positives` is asked.
    """
    mine, theirs, factor = a.detach().contiguous(), b.detach().contiguous(), scale.detach()
    rows = weights.new_full((len(mine),), -torch.inf)

    def sums(origin: int, chunk: Sequence[Tensor]) -> Tensor | None:
        nonlocal rows
        if see is not None:
            see(origin, chunk[0])
        own = exclude and origin == ranks.rank
        of_rows, of_cols = log_sums(mine, chunk[0], factor, own, columns, budget)
        rows = torch.logaddexp(rows, of_rows)
        return of_cols if columns else None

    cols = ranks.tour([theirs], counts, sums, torch.logaddexp)
    if negatives is not None:
        rows = torch.logaddexp(rows, log_sums(mine, negatives, factor, False, False, budget)[0])

    for_a, for_b = ranks.wanted
    by_scale = rows.new_zeros(())
    grads: list[Tensor | None] = [None, None]
    if for_a or for_b:
        # exp(logit - level) is the softmax times its weight, and 0 where that is 0.
        level = rows - weights.log()
        by_rows = torch.zeros_like(mine, dtype=factor.dtype)

        def add(candidates: Tensor, col: Tensor | None, own: bool, for_b: bool) -> Tensor:
            nonlocal by_scale
            found = log_sums_bwd(mine, candidates, factor, level, col, own, budget, for_a, for_b)
            if for_a:
                by_rows.add_(found[0])
            by_scale = by_scale + found[2]
            return found[1]

        def gradients(origin: int, chunk: Sequence[Tensor]) -> Tensor | None:
            col = chunk[1] if columns else None
            found = add(chunk[0], col, exclude and origin == ranks.rank, for_b)
            return found if for_b else None

        chunk = [theirs] if cols is None else [theirs, cols - weights.log()]
        grads = [by_rows if for_a else None, ranks.tour(chunk, counts, gradients, Tensor.add_)]
        if negatives is not None:
            add(negatives, None, False, False)

    with torch.enable_grad():
        # In the precision of the sums: of 16-bit leaves the gradients would be rounded before they are added.
        leaves = [x.detach().to(factor.dtype).requires_grad_() for x in (mine, theirs)]
        matched = positives(*(normalize(x, dim=1) for x in leaves))
        by_match = torch.autograd.grad(matched, leaves, allow_unused=True)
    matched = matched.detach()
    for grad, by in zip(grads, by_match, strict=True):
        if grad is not None and by is not None:
            grad -= factor * by
    share = (weights * (rows if cols is None else rows + cols)).sum() - factor.double() * matched
    value, by_scale = ranks.total(torch.stack([share, by_scale - matched])).to(factor.dtype)
    # What is both anchors and candidates has its gradients added before they are rounded to 16 bits.
    anchors = a.to(factor.dtype)
    candidates = anchors if b is a else b.to(factor.dtype)
    loss: Tensor = _Known.apply(ranks.size, value, by_scale, *grads, anchors, candidates, scale)
    return loss


class _Known(torch.autograd.Function):
    """A value with its gradients: those of the embeddings times the number of ranks, see `info_nce_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        size: int,
        value: Tensor,
        by_scale: Tensor,
        grad_a: Tensor | None,
        grad_b: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.size = size
        wanted = ctx.needs_input_grad[-3:]
        ctx.save_for_backward(
            *(g if want else None for g, want in zip((grad_a, grad_b, by_scale), wanted, strict=True))
        )
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise AffektError("gathered losses have no second derivatives: create_graph must be False")
        *known, by_scale = ctx.saved_tensors
        by = [None if g is None else ctx.size * grad * g for g in known]
        return (*[None] * 5, *by, None if by_scale is None else grad * by_scale)
