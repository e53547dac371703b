"""Supervised contrastive loss: rows of one label attract each other."""

from __future__ import annotations

import torch
from torch import Tensor

from affekt.errors import InputError
from affekt.losses._contrast import BUDGET, bytes_of, more_rows, op_rows, scale_of, sup_con
from affekt.losses._module import LossModule

__all__ = ["SupConLoss", "sup_con_loss"]


def sup_con_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    negatives: Tensor | None = None,
    budget: int = BUDGET,
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
    (embeddings,) = op_rows(embeddings=embeddings)
    if labels.shape != embeddings.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"labels must be integers ({len(embeddings)},), got {labels.dtype} {tuple(labels.shape)}"
        )
    return sup_con(
        embeddings,
        labels.to(torch.int64),
        scale_of(temperature, embeddings),
        negatives=more_rows(negatives, embeddings),
        budget=bytes_of(budget),
    )


class SupConLoss(LossModule):
    """Module twin of `sup_con_loss`; the options are those of the function."""

    def __init__(self, *, temperature: float = 0.1, budget: int = BUDGET) -> None:
        super().__init__(temperature=temperature, budget=budget)

    def forward(self, embeddings: Tensor, labels: Tensor, negatives: Tensor | None = None) -> Tensor:
        return sup_con_loss(embeddings, labels, negatives=negatives, **self.options)
