"""Training losses: each a function and a module of the same name, the equation in its docstring."""

# ruff: noqa: E402
from affekt._lazy import require

require("torch", purpose="affekt.losses")

from affekt.losses.ccc import CCCLoss, ccc_loss

__all__ = ["CCCLoss", "ccc_loss"]
