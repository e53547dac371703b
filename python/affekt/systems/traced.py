"""What systems share that follow a label trace: signals as rows, an encoder each, one estimate per step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from affekt.data.sources import Source, make_source
from affekt.errors import InputError, NotStreamableError
from affekt.losses import ccc_loss
from affekt.modelfile import NEWEST_SCHEMA, model_bytes
from affekt.nn import LSTM, TCN, Standardise
from affekt.systems.base import Head, System
from affekt.systems.speech import TcnConfig

__all__ = [
    "WIDTHS",
    "EncoderTcnConfig",
    "LstmConfig",
    "ModalityConfig",
    "TraceLossConfig",
    "TracedSystem",
    "WindowConfig",
    "as_array",
    "as_tensor",
]

WIDTHS: dict[str, tuple[int, list[int]]] = {
    "video": (512, [256, 256, 128, 128]),
    "cnn": (512, [256, 256, 128, 128]),
    "vggish": (128, [128, 128, 64, 64]),
    "mfcc": (39, [32, 32, 32, 32]),
    "landmark": (136, [128, 128, 64, 64]),
    "bert": (768, [256, 256, 128, 128]),
    "eeg": (192, [128, 128]),
}
"""Modality -> width of its rows and channels of its TCN, by Zhang (2023), table 6.3 (MFCC: 39)."""


@dataclass
class EncoderTcnConfig(TcnConfig):
    """Keyword arguments of `affekt.nn.TCN`; no `channels`: those of the modality (`WIDTHS`)."""

    channels: list[int] = field(default_factory=list)
    kernel_size: int = 5


@dataclass
class LstmConfig:
    """Keyword arguments of `affekt.nn.LSTM`; no `sizes`: a half and a quarter of the row's width."""

    sizes: list[int] = field(default_factory=list)
    dropout: float = 0.4
    bidirectional: bool = False


@dataclass
class ModalityConfig:
    """One signal.

    features : width of its rows; None: that of its name (`WIDTHS`), or of its source.
    source : `kind` and options of the `affekt.data.Source` of its rows; ``rate`` is the system's and
        ``features`` the width where they are left out.
    sampling : ``"phase"`` (one of the rows of a step, in training another one each epoch) or ``"nearest"``.
    standardise : ``"none"``, ``"feature"`` (mean and sd of each feature over the training part) or
        ``"scalar"`` (one mean and sd for all).
    encoder : ``"tcn"`` or ``"lstm"``.
    """

    features: int | None = None
    source: dict[str, Any] = field(default_factory=lambda: {"kind": "matrix"})
    sampling: str = "phase"
    standardise: str = "none"
    encoder: str = "tcn"
    tcn: EncoderTcnConfig = field(default_factory=EncoderTcnConfig)
    lstm: LstmConfig = field(default_factory=LstmConfig)


@dataclass
class WindowConfig:
    """Windows of training and of the mode ``window``, in steps; `size` null: whole trials."""

    size: int | None = 96
    hop: int = 32


@dataclass
class TraceLossConfig:
    """How heads are judged in training.

    over, bias : of `affekt.losses.ccc_loss`, for continuous heads.
    weights : ``"fixed"``, the heads' own, or ``"learnt"``: the sum of ``weight (exp(-s) loss + s)`` over
        heads with an s of each that is learnt, so that each tends to count by one over its loss (Kendall,
        Gal, Cipolla, "Multi-task learning using uncertainty to weigh losses", CVPR (2018)).
    """

    over: str = "time"
    bias: str = "population"
    weights: str = "fixed"


class TracedSystem(System):
    """Base of systems that follow a label trace.

    A subclass has a configuration with the fields `rate` (estimates per second), `heads`, `window`, `loss`,
    `activation` (``"none"`` or ``"tanh"``, of continuous heads) and `silence` (seconds after which a signal
    that gave nothing counts as gone, live), says in `modalities` which signals it takes, and defines `embed`
    and `_body` (the graph between encoders and heads). It calls `_build(width)` at the end of its `__init__`.

    Batches: ``features`` {modality: (batch, time, ...)}, ``present`` {modality: (batch, time) bool}, ``mask``
    (batch, time) bool, True on steps of the trial, ``labels`` {head: (batch, time, labels) or (batch, time)},
    ``label_mask``. Rows that are not present enter as zeros, after standardisation.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if not config.heads:
            raise InputError("heads must name at least one output")
        if not config.rate > 0:
            raise InputError(f"rate must be above 0, got {config.rate}")
        if config.activation not in ("none", "tanh"):
            raise InputError(f"activation must be none or tanh, got {config.activation!r}")
        if config.window.size is not None and (config.window.size < 2 or config.window.hop < 1):
            raise InputError(
                f"window.size must be at least 2 and window.hop at least 1, got {config.window.size} and "
                f"{config.window.hop}"
            )
        columns = [c for head in config.heads.values() for c in head.columns]
        if len(set(columns)) != len(columns):
            raise InputError(f"the heads' labels must be distinct, got {columns}")
        self.sources: dict[str, Source] = {}
        encoders, standardise = {}, {}
        for name, own in self.modalities.items():
            if not name.isidentifier():
                raise InputError(f"a modality's name must be an identifier, got {name!r}")
            self.sources[name] = _source(name, own, config.rate)
            if config.silence < 2 / self.sources[name].rate:
                raise InputError(
                    f"silence must be at least two rows of {name}, {2 / self.sources[name].rate:g} s, got "
                    f"{config.silence:g}"
                )
            width = _width(name, own, self.sources[name])
            encoders[name] = _encoder(name, own, width)
            if own.standardise not in ("none", "feature", "scalar"):
                raise InputError(
                    f"{name}: standardise must be none, feature or scalar, got {own.standardise!r}"
                )
            if own.standardise != "none":
                standardise[name] = Standardise(width)
        self.encoders, self.standardise = nn.ModuleDict(encoders), nn.ModuleDict(standardise)

    def _build(self, width: int) -> None:
        """The heads, on rows of `width`."""
        if self.config.loss.weights not in ("fixed", "learnt"):
            raise InputError(f"loss.weights must be fixed or learnt, got {self.config.loss.weights!r}")
        self.linear = nn.ModuleDict(
            {name: nn.Linear(width, len(head.labels)) for name, head in self.heads.items()}
        )
        learnt = self.config.loss.weights == "learnt"
        self.log_uncertainty = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(())) for name in self.heads if learnt}
        )

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def traced(self) -> bool:
        return True

    @property
    def heads(self) -> dict[str, Head]:
        return self.config.heads

    @property
    def modalities(self) -> dict[str, ModalityConfig]:
        """The signals by name, in order."""
        raise NotImplementedError

    @property
    def labels(self) -> list[str]:
        """Names of the traces that the continuous heads follow."""
        return [label for h in self.heads.values() if h.kind == "continuous" for label in h.labels]

    @property
    def nearest(self) -> list[str]:
        """The signals that are sampled by nearest time."""
        return [name for name, own in self.modalities.items() if own.sampling == "nearest"]

    @property
    def causal(self) -> bool:
        """Whether no estimate looks ahead."""
        return not any(getattr(e, "bidirectional", False) for e in self.encoders.values()) and not any(
            source.lookahead > 0 for source in self.sources.values()
        )

    def num_parameters(self) -> int:
        """Parameters, weight norm folded, as the model file stores them."""
        extra = sum(2 * sum(m.channels) for m in self.modules() if isinstance(m, TCN) and m.weight_norm)
        return sum(p.numel() for p in self.parameters()) - extra - len(self.log_uncertainty)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        own = ("linear.", "log_uncertainty.")
        return (p for name, p in self.named_parameters() if not name.startswith(own))

    def set_modality_statistics(self, modality: str, mean: Any, sd: Any) -> None:
        """Mean and sd, over training rows, of the features of a signal that is standardised."""
        cast(Standardise, self.standardise[modality]).set(mean, sd)

    # -- forward --------------------------------------------------------------------------------------------

    def encoded(self, modality: str, rows: Tensor, mask: Tensor | None, present: Tensor | None) -> Tensor:
        """Encoder rows (batch, time, width') of one signal's rows (batch, time, width)."""
        if modality in self.standardise:
            rows = self.standardise[modality](rows)
        if present is not None:
            rows = torch.where(present[..., None], rows, torch.zeros((), dtype=rows.dtype))
        encoder = self.encoders[modality]
        return encoder(rows, mask) if isinstance(encoder, LSTM) else encoder(rows)

    def embed(
        self,
        features: Mapping[str, Tensor],
        mask: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Rows before the heads, (batch, time, width)."""
        raise NotImplementedError

    def forward(
        self,
        features: Mapping[str, Tensor],
        mask: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Outputs by head, (batch, time, labels): values for continuous heads, logits for classes."""
        for name in self.modalities:
            if name not in features:
                raise InputError(f"features must hold {', '.join(self.modalities)}; {name} is missing")
        return self.outputs_of(self.embed(features, mask, present))

    def outputs_of(self, rows: Tensor) -> dict[str, Tensor]:
        """Outputs by head of the rows that `embed` gives."""
        out = {}
        for name, head in self.heads.items():
            value = self.linear[name](rows)
            squashed = head.kind == "continuous" and self.config.activation == "tanh"
            out[name] = torch.tanh(value) if squashed else value
        return out

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Sum of the heads' losses, weighted as `TraceLossConfig` says: 1 - CCC over the steps of each
        window, cross-entropy over all labelled steps for classes."""
        return self.loss_of(self(batch["features"], batch.get("mask"), batch.get("present")), batch)

    def loss_of(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss of outputs that are there already."""
        parts = {}
        for name, head in self.heads.items():
            if name not in batch["labels"]:
                continue
            target, output = batch["labels"][name], outputs[name]
            keep = batch.get("label_mask", {}).get(name)
            keep = torch.ones(output.shape[:2], dtype=torch.bool) if keep is None else keep
            if batch.get("mask") is not None:
                mask = batch["mask"]
                keep = keep & (mask if keep.dim() == 2 else mask[..., None])
            if head.kind == "continuous":
                options = self.config.loss
                parts[name] = ccc_loss(
                    output, target.to(output.dtype), keep, over=options.over, bias=options.bias
                )
            else:
                parts[name] = self._cross_entropy(name, output, target, keep)
        if not parts:
            raise InputError(
                f"labels must hold at least one of the heads {list(self.heads)}, got {list(batch['labels'])}"
            )
        weighed = dict(parts)
        for name, s in self.log_uncertainty.items():
            if name in weighed:
                weighed[name] = torch.exp(-s) * weighed[name] + s
        total = torch.stack([self.heads[name].weight * part for name, part in weighed.items()]).sum()
        return {"loss": total, **parts}

    def _cross_entropy(self, name: str, logits: Tensor, target: Tensor, keep: Tensor) -> Tensor:
        weight = self._class_weights.get(name)
        each = functional.cross_entropy(
            logits[keep],
            target[keep].long(),
            weight=None if weight is None else weight.to(logits),
            label_smoothing=self.heads[name].smoothing,
            reduction="sum",
        )
        mass = keep.sum() if weight is None else weight.to(logits)[target[keep].long()].sum()
        return each / mass.clamp(min=1)

    # -- model file -----------------------------------------------------------------------------------------

    def inputs(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "kind": "rows",
                "rate": float(source.rate),
                "channels": self._rows_width(name),
                "unit": source.kind,
            }
            for name, source in self.sources.items()
        ]

    def clock(self) -> dict[str, float] | None:
        return {"rate": float(self.config.rate), "silence": float(self.config.silence)}

    def graph(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        for name, source in self.sources.items():
            if source.lookahead > 0:
                raise NotStreamableError(
                    f"the rows of {name} look {source.lookahead:g} s ahead ({source!r}); a causal source "
                    "of the same rows can run live"
                )
        nodes: list[dict[str, Any]] = []
        tensors: dict[str, np.ndarray] = {}

        def add(name: str, node: str, /, *sources: str, **options: Any) -> str:
            nodes.append({"name": name, "type": node, "inputs": list(sources), "options": options})
            return name

        encoded = {name: self._encoder_nodes(name, add, tensors) for name in self.modalities}
        last = self._body(encoded, add, tensors)
        for name, head in self.heads.items():
            add(name, "linear", last, units=len(head.labels))
            linear = cast(nn.Linear, self.linear[name])
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (
                as_array(linear.weight),
                as_array(linear.bias),
            )
            if head.kind == "categorical":
                temperature = self.temperatures.get(name, 1.0)
                add(f"{name}_out", "activation", name, kind="softmax", temperature=temperature)
            elif self.config.activation == "tanh":
                add(f"{name}_out", "activation", name, kind="tanh")
            else:
                add(f"{name}_out", "activation", name, kind="identity")
        return nodes, tensors

    def _body(self, encoded: Mapping[str, str], add: Any, tensors: dict[str, np.ndarray]) -> str:
        """Nodes from the encoders' (modality -> node) to the one that the heads read; returns its name."""
        raise NotImplementedError

    def _encoder_nodes(self, name: str, add: Any, tensors: dict[str, np.ndarray]) -> str:
        """Nodes of one signal up to its encoder's; returns its name."""
        encoder = self.encoders[name]
        if not isinstance(encoder, TCN):
            raise NotStreamableError(f"the encoder of {name} is an LSTM, for which the core has no node")
        last = add(f"{name}_now", "align", name)
        add(f"{name}_there", "presence", last)
        if name in self.standardise:
            own = cast(Standardise, self.standardise[name])
            last = add(f"{name}_norm", "standardise", last)
            tensors[f"{name}_norm.mean"], tensors[f"{name}_norm.scale"] = (
                as_array(own.mean),
                as_array(own.scale),
            )
        last = add(f"{name}_in", "gate", last, f"{name}_there")
        return self._tcn_node(f"{name}_tcn", last, encoder, add, tensors)

    def _tcn_node(self, name: str, last: str, encoder: TCN, add: Any, tensors: dict[str, np.ndarray]) -> str:
        """The node of a TCN; returns its name."""
        options = {
            "channels": encoder.channels,
            "kernel_size": encoder.kernel_size,
            "dilations": encoder.dilations,
            "activation": encoder.activation,
        }
        if encoder.activation == "leaky_relu":
            options["slope"] = encoder.slope
        tensors |= encoder.folded(name)
        return add(name, "tcn", last, **options)

    def outputs(self) -> list[dict[str, Any]]:
        squashed = self.config.activation == "tanh"
        return [
            {"name": name, "node": f"{name}_out", "kind": head.kind, "labels": list(head.labels)}
            | ({"range": [-1, 1]} if head.kind == "continuous" and squashed else {})
            for name, head in self.heads.items()
        ]

    def latency(self) -> dict[str, float]:
        from affekt._native import Model

        nodes, tensors = self.graph()
        card = {"name": "latency", "version": "1", "inputs": self.inputs(), "nodes": nodes,
                "outputs": self.outputs(), "clock": self.clock(), "schema": NEWEST_SCHEMA}  # fmt: skip
        timing = Model.from_bytes(model_bytes(card, tensors)).timing
        return {key: timing[key] for key in ("first_estimate_s", "lookahead_s", "hop_s", "context_s")}

    @torch.no_grad()
    def load_graph(self, tensors: Mapping[str, np.ndarray]) -> None:
        for name, encoder in self.encoders.items():
            if isinstance(encoder, TCN):
                encoder.fold_()
                encoder.load_folded(dict(tensors), f"{name}_tcn")
            if name in self.standardise:
                own = cast(Standardise, self.standardise[name])
                own.mean.copy_(as_tensor(tensors[f"{name}_norm.mean"]))
                own.scale.copy_(as_tensor(tensors[f"{name}_norm.scale"]))
        for name in self.heads:
            linear = cast(nn.Linear, self.linear[name])
            linear.weight.copy_(as_tensor(tensors[f"{name}.weight"]))
            linear.bias.copy_(as_tensor(tensors[f"{name}.bias"]))

    def _rows_width(self, name: str) -> int:
        return int(cast(Any, self.encoders[name]).in_features)


def as_array(value: Tensor) -> np.ndarray:
    """A float32 copy for the model file."""
    return value.detach().cpu().float().numpy().copy()


def as_tensor(value: Any) -> Tensor:
    """A tensor of an array out of a model file."""
    return torch.tensor(np.asarray(value))


def _source(name: str, own: ModalityConfig, rate: float) -> Source:
    """The source of a signal, with what follows from the rest of the configuration."""
    options = dict(own.source)
    kind = str(options.pop("kind", "matrix"))
    if kind == "matrix":
        options.setdefault("rate", rate)
        width = own.features if own.features is not None else WIDTHS.get(name, (None, []))[0]
        options.setdefault("features", width)
    if own.sampling not in ("phase", "nearest"):
        raise InputError(f"{name}: sampling must be phase or nearest, got {own.sampling!r}")
    try:
        return make_source(kind, **options)
    except InputError as error:
        raise InputError(f"source of {name}: {error}") from error


def _width(name: str, own: ModalityConfig, source: Source) -> int:
    if len(source.shape) == 1:
        if own.features not in (None, source.shape[0]):
            raise InputError(
                f"{name}: features must be the width of its source's rows, {source.shape[0]}, got "
                f"{own.features}"
            )
        return source.shape[0]
    if own.features is None:
        raise InputError(f"{name}: features must say how wide its rows are; known: {', '.join(WIDTHS)}")
    return own.features


def _encoder(name: str, own: ModalityConfig, width: int) -> nn.Module:
    if own.encoder == "lstm":
        options = vars(own.lstm).copy()
        sizes = options.pop("sizes") or [max(1, width // 2), max(1, width // 4)]
        return LSTM(width, sizes, **options)
    if own.encoder != "tcn":
        raise InputError(f"{name}: encoder must be tcn or lstm, got {own.encoder!r}")
    options = vars(own.tcn).copy()
    channels = options.pop("channels") or WIDTHS.get(name, (0, []))[1]
    if not channels:
        raise InputError(f"{name}: tcn.channels must be given; there are defaults for {', '.join(WIDTHS)}")
    return TCN(width, channels, **options)
