"""Continuous emotion recognition from one signal: rows -> TCN or LSTM -> a value per step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
from torch import Tensor

from affekt.systems.base import Head, register
from affekt.systems.traced import ModalityConfig, TracedSystem, TraceLossConfig, WindowConfig

__all__ = ["Cer", "CerConfig"]


@dataclass
class CerConfig:
    """Configuration of the unimodal system.

    modality : name of the signal; one of `affekt.systems.traced.WIDTHS`, whose widths are then the defaults,
        or any other. signal : its rows and encoder.
    rate : labels, and estimates, per second.
    heads : outputs by name.
    activation : of continuous heads, ``"none"`` or ``"tanh"``.
    silence : seconds without a row after which the signal counts as gone, live.
    """

    modality: str = "eeg"
    signal: ModalityConfig = field(default_factory=ModalityConfig)
    rate: float = 4.0
    heads: dict[str, Head] = field(default_factory=lambda: {"affect": Head(labels=["valence"])})
    activation: str = "none"
    window: WindowConfig = field(default_factory=WindowConfig)
    loss: TraceLossConfig = field(default_factory=TraceLossConfig)
    silence: float = 1.0


@register("cer")
class Cer(TracedSystem):
    """Unimodal continuous emotion recognition: rows (batch, time, features) -> causal TCN -> linear head, one
    estimate per step.

    Presets, for every modality: ``paper`` has the widths of `affekt.systems.traced.WIDTHS` and kernels of 5
    steps (four blocks see 121 steps, the two of EEG 25), ``kdcode`` two blocks of 128 channels and kernels
    of 3 (13 steps), ``lstm`` the two-layer LSTM baseline, of a half and a quarter of the row's width.

    Source: Zhang Su, doctoral thesis on continuous emotion recognition, Nanyang Technological University
    (2023), chapters 3 and 5.

    >>> from affekt.systems import create
    >>> create("cer", preset="paper").num_parameters()
    393985
    """

    Config = CerConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "kdcode": {"signal": {"tcn": {"channels": [128, 128], "kernel_size": 3}}},
        "lstm": {"signal": {"encoder": "lstm"}},
    }

    config: CerConfig

    def __init__(self, config: CerConfig) -> None:
        super().__init__(config)
        self._build(cast(Any, self.encoders[config.modality]).out_features)

    @property
    def modalities(self) -> dict[str, ModalityConfig]:
        return {self.config.modality: self.config.signal}

    def embed(
        self,
        features: Mapping[str, Tensor],
        mask: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        name = self.config.modality
        return self.encoded(name, features[name], mask, None if present is None else present.get(name))

    def _body(self, encoded: Mapping[str, str], add: Any, tensors: dict[str, np.ndarray]) -> str:
        return encoded[self.config.modality]
