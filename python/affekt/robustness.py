"""How a model's figures fall as the sound gets worse: noise, other voices, level, bandwidth, clipping.

`curves` runs a model over the same labelled recordings again and again, each time disturbed by a known
amount, and gives the figures of `affekt.evaluate` per amount. The disturbances are functions of their own, on
float signals ``(time,)`` with full scale 1:

==============  ========================================================================  ====================
condition       what is done                                                              level
==============  ========================================================================  ====================
``noise``       white Gaussian noise is added (`mix`)                                     SNR in dB
``babble``      N other speakers of the manifest talk at the same time (`mix`)            SNR in dB
``gain``        the signal is multiplied, without a limit at full scale                   dB
``bandwidth``   resampled to the rate R and back, so that R / 2 bounds the band           R in Hz
``bandpass``    a band is passed (`bandpass`); telephone speech is 300 to 3400 Hz         ``LOW-HIGH`` in Hz
``clipping``    the loudest samples are cut off at one threshold (`clip_loudest`)         share of samples
==============  ========================================================================  ====================

SNR is measured over active speech: the signal is cut into frames of 20 ms, and a frame is active when its
mean square lies within 30 dB of the 95th percentile of all frames (`active_frames`). The SNR is the ratio of
the mean squares of speech and disturbance over the active frames alone, so that pauses and the silence around
a clip do not count for or against it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas

    from affekt._native import Model
    from affekt.data import Manifest

__all__ = ["LEVELS", "UNITS", "Curves", "active_frames", "bandpass", "clip_loudest", "curves", "mix"]

# Usual levels, from mild to severe.
LEVELS: dict[str, tuple[float | str, ...]] = {
    "noise": (30.0, 20.0, 15.0, 10.0, 5.0, 0.0),
    "babble": (30.0, 20.0, 15.0, 10.0, 5.0, 0.0),
    "gain": (20.0, 10.0, -10.0, -20.0, -30.0, -40.0),
    "bandwidth": (12000.0, 8000.0, 6000.0, 4000.0),
    "bandpass": ("100-7000", "300-3400", "500-2500"),
    "clipping": (0.005, 0.01, 0.05, 0.1, 0.2),
}
UNITS = {
    "noise": "dB SNR",
    "babble": "dB SNR",
    "gain": "dB",
    "bandwidth": "Hz sample rate",
    "bandpass": "Hz",
    "clipping": "share of samples",
}
_FRAME_SECONDS = 0.02
_ACTIVE_DB = 30.0
_EDGE = 0.1  # width of the slope of a band's edge, as a share of its frequency


def active_frames(samples: np.ndarray, sample_rate: float) -> np.ndarray:
    """Which samples lie in frames of active speech, boolean ``(time,)``.

    Frames of 20 ms from the start of the signal, the last one as long as it is; active is a frame whose mean
    square is above zero and at most 30 dB below the 95th percentile over the frames.

    Raises
    ------
    DataError : every sample is zero, so nothing is active.
    """
    size = max(1, round(_FRAME_SECONDS * sample_rate))
    starts = np.arange(0, len(samples), size)
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts) / np.diff([*starts, len(samples)])
    if not power.any():
        raise DataError("every sample is zero: there is no active speech to measure a level over")
    active = (power > 0) & (power >= np.percentile(power, 95) * 10 ** (-_ACTIVE_DB / 10))
    return np.repeat(active, np.diff([*starts, len(samples)]))


def mix(samples: np.ndarray, disturbance: np.ndarray, snr: float, sample_rate: float) -> np.ndarray:
    """`samples` plus the `disturbance`, scaled to an SNR in dB over the active speech of `samples`.

    ``y = x + a d`` with ``a^2 = P_x / P_d 10^(-snr / 10)``, both powers P over `active_frames` of x.

    Parameters
    ----------
    samples, disturbance : ``(time,)``, of one length.
    snr : dB.

    Raises
    ------
    DataError : either is silent where speech is active.
    """
    _checks.same_length(samples, disturbance, ("samples", "disturbance"))
    active = active_frames(samples, sample_rate)
    speech, noise = (float(np.mean(np.square(x[active], dtype=np.float64))) for x in (samples, disturbance))
    if not noise > 0:
        raise DataError("the disturbance is silent wherever speech is active")
    scale = np.sqrt(speech / noise * 10 ** (-snr / 10))
    return (samples + scale * disturbance).astype(np.float32)


def bandpass(samples: np.ndarray, low: float, high: float, sample_rate: float) -> np.ndarray:
    """The band from `low` to `high` Hz, zero phase.

    The spectrum of the whole signal is kept inside the band, falls as half a cosine over a tenth of the
    edge's frequency outside it, and is zero beyond.
    """
    if not 0 <= low < high:
        raise InputError(f"band: expected 0 <= LOW < HIGH in Hz, got {low:g} and {high:g}")
    frequency = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    below = np.clip((low - frequency) / max(_EDGE * low, 1e-9), 0, 1)
    above = np.clip((frequency - high) / (_EDGE * high), 0, 1)
    keep = 0.5 * (1 + np.cos(np.pi * np.maximum(below, above)))
    return np.fft.irfft(np.fft.rfft(samples) * keep, len(samples)).astype(np.float32)


def clip_loudest(samples: np.ndarray, share: float, sample_rate: float) -> np.ndarray:
    """Cut off the loudest samples at the magnitude that a `share` of the samples of active speech exceeds."""
    if not 0 <= share < 1:
        raise InputError(f"share: expected a share of samples from 0 to below 1, got {share:g}")
    limit = np.quantile(np.abs(samples[active_frames(samples, sample_rate)]), 1 - share)
    return np.clip(samples, -limit, limit).astype(np.float32)


@dataclass
class Curves:
    """What `curves` found; printing it gives a report."""

    table: pandas.DataFrame
    """A row per condition, level and figure: ``condition, level, unit, label, metric, value, low, high,
    recordings, speakers``; `condition` ``clean`` are the recordings as they are. ``attrs`` names ``model``
    and ``corpus``, as far as the manifest does."""
    notes: list[str] = field(default_factory=list)
    """How it was done, what was left out."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """``{"file", "reason"}`` of recordings that could not be used, in any condition."""

    def __str__(self) -> str:
        shown = self.table[self.table["metric"].isin(["UAR", "CCC"])]
        names = {label: metric if label == "emotion" else f"{metric} {label}"
                 for label, metric in shown[["label", "metric"]].itertuples(index=False)}  # fmt: skip
        lines = [f"{'condition':<12}{'level':>14}  " + "".join(f"{name:>24}" for name in names.values())]
        for (condition, level), rows in shown.groupby(["condition", "level"], sort=False):
            unit = str(rows["unit"].iloc[0]).split(" ")[0]
            cells = rows.set_index("label")
            amount = f"{level:g}" if isinstance(level, float) else level
            line = f"{condition:<12}{f'{amount} {unit}' if condition != 'clean' else '':>14}  "
            for label in names:
                value, low, high = cells.loc[label, ["value", "low", "high"]]
                span = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
                line += f"{f'{value:.3f}{span}':>24}"
            lines.append(line)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def curves(
    model: str | PathLike[str] | Model | None,
    manifest: Any,
    levels: Mapping[str, Sequence[float | str]] | None = None,
    *,
    talkers: int = 4,
    seed: int = 0,
    estimate: Literal["last", "mean"] = "last",
    restrict: bool = False,
    merge: Mapping[str, str] | None = None,
    adapt: bool = True,
    resamples: int = 500,
    on_error: Literal["raise", "skip"] = "raise",
    progress: Callable[[int, int, str], None] | None = None,
) -> Curves:
    """Figures of a model under growing disturbance.

    Every recording is read at the model's rate and held in memory while it is disturbed. The same draw of
    noise and of voices serves all levels of a condition and every call with the same `seed`. Noise does not
    depend on what else is in the manifest; voices do.

    Parameters
    ----------
    model, manifest, estimate, restrict, merge, adapt, on_error, progress : as for `affekt.evaluate`; a model
        that adapts starts anew with every recording. Babble needs a column ``subject`` and more speakers than
        `talkers`.
    levels : condition -> levels, see the module; `LEVELS` by default.
    talkers : voices of the babble: distinct other speakers, each reading clips in a drawn order without a
        pause, all at one active level. Never the speaker of the recording.
    seed : of noise and voices.
    resamples : draws of the 95 % intervals over speakers.

    Returns
    -------
    Curves

    Raises
    ------
    InputError : an unknown condition or a level out of range.
    DataError : as `affekt.evaluate`; or babble has too few speakers.

    Examples
    --------
    >>> found = curves("my.safetensors", "mine.csv", {"noise": [20, 10, 0]})  # doctest: +SKIP
    >>> found.table.query("metric == 'UAR'").plot(x="level", y="value")  # doctest: +SKIP
    """
    pandas = require("pandas", purpose="tables of figures")
    from affekt import _scores, data
    from affekt._predict import check_on_error, corpora_of, describe_model, open_model, seen_note

    _checks.choice(estimate, ("last", "mean"), "estimate")
    check_on_error(on_error)
    seed = _checks.integer(seed, "seed", low=0)
    native = open_model(model)
    wanted = _levels(LEVELS if levels is None else levels, native.sample_rate)
    manifest = data.read_manifest(manifest)
    _, emotions = _scores.comparable(native.columns, manifest.labels)
    if emotions:
        require("sklearn.metrics", purpose="classification metrics")  # missing now rather than at the end
    if "bandwidth" in wanted:
        require("soxr", purpose="resampling audio")
    crowd = _Crowd(manifest, native.sample_rate, talkers, seed) if "babble" in wanted else None

    plan = [("clean", ""), *((name, level) for name, chosen in wanted.items() for level in chosen)]
    rows: list[np.ndarray] = []  # (plan, columns) per recording
    used, failures = [], []
    for index in range(len(manifest)):
        file = manifest.path(index)
        if progress is not None:
            progress(index, len(manifest), str(file))
        try:
            samples = _read(manifest, index, native.sample_rate)
            rows.append(
                _estimates(native, samples, plan, crowd, index, _rng(manifest, index, seed), estimate, adapt)
            )
        except DataError as error:
            reason = str(error) if str(file) in str(error) else f"{file}: {error}"
            if on_error == "raise":
                raise DataError(reason) from error
            failures.append({"file": str(file), "reason": reason})
            continue
        used.append(index)
    if progress is not None:
        progress(len(manifest), len(manifest), "")
    if not rows:
        raise DataError(f"none of the {len(manifest)} recordings could be used: {failures[0]['reason']}")

    truth = manifest.table.iloc[used].reset_index(drop=True)
    values = np.stack(rows, axis=1)  # (plan, recordings, columns)
    figures, notes = [], []
    for (condition, level), block in zip(plan, values, strict=True):
        found = _scores.score(
            pandas.DataFrame(block, columns=native.columns),
            truth,
            columns=native.columns,
            labels=manifest.labels,
            restrict=restrict,
            merge=merge,
            resamples=resamples,
        )
        notes = found.notes
        figures += [
            {"condition": condition, "level": level, "unit": UNITS.get(condition, ""), **figure._asdict()}
            for figure in found.figures
        ]
    table = pandas.DataFrame(figures).drop(columns="aggregation")
    table.attrs = {"model": describe_model(native), "corpus": ", ".join(sorted(corpora_of(manifest, truth)))}
    notes = [f"{describe_model(native)}, full mode, {estimate} estimate, seed {seed}", *notes]
    if {"noise", "babble"} & set(wanted):
        notes.append("SNR over active speech: frames of 20 ms within 30 dB of the 95th percentile")
    if crowd is not None:
        notes.append(f"babble of {talkers} other speakers of the manifest, never the recording's own")
    notes += seen_note(native, manifest, truth)
    if failures:
        notes.append(f"{len(failures)} of {len(manifest)} recordings could not be used")
    return Curves(table, notes, failures)


def _levels(levels: Mapping[str, Sequence[float | str]], rate: float) -> dict[str, list[Any]]:
    """Checked levels; those of ``bandpass`` stay text."""
    out: dict[str, list[Any]] = {}
    for name, chosen in levels.items():
        _checks.choice(name, LEVELS, "condition")
        out[name] = []
        for level in chosen:
            if name == "bandpass":
                _, high = _band(level)
                if high > rate / 2:
                    raise InputError(
                        f"bandpass: {level} reaches beyond {rate / 2:g} Hz, half the model's rate"
                    )
            else:
                limits = {"bandwidth": (1000.0, rate), "clipping": (0.0, 0.99)}
                low, high = limits.get(name, (-100.0, 100.0))
                level = _checks.number(level, f"level of {name}", low=low, high=high)
            out[name].append(level)
        if not out[name]:
            raise InputError(f"{name}: expected at least one level, got none")
    return out


def _band(level: Any) -> tuple[float, float]:
    try:
        low, high = (float(word) for word in str(level).split("-"))
    except ValueError:
        raise InputError(f"bandpass: expected LOW-HIGH in Hz, e.g. 300-3400, got {level!r}") from None
    if not 0 <= low < high:
        raise InputError(f"bandpass: expected 0 <= LOW < HIGH in Hz, got {level!r}")
    return low, high


def _read(manifest: Manifest, index: int, rate: float) -> np.ndarray:
    from affekt.data import read_audio

    begin, end = manifest.part(index)
    samples = read_audio(manifest.path(index), rate, start=begin, end=end)
    if not samples.any():
        raise DataError(f"{manifest.path(index)}: every sample is zero, so there is nothing to judge")
    return samples


def _rng(manifest: Manifest, index: int, seed: int, purpose: str = "") -> np.random.Generator:
    """A generator that depends on the seed and the recording's name and part, not on its row."""
    name = f"{manifest.table['file'].iloc[index]} {manifest.part(index)} {purpose}"
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")])


def _estimates(
    model: Model,
    samples: np.ndarray,
    plan: Sequence[tuple[str, Any]],
    crowd: _Crowd | None,
    index: int,
    rng: np.random.Generator,
    estimate: Literal["last", "mean"],
    adapt: bool,
) -> np.ndarray:
    """One estimate per condition and level, (plan, columns)."""
    from affekt._predict import summarise

    rate = model.sample_rate
    noise = rng.standard_normal(len(samples)).astype(np.float32)
    voices = crowd.around(index, len(samples)) if crowd is not None else None
    out = []
    for condition, level in plan:
        if condition == "noise":
            heard = mix(samples, noise, level, rate)
        elif condition == "babble" and voices is not None:
            heard = mix(samples, voices, level, rate)
        elif condition == "gain":
            heard = (samples * 10 ** (level / 20)).astype(np.float32)
        elif condition == "bandwidth":
            heard = _through(samples, rate, level)
        elif condition == "bandpass":
            heard = bandpass(samples, *_band(level), rate)
        elif condition == "clipping":
            heard = clip_loudest(samples, level, rate)
        else:
            heard = samples
        found = model.run(heard, adapt=adapt)
        if not len(found.values):
            raise DataError(f"{len(samples) / rate:.3f} s is too short for a single estimate")
        out.append(summarise(found.values, found.valid, estimate))
    return np.stack(out)


def _through(samples: np.ndarray, rate: float, narrow: float) -> np.ndarray:
    """The signal after a stage that runs at the rate `narrow`."""
    soxr = require("soxr", purpose="resampling audio")
    if narrow == rate:
        return samples
    back = soxr.resample(soxr.resample(samples, rate, narrow), narrow, rate)
    return np.pad(back, (0, max(0, len(samples) - len(back))))[: len(samples)].astype(np.float32)


class _Crowd:
    """Voices of a manifest's other speakers."""

    def __init__(self, manifest: Manifest, rate: float, talkers: int, seed: int) -> None:
        self.manifest, self.rate, self.seed = manifest, rate, seed
        self.talkers = _checks.integer(talkers, "talkers", low=1)
        if "subject" not in manifest.table:
            raise DataError("babble is made of other speakers: the manifest needs a column 'subject'")
        self.speaker = manifest.groups("subject")
        self.rows = {name: np.flatnonzero(self.speaker == name) for name in sorted(set(self.speaker))}
        if len(self.rows) <= self.talkers:
            raise DataError(
                f"babble of {self.talkers} talkers needs more than {self.talkers} speakers, since the one "
                f"who is heard takes no part; the manifest has {len(self.rows)}"
            )

    def around(self, index: int, length: int) -> np.ndarray:
        """`length` samples of others talking while row `index` does."""
        rng = _rng(self.manifest, index, self.seed, "babble")
        others = [name for name in self.rows if name != self.speaker[index]]
        total = np.zeros(length)
        for number in rng.choice(len(others), self.talkers, replace=False):
            total += self._talk(others[number], length, rng)
        return total.astype(np.float32)

    def _talk(self, name: str, length: int, rng: np.random.Generator) -> np.ndarray:
        """Clips of one speaker in a drawn order, begun somewhere, at an active level of one."""
        parts: list[np.ndarray] = []
        order = rng.permutation(self.rows[name])
        held = turn = 0
        while held < length:
            try:
                clip = _read(self.manifest, int(order[turn % len(order)]), self.rate)
            except DataError:
                clip = np.empty(0, np.float32)  # named where it is the one that is judged
            turn += 1
            if not len(clip):
                if turn >= len(order) and not held:
                    raise DataError(f"no recording of {name} can be used for the babble")
                continue
            if not parts:  # begin somewhere in the first clip
                clip = np.roll(clip, -int(rng.integers(len(clip))))
            parts.append(clip / np.sqrt(np.mean(np.square(clip[active_frames(clip, self.rate)]))))
            held += len(clip)
        return np.concatenate(parts)[:length]
