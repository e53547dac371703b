"""The native model: load a model file, run it over a recording. numpy and the C++ core only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from affekt import _core
from affekt.errors import AffektError, InputError

__all__ = ["FullPass", "Model", "get_include", "load"]


def get_include() -> str:
    """Folder of the C++ headers (`affekt/engine.hpp` and so on) that belong to this installation."""
    installed = Path(_core.__file__).parent / "include"
    if not (installed / "affekt" / "engine.hpp").is_file():
        raise AffektError(f"the C++ headers are not where this installation should have them: {installed}")
    return str(installed)


def load(path: str | os.PathLike[str] | None = None) -> Model:
    """Read a model file with the C++ core; nothing in the file is executed, and torch is not needed.

    Parameters
    ----------
    path : the file; the name of a model that ships with affekt (`affekt.weights.list_models`), where no file
        is called so; or None for the default one of these. The licence of a shipped model is printed once.

    Raises
    ------
    ModelFileError : the file is absent, truncated, corrupt, foreign, of another schema version or
        inconsistent; or none was named and this build carries none.
    """
    from affekt import weights

    if path is not None and (path not in weights.list_models() or os.path.exists(path)):
        return Model(path)
    model = Model(weights.default_model() if path is None else weights.default_model(str(path)))
    weights.announce_licence()
    return model


def as_signal(samples: Any, name: str = "samples") -> np.ndarray:
    """`samples` as a contiguous, aligned 1-D float32 or int16 array, or `InputError`.

    float64 becomes float32; int16 stays, for the core to take as x / 32768. Other types are refused because
    their scale would be a guess. Values are checked by the core.
    """
    try:
        array = np.asarray(samples)
    except Exception as error:
        raise InputError(f"{name}: expected an array of samples, got {type(samples).__name__}") from error
    if array.ndim != 1:
        raise InputError(f"{name}: expected one dimension (time,), got shape {array.shape}")
    kind = array.dtype.newbyteorder("=")
    if kind in (np.float32, np.int16):
        return np.require(array, kind, ["C", "A"])
    if kind == np.float64:
        with np.errstate(over="ignore"):  # becomes infinity, which the core reports with its place
            return np.require(array, np.float32, ["C", "A"])
    raise InputError(f"{name}: expected float32 or float64 in [-1, 1], or int16, got dtype {array.dtype}")


class Model:
    """A trained model, immutable and shareable between threads.

    Parameters
    ----------
    path : model file (schema 1).

    Attributes
    ----------
    card : dict, the model card: graph, inputs, outputs, latency, provenance.
    path : where it came from; None for `from_bytes`.
    sample_rate : of the audio input, Hz.
    inputs, outputs : lists of dicts with names, kinds, rates, labels.
    columns : names of the values of an estimate: the labels of continuous outputs, ``p_<label>`` of
        categorical ones.
    timing : dict of seconds: ``first_estimate_s`` (signal before the first regular estimate), ``hop_s``
        (between estimates), ``context_s`` (older signal has no influence), ``lookahead_s`` (0: causal).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise InputError(f"path: expected a path, got {type(path).__name__}")
        if "\0" in os.fspath(path):
            raise InputError(f"path: expected no null character, got {path!r}")
        self._init(_core.Model.load(os.fsencode(path)), Path(path))

    @classmethod
    def from_bytes(cls, content: bytes) -> Model:
        """The model in `content`, the bytes of a model file. Raises `ModelFileError`."""
        self = cls.__new__(cls)
        self._init(_core.Model.from_bytes(bytes(content)), None)
        return self

    def _init(self, native: Any, path: Path | None) -> None:
        self.native = native
        self.path = path
        self.card: dict[str, Any] = json.loads(native.card)
        self.inputs: list[dict[str, Any]] = native.inputs
        self.outputs: list[dict[str, Any]] = native.outputs
        self.columns: list[str] = native.columns
        self.timing: dict[str, float] = native.timing

    @property
    def name(self) -> str:
        return str(self.card["name"])

    @property
    def sample_rate(self) -> float:
        return float(self.inputs[0]["rate"])

    def tensors(self) -> dict[str, np.ndarray]:
        """Copies of the weights, float32 (int8 ones dequantised), by name."""
        return dict(self.native.tensors())

    def full_pass(self) -> FullPass:
        """A pass over one recording that arrives in pieces, in memory that does not grow with its length."""
        return FullPass(self)

    def run(
        self,
        samples: Any,
        mode: Literal["full", "stream"] = "full",
        chunk: int | None = None,
        sample_rate: float | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Estimates over one recording.

        Parameters
        ----------
        samples : (time,) float32 or float64 in [-1, 1], or int16, at the model's sample rate.
        mode : ``"full"`` runs blocks; ``"stream"`` goes through the live engine. Both give the same bits.
        chunk : samples per push in stream mode; default 20 ms.
        sample_rate : rate of `samples` in Hz, if known: checked, never converted.

        Returns
        -------
        times : (T,) float64, seconds from the first sample to the last sample that each estimate used.
        values : (T, len(columns)) float32. T is 0 when the recording is shorter than one frame.

        Raises
        ------
        InputError : wrong shape, type or rate; a sample that is not finite or beyond +-1e6; unknown mode.
        AffektError : the model produced a value that is not finite.
        """
        signal = as_signal(samples)
        if sample_rate is not None and float(sample_rate) != self.sample_rate:
            raise InputError(
                f"sample_rate: the model {self.name!r} listens at {self.sample_rate:g} Hz, got "
                f"{sample_rate:g} Hz; resample first"
            )
        if mode == "full":
            if chunk is not None:
                raise InputError("chunk: belongs to mode='stream'; full mode chooses its own blocks")
            single = self.full_pass()
            parts = [single.feed(signal), single.finish()]
            times = np.concatenate([part[0] for part in parts])
            values = np.concatenate([part[1] for part in parts])
        elif mode == "stream":
            times, values = self._stream(signal, chunk)
        else:
            raise InputError(f"mode: expected 'full' or 'stream', got {mode!r}")
        return times, values

    def _stream(self, signal: np.ndarray, chunk: int | None) -> tuple[np.ndarray, np.ndarray]:
        step = max(1, round(0.02 * self.sample_rate)) if chunk is None else chunk
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 1:
            raise InputError(f"chunk: expected a number of samples >= 1, got {chunk!r}")
        engine = _core.Engine(self.native)
        modality = self.inputs[0]["name"]
        times: list[float] = []
        rows: list[np.ndarray] = []

        def drain() -> None:
            while (estimate := engine.poll()) is not None:
                times.append(estimate[0])
                rows.append(estimate[2])
                _check_valid(estimate[0], estimate[3])

        for start in range(0, len(signal), int(step)):
            piece = signal[start : start + int(step)]
            while len(piece):
                piece = piece[engine.push(modality, piece) :]
                drain()
        engine.finish()
        drain()
        values = np.stack(rows) if rows else np.empty((0, len(self.columns)), np.float32)
        return np.asarray(times, np.float64), values

    def __repr__(self) -> str:
        inputs = ", ".join(f"{i['name']} ({i['kind']}, {i['rate']:g} Hz)" for i in self.inputs)
        outputs = "; ".join(f"{o['name']} ({o['kind']}): {', '.join(o['labels'])}" for o in self.outputs)
        licence = self.card.get("info", {}).get("licence", "not stated")
        t = self.timing
        return (
            f"<affekt.Model {self.name!r} version {self.card['version']}\n"
            f"  inputs:  {inputs}\n"
            f"  outputs: {outputs}\n"
            f"  timing:  an estimate every {t['hop_s']:.3g} s from {t['first_estimate_s']:.3g} s on, "
            f"over the last {t['context_s']:.3g} s\n"
            f"  licence: {licence}>"
        )


class FullPass:
    """One recording through a model, piece by piece, in bounded memory; the same bits as any other way.

    Examples
    --------
    >>> single = model.full_pass()                              # doctest: +SKIP
    >>> for block in blocks: times, values = single.feed(block)  # doctest: +SKIP
    >>> times, values = single.finish()                         # doctest: +SKIP
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._native = _core.FullPass(model.native)

    def feed(self, samples: Any) -> tuple[np.ndarray, np.ndarray]:
        """Run further samples, see `Model.run`; times (T,) and values (T, columns) of what became due."""
        return self._checked(self._native.feed(as_signal(samples)))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """End the recording: the estimate over what came since the last regular one, if anything did."""
        return self._checked(self._native.finish())

    def reset(self) -> None:
        """Start another recording."""
        self._native.reset()

    @staticmethod
    def _checked(result: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        times, values = result
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            _check_valid(times[int(np.argmin(finite))], False)
        return times, values


def _check_valid(time: float, valid: bool) -> None:
    if not valid:
        raise AffektError(
            f"the model produced a value that is not finite at {time:.3f} s; it cannot be trusted"
        )
