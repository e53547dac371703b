"""Supervised contrastive loss: rows of one label attract each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from affekt.errors import InputError
from affekt.losses._contrast import (
    BUDGET,
    beside,
    bytes_of,
    more_rows,
    op_rows,
    scale_of,
    shared_rows,
    sup_con,
)
from affekt.losses._gather import gatherable, together
from affekt.losses._module import LossModule

__all__ = ["SupConLoss", "sup_con_loss"]


@gatherable
def sup_con_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    negatives: Tensor | None = None,
    budget: int = BUDGET,
    gather: str = "none",
    group: Any = None,
) -> Tensor:
    """Cross-entropy of each row against every other row of its label, averaged over those.

    With u the unit vectors, P(i) the other rows that share the label of row i and tau the temperature,

        L = mean_i -1/|P(i)| sum_{p in P(i)} log( exp(u_i.u_p / tau) / sum_{j != i} exp(u_i.u_j / tau) ),

    the mean over the rows whose P(i) is not empty; if there is none the loss is 0, with zero gradient.

    Parameters
    ----------
    embeddings : `(n, dim)`, floating point; several views of an item are several rows. Half precision is
        computed and returned in float32.
    labels : `(n,)`, integers; only equality counts.
    temperature : positive; a number, or a tensor of one value, which gets its gradient.
    negatives : `(k, dim)`, further candidates in every denominator, without gradient (a queue).
    budget : bytes of scratch memory on the CPU, see `info_nce_loss`.
    gather, group : rows of all ranks, see `info_nce_loss`; labels are then common to the ranks.

    The sum over P(i) is one product with the sum of the class. NaN or infinity in the embeddings makes the
    loss NaN.

    Raises
    ------
    InputError : shapes do not fit, n = 0, labels that are not integers, or a temperature that is not
        positive.

    Reference: P. Khosla et al., "Supervised contrastive learning" (2020), the form with the sum outside.

    >>> round(sup_con_loss(torch.eye(4), torch.tensor([0, 0, 1, 1]), temperature=1.0).item(), 4)
    1.0986
    """
    with together(gather, group) as ranks:
        (embeddings,) = op_rows(empty=ranks is not None, embeddings=embeddings)
        if labels.shape != embeddings.shape[:1] or labels.is_floating_point() or labels.is_complex():
            raise InputError(
                f"labels must be integers ({len(embeddings)},), got {labels.dtype} {tuple(labels.shape)}"
            )
        beside("labels", labels, embeddings)
        labels = labels.to(torch.int64)
        negatives = more_rows(negatives, embeddings)
        scale = scale_of(temperature, embeddings)
        budget = bytes_of(budget)
        (counts,) = shared_rows(
            ranks, [len(embeddings)], [embeddings], temperature, loss="supervised contrastive", gather=gather
        )
        if sum(counts) < 1:
            raise InputError("embeddings must have at least 1 row on any rank, got none")
        return sup_con(
            embeddings, labels, scale, negatives=negatives, budget=budget, ranks=ranks, counts=counts
        )


class SupConLoss(LossModule):
    """Module twin of `sup_con_loss`; the options are those of the function."""

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        budget: int = BUDGET,
        gather: str = "none",
        group: Any = None,
    ) -> None:
        super().__init__(temperature=temperature, budget=budget, gather=gather, group=group)

    def forward(self, embeddings: Tensor, labels: Tensor, negatives: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            assert self.gather == "none", "gather: a script computes on this process alone"
            loss: Tensor = torch.ops.affekt.sup_con_loss(
                embeddings, labels, negatives, temperature=self.temperature, budget=self.budget
            )
            return loss
        return self._eager(embeddings, labels, negatives)

    @torch.jit.unused
    def _eager(self, embeddings: Tensor, labels: Tensor, negatives: Tensor | None) -> Tensor:
        return sup_con_loss(embeddings, labels, negatives=negatives, **self._options())
