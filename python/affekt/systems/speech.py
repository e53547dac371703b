"""Speech: log-mel or MFCC rows -> causal TCN -> pool or every step -> adaptation -> affect and emotions."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from affekt._checks import nearest
from affekt.errors import InputError
from affekt.losses import ccc_loss
from affekt.nn import (
    TCN,
    Activity,
    Adapt,
    FeatureAugment,
    Pool,
    Stack,
    Standardise,
    lengths_to_mask,
    speaker_normalise,
)
from affekt.systems.base import AFFECT, Head, System, register

__all__ = ["Speech", "SpeechConfig"]

TRACKING = 0.05  # least share of a batch in the running estimate of the embeddings' statistics
FRONT_ENDS = {"log_mel": "LogMel", "mfcc": "Mfcc"}
EMOTIONS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]


@dataclass
class StackConfig:
    """Consecutive feature rows joined into one; size 1 and stride 1 leave them as they are."""

    size: int = 4
    stride: int = 4


@dataclass
class TcnConfig:
    """Keyword arguments of `affekt.nn.TCN`."""

    channels: list[int] = field(default_factory=lambda: [64, 64, 64])
    kernel_size: int = 3
    dropout: float = 0.1
    activation: str = "leaky_relu"
    weight_norm: bool = True
    dilations: list[int] | None = None
    slope: float | None = None
    init: str | None = None


@dataclass
class PoolConfig:
    """Keyword arguments of `affekt.nn.Pool`; window, half_life and hop in stacked rows."""

    kind: str = "attention_statistics"
    window: int = 150
    half_life: float | None = None
    hop: int = 5


@dataclass
class AugmentConfig:
    """Keyword arguments of `affekt.nn.FeatureAugment`, applied to the front end's rows in training."""

    gain: float = 0.0
    tempo: float = 0.0
    shift: float = 0.0
    crop: float = 0.0
    time_masks: int = 0
    time_width: int = 0
    feature_masks: int = 0
    feature_width: int = 0
    noise: float = 0.0
    background: float = 0.0
    snr: list[float] = field(default_factory=lambda: [5.0, 40.0])


@dataclass
class ActivityConfig:
    """Voice activity: keyword arguments of `affekt.nn.Activity`, in dB and stacked rows, and what it is for.

    mask_pool : silent rows do not count in the pool.
    valid, window : an estimate is valid where the last `window` rows hold at least `valid` rows of speech.
    """

    margin: float = 9.0
    range: float = 30.0
    rise: float = 0.12
    fall: float = 0.04
    start: float = -70.0
    least: float = -75.0
    smoothing: int = 1
    hangover: int = 4
    mask_pool: bool = False
    valid: float = 5.0
    window: int = 50


@dataclass
class AdaptConfig:
    """Adaptation of the pooled embedding to its speaker: `affekt.nn.Adapt`, and how it is trained.

    prior : weight of the training speakers' statistics, in pooled rows (one per `pool.hop`).
    half_life : counted rows after which a counted row weighs half, or None.
    variance : adapt the variance too, not the mean alone.
    floor : least standard deviation.
    heard : rows of speech that the pool's window must hold for its embedding to count; it does so in the
        speaker's pauses and at the end of a recording.
    reference : keep the mean over the training part's neutral recordings, for enrolment from neutral speech.
    unknown, known : shares of `affekt.nn.speaker_normalise` in training.
    """

    prior: float = 10.0
    half_life: float | None = None
    variance: bool = True
    floor: float = 0.1
    heard: float = 12.0
    reference: bool = True
    unknown: float = 0.25
    known: float = 0.25


@dataclass
class SpeechConfig:
    """Configuration of the speech system.

    front_end : `kind` (log_mel or mfcc) and the keyword arguments of that extractor.
    task : ``"utterance"`` (one label per recording, pooled; live: a sliding window) or ``"trace"`` (one
        estimate per stacked row).
    heads : outputs by name.
    activity : voice activity; None for none, and every estimate counts as valid. Needs log-mel rows.
    adapt : adaptation to the speaker between the pool and the heads; None for none. Needs `activity`.
    dropout : on the input of the heads.
    channel_dropout : probability that a whole input feature is set to its mean for a recording.
    mixup : alpha of the Beta distribution that mixes pooled recordings and their labels; 0 for none. This,
        the dropouts and `augment` act in training only.
    """

    front_end: dict[str, Any] = field(default_factory=lambda: {"kind": "log_mel", "sample_rate": 16000})
    stack: StackConfig = field(default_factory=StackConfig)
    tcn: TcnConfig = field(default_factory=TcnConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    task: str = "utterance"
    heads: dict[str, Head] = field(default_factory=lambda: {"emotion": Head(labels=list(EMOTIONS))})
    activity: ActivityConfig | None = None
    adapt: AdaptConfig | None = None
    dropout: float = 0.0
    channel_dropout: float = 0.0
    mixup: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@register("speech")
class Speech(System):
    """Causal speech affect model: utterance labels or a trace, continuous affect and emotion classes.

    Front-end rows (batch, time, features) -> standardise -> stack -> TCN -> pool (utterance) -> normalisation
    by the speaker's running statistics (`adapt`) -> one linear head per output; tanh for continuous heads,
    softmax for classes. Every part is causal and, but for what `adapt` has learnt, each estimate depends on a
    bounded stretch of audio, so the exported model runs live: an utterance model then emits an estimate over
    a sliding window of `pool.window` rows every `pool.hop` rows. With `activity`, an estimate says whether
    the window held speech.
    """

    Config = SpeechConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "emotion": {"heads": {"emotion": {"labels": EMOTIONS}}},
        "affect": {"heads": {"affect": {"labels": list(AFFECT)}}},
        "both": {"heads": {"affect": {"labels": list(AFFECT)}, "emotion": {"labels": EMOTIONS}}},
    }

    config: SpeechConfig
    tracked: Tensor

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__(config)
        if config.task not in ("utterance", "trace"):
            raise InputError(f"task must be utterance or trace, got {config.task!r}")
        if not config.heads:
            raise InputError("heads must name at least one output")
        nodes = {
            "mel",
            "norm",
            "stack",
            "tcn",
            "pool",
            "level",
            "activity",
            "heard",
            "recent",
            "speaking",
            "adapt",
        }
        for name in config.heads:
            if name in nodes or not name.isidentifier() or name.endswith("_out"):
                raise InputError(
                    f"a head's name must be an identifier, not one of the nodes' names, got {name!r}"
                )
        columns = [c for head in config.heads.values() for c in head.columns]
        if len(set(columns)) != len(columns):
            raise InputError(f"the heads' labels must be distinct, got {columns}")
        if config.activity and not 0 <= config.activity.valid <= config.activity.window:
            raise InputError(
                f"activity.valid must lie between 0 and activity.window, got {config.activity.valid} and "
                f"{config.activity.window}"
            )
        for name, value in (("dropout", config.dropout), ("channel_dropout", config.channel_dropout)):
            if not 0 <= value < 1:
                raise InputError(f"{name} must lie in [0, 1), got {value}")
        if config.task == "trace" and (config.augment.tempo or config.augment.crop or config.mixup):
            raise InputError(
                "augment.tempo, augment.crop and mixup would move a trace against its labels; set them to 0"
            )
        if config.mixup < 0:
            raise InputError(f"mixup must not be negative, got {config.mixup}")
        if config.activity and config.front_end.get("kind", "log_mel") != "log_mel":
            raise InputError(
                "activity needs the levels of log-mel rows; set front_end.kind=log_mel or activity=null"
            )
        if config.adapt and not (config.activity and config.task == "utterance"):
            raise InputError("adapt needs activity, and task=utterance")
        self._front_end = self._make_front_end(config.front_end)
        self.features = int(self._front_end.num_features)
        unit = self._decibel("augment.background") if config.augment.background else 1.0
        self.augment = FeatureAugment(**vars(config.augment), unit=unit, least=config.stack.size)
        self.standardise = Standardise(self.features)
        self.stack = Stack(config.stack.size, config.stack.stride)
        self.tcn = TCN(self.features * config.stack.size, **vars(config.tcn))
        self.pool = Pool(self.tcn.out_features, **vars(config.pool)) if config.task == "utterance" else None
        width = self.tcn.out_features if self.pool is None else self.pool.out_features
        self.activity = self.heard = self.adapt = None
        if config.activity is not None:
            options = vars(config.activity).copy()
            del options["mask_pool"], options["valid"], options["window"]
            self.activity = Activity(scale=self._decibel(), **options)
            if self.pool is not None:
                self.heard = Pool(
                    1, "count", window=self.pool.window, half_life=self.pool.half_life, hop=self.pool.hop
                )
        if config.adapt is not None:
            a = config.adapt
            self.adapt = Adapt(
                width,
                prior=a.prior,
                half_life=a.half_life,
                variance=a.variance,
                floor=a.floor,
                least=a.heard,
                reference=a.reference,
            )
            # Batches in the running estimate; kept, so that a resumed training goes on with the same shares.
            self.register_buffer("tracked", torch.zeros((), dtype=torch.int64))
        self.dropout = nn.Dropout(config.dropout)
        self.channel_dropout = nn.Dropout1d(config.channel_dropout)
        self.linear = nn.ModuleDict(
            {name: nn.Linear(width, len(h.labels)) for name, h in config.heads.items()}
        )
        for linear in self.linear.values():  # the first predictions say nothing, instead of something random
            nn.init.normal_(cast(nn.Linear, linear).weight, std=0.01)
            nn.init.zeros_(cast(nn.Linear, linear).bias)

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def heads(self) -> dict[str, Head]:
        return self.config.heads

    @staticmethod
    def _make_front_end(options: Mapping[str, Any]) -> Any:
        from affekt import features

        options = {"sample_rate": 16000, **options}
        kind = options.pop("kind", "log_mel")
        if kind not in FRONT_ENDS:
            raise InputError(f"front_end.kind must be one of {', '.join(FRONT_ENDS)}, got {kind!r}")
        cls = getattr(features, FRONT_ENDS[kind])
        known = set(inspect.signature(cls).parameters)
        for key in options:
            if key not in known:
                raise InputError(
                    f"unknown key 'front_end.{key}': {nearest(key, known | {'kind'}, 'front_end')}"
                )
        return cls(**options)

    @property
    def min_rows(self) -> int:
        return self.stack.size

    def out_rows(self, rows: int) -> int:
        return max(0, (rows - self.stack.size) // self.stack.stride + 1)

    def front_end(self) -> Any:
        return self._front_end

    @property
    def sample_rate(self) -> float:
        """Hz of the audio that the front end takes."""
        return float(self._front_end.options["sample_rate"])

    @property
    def adapts(self) -> bool:
        return self.adapt is not None

    def _decibel(self, what: str = "activity") -> float:
        """dB per unit of the front end's rows, for `what`."""
        options = self._front_end.options
        per = {"db": 1.0, "log10": 20 / options["power"], "ln": 20 / options["power"] / np.log(10)}
        if options["log"] not in per:
            raise InputError(
                f"{what} needs front_end.log to be one of {', '.join(per)}, got {options['log']!r}"
            )
        return float(per[options["log"]])

    def set_statistics(self, mean: Any, sd: Any) -> None:
        self.standardise.set(mean, sd)

    # -- forward --------------------------------------------------------------------------------------------

    def encode(
        self, features: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TCN rows (batch, time', channels), their mask and which hold speech (batch, time'; None without
        `activity`), from front-end rows (batch, time, features)."""
        if features.dim() != 3 or features.shape[-1] != self.features:
            raise InputError(f"features must be (batch, time, {self.features}), got {tuple(features.shape)}")
        if self.training:
            if mask is None:
                mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
            features, mask = self.augment(features, mask, self.standardise.mean)
        if features.shape[1] < self.stack.size:  # shorter than one stacked row: the caller sees no valid row
            features = functional.pad(features, (0, 0, 0, self.stack.size - features.shape[1]))
            mask = torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
        speech = None
        if self.activity is not None:
            with torch.no_grad():
                speech = self.activity(self.stack(features)[0])[..., 0] >= 0.5
        x = self.channel_dropout(self.standardise(features).transpose(1, 2)).transpose(1, 2)
        x, mask = self.stack(x, mask)
        return self.tcn(x), mask, speech

    def _pool_mask(self, mask: Tensor | None, speech: Tensor | None) -> Tensor | None:
        """Rows that count in the pool."""
        if speech is None or self.config.activity is None or not self.config.activity.mask_pool:
            return mask
        return speech if mask is None else mask & speech

    def _embed(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Pooled embedding of each recording at its last valid row, (batch, width), not adapted."""
        assert self.pool is not None
        rows, mask, speech = self.encode(features, mask)
        return self.pool(rows, mask, self._pool_mask(mask, speech))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Raw outputs by head: tanh values in [-1, 1] for continuous heads, logits for classes.

        Parameters
        ----------
        features : front-end rows, (batch, time, features).
        mask : boolean (batch, time), valid rows first.

        Returns
        -------
        dict : head -> (batch, labels) at each recording's last valid row; (batch, time', labels) for a trace.
        """
        if self.pool is None:
            return self._outputs(self.encode(features, mask)[0])
        z = self._embed(features, mask)
        return self._outputs(z if self.adapt is None else self.adapt(z[:, None], adapting=False)[:, 0])

    def _outputs(self, z: Tensor) -> dict[str, Tensor]:
        z = self.dropout(z)
        return {
            name: torch.tanh(self.linear[name](z)) if head.kind == "continuous" else self.linear[name](z)
            for name, head in self.heads.items()
        }

    def _values(self, outputs: dict[str, Tensor]) -> Tensor:
        parts = [
            self.probabilities(name, outputs[name]) if head.kind == "categorical" else outputs[name]
            for name, head in self.heads.items()
        ]
        return torch.cat(parts, -1)

    @torch.no_grad()
    def predict(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Values of all `columns`: probabilities for classes. Shapes as in `forward`, heads concatenated."""
        return self._values(self(features, mask))

    @torch.no_grad()
    def estimates(self, features: Tensor) -> tuple[np.ndarray, np.ndarray]:
        features = torch.as_tensor(features)
        if features.dim() != 2:
            raise InputError(f"features must be (time, {self.features}), got {tuple(features.shape)}")
        if features.shape[0] < self.stack.size:
            return np.empty(0), np.empty((0, len(self.columns)), np.float32)
        z, _, speech = self.encode(features[None])
        rows = torch.arange(z.shape[1])
        if self.pool is not None:
            z, heard, rows = self._trace(z, speech)
            if self.adapt is not None:
                assert speech is not None
                z = self.adapt(z, heard, speaking=speech[:, rows, None])
        return self.row_times(rows.numpy()), self._values(self._outputs(z))[0].numpy()

    def _trace(self, z: Tensor, speech: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Every pooled embedding (batch, n, width), the speech in its window in rows, and the rows (n,)."""
        assert self.pool is not None
        pooled, rows = self.pool.trace(z, self._pool_mask(None, speech))
        if self.heard is None or speech is None:
            return pooled, None, rows
        return pooled, self.heard.trace(speech[..., None].to(z.dtype), speech)[0], rows

    def _counted(self, z: Tensor, mask: Tensor | None, speech: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings that `adapt` counts in a batch, (n, width), and the recording of each, (n,)."""
        assert self.adapt is not None
        assert self.pool is not None
        assert self.heard is not None
        if mask is None:
            mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        counts, owes = self._counts(mask, speech)
        pooled = self.pool.trace(z, self._pool_mask(None, speech), fast=True)[0]
        # What the pool owes when a recording ends between two hops.
        owed = self.pool(z, mask, self._pool_mask(mask, speech))
        places = torch.cat([counts.nonzero()[:, 0], owes.nonzero()[:, 0]])
        return torch.cat([pooled[counts], owed[owes]]), places

    @torch.no_grad()
    def _counts(self, mask: Tensor, speech: Tensor) -> tuple[Tensor, Tensor]:
        """Which pooled rows count, (batch, n), and whether one that is owed at the end does, (batch,)."""
        assert self.adapt is not None
        assert self.pool is not None
        assert self.heard is not None
        end, spoken = mask.sum(1), speech[..., None].to(torch.get_default_dtype())
        heard, at = self.heard.trace(spoken, speech, fast=True)
        regular = ((at + 1) % self.pool.hop == 0) & (at < end[:, None])
        pause = ~speech[:, at] | (at == end[:, None] - 1)
        counts = regular & pause & (heard[..., 0] >= self.adapt.least)
        enough = self.heard(spoken, mask, mask & speech)[:, 0] >= self.adapt.least
        return counts, enough & (end % self.pool.hop != 0)

    @torch.no_grad()
    def check_settling(self, features: Sequence[np.ndarray]) -> None:
        """Activity sees the features alone, so what `adapt` will count is known before any training."""
        if self.adapt is None:
            return
        assert self.activity is not None
        count = 0
        for rows in features:
            if len(rows) >= self.stack.size:
                speech = self.activity(self.stack(torch.as_tensor(rows)[None])[0])[..., 0] >= 0.5
                count += sum(int(part.sum()) for part in self._counts(torch.ones_like(speech), speech))
            if count > 1:
                return
        self._too_quiet()

    @staticmethod
    def _too_quiet() -> None:
        raise InputError(
            "adapt.heard: no training recording holds that much speech; lower it, or look at activity"
        )

    @torch.no_grad()
    def settle(self, features: Sequence[np.ndarray], neutral: Sequence[int] = ()) -> None:
        """Fit what training leaves open: the training population's embedding statistics, `adapt`'s prior.

        Called with the training part's recordings once the weights stand.

        Parameters
        ----------
        features : front-end rows of each recording, (time, features).
        neutral : the places of recordings of neutral speech, whose mean makes enrolment from neutral speech
            possible.

        Raises
        ------
        InputError : no recording holds enough speech; `check_settling` says so before the training.
        """
        if self.adapt is None:
            return
        was = self.training
        self.eval()
        counted = [torch.empty(0, self.adapt.features, dtype=torch.float64)] * len(features)
        long = [i for i in np.argsort([len(f) for f in features]) if len(features[i]) >= self.stack.size]
        for index in (long[at : at + 32] for at in range(0, len(long), 32)):
            lengths = torch.tensor([len(features[i]) for i in index])
            batch = nn.utils.rnn.pad_sequence([torch.as_tensor(features[i]) for i in index], batch_first=True)
            z, mask, speech = self.encode(batch, lengths_to_mask(lengths))
            assert speech is not None
            rows, of = self._counted(z, mask, speech)
            for place, i in enumerate(index):
                counted[i] = rows[of == place].double()
        everything = torch.cat(counted)
        if len(everything) < 2:
            self._too_quiet()
        reference = None
        if self.adapt.reference is not None:
            calm = torch.cat([counted[i] for i in neutral]) if len(neutral) else everything[:0]
            if not len(calm):
                warnings.warn(
                    "no training recording that counts is labelled neutral: enrolment from neutral speech "
                    "will take average speech for neutral (system.adapt.reference=false "
                    "leaves it out)",
                    stacklevel=3,
                )
                calm = everything
            reference = calm.mean(0)
        self.adapt.set(everything.mean(0), everything.std(0, unbiased=False), reference)
        self.train(was)

    def row_times(self, rows: np.ndarray) -> np.ndarray:
        """Seconds from the recording's start to the last sample that each stacked row used."""
        last = np.asarray(rows) * self.stack.stride + self.stack.size - 1
        return self._front_end.times(int(last.max(initial=-1)) + 1)[last]

    # -- loss -----------------------------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Weighted sum of the heads' losses.

        batch : ``features`` (batch, time, features), ``mask`` (batch, time), ``labels`` {head: (batch,
        labels) float or (batch,) class indices; with a time' axis after the batch for a trace}, and
        optionally ``label_mask`` {head: boolean, the labels' shape or fewer axes}; the masked does not count.
        With `adapt`, ``speaker`` (batch,) integers, equal for recordings of one speaker.

        Continuous: 1 - CCC, over the batch for utterances and over time for traces. Classes: cross-entropy,
        weighted and smoothed as the head says. A head without any valid label in the batch contributes 0.
        """
        rows, mask, speech = self.encode(batch["features"], batch.get("mask"))
        z = rows if self.pool is None else self.pool(rows, mask, self._pool_mask(mask, speech))
        if self.config.adapt is not None and self.adapt is not None:
            z = self._normalise(z, batch.get("speaker"), rows, mask, speech)
        labels = {name: batch["labels"][name] for name in self.heads if name in batch["labels"]}
        valid = {}
        for name, value in labels.items():
            keep = batch.get("label_mask", {}).get(name)
            if keep is None:
                keep = torch.ones(value.shape[:1], dtype=torch.bool, device=z.device)
            if self.pool is None and mask is not None:
                keep = (keep if keep.dim() > 1 else keep[:, None]) & (
                    mask if keep.dim() < 3 else mask[..., None]
                )
            valid[name] = keep
            if self.heads[name].kind == "categorical":
                place = value.clamp(min=0).long()
                labels[name] = functional.one_hot(place, len(self.heads[name].labels)).to(z.dtype)
            else:
                labels[name] = value.to(z.dtype)
        if self.training and self.config.mixup and self.pool is not None:
            z, labels, valid = self._mix(z, labels, valid)
        outputs = self._outputs(z)
        parts = {}
        for name, target in labels.items():
            head, output, keep = self.heads[name], outputs[name], valid[name]
            keep = keep.view(*keep.shape, *[1] * (target.dim() - keep.dim())).expand(target.shape)
            if head.kind == "categorical":
                parts[name] = self._cross_entropy(name, output, target, keep[..., 0])
            elif self.pool is not None:
                parts[name] = ccc_loss(output[:, None], target[:, None], keep[:, None], over="batch")
            else:
                parts[name] = ccc_loss(output, target, keep)
        if not parts:
            raise InputError(
                f"labels must hold at least one of the heads {list(self.heads)}, got {list(batch['labels'])}"
            )
        total = torch.stack([self.heads[name].weight * part for name, part in parts.items()]).sum()
        return {"loss": total, **parts}

    def _normalise(
        self, z: Tensor, speaker: Tensor | None, rows: Tensor, mask: Tensor | None, speech: Tensor | None
    ) -> Tensor:
        """Embeddings as the heads see them; in training by what the core would have counted of the speaker.
        Tracks the prior, for scores before `settle`."""
        config = self.config.adapt
        assert config is not None
        assert self.adapt is not None
        if not self.training:
            return self.adapt(z[:, None], adapting=False)[:, 0]
        if speaker is None:
            speaker = torch.full((len(z),), -1, device=z.device)
        assert speech is not None
        counted = self._counted(rows, mask, speech)
        if len(counted[0]) > 1:
            with torch.no_grad():
                # The mean of the batches so far, then exponential: nothing is left of where it started.
                share = max(TRACKING, 1 / (int(self.tracked) + 1))
                self.tracked += 1
                self.adapt.mean.lerp_(counted[0].mean(0).to(self.adapt.mean.dtype), share)
                self.adapt.sd.lerp_(counted[0].std(0).to(self.adapt.sd.dtype), share)
        return speaker_normalise(
            z, speaker, counted, unknown=config.unknown, known=config.known, floor=config.floor
        )

    def _mix(
        self, z: Tensor, labels: dict[str, Tensor], valid: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Mixup of pooled recordings (Zhang et al., arXiv:1710.09412; on hidden states, arXiv:1806.05236)."""
        # A Beta draw through torch's own generator, so that seeding torch fixes it.
        alpha = torch.tensor(float(self.config.mixup))
        a, b = torch._standard_gamma(alpha), torch._standard_gamma(alpha)
        share = float(a / (a + b).clamp(min=1e-12))
        other = torch.randperm(len(z))
        z = share * z + (1 - share) * z[other]
        labels = {
            name: share * torch.nan_to_num(value) + (1 - share) * torch.nan_to_num(value[other])
            for name, value in labels.items()
        }
        return z, labels, {name: keep & keep[other] for name, keep in valid.items()}

    def _cross_entropy(self, name: str, logits: Tensor, target: Tensor, keep: Tensor) -> Tensor:
        head = self.heads[name]
        weights = self._class_weights.get(name)
        weights = torch.ones(len(head.labels)) if weights is None else weights
        weights = weights.to(logits)
        mass = (weights * target).sum(-1) * keep
        smooth = (1 - head.smoothing) * target + head.smoothing / len(head.labels)
        each = -(weights * smooth * logits.log_softmax(-1)).sum(-1) * keep
        return each.sum() / mass.sum().clamp(min=1e-8)

    # -- model file -----------------------------------------------------------------------------------------

    def inputs(self) -> list[dict[str, Any]]:
        return [
            {"name": "audio", "kind": "audio", "rate": self.sample_rate, "channels": 1, "unit": "full scale"}
        ]

    def graph(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        self._front_end.stream()  # raises with the reason if it cannot run live

        def array(value: Tensor) -> np.ndarray:
            return value.detach().cpu().float().numpy().copy()

        nodes: list[dict[str, Any]] = []
        tensors: dict[str, np.ndarray] = {}

        def add(name: str, node: str, /, *sources: str, **options: Any) -> str:
            nodes.append({"name": name, "type": node, "inputs": list(sources), "options": options})
            return name

        last = add("mel", "front_end", "audio", **self._front_end.options)
        last = add("norm", "standardise", last)
        tensors["norm.mean"], tensors["norm.scale"] = (
            array(self.standardise.mean),
            array(self.standardise.scale),
        )
        if (self.stack.size, self.stack.stride) != (1, 1):
            last = add("stack", "stack", last, size=self.stack.size, stride=self.stack.stride)
        options = {
            "channels": self.tcn.channels,
            "kernel_size": self.tcn.kernel_size,
            "dilations": self.tcn.dilations,
            "activation": self.tcn.activation,
        }
        if self.tcn.activation == "leaky_relu":
            options["slope"] = self.tcn.slope
        last = add("tcn", "tcn", last, **options)
        tensors |= self.tcn.folded("tcn")
        if self.activity is not None:
            level = "mel"
            if (self.stack.size, self.stack.stride) != (1, 1):
                level = add("level", "stack", level, size=self.stack.size, stride=self.stack.stride)
            add("activity", "activity", level, **self.activity.options())
        if self.pool is not None:
            window = {"window": self.pool.window, "half_life": self.pool.half_life, "hop": self.pool.hop}
            sources = [last]
            if self.config.activity is not None and self.config.activity.mask_pool:
                sources.append("activity")
            last = add("pool", "pool", *sources, kind=self.pool.kind, **window)
            if self.config.activity is not None:
                recent = {"window": self.config.activity.window, "half_life": None, "hop": self.pool.hop}
                add("recent", "pool", "activity", "activity", kind="count", **recent)
            if self.adapt is not None:
                add("heard", "pool", "activity", "activity", kind="count", **window)
                add("speaking", "pool", "activity", kind="mean", **{**window, "window": 1})
            if self.pool.score is not None:
                tensors["pool.score.weight"] = array(self.pool.score.weight)
                tensors["pool.score.bias"] = array(self.pool.score.bias)
        if self.adapt is not None:
            last = add("adapt", "adapt", last, "heard", "speaking", **self.adapt.options())
            tensors["adapt.mean"], tensors["adapt.sd"] = array(self.adapt.mean), array(self.adapt.sd)
            if self.adapt.reference is not None:
                tensors["adapt.reference"] = array(self.adapt.reference)
        for name, head in self.heads.items():
            add(name, "linear", last, units=len(head.labels))
            linear = cast(nn.Linear, self.linear[name])
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = array(linear.weight), array(linear.bias)
            if head.kind == "categorical":
                add(f"{name}_out", "activation", name, kind="softmax",
                    temperature=self.temperatures.get(name, 1.0))  # fmt: skip
            else:
                add(f"{name}_out", "activation", name, kind="tanh")
        return nodes, tensors

    def outputs(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "node": f"{name}_out", "kind": head.kind, "labels": list(head.labels)}
            | ({"range": [-1, 1]} if head.kind == "continuous" else {})
            for name, head in self.heads.items()
        ]

    def validity(self) -> dict[str, Any] | None:
        if self.config.activity is None:
            return None
        if self.pool is None:
            return {"node": "activity", "least": 0.5}
        return {"node": "recent", "least": self.config.activity.valid}

    def latency(self) -> dict[str, float]:
        hop = 1 if self.pool is None else self.pool.hop
        context = self.tcn.receptive_field + (0 if self.pool is None else self.pool.window - 1)

        def seconds(rows: int) -> float:
            """Audio under `rows` consecutive stacked rows."""
            frames = (rows - 1) * self.stack.stride + self.stack.size
            return (frames - 1) * self._front_end.hop + self._front_end.latency

        options = self._front_end.options
        before = 1 if options["preemphasis"] and options["preemphasis_mode"] == "signal" else 0
        return {
            "first_estimate_s": seconds(hop),
            "lookahead_s": 0.0,
            "hop_s": hop * self.stack.stride * self._front_end.hop,
            "context_s": seconds(context) + before / self.sample_rate,
        }

    @torch.no_grad()
    def load_graph(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tcn.fold_()
        self._load_encoder(tensors)
        for name in self.heads:
            linear = cast(nn.Linear, self.linear[name])
            linear.weight.copy_(torch.tensor(tensors[f"{name}.weight"]))
            linear.bias.copy_(torch.tensor(tensors[f"{name}.bias"]))

    @torch.no_grad()
    def _load_encoder(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Everything before the heads, from the tensors that `graph` gives."""

        def value(name: str) -> Tensor:
            return torch.tensor(np.asarray(tensors[name]))

        self.standardise.mean.copy_(value("norm.mean"))
        self.standardise.scale.copy_(value("norm.scale"))
        self.tcn.load_folded(dict(tensors), "tcn")
        if self.pool is not None and self.pool.score is not None:
            self.pool.score.weight.copy_(value("pool.score.weight"))
            self.pool.score.bias.copy_(value("pool.score.bias"))
        if self.adapt is not None and "adapt.mean" in tensors:
            reference = None
            if self.adapt.reference is not None:
                # A model that knows no neutral takes average speech for it, until `settle`.
                reference = value("adapt.reference" if "adapt.reference" in tensors else "adapt.mean")
            self.adapt.set(value("adapt.mean"), value("adapt.sd"), reference)

    # -- starting from another model ------------------------------------------------------------------------

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        mean, scale = (x.double().numpy() for x in (self.standardise.mean, self.standardise.scale))
        return mean, 1.0 / scale

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        return (p for name, p in self.named_parameters() if not name.startswith("linear."))

    @torch.no_grad()
    def start_from(self, other: System) -> dict[str, str]:
        self._load_encoder(other.graph()[1])
        taken: dict[str, str] = {}
        for name, head in self.heads.items():
            for theirs, old in other.heads.items():
                if head.kind != old.kind or sorted(head.labels) != sorted(old.labels):
                    continue
                rows = [old.labels.index(label) for label in head.labels]
                mine, source = (cast(nn.Linear, s.linear[n]) for s, n in ((self, name), (other, theirs)))
                mine.weight.copy_(source.weight[rows])
                mine.bias.copy_(source.bias[rows])
                taken[name] = theirs
        return taken
