"""From recordings to a tidy table of estimates, and from a labelled manifest to figures of merit.

Everything here runs the native core: neither torch nor a whole recording in memory is needed.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from affekt._lazy import require
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas

    from affekt._native import Estimates, Model
    from affekt._profile import Profile, Statistics
    from affekt.data import Manifest
    from affekt.data.audio import AudioStream
    from affekt.detectors import Detector
    from affekt.live import Estimate

__all__ = ["Evaluation", "Recording", "enrol", "evaluate", "open_model", "predict", "recording"]

Mode = Literal["full", "window", "stream"]
Summary = Literal["last", "mean"]
OnError = Literal["raise", "skip"]

_AFFECT = ("valence", "arousal", "dominance")
_STREAM_SECONDS = 0.1  # usual length of a push
_BLOCK_SECONDS = 10.0  # read at a time
_LOUDEST = 1e6  # the core refuses samples beyond it, where full scale is 1


def predict(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]],
    model: str | PathLike[str] | Model | None = None,
    mode: Mode = "full",
    *,
    summary: Summary | None = None,
    window: float | None = None,
    hop: float | None = None,
    chunk: int | Sequence[int] | None = None,
    mono: Literal["mean"] | int = "mean",
    profile: Profile | None = None,
    adapt: bool = True,
    detector: Detector | str | None = None,
    on_error: OnError = "raise",
    progress: Callable[[int, int, str], None] | None = None,
) -> pandas.DataFrame:
    """Estimate affect along recordings.

    Recordings are read block by block, so that memory does not grow with their length (the table does: a row
    per estimate).

    Parameters
    ----------
    paths : one audio file or several. Any rate, width and number of channels that libsndfile reads; resampled
        to the model's rate and mixed down where needed, which ``table.attrs["converted"]`` states per file.
    model : a model file, a loaded `affekt.Model`, or None for the small one that ships with affekt, whose
        licence is then printed once.
    mode : ``"full"`` is one pass over the recording. ``"stream"`` pushes chunks through the live engine and
        gives the same numbers, bit for bit, whatever the chunks. ``"window"`` starts afresh in overlapping
        windows: a model that pools over time gives one row per window, one that answers per step is averaged
        where windows overlap.
    summary : None for a row per estimate; ``"last"`` (what the model says at the end) or ``"mean"`` (over all
        its estimates) for one row per file. Both look at the valid estimates only, if there are any.
    window, hop : seconds, for ``mode="window"`` only; by default the model's own context (its memory), and
        half the window. Rounded to whole steps of the model. A rest at the end becomes a last window that
        ends with the recording.
    chunk : samples per push (at the model's rate), or several sizes to cycle through, for ``mode="stream"``
        only; 0.1 s by default.
    mono : ``"mean"`` over the channels, or the index of one.
    profile : what is known of the speaker (`enrol`), for a model that adapts. Every recording (and window)
        starts from it; None starts from the average speaker of the training data.
    adapt : whether to go on learning how the speaker sounds within each recording. False uses the profile as
        it is. A model that does not adapt takes either.
    detector : what decides which estimates are valid: None for the model's own voice activity, a name of
        `affekt.detectors.list_detectors` (``"silero"`` tells speech from steady noise), or an
        `affekt.detectors.Detector`, which says what else it does and does not do.
    on_error : ``"raise"`` at the first recording that cannot be used, or ``"skip"`` it: then
        ``table.attrs["failures"]`` lists ``{"file", "reason"}`` for each.
    progress : called with (files done, files in all, file) before each file and once at the end.

    Returns
    -------
    pandas.DataFrame
        Columns ``file, start, end, valence, arousal, dominance, p_<emotion>, ..., valid`` (those the model
        has): the estimate rests on the audio of `file` between `start` and `end` seconds and on nothing
        else. In full and stream mode `end` is the time of the last sample used, and `start` lies the model's
        context before it; what a model has learnt of speaker and background noise goes further back.
        ``valid`` is False where the model (or `detector`) says that it heard no speech; such values are
        not to be used. ``attrs`` names the model, mode, failures and conversions.

    Raises
    ------
    DataError
        A recording is missing, empty, not audio, not finite, silent throughout, or too short.
    InputError
        An argument is out of range, the model takes something other than audio, or the profile belongs to
        another model; or the detector cannot be used, see `affekt.Model.run`.
    MissingExtraError
        The detector's package is not installed.
    ModelFileError
        The model file cannot be used, or none was named and this build carries none.

    Examples
    --------
    >>> table = affekt.predict("talk.wav")                                         # doctest: +SKIP
    >>> table[["end", "arousal"]].plot(x="end")                                    # doctest: +SKIP
    """
    pandas = require("pandas", purpose="tables of estimates")
    if isinstance(paths, str | PathLike):
        paths = [paths]
    files = [fspath(path) for path in paths]
    if not files:
        raise InputError("paths: expected at least one recording, got none")
    if summary not in (None, "last", "mean"):
        raise InputError(f"summary: expected None, 'last' or 'mean', got {summary!r}")
    check_on_error(on_error)
    native = open_model(model)
    frames, failures, converted = [], [], {}
    for done, file in enumerate(files):
        if progress is not None:
            progress(done, len(files), file)
        try:
            result = recording(
                file,
                native,
                mode=mode,
                window=window,
                hop=hop,
                chunk=chunk,
                mono=mono,
                profile=profile,
                adapt=adapt,
                detector=detector,
            )
        except DataError as error:
            if on_error == "raise":
                raise
            failures.append({"file": file, "reason": str(error)})
            continue
        if summary is not None:
            result = result.summarised(summary)
        frames.append(result.frame(pandas, file))
        if result.conversion:
            converted[file] = result.conversion
    if progress is not None:
        progress(len(files), len(files), files[-1])

    if frames:
        table = pandas.concat(frames, ignore_index=True)
    else:
        columns = _ordered(native.columns)
        empty = {name: np.empty(0) for name in ("start", "end", *columns)}
        table = pandas.DataFrame({"file": [], **empty, "valid": np.empty(0, bool)})
    table.attrs = {
        "model": describe_model(native),
        "mode": mode,
        "summary": summary,
        "failures": failures,
        "converted": converted,
    }
    return table


def enrol(
    model: str | PathLike[str] | Model | None,
    audio: Any,
    neutral: bool = False,
    *,
    profile: Profile | None = None,
) -> Profile:
    """Learn how a speaker sounds, from recordings of that speaker alone.

    Each `adapt` node of the model counts the rows in which it hears speech; with n rows of mean m_s the model
    then normalises by statistics pooled with those of its training population (docs/model_file.md).

    Parameters
    ----------
    model : a model file, a loaded `affekt.Model`, or None for the small one that ships with affekt.
    audio : a recording or a list of them: audio files, or arrays (time,) at the model's sample rate, float in
        [-1, 1] or int16. They are heard one after the other.
    neutral : the speaker is calm in all of them. Then only the difference from neutral speech of the training
        population is taken over, mean = prior mean + m_s - reference, with the population's variance, so that
        the speaker's neutral stays neutral. Without it, recordings should hold the speaker's usual mixture of
        emotions. Needs a model that knows its population's neutral (tensor `reference`).
    profile : what to go on from, of this speaker; None starts afresh. Not with `neutral`: a profile does not
        say how much of it is neutral speech already set against the population's.

    Returns
    -------
    Profile : for ``profile=`` of `predict`, `evaluate`, `affekt.Model.run` and `affekt.live.Engine`.

    Raises
    ------
    InputError
        The model does not adapt, or knows no neutral reference; `audio` is empty or not audio; `neutral` with
        a `profile`.
    DataError
        A recording cannot be read, or no speech was heard in any.

    Examples
    --------
    >>> anna = affekt.enrol("model.safetensors", ["anna1.wav", "anna2.wav"])       # doctest: +SKIP
    >>> table = affekt.predict("talk.wav", "model.safetensors", profile=anna)      # doctest: +SKIP
    """
    from affekt._native import must_adapt
    from affekt._profile import Profile
    from affekt.data import audio as files

    native = open_model(model)
    must_adapt(native)
    if not isinstance(neutral, bool):
        raise InputError(f"neutral: expected True or False, got {neutral!r}")
    if neutral and profile is not None:
        raise InputError(
            "profile: neutral enrolment cannot go on from a profile, whose speech would be set against the "
            "population's neutral once more; give all neutral recordings at once"
        )
    unknown = [name for name in native.adapts if f"{name}.reference" not in native.card["tensors"]]
    if neutral and unknown:
        raise InputError(
            f"neutral: the model {native.name!r} does not know how its population sounds when calm "
            f"(node {unknown[0]!r} has no 'reference'); enrol from mixed speech instead"
        )
    if isinstance(audio, str | PathLike | np.ndarray):
        audio = [audio]
    elif not isinstance(audio, Iterable):
        raise InputError(f"audio: expected recordings, got {type(audio).__name__}")
    items = list(audio)
    if not items:
        raise InputError("audio: expected at least one recording, got none")
    heard = profile
    for item in items:
        if isinstance(item, str | PathLike):
            with files.stream_audio(item, native.sample_rate, _BLOCK_SECONDS) as stream:
                heard = _full(native, _Signal(stream), heard, True).profile
        else:
            heard = native.run(item, profile=heard).profile
    if heard is None or heard.empty or heard == profile:
        raise DataError("audio: no speech was heard in it, so there is nothing to enrol from")
    if not neutral:
        return heard
    tensors, shifted = native.tensors(), {}
    for node in native.card["nodes"]:
        if node["name"] in heard.nodes:
            shifted[node["name"]] = _shifted(heard.nodes[node["name"]], node, tensors)
    return Profile(native.hash, shifted, native.name)


def _shifted(entry: Statistics, node: dict[str, Any], tensors: dict[str, np.ndarray]) -> Statistics:
    """Statistics of neutral speech as those that a mixture of emotions would have.

    Pooled with the prior they give a mean moved by n / (prior + n) of the difference, and the prior's
    variance: what the moved mean adds to the pooled variance is taken off first, as far as there is any.
    """
    mean, sd, reference = (tensors[f"{node['name']}.{t}"].astype(float) for t in ("mean", "sd", "reference"))
    prior = float(node["options"]["prior"])
    moved = entry.mean - reference
    variance = np.maximum(sd**2 - prior / (prior + entry.count) * moved**2, 0.0)
    return entry._replace(mean=mean + moved, variance=variance)


@dataclass
class Evaluation:
    """What `evaluate` found; printing it gives a report."""

    metrics: pandas.DataFrame
    """Columns ``label, metric, value, low, high, recordings, speakers, aggregation, mode, estimate, notes``:
    a row says by itself how it came about; ``low, high`` bound the 95 % interval over speakers."""
    predictions: pandas.DataFrame
    """Estimates beside the truth, a row per recording: ``file, start, end, ..., true_<label>``."""
    confusion: np.ndarray | None
    """(classes, classes) counts, true down and estimated across; None without emotions."""
    classes: list[str]
    """Rows and columns of `confusion`: emotions that occur in the labels or were chosen, in the order of the
    model."""
    notes: list[str] = field(default_factory=list)
    """What was left out or restricted, and why."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """``{"file", "reason"}`` of every recording that could not be used."""
    mapping: dict[str, str | None] = field(default_factory=dict)
    """Emotion in the labels -> emotion of the model that it was compared with; None where there is none."""

    def __str__(self) -> str:
        lines = [str(self.predictions.attrs.get("title", ""))]
        for label, rows in self.metrics.groupby("label", sort=False):
            columns = (rows[name] for name in ("metric", "value", "low", "high"))
            figures = "  ".join(
                f"{metric} {value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else "")
                for metric, value, low, high in zip(*columns, strict=True)
            )
            lines.append(
                f"{label:<10} {figures}  (n = {rows['recordings'].iloc[0]}, {rows['aggregation'].iloc[0]})"
            )
        if np.isfinite(self.metrics["low"]).any():
            lines.append(
                f"in brackets: 95 % interval, bootstrap over {self.metrics['speakers'].max()} speakers"
            )
        if self.confusion is not None:
            width = max(9, *(len(name) + 1 for name in self.classes))
            lines += ["", "confusion (true down, estimated across)"]
            lines.append(" " * width + "".join(f"{name:>{width}}" for name in self.classes))
            for name, row in zip(self.classes, self.confusion, strict=True):
                lines.append(f"{name:<{width}}" + "".join(f"{int(count):>{width}}" for count in row))
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def evaluate(
    model: str | PathLike[str] | Model | None,
    manifest: Any,
    mode: Mode = "full",
    *,
    estimate: Summary = "last",
    reduction: Literal["concatenated", "per_session"] = "concatenated",
    restrict: bool = False,
    merge: Mapping[str, str] | None = None,
    window: float | None = None,
    hop: float | None = None,
    profile: Profile | None = None,
    adapt: bool = True,
    detector: Detector | str | None = None,
    on_error: OnError = "raise",
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Compare a model's estimates with the labels of a manifest.

    Parameters
    ----------
    model : as for `predict`.
    manifest : a `affekt.data.Manifest`, its CSV or Parquet file, or a DataFrame: ``file``, labels (any of
        ``emotion, valence, arousal, dominance``), optionally ``start, end, session``.
    mode, window, hop, profile, adapt, detector : as for `predict`.
    estimate : which estimate stands for a recording: its ``"last"`` one (for a model that pools over time,
        the one over the whole recording as far as its memory reaches), or the ``"mean"`` over all.
    reduction : of CCC and PCC: over all recordings at once (``"concatenated"``), or within each session and
        then averaged (``"per_session"``).
    restrict : let the model choose only among the emotions that occur in the labels. That uses knowledge of
        the labels and raises the figures; by default it may choose any that it knows.
    merge : emotions to count as another one on both sides, e.g. ``{"calm": "neutral"}``: labels are renamed,
        the model's probabilities added.
    on_error : ``"raise"``, or ``"skip"`` recordings that cannot be used; they are listed in ``.failures``.
    progress : as for `predict`.

    Returns
    -------
    Evaluation
        For continuous labels CCC, PCC and RMSE; for emotions UAR, WAR and macro-F1 (definitions:
        `affekt.metrics`). UAR is the mean over the emotions that occur in the labels, macro-F1 over those
        that occur in the labels or were chosen. Emotions are matched by name, as `affekt.data.match_emotions`
        does (happiness is happy); ``.mapping`` holds the result. Recordings of emotions that the model does
        not know are left out, and so are labels without a value; ``.notes`` states that, and what the model
        could choose from. With subjects in the manifest each figure has a 95 % interval, by bootstrap over
        subjects.

    Raises
    ------
    DataError
        The manifest shares no label with the model, or (``on_error="raise"``) a recording cannot be used.
    """
    pandas = require("pandas", purpose="tables of estimates")
    from affekt import data
    from affekt._scores import comparable, score

    if estimate not in ("last", "mean"):
        raise InputError(f"estimate: expected 'last' or 'mean', got {estimate!r}")
    if reduction not in ("concatenated", "per_session"):
        raise InputError(f"reduction: expected 'concatenated' or 'per_session', got {reduction!r}")
    check_on_error(on_error)
    native = open_model(model)
    manifest = data.read_manifest(manifest)
    dimensions, emotions = comparable(native.columns, manifest.labels)
    compared = [*dimensions, *(["emotion"] if emotions else [])]
    if not manifest.table[compared].notna().to_numpy().any():
        raise DataError(f"no row of the manifest has a value of {', '.join(compared)}: nothing to compare")

    if emotions:
        require("sklearn.metrics", purpose="classification metrics")  # missing now rather than at the end

    rows, used, failures = [], [], []
    for index in range(len(manifest)):
        file = manifest.path(index)
        if progress is not None:
            progress(index, len(manifest), str(file))
        begin, until = manifest.part(index)
        try:
            found = recording(
                file,
                native,
                mode=mode,
                window=window,
                hop=hop,
                begin=begin,
                until=until,
                profile=profile,
                adapt=adapt,
                detector=detector,
            )
        except DataError as error:
            if on_error == "raise":
                raise
            failures.append({"file": str(file), "reason": str(error)})
            continue
        found = found.summarised(estimate)
        rows.append(found._replace(start=found.start + begin, end=found.end + begin).frame(pandas, str(file)))
        used.append(index)
    if progress is not None:
        progress(len(manifest), len(manifest), "")
    if not rows:
        raise DataError(
            f"none of the {len(manifest)} recordings of the manifest could be used: {failures[0]['reason']}"
        )

    table = pandas.concat(rows, ignore_index=True)
    truth = manifest.table.iloc[used].reset_index(drop=True)
    notes = []
    if failures:
        notes.append(
            f"{len(failures)} of {len(manifest)} recordings could not be used and are not in these figures"
        )
    silent = int((~table["valid"]).sum())
    if silent:
        notes.append(f"in {silent} recordings no speech was heard; they are in these figures")
    skipped = manifest.attrs.get("skipped")
    if skipped:
        notes.append(f"{len(skipped)} more were left out when the corpus was read")
    notes += seen_note(native, manifest, truth)
    found_scores = score(
        table,
        truth,
        columns=native.columns,
        labels=manifest.labels,
        reduction=reduction,
        restrict=restrict,
        merge=merge,
    )
    for name in dimensions:
        table[f"true_{name}"] = truth[name].to_numpy(dtype=float)
    if emotions:
        table["true_emotion"] = truth["emotion"].to_numpy()
    if found_scores.estimated is not None:
        table["estimated_emotion"] = found_scores.estimated
    notes += found_scores.notes
    table.attrs = {
        "title": f"{describe_model(native)}, {mode} mode, {estimate} estimate of {len(table)} recordings"
    }
    scores = pandas.DataFrame(found_scores.figures).assign(
        mode=mode, estimate=estimate, notes="; ".join(notes)
    )
    return Evaluation(
        scores, table, found_scores.confusion, found_scores.classes, notes, failures, found_scores.mapping
    )


def summarise(values: np.ndarray, valid: np.ndarray, how: Summary) -> np.ndarray:
    """The last of the estimates (n, columns) or their mean, (columns,); of the valid if there are any."""
    values = values[valid] if valid.any() else values
    return (values[-1] if how == "last" else values.mean(axis=0, dtype=np.float64)).astype(np.float32)


class Recording(NamedTuple):
    """Estimates along one recording."""

    start: np.ndarray
    """(estimates,) seconds: audio before it had no part in the estimate."""
    end: np.ndarray
    """(estimates,) seconds of the last sample used."""
    values: np.ndarray
    """(estimates, columns) float32."""
    valid: np.ndarray
    """(estimates,) bool: whether the model heard something to judge."""
    columns: list[str]
    """What the columns of `values` are; those of the model."""
    duration: float
    """Seconds in the recording."""
    conversion: str
    """How the file was brought to the model's format; empty when it fitted."""

    def summarised(self, how: Summary) -> Recording:
        """One estimate for the whole recording, its last one or the mean: of the valid if there are any."""
        return self._replace(
            start=np.zeros(1),
            end=np.array([self.duration]),
            values=summarise(self.values, self.valid, how)[None],
            valid=np.array([self.valid.any()]),
        )

    def frame(self, pandas: Any, file: str) -> pandas.DataFrame:
        """As a tidy table."""
        columns = {name: self.values[:, self.columns.index(name)] for name in _ordered(self.columns)}
        spans = {"file": file, "start": self.start, "end": self.end}
        return pandas.DataFrame({**spans, **columns, "valid": self.valid})


def recording(
    path: str | PathLike[str],
    model: Model,
    *,
    mode: Mode = "full",
    window: float | None = None,
    hop: float | None = None,
    chunk: int | Sequence[int] | None = None,
    mono: Literal["mean"] | int = "mean",
    begin: float = 0.0,
    until: float | None = None,
    profile: Profile | None = None,
    adapt: bool = True,
    detector: Detector | str | None = None,
) -> Recording:
    """Estimates along one recording, or along the part from `begin` to `until` seconds; see `predict`.

    Times count from `begin`.
    """
    from affekt.data import audio

    if mode not in ("full", "window", "stream"):
        raise InputError(f"mode: expected 'full', 'window' or 'stream', got {mode!r}")
    if mode != "window" and (window is not None or hop is not None):
        raise InputError(f"window, hop: for mode='window' only, got mode={mode!r}")
    if mode != "stream" and chunk is not None:
        raise InputError(f"chunk: for mode='stream' only, got mode={mode!r}")
    with audio.stream_audio(
        path, model.sample_rate, _BLOCK_SECONDS, mono=mono, start=begin, end=until
    ) as stream:
        signal = _Signal(stream)
        with warnings.catch_warnings():
            # Here silence throughout is an error, below; the reader only warns.
            warnings.filterwarnings("ignore", ".*every sample is zero", audio.AudioWarning)
            starts = None
            if mode == "full":
                found = _full(model, signal, profile, adapt, detector)
            elif mode == "stream":
                found = _stream(model, signal, chunk, profile, adapt, detector)
            else:
                starts, found = _windows(model, signal, window, hop, profile, adapt, detector)
        conversion = _conversion(stream, mono)
    if not signal.heard:
        raise DataError(f"{fspath(path)}: every sample is zero, so there is nothing to judge")
    duration = signal.samples / model.sample_rate
    times, values = found
    if not len(times):
        raise DataError(f"{fspath(path)}: {duration:.3f} s is too short for a single estimate")
    if starts is None:
        starts = np.maximum(times - model.timing["context_s"], 0.0)
    return Recording(starts, times, values, found.valid, list(model.columns), duration, conversion)


class _Signal:
    """The samples of a file at the model's rate, block by block, with what was seen on the way."""

    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream
        self.samples = 0
        self.heard = False

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._stream:
            peak = float(np.abs(block).max(initial=0.0))
            if peak > _LOUDEST:
                raise DataError(
                    f"{self._stream.info.path}: its samples reach {peak:g} where full scale is 1; "
                    "is it in another unit?"
                )
            self.heard = self.heard or peak > 0
            self.samples += block.size
            yield block


def _conversion(stream: AudioStream, mono: Literal["mean"] | int) -> str:
    """What was done to a file to fit the model; empty when nothing."""
    info, steps = stream.info, []
    if info.sample_rate != stream.sample_rate:
        steps.append(f"{info.sample_rate:g} Hz resampled to {stream.sample_rate:g} Hz")
    if info.channels > 1:
        steps.append(
            f"{info.channels} channels averaged" if mono == "mean" else f"channel {mono} of {info.channels}"
        )
    return ", ".join(steps)


def estimates_frame(model: Model, found: Sequence[Estimate], name: str) -> pandas.DataFrame:
    """The tidy table of the estimates that an engine gave for the source called `name`."""
    pandas = require("pandas", purpose="tables of estimates")
    estimates = _collected(model, found)
    times, values = estimates
    starts = np.maximum(times - model.timing["context_s"], 0.0)
    duration = float(times[-1]) if found else 0.0
    columns = list(model.columns)
    return Recording(starts, times, values, estimates.valid, columns, duration, "").frame(pandas, name)


def _collected(model: Model, found: Sequence[Estimate]) -> Estimates:
    from affekt._native import Estimates

    rows = [[estimate[name] for name in model.columns] for estimate in found]
    return Estimates(
        np.array([estimate.time for estimate in found], dtype=np.float64),
        np.array(rows, dtype=np.float32).reshape(-1, len(model.columns)),
        np.array([estimate.valid for estimate in found], dtype=bool),
    )


def _full(
    model: Model,
    signal: Iterable[np.ndarray],
    profile: Profile | None,
    adapt: bool,
    detector: Detector | str | None = None,
) -> Estimates:
    from affekt._native import Estimates

    run = model.full_pass(profile, adapt, detector)
    parts = [run.feed(block) for block in signal]
    parts.append(run.finish())
    return Estimates.joined(parts, run.profile() if model.adapts else None)


def _stream(
    model: Model,
    signal: _Signal,
    chunk: int | Sequence[int] | None,
    profile: Profile | None,
    adapt: bool,
    detector: Detector | str | None,
) -> Estimates:
    from affekt._native import must_be_finite
    from affekt.live import Engine
    from affekt.live.sources import Chunk, estimates

    if chunk is None:
        chunk = max(1, round(_STREAM_SECONDS * model.sample_rate))
    sizes = [chunk] if isinstance(chunk, int | np.integer) else list(chunk)
    if not sizes or min(sizes) < 1:
        raise InputError(f"chunk: expected sizes of at least 1 sample, got {chunk}")
    modality = model.inputs[0]["name"]

    def chunks() -> Iterator[Chunk]:
        position = 0
        for piece in _pieces(signal, sizes):
            yield Chunk(modality, piece, position / model.sample_rate, model.sample_rate)
            position += piece.size

    found = []
    for estimate in estimates(Engine(model, profile=profile, adapt=adapt, detector=detector), chunks()):
        if not estimate.valid:
            must_be_finite(model, [estimate.time], np.array([list(estimate.values.values())]))
        found.append(estimate)
    return _collected(model, found)


def _windows(
    model: Model,
    signal: _Signal,
    window: float | None,
    hop: float | None,
    profile: Profile | None,
    adapt: bool,
    detector: Detector | str | None,
) -> tuple[np.ndarray, Estimates]:
    from affekt._native import Estimates

    rate = model.sample_rate
    step = max(1, round(model.timing["hop_s"] * rate))

    def steps(name: str, seconds: float) -> int:
        if not 0 < seconds < math.inf:
            raise InputError(f"{name}: expected a positive number of seconds, got {seconds}")
        return max(1, round(seconds * rate / step)) * step

    if window is None:
        window = model.timing["context_s"]
    size = steps("window", window)
    stride = steps("hop", size / rate / 2 if hop is None else hop)
    if stride > size:
        raise InputError(f"hop: expected at most the window of {size / rate:g} s, got {stride / rate:g} s")

    pooled = any(node["type"] == "pool" for node in model.card["nodes"])
    starts: list[float] = []
    ends: list[float] = []
    rows: list[np.ndarray] = []
    valid: list[bool] = []
    # last sample -> sum, windows, start of the earliest, whether any is valid
    sums: dict[int, tuple[np.ndarray, int, float, bool]] = {}
    for first, samples in _cut(signal, size, stride, step):
        found = model.run(samples, profile=profile, adapt=adapt, detector=detector)
        times, values = found
        if not len(times):
            continue
        if pooled:
            starts.append(first / rate)
            ends.append((first + samples.size - 1) / rate)
            rows.append(values[-1])
            valid.append(found.valid[-1])
            continue
        for when, value, good in zip(times, values, found.valid, strict=True):
            last = first + round(when * rate)
            total, count, start, any_good = sums.get(last, (0.0, 0, first / rate, False))
            sums[last] = (total + value.astype(np.float64), count + 1, start, any_good or bool(good))
    if not pooled:
        for last in sorted(sums):
            total, count, start, good = sums[last]
            starts.append(start)
            ends.append(last / rate)
            rows.append((total / count).astype(np.float32))
            valid.append(good)
    values = np.array(rows, dtype=np.float32).reshape(-1, len(model.columns))
    return np.array(starts, dtype=np.float64), Estimates(
        np.array(ends, dtype=np.float64), values, np.array(valid, dtype=bool)
    )


def _cut(blocks: Iterable[np.ndarray], size: int, stride: int, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Windows (first sample, samples) of `size` every `stride`, and one at the end that covers a rest."""
    held = np.empty(0, dtype=np.float32)
    base = 0  # index of held[0]
    following = 0  # first sample of the next window
    covered = 0  # samples that windows have reached
    for block in blocks:
        held = np.concatenate([held, block])
        while following + size <= base + held.size:
            yield following, held[following - base : following - base + size]
            covered = following + size
            following += stride
        keep = max(covered - size, 0)  # the last window may have to begin right after the previous one did
        held, base = held[keep - base :], keep
    total = base + held.size
    if total > covered:
        first = -(-max(total - size, 0) // step) * step
        yield first, held[first - base :]


def _pieces(blocks: Iterable[np.ndarray], sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """The samples again in pieces of the given sizes, cycling; the last may be shorter."""
    wanted = itertools.cycle(sizes)
    size = next(wanted)
    held = np.empty(0, dtype=np.float32)
    for block in blocks:
        held = np.concatenate([held, block]) if held.size else block
        position = 0
        while held.size - position >= size:
            yield held[position : position + size]
            position += size
            size = next(wanted)
        held = held[position:]
    if held.size:
        yield held


def open_model(model: str | PathLike[str] | Model | None) -> Model:
    """The native model that `model` names: a loaded one, a file, or None for the shipped one and its licence.

    Raises
    ------
    InputError
        It does not take one audio signal.
    ModelFileError
        The file cannot be used.
    """
    from affekt._native import Model, load

    if not isinstance(model, Model):
        model = load(model)
    kinds = [f"{entry['name']} ({entry['kind']})" for entry in model.inputs]
    if len(kinds) != 1 or model.inputs[0]["kind"] != "audio":
        raise InputError(
            f"model: expected one that takes a single audio signal, this one takes {', '.join(kinds)}"
        )
    return model


def seen_note(model: Model, manifest: Manifest, truth: pandas.DataFrame) -> list[str]:
    """A note where the recordings of `truth` are of a corpus that the model's card names as training data, or
    may be, because the card says no more than that the data were a user's."""
    from affekt.data.store import UNNAMED

    given = model.card.get("info", {}).get("data", [])
    trained = {given} if isinstance(given, str) else {*given}
    seen = corpora_of(manifest, truth) & trained
    if not seen and UNNAMED in trained:
        return [
            "the model's card does not name the corpus of its training data: if these speakers were in it, "
            "the figures are too good"
        ]
    if not seen:
        return []
    return [
        f"the model's card names {', '.join(sorted(map(str, seen)))} as its training data: "
        "these are not figures on unseen recordings"
    ]


def corpora_of(manifest: Manifest, truth: pandas.DataFrame) -> set[str]:
    """Names of the corpora that the rows of `truth`, some of the manifest's, come from; empty if unknown."""
    names = truth["corpus"].dropna() if "corpus" in truth else [manifest.attrs.get("corpus")]
    return {str(name) for name in names if name is not None}


def describe_model(model: Model) -> str:
    """Name and version, as reports state them."""
    return f"{model.card.get('name', 'unnamed')} {model.card.get('version', '')}".strip()


def describe_output(output: dict[str, Any]) -> str:
    """An entry of a card's outputs for people: ``arousal in [-1, 1]``, ``probabilities of happy, sad``."""
    labels = ", ".join(output["labels"])
    if output["kind"] == "categorical":
        return f"probabilities of {labels}"
    limits = output.get("range")
    return labels + (f" in [{limits[0]:g}, {limits[1]:g}]" if limits else "")


def check_on_error(on_error: str) -> None:
    """Refuse anything but ``"raise"`` and ``"skip"``."""
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")


def _ordered(columns: Sequence[str]) -> list[str]:
    """Valence, arousal, dominance first and in that order, then the others as the model has them."""
    return [name for name in _AFFECT if name in columns] + [name for name in columns if name not in _AFFECT]
