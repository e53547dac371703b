"""Mutual contrastive learning: two networks that each contrast, and agree on what resembles what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from affekt import ops
from affekt.errors import InputError
from affekt.losses._contrast import BUDGET, bytes_of, info_nce, more_rows, positive, same_rows, scale_of
from affekt.losses._module import LossModule

__all__ = ["MCLLoss", "icl_loss", "mcl_loss"]

Pair = Sequence[Tensor]
Queues = Sequence[Tensor | None]


def mcl_loss(
    queries: Pair,
    keys: Pair,
    *,
    negatives: Queues = (None, None),
    temperature: float | Tensor = 0.1,
    softening: float = 1.0,
    icl_weight: float = 1.0,
    budget: int = BUDGET,
) -> Tensor:
    """VCL + icl_weight ICL for two networks 1 and 2.

    VCL, the contrast within each network, is one-sided InfoNCE of its queries against its keys and its queue,
    summed over the networks (`info_nce_loss`). ICL, across the networks, is `icl_loss`.

    Parameters and errors are those of `icl_loss`; ICL is left out where `icl_weight` is 0.

    Reference: C. Yang et al., "Mutual contrastive learning for visual representation learning" (2022), with
    the terms that S. Arora's thesis on dimensional emotion recognition uses.

    >>> x = torch.eye(4)
    >>> round(mcl_loss((x, x), (x, x), temperature=1.0).item(), 4)
    1.4873
    """
    (q1, q2, k1, k2), (n1, n2), scale = _checked(queries, keys, negatives, temperature, softening, budget)
    one, two = (
        info_nce(q, k, scale, weight=1 / len(q), columns=False, negatives=n, budget=int(budget))
        for q, k, n in ((q1, k1, n1), (q2, k2, n2))
    )
    if icl_weight == 0:
        return one + two
    return one + two + icl_weight * _icl(q1, q2, k1, k2, n1, n2, scale, softening, budget)


def icl_loss(
    queries: Pair,
    keys: Pair,
    *,
    negatives: Queues = (None, None),
    temperature: float | Tensor = 0.1,
    softening: float = 1.0,
    budget: int = BUDGET,
) -> Tensor:
    """Let the two cross-network contrasts of each item agree, each a constant target of the other.

    With u, v the unit vectors of queries and keys, tau the temperature and T the softening,

        p12_i = softmax over b of u1_i.v2_b / (tau T),   p21_i = softmax over b of u2_i.v1_b / (tau T),
        L = T^2 mean_i ( KL(sg(p21_i) || p12_i) + KL(sg(p12_i) || p21_i) ),

    where b runs over the keys of the batch and then over the queue of that network, in one order of items for
    both, and sg stops the gradient.

    Parameters
    ----------
    queries, keys : of networks 1 and 2, all `(n, dim)`, floating point; row i is item i. Half precision is
        computed and returned in float32.
    negatives : queue of each network, `(k, dim)` of one k and row by row of the same items, or None for both;
        without gradient.
    temperature : positive; a number, or a tensor of one value, which gets its gradient.
    softening : T, positive.
    budget : bytes of scratch memory, and a minimum of a few rows of the batch against all keys.

    NaN or infinity in the embeddings makes the loss NaN. Second derivatives and compiled graphs go through
    plain torch, with the whole matrices.

    Raises
    ------
    InputError : shapes do not fit, not two of each, n = 0, or a temperature or softening that is not
        positive.

    Reference: as for `mcl_loss`.
    """
    (q1, q2, k1, k2), (n1, n2), scale = _checked(queries, keys, negatives, temperature, softening, budget)
    return _icl(q1, q2, k1, k2, n1, n2, scale, softening, budget)


def _checked(
    queries: Pair,
    keys: Pair,
    negatives: Queues,
    temperature: float | Tensor,
    softening: float,
    budget: int,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...], Tensor]:
    for name, value in (("queries", queries), ("keys", keys), ("negatives", negatives)):
        if len(value) != 2:
            raise InputError(f"{name} must be those of 2 networks, got {len(value)}")
    named = {f"{name}[{i}]": v[i] for name, v in (("queries", queries), ("keys", keys)) for i in (0, 1)}
    rows = same_rows(**named)
    queues = tuple(more_rows(n, rows[0]) for n in negatives)
    sizes = [0 if n is None else len(n) for n in queues]
    if sizes[0] != sizes[1]:
        raise InputError(f"negatives must have as many rows for both networks, got {sizes[0]} and {sizes[1]}")
    try:
        positive(softening)
    except InputError:
        raise InputError(f"softening must be positive and finite, got {softening}") from None
    bytes_of(budget)
    return rows, queues, scale_of(temperature, rows[0])


def _icl(
    q1: Tensor,
    q2: Tensor,
    k1: Tensor,
    k2: Tensor,
    n1: Tensor | None,
    n2: Tensor | None,
    scale: Tensor,
    softening: float,
    budget: int,
) -> Tensor:
    q1, q2, k1, k2 = (normalize(x, dim=1) for x in (q1, q2, k1, k2))
    if torch.compiler.is_compiling():
        return _reference(q1, q2, k1, k2, n1, n2, scale, softening)
    loss: Tensor = _ICL.apply(q1, q2, k1, k2, n1, n2, scale, softening, budget)
    return loss


def _reference(
    q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, n1: Any, n2: Any, scale: Tensor, softening: float
) -> Tensor:
    """The loss of unit vectors, with the whole matrices: for second derivatives and as the oracle."""
    c1, c2 = _candidates(k1, n1), _candidates(k2, n2)
    log_12 = (scale / softening * (q1 @ c2.T)).log_softmax(1)
    log_21 = (scale / softening * (q2 @ c1.T)).log_softmax(1)
    p12, p21 = log_12.detach().exp(), log_21.detach().exp()
    divergence = (p21 * (log_21.detach() - log_12)).sum(1) + (p12 * (log_12.detach() - log_21)).sum(1)
    return softening**2 * divergence.mean()


def _candidates(keys: Tensor, queue: Tensor | None) -> Tensor:
    return keys if queue is None else torch.cat([keys, normalize(queue, dim=1)])


class _ICL(torch.autograd.Function):
    """Value and gradients in one go, a few rows of both matrices at a time, which so stay in the cache."""

    @staticmethod
    def forward(ctx: Any, q1: Any, q2: Any, k1: Any, k2: Any, n1: Any, n2: Any, *options: Any) -> Tensor:
        scale, soft, budget = options
        c1, c2 = _candidates(k1, n1), _candidates(k2, n2)
        n, columns = len(q1), len(c1)
        wanted = any(ctx.needs_input_grad)
        grads = [torch.zeros_like(x) for x in (q1, q2, k1, k2)] if wanted else []
        # Panels of about 4 MB, five at a time: wide enough for the products, small enough for the cache.
        rows = max(8, min(n, 2**20 // columns, budget // (5 * columns * q1.element_size())))
        factor = float(scale) / soft
        total = 0.0
        for start in range(0, n, rows):
            at = slice(start, start + rows)
            log_12 = torch.mm(q1[at], c2.T).mul_(factor)
            log_21 = torch.mm(q2[at], c1.T).mul_(factor)
            log_12 -= log_12.logsumexp(1, keepdim=True)
            log_21 -= log_21.logsumexp(1, keepdim=True)
            apart = log_12 - log_21
            g = log_12.exp_().sub_(log_21.exp_())  # p12 - p21, the gradient of the logits but for a factor
            total += torch.mul(apart, g, out=apart).sum(dtype=torch.float64).item()
            if wanted:
                torch.mm(g, c2, out=grads[0][at])
                torch.mm(g, c1, out=grads[1][at])
                grads[3].addmm_(g[:, :n].T, q1[at])
                grads[2].addmm_(g[:, :n].T, q2[at])
        if wanted:
            in_logits = soft * float(scale) / n
            for grad, sign in zip(grads, (1, -1, -1, 1), strict=True):
                grad.mul_(sign * in_logits)
            of_scale = ((q1 * grads[0]).sum() + (q2 * grads[1]).sum()) / scale
            ctx.save_for_backward(q1, q2, k1, k2, n1, n2, scale, *grads, of_scale)
            ctx.soft = soft
        return q1.new_tensor(soft**2 * total / n)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        q1, q2, k1, k2, n1, n2, scale, *known = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[i] for i in (0, 1, 2, 3, 6)]
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            found = ops.gradient_of(
                lambda a, b, c, d, s: _reference(a, b, c, d, n1, n2, s, ctx.soft),
                (q1, q2, k1, k2, scale),
                wanted,
                grad,
            )
        else:
            found = [value * grad if want else None for value, want in zip(known, wanted, strict=True)]
        return *found[:4], None, None, found[4], None, None


class MCLLoss(LossModule):
    """Module twin of `mcl_loss`; the options are those of the function."""

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        softening: float = 1.0,
        icl_weight: float = 1.0,
        budget: int = BUDGET,
    ) -> None:
        super().__init__(temperature=temperature, softening=softening, icl_weight=icl_weight, budget=budget)

    def forward(self, queries: Pair, keys: Pair, negatives: Queues = (None, None)) -> Tensor:
        return mcl_loss(queries, keys, negatives=negatives, **self._options())
