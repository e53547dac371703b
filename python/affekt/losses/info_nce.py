"""InfoNCE: the matching candidate against all others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from affekt.errors import InputError
from affekt.losses._contrast import (
    BUDGET,
    bytes_of,
    info_nce,
    more_rows,
    one_of,
    op_rows,
    positive,
    scale_of,
    shared_rows,
)
from affekt.losses._gather import gatherable, together
from affekt.losses._module import LossModule

__all__ = ["InfoNCELoss", "info_nce_loss"]


@gatherable
def info_nce_loss(
    anchors: Tensor,
    candidates: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = True,
    negatives: Tensor | None = None,
    positive_in_denominator: bool = True,
    reduction: str = "mean",
    budget: int = BUDGET,
    gather: str = "none",
    group: Any = None,
) -> Tensor:
    """Cross-entropy of each anchor's own candidate among all candidates, by cosine over temperature.

    With u, v the unit vectors of anchors and candidates and tau the temperature,

        L_i = -log( exp(u_i.v_i / tau) / sum_j exp(u_i.v_j / tau) ),

    j over all candidates and the extra negatives; ``symmetric`` averages L with the same loss for candidates
    as anchors.

    Parameters
    ----------
    anchors, candidates : `(n, dim)`, floating point; row i of one belongs to row i of the other. Only the
        directions of the vectors count. Half precision is computed and returned in float32.
    temperature : positive; a number, or a tensor of one value, which gets its gradient (learn its logarithm).
    symmetric : both directions, as CLIP; False: anchors choose among candidates only.
    negatives : `(k, dim)`, further candidates for every anchor, without gradient (a queue, see
        `NegativeQueue`); needs ``symmetric=False``.
    positive_in_denominator : False leaves j = i out of the sum (decoupled form; needs another candidate).
    reduction : ``"mean"`` or ``"sum"`` over anchors.
    budget : bytes of scratch memory on the CPU. The n x n matrix is never whole unless it fits: tiles of
        exponentials stay between the two passes while there is room and are computed again beyond. The
        gradients, which are as large as the inputs, come on top. No budget goes below about 1 MB, 32 kB for
        each column and 64 bytes for each row (float32). On CUDA the gradient's matrix is made in chunks
        within the budget, and within 4 n dim bytes or 8 MiB: 16-bit embeddings take less than 4 n dim
        float32 values beyond inputs and gradients.
    gather : ``"none"``: this process alone. ``"all"`` or ``"ring"``: the loss of the batches of all ranks of
        `group` as one batch, row i of a rank with its own row i; all must call it. ``"all"`` collects
        the candidates of all ranks, and their gradients, on each. ``"ring"`` passes them round, one rank's at
        a time: memory is that of a few local batches for any number of ranks, the products are the same.
    group : process group of torch.distributed; None is the default one.

    Gathered, every rank returns the loss over all ranks, the same bits, computed from the very inputs of all
    of them. Gradients of embeddings are those of that loss times the number of ranks, because
    DistributedDataParallel and FSDP take the mean over ranks: call ``loss.backward()`` as with any other loss
    and the parameters get the gradient of the loss of the whole batch. That of a temperature is the whole one
    on each rank, so it may live inside such a module or outside. Batches may differ in size and be empty,
    upstream gradients may not differ. All communication is in the forward pass. `negatives` stay local:
    candidates of this rank's anchors. Second derivatives are refused.

    NaN or infinity in the embeddings makes the loss NaN. A vector of zeros has cosine 0 with everything.
    On the CPU value and gradients come from one call; second derivatives go through plain torch.

    Raises
    ------
    InputError : shapes or devices do not fit, n = 0, no candidate is left, integers, a temperature that is
        not positive, or an unknown option. Gathered: on all ranks if on one, or where dim, dtype, kind of
        device, temperature or options differ between them, or where torch.distributed is not set up.

    References: A. van den Oord et al., "Representation learning with contrastive predictive coding" (2018);
    A. Radford et al., "Learning transferable visual models from natural language supervision" (2021); for the
    decoupled form C.-H. Yeh et al., "Decoupled contrastive learning" (2022).

    >>> import torch
    >>> round(info_nce_loss(torch.eye(4), torch.eye(4), temperature=1.0).item(), 4)
    0.7437
    """
    with together(gather, group) as ranks:
        anchors, candidates = op_rows(empty=ranks is not None, anchors=anchors, candidates=candidates)
        negatives = more_rows(negatives, anchors)
        one_of("reduction", reduction, ("mean", "sum"))
        if symmetric and negatives is not None:
            raise InputError("negatives need symmetric=False: they are candidates, not anchors")
        scale = scale_of(temperature, anchors)
        budget = bytes_of(budget)
        counts, extra = shared_rows(
            *(ranks, (len(anchors), 0 if negatives is None else len(negatives))),
            *((anchors, candidates), temperature),
            symmetric=symmetric,
            positive_in_denominator=positive_in_denominator,
            reduction=reduction,
            gather=gather,
        )
        n = sum(counts)
        if n < 1:
            raise InputError("anchors must have at least 1 row on any rank, got none")
        # Every rank with anchors must have a candidate for them besides their own.
        if not positive_in_denominator and n + min(k for k, c in zip(extra, counts, strict=True) if c) < 2:
            raise InputError(
                "anchors must have at least 2 rows where the positive is not in the denominator, got 1"
            )
        return info_nce(
            anchors,
            candidates,
            scale,
            weight=(0.5 if symmetric else 1) / (n if reduction == "mean" else 1),
            columns=symmetric,
            exclude=not positive_in_denominator,
            negatives=negatives,
            budget=budget,
            ranks=ranks,
            counts=counts,
        )


class InfoNCELoss(LossModule):
    """Module twin of `info_nce_loss`; the options are those of the function.

    With ``learn_temperature`` its logarithm is a parameter that starts at `temperature`.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        symmetric: bool = True,
        positive_in_denominator: bool = True,
        reduction: str = "mean",
        budget: int = BUDGET,
        learn_temperature: bool = False,
        gather: str = "none",
        group: Any = None,
    ) -> None:
        super().__init__(
            temperature=temperature,
            symmetric=symmetric,
            positive_in_denominator=positive_in_denominator,
            reduction=reduction,
            budget=budget,
            gather=gather,
            group=group,
        )
        positive(temperature)
        self.log_temperature = (
            nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None
        )

    def forward(self, anchors: Tensor, candidates: Tensor, negatives: Tensor | None = None) -> Tensor:
        learned: Tensor | None = None
        if self.log_temperature is not None:
            learned = self.log_temperature.exp()
        if torch.jit.is_scripting():
            assert self.gather == "none", "gather: a script computes on this process alone"
            loss: Tensor = torch.ops.affekt.info_nce_loss(
                anchors,
                candidates,
                negatives,
                temperature=self.temperature,
                learned_temperature=learned,
                symmetric=self.symmetric,
                positive_in_denominator=self.positive_in_denominator,
                reduction=self.reduction,
                budget=self.budget,
            )
            return loss
        return self._eager(anchors, candidates, negatives, learned)

    @torch.jit.unused
    def _eager(
        self, anchors: Tensor, candidates: Tensor, negatives: Tensor | None, learned: Tensor | None
    ) -> Tensor:
        options = self._options()
        if learned is not None:
            options["temperature"] = learned
        return info_nce_loss(anchors, candidates, negatives=negatives, **options)
