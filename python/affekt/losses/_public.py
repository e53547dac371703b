"""The losses behind the public ops `torch.ops.affekt.*`, in the order of the ops' arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from affekt.losses.ccc import ccc_loss
from affekt.losses.info_nce import info_nce_loss
from affekt.losses.nt_xent import nt_xent_loss
from affekt.losses.pairwise_info_nce import pairwise_info_nce_loss
from affekt.losses.sup_con import sup_con_loss
from affekt.ops import losses as native


def _form(loss: Callable[..., Tensor], inputs: int, last: str) -> Callable[..., Tensor]:
    """`loss` of `inputs` tensors and then `last`, with the temperature as a number or as a tensor."""

    def form(*tensors: Any, learned_temperature: Tensor | None = None, **options: Any) -> Tensor:
        if len(tensors) > inputs:
            options[last] = tensors[inputs]
        if learned_temperature is not None:
            options["temperature"] = learned_temperature
        return loss(*tensors[:inputs], **options)

    return form


native.FORMS.update(
    ccc_loss=ccc_loss,
    info_nce_loss=_form(info_nce_loss, 2, "negatives"),
    pairwise_info_nce_loss=_form(pairwise_info_nce_loss, 1, "present"),
    nt_xent_loss=_form(nt_xent_loss, 2, "negatives"),
    sup_con_loss=_form(sup_con_loss, 2, "negatives"),
)
