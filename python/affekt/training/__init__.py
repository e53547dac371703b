"""Training: configuration, the loop, and the protocol runner that turns folds and seeds into tables.

Lightning is used here and nowhere else.
"""

from __future__ import annotations

# ruff: noqa: E402
from affekt._lazy import require

for _name in ("torch", "pytorch_lightning", "omegaconf"):
    require(_name, purpose="affekt.training")

from affekt.training.config import (
    RunConfig,
    about_preset,
    config_text,
    list_presets,
    load_config,
    save_config,
)
from affekt.training.examples import Examples
from affekt.training.loop import LoopResult, export_checkpoint, train
from affekt.training.protocol import ProtocolResult, RunResult, fit, prepare, run_protocol

__all__ = [
    "Examples",
    "LoopResult",
    "ProtocolResult",
    "RunConfig",
    "RunResult",
    "about_preset",
    "config_text",
    "export_checkpoint",
    "fit",
    "list_presets",
    "load_config",
    "prepare",
    "run_protocol",
    "save_config",
    "train",
]
