"""Continuous emotion recognition from several signals: a TCN each, attention between them, a leader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from affekt.errors import InputError, NotStreamableError
from affekt.nn import TCN, CoAttention, TemporalAttention
from affekt.systems.base import Head, register
from affekt.systems.traced import (
    EncoderTcnConfig,
    ModalityConfig,
    TracedSystem,
    TraceLossConfig,
    WindowConfig,
    as_array,
    as_tensor,
)

__all__ = ["FUSIONS", "FusionConfig", "Lfan", "LfanConfig"]

FUSIONS = ("lfan", "tlfan", "noleader", "cat", "tcn")
"""Ways to join the signals, see `FusionConfig`."""


@dataclass
class FusionConfig:
    """How the encoders' rows of a step become one row.

    kind : ``"lfan"``: the leader's row beside what the signals attend to in one another; ``"tlfan"``: the
        same, after each signal attended over its own time; ``"noleader"``: what they attend to alone;
        ``"cat"``: all rows side by side; ``"tcn"``: those through one more TCN.
    dim, heads, out_proj, residual_norm, dropout : of `affekt.nn.CoAttention`.
    causal : whether attention over time (``tlfan``) sees the past alone.
    tcn : the TCN of ``tcn``.
    """

    kind: str = "lfan"
    dim: int = 32
    heads: int = 1
    out_proj: bool = False
    residual_norm: bool = False
    dropout: float = 0.0
    causal: bool = True
    tcn: EncoderTcnConfig = field(default_factory=lambda: EncoderTcnConfig(channels=[128, 128]))


def _signals(*names: str) -> dict[str, ModalityConfig]:
    """Signals with their published treatment: what is no embedding of a face or EEG is standardised, MFCC at
    100 Hz are taken by nearest time."""
    own: dict[str, ModalityConfig] = {}
    for name in names:
        own[name] = ModalityConfig(standardise="none" if name in ("cnn", "eeg") else "feature")
        if name == "mfcc":
            own[name].sampling = "nearest"
            own[name].source = {"kind": "matrix", "rate": 100.0}
    return own


@dataclass
class LfanConfig:
    """Configuration of the fusion of several signals.

    modalities : the signals by name; their widths default to `affekt.systems.traced.WIDTHS`.
    leader : the signal whose rows stand beside the attended ones; None: the first.
    fusion : how they are joined.
    drop : probability, in training, that a window lacks a signal; never all, the leader stays then.
    rate : labels, and estimates, per second.
    heads : outputs by name.
    activation : of continuous heads, ``"none"`` or ``"tanh"``.
    silence : seconds without a row after which a signal counts as gone, live.
    """

    modalities: dict[str, ModalityConfig] = field(default_factory=lambda: _signals("cnn", "vggish"))
    leader: str | None = None
    fusion: FusionConfig = field(default_factory=FusionConfig)
    drop: float = 0.0
    rate: float = 4.0
    heads: dict[str, Head] = field(default_factory=lambda: {"affect": Head(labels=["valence"])})
    activation: str = "none"
    window: WindowConfig = field(default_factory=lambda: WindowConfig(300, 200))
    loss: TraceLossConfig = field(default_factory=TraceLossConfig)
    silence: float = 1.0


def _preset(*names: str) -> dict[str, Any]:
    """A preset with these signals, the first leading."""
    found = {
        name: {"standardise": own.standardise, "sampling": own.sampling, "source": own.source}
        for name, own in _signals(*names).items()
    }
    return {"modalities": found}


@register("lfan")
class Lfan(TracedSystem):
    """Leader-follower attentive fusion: each signal's rows -> causal TCN; at every step the signals attend to
    one another (`affekt.nn.CoAttention`), and the leader's row stands beside the result -> linear head.

    Signals come in the order of the configuration, the leader first. One that is absent at a step is left out
    of the attention, and its row is zeros, the leader's too; `affekt.live.Engine` says which signals an
    estimate rests on. Presets name the signals, with the widths of `affekt.systems.traced.WIDTHS`; ``abaw3``
    has the narrower VGGish encoder of the ABAW3 entry.

    Source: Zhang et al., "Continuous emotion recognition with audio-visual leader-follower attentive fusion",
    ABAW (2021); Zhang Su, doctoral thesis on continuous emotion recognition, Nanyang Technological University
    (2023), chapter 6.

    >>> from affekt.systems import create
    >>> create("lfan", preset="cnn_vggish").num_parameters()
    2671681
    """

    Config = LfanConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "cnn_vggish": _preset("cnn", "vggish"),
        "cnn_mfcc": _preset("cnn", "mfcc"),
        "cnn_vggish_mfcc": _preset("cnn", "vggish", "mfcc"),
        "cnn_vggish_bert": _preset("cnn", "vggish", "bert"),
        "cnn_eeg": _preset("cnn", "eeg"),
        "cnn_landmark": _preset("cnn", "landmark"),
        "cnn_eeg_landmark": _preset("cnn", "eeg", "landmark"),
        "abaw3": {
            "modalities": {
                **_preset("cnn", "vggish")["modalities"],
                "vggish": {"standardise": "feature", "tcn": {"channels": [64, 64, 32, 32]}},
            }
        },
    }

    config: LfanConfig

    def __init__(self, config: LfanConfig) -> None:
        fusion = config.fusion
        if not config.modalities or "fused" in config.modalities:
            raise InputError(
                f"modalities must name at least one signal, none 'fused', got {list(config.modalities)}"
            )
        if config.leader is not None and config.leader not in config.modalities:
            raise InputError(f"leader must be one of {', '.join(config.modalities)}, got {config.leader!r}")
        if fusion.kind not in FUSIONS:
            raise InputError(f"fusion.kind must be one of {', '.join(FUSIONS)}, got {fusion.kind!r}")
        if not 0 <= config.drop < 1:
            raise InputError(f"drop must lie in [0, 1), got {config.drop}")
        super().__init__(config)
        widths = [int(cast(Any, self.encoders[name]).out_features) for name in self.modalities]
        self.temporal = nn.ModuleDict()
        if fusion.kind == "tlfan":
            for name, width in zip(self.modalities, widths, strict=True):
                self.temporal[name] = TemporalAttention(width, causal=fusion.causal)
        self.co_attention: CoAttention | None = None
        self.joint: TCN | None = None
        if fusion.kind == "cat":
            width = sum(widths)
        elif fusion.kind == "tcn":
            self.joint = TCN(sum(widths), **vars(fusion.tcn))
            width = self.joint.out_features
        else:
            self.co_attention = CoAttention(
                widths, fusion.dim, heads=fusion.heads, out_proj=fusion.out_proj,
                residual_norm=fusion.residual_norm, dropout=fusion.dropout,
            )  # fmt: skip
            width = self.co_attention.out_features + (0 if fusion.kind == "noleader" else widths[0])
        self._build(width)

    @property
    def modalities(self) -> dict[str, ModalityConfig]:
        own = self.config.modalities
        leader = self.config.leader or next(iter(own))
        return {leader: own[leader], **{name: m for name, m in own.items() if name != leader}}

    @property
    def causal(self) -> bool:
        return super().causal and (self.config.fusion.kind != "tlfan" or self.config.fusion.causal)

    # -- forward --------------------------------------------------------------------------------------------

    def embed(
        self,
        features: Mapping[str, Tensor],
        mask: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        rows, there = self._rows(features, mask, present)
        if self.co_attention is None:
            joined = torch.cat(rows, -1)
            return joined if self.joint is None else self.joint(joined)
        follower = self.co_attention(rows, there)
        return follower if self.config.fusion.kind == "noleader" else torch.cat([rows[0], follower], -1)

    @torch.no_grad()
    def attention(
        self,
        features: Mapping[str, Tensor],
        mask: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """How much each signal draws from each, (batch, time, signals, signals), query by key, signals in the
        order of `modalities`, mean over heads; parameters as for a call.

        Raises
        ------
        InputError : the fusion has no attention between signals.
        """
        if self.co_attention is None:
            raise InputError(f"fusion.kind {self.config.fusion.kind!r} has no attention between signals")
        return self.co_attention.attention(*self._rows(features, mask, present)).mean(2)

    def _rows(
        self,
        features: Mapping[str, Tensor],
        mask: Tensor | None,
        present: Mapping[str, Tensor] | None,
    ) -> tuple[list[Tensor], Tensor]:
        """Rows of each signal, zeros where it is absent, and where it is present, (batch, time, signals)."""
        names = list(self.modalities)
        shapes = {name: tuple(features[name].shape[:2]) for name in names}
        steps = shapes[names[0]]
        if any(shape != steps for shape in shapes.values()):
            raise InputError(f"features must have the same batch and time for all signals, got {shapes}")
        leader = features[names[0]]
        there = torch.ones(*steps, len(names), dtype=torch.bool, device=leader.device)
        for place, name in enumerate(names):
            if present is not None and name in present:
                there[..., place] = present[name]
        if self.training and self.config.drop > 0:
            gone = torch.rand(steps[0], len(names)) < self.config.drop
            gone[gone.all(1), 0] = False
            there = there & ~gone[:, None].to(there.device)
        rows = []
        for place, name in enumerate(names):
            row = self.encoded(name, features[name], mask, there[..., place])
            if name in self.temporal:
                row = self.temporal[name](row, mask)
            rows.append(torch.where(there[..., place, None], row, torch.zeros((), dtype=row.dtype)))
        return rows, there

    # -- model file -----------------------------------------------------------------------------------------

    def _body(self, encoded: Mapping[str, str], add: Any, tensors: dict[str, np.ndarray]) -> str:
        fusion, names = self.config.fusion, list(encoded)
        if fusion.kind == "tlfan":
            raise NotStreamableError(
                "fusion.kind tlfan attends over all of the past, for which the core has no node"
            )
        for option in ("out_proj", "residual_norm"):
            if self.co_attention is not None and getattr(fusion, option):
                raise NotStreamableError(f"the core has no node for fusion.{option}")
        rows = [add(f"{name}_row", "gate", encoded[name], f"{name}_there") for name in names]
        if self.co_attention is None:
            joined = rows[0] if len(rows) == 1 else add("fused", "concat", *rows)
            return (
                joined
                if self.joint is None
                else self._tcn_node("fused_tcn", joined, self.joint, add, tensors)
            )
        if len(rows) == 1:
            raise NotStreamableError(
                "the core has no node for the attention of one signal to itself; fusion.kind cat runs live"
            )
        there = add("fused_there", "concat", *(f"{name}_there" for name in names))
        options = {"dim": fusion.dim, "heads": fusion.heads, "masked": True}
        follower = add("fused", "co_attention", *rows, there, **options)
        for place in range(len(names)):
            for part in ("query", "key", "value"):
                layer = cast(nn.Linear, getattr(self.co_attention, part)[place])
                tensors[f"fused.{place}.{part}.weight"] = as_array(layer.weight)
                tensors[f"fused.{place}.{part}.bias"] = as_array(layer.bias)
        return follower if fusion.kind == "noleader" else add("fused_rows", "concat", rows[0], follower)

    @torch.no_grad()
    def load_graph(self, tensors: Mapping[str, np.ndarray]) -> None:
        super().load_graph(tensors)
        if self.joint is not None:
            self.joint.fold_()
            self.joint.load_folded(dict(tensors), "fused_tcn")
        if self.co_attention is not None:
            for place in range(len(self.modalities)):
                for part in ("query", "key", "value"):
                    layer = cast(nn.Linear, getattr(self.co_attention, part)[place])
                    layer.weight.copy_(as_tensor(tensors[f"fused.{place}.{part}.weight"]))
                    layer.bias.copy_(as_tensor(tensors[f"fused.{place}.{part}.bias"]))
