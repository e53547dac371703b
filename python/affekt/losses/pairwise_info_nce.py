"""InfoNCE over all ordered pairs of modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from affekt.errors import InputError
from affekt.losses._contrast import BUDGET, beside, bytes_of, info_nce, one_of, op_rows, scale_of, shared_rows
from affekt.losses._gather import gatherable, together
from affekt.losses._module import LossModule

__all__ = ["PairwiseInfoNCELoss", "pairwise_info_nce_loss"]

_MODES = ("eq1", "clip", "two_view")


@gatherable
def pairwise_info_nce_loss(
    embeddings: Sequence[Tensor] | Tensor,
    *,
    temperature: float | Tensor = 0.07,
    mode: str = "eq1",
    reduction: str = "mean",
    present: Tensor | None = None,
    budget: int = BUDGET,
    gather: str = "none",
    group: Any = None,
) -> Tensor:
    """Contrast every modality m with every other modality n, and average over the ordered pairs.

    With s_ab the cosine of clip a in modality m and clip b in modality n over the temperature tau,

        L = sum over m != n of L^{m,n} / (M (M - 1)),   L^{m,n} = sum_a ( log sum_b exp(s_ab) - s_ap ),

    where the modes differ in the positive p and in the candidates b of clip a:

    - ``"eq1"``: p = a, b over all other clips (the positive is not in the denominator; may be negative);
    - ``"clip"``: p = a, b over all clips;
    - ``"two_view"``: rows are the first views of all clips and then the second views; p is the other view of
      the clip, b over all rows but a.

    Parameters
    ----------
    embeddings : M >= 2 tensors `(n, dim)`, or one `(M, n, dim)`; floating point, row i is clip i in each.
        Half precision is computed and returned in float32.
    temperature : positive; a number, or a tensor of one value, which gets its gradient.
    reduction : ``"mean"`` divides by the number of anchors as well; ``"sum"`` is the equation above.
    present : boolean `(M, n)`, False where a clip lacks the modality: such a row takes part in no pair, and
        the mean is over the terms that remain. A pair that is left with too few clips (2 for ``"eq1"``, else
        1) does not count; if none is left the loss is 0. Not for ``"two_view"``.
    budget : bytes of scratch memory on the CPU, see `info_nce_loss`.
    gather, group : clips of all ranks, see `info_nce_loss`.

    Both orders of a pair share one matrix product. NaN or infinity in the embeddings makes the loss NaN.

    Raises
    ------
    InputError : fewer than two modalities, shapes that differ, too few clips (2 for ``"eq1"``; an even
        number of rows, at least 2, for ``"two_view"``), a temperature that is not positive, or an unknown
        option.

    Reference: R. Franceschini et al., "Multimodal emotion recognition with modality-pairwise unsupervised
    contrastive loss", ICPR (2022), equations 1 and 2 (``"eq1"``); the released code of the paper computes
    half of ``"two_view"``.

    >>> round(pairwise_info_nce_loss(torch.eye(4).repeat(2, 1, 1), mode="eq1").item(), 4)
    -13.1871
    """
    with together(gather, group) as ranks:
        if len(embeddings) < 2:
            raise InputError(f"embeddings must hold at least 2 modalities, got {len(embeddings)}")
        z = op_rows(
            empty=ranks is not None, **{f"embeddings[{m}]": value for m, value in enumerate(embeddings)}
        )
        one_of("mode", mode, _MODES)
        one_of("reduction", reduction, ("mean", "sum"))
        modalities, n = len(z), len(z[0])
        least = 1 if mode == "clip" else 2
        even = "an even number of rows, " if mode == "two_view" else ""
        if (ranks is None and n < least) or (even and n % 2):
            raise InputError(f"embeddings must have {even}at least {least} for mode {mode!r}, got {n}")
        if present is not None:
            if present.dtype != torch.bool or present.shape != (modalities, n):
                raise InputError(
                    f"present must be boolean {(modalities, n)}, got {present.dtype} {tuple(present.shape)}"
                )
            beside("present", present, z[0])
            if mode == "two_view":
                raise InputError("present is not for mode 'two_view'")
        scale = scale_of(temperature, z[0])
        budget = bytes_of(budget)
        pairs = []
        for one in range(modalities):
            for other in range(one):
                pair = z[other], z[one]
                if present is not None:
                    both = present[other] & present[one]
                    pair = pair[0][both], pair[1][both]
                pairs.append(pair)
        of = next((value for value in z if value.requires_grad), z[0])
        total, *counts = shared_rows(
            *(ranks, [n, *(len(a) for a, _ in pairs)], [of, of], temperature),
            modalities=modalities,
            mode=mode,
            reduction=reduction,
            gather=gather,
        )
        if sum(total) < least:
            raise InputError(
                f"embeddings must have {even}at least {least} for mode {mode!r}, "
                f"got {sum(total)} on all ranks"
            )
        counted = [(pair, rows) for pair, rows in zip(pairs, counts, strict=True) if sum(rows) >= least]
        terms = 2 * sum(sum(rows) for _, rows in counted)
        if not terms:
            # The scale makes float32 of 16-bit zeros, and gets its gradient.
            return torch.stack([value[:0].sum() for value in z]).sum() + 0 * scale
        weight = 1 / (terms if reduction == "mean" else modalities * (modalities - 1))
        losses = [
            info_nce(
                a,
                b,
                scale,
                weight=weight,
                columns=True,
                exclude=mode != "clip",
                shift=n // 2 if mode == "two_view" else 0,
                budget=budget,
                ranks=ranks,
                counts=rows,
            )
            for (a, b), rows in counted
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


class PairwiseInfoNCELoss(LossModule):
    """Module twin of `pairwise_info_nce_loss`; the options are those of the function."""

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        mode: str = "eq1",
        reduction: str = "mean",
        budget: int = BUDGET,
        gather: str = "none",
        group: Any = None,
    ) -> None:
        super().__init__(
            temperature=temperature,
            mode=mode,
            reduction=reduction,
            budget=budget,
            gather=gather,
            group=group,
        )

    def forward(self, embeddings: list[Tensor] | Tensor, present: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            assert self.gather == "none", "gather: a script computes on this process alone"
            rows = list(embeddings.unbind()) if isinstance(embeddings, Tensor) else embeddings
            loss: Tensor = torch.ops.affekt.pairwise_info_nce_loss(
                rows,
                present,
                temperature=self.temperature,
                mode=self.mode,
                reduction=self.reduction,
                budget=self.budget,
            )
            return loss
        return self._eager(embeddings, present)

    @torch.jit.unused
    def _eager(self, embeddings: list[Tensor] | Tensor, present: Tensor | None) -> Tensor:
        return pairwise_info_nce_loss(embeddings, present=present, **self._options())
