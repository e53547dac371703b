"""NT-Xent: two views of each item against the rest of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from affekt.errors import InputError
from affekt.losses._contrast import (
    BUDGET,
    bytes_of,
    info_nce,
    more_rows,
    op_rows,
    scale_of,
    shared_rows,
    sup_con,
)
from affekt.losses._gather import gatherable, together
from affekt.losses._module import LossModule

__all__ = ["NTXentLoss", "nt_xent_loss"]


@gatherable
def nt_xent_loss(
    view_1: Tensor,
    view_2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    negatives: Tensor | None = None,
    budget: int = BUDGET,
    gather: str = "none",
    group: Any = None,
) -> Tensor:
    """Normalised temperature-scaled cross-entropy: each view must find the other view of its item.

    Over the 2 n unit vectors u of both views, p(i) the other view of row i and tau the temperature,

        L = mean_i -log( exp(u_i.u_p(i) / tau) / sum_{j != i} exp(u_i.u_j / tau) ),

    so a row has 2 (n - 1) negatives in the batch; the extra negatives join every sum.

    Parameters
    ----------
    view_1, view_2 : `(n, dim)`, floating point, row i of both is item i. Half precision is computed and
        returned in float32; on CUDA its products run on tensor cores.
    temperature : positive; a number, or a tensor of one value, which gets its gradient.
    negatives : `(k, dim)`, further candidates, without gradient (a queue, see `NegativeQueue`).
    budget : bytes of scratch memory on the CPU, see `info_nce_loss`.
    gather, group : candidates of all ranks, see `info_nce_loss`.

    The matrix is symmetric and only half of it is computed, all of it where it is gathered. NaN or infinity
    in the embeddings makes the loss NaN.

    Raises
    ------
    InputError : shapes do not fit, n = 0, integers, or a temperature that is not positive.

    Reference: T. Chen et al., "A simple framework for contrastive learning of visual representations" (2020).

    >>> round(nt_xent_loss(torch.eye(4), torch.eye(4), temperature=1.0).item(), 4)
    1.1654
    """
    with together(gather, group) as ranks:
        view_1, view_2 = op_rows(empty=ranks is not None, view_1=view_1, view_2=view_2)
        both = torch.cat([view_1, view_2])
        negatives = more_rows(negatives, view_1)
        scale = scale_of(temperature, view_1)
        budget = bytes_of(budget)
        if ranks is None:
            items = torch.arange(len(view_1), device=view_1.device).repeat(2)
            return sup_con(both, items, scale, negatives=negatives, budget=budget)
        (counts,) = shared_rows(ranks, [len(both)], [both], temperature, loss="NT-Xent", gather=gather)
        if sum(counts) < 1:
            raise InputError("view_1 must have at least 1 row on any rank, got none")
        return info_nce(
            both,
            both,
            scale,
            weight=1 / sum(counts),
            columns=False,
            exclude=True,
            shift=len(view_1),
            negatives=negatives,
            budget=budget,
            ranks=ranks,
            counts=counts,
        )


class NTXentLoss(LossModule):
    """Module twin of `nt_xent_loss`; the options are those of the function."""

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        budget: int = BUDGET,
        gather: str = "none",
        group: Any = None,
    ) -> None:
        super().__init__(temperature=temperature, budget=budget, gather=gather, group=group)

    def forward(self, view_1: Tensor, view_2: Tensor, negatives: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            assert self.gather == "none", "gather: a script computes on this process alone"
            loss: Tensor = torch.ops.affekt.nt_xent_loss(
                view_1, view_2, negatives, temperature=self.temperature, budget=self.budget
            )
            return loss
        return self._eager(view_1, view_2, negatives)

    @torch.jit.unused
    def _eager(self, view_1: Tensor, view_2: Tensor, negatives: Tensor | None) -> Tensor:
        return nt_xent_loss(view_1, view_2, negatives=negatives, **self._options())
