"""Training losses: each a function and a module of the same name, the equation in its docstring."""

# ruff: noqa: E402
from affekt._lazy import require

require("torch", purpose="affekt.losses")

from affekt.losses import _public  # noqa: F401  the public ops are these functions
from affekt.losses.ccc import CCCLoss, ccc_loss
from affekt.losses.info_nce import InfoNCELoss, info_nce_loss
from affekt.losses.mcl import MCLLoss, icl_loss, mcl_loss
from affekt.losses.nt_xent import NTXentLoss, nt_xent_loss
from affekt.losses.pairwise_info_nce import PairwiseInfoNCELoss, pairwise_info_nce_loss
from affekt.losses.queue import NegativeQueue
from affekt.losses.sup_con import SupConLoss, sup_con_loss

__all__ = [
    "CCCLoss",
    "InfoNCELoss",
    "MCLLoss",
    "NTXentLoss",
    "NegativeQueue",
    "PairwiseInfoNCELoss",
    "SupConLoss",
    "ccc_loss",
    "icl_loss",
    "info_nce_loss",
    "mcl_loss",
    "nt_xent_loss",
    "pairwise_info_nce_loss",
    "sup_con_loss",
]
