"""Generated trials with planted effects: what a pipeline must find, on disk like a corpus of one's own.

A latent trace v(t) drives everything that is generated, so that a test knows what can be learnt from which
signal. All of it is a function of the seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.data.manifest import Manifest
from affekt.errors import InputError

__all__ = ["generate"]

RATE = 4.0
SD = 0.065
"""Standard deviation of the label traces; those of MAHNOB-HCI have about that."""
SIGNALS: dict[str, dict[str, float]] = {
    # width, correlation of the best linear readout with the trace, rows per label, subjects' spread of gain
    "eeg": {"width": 24, "strength": 0.6, "ratio": 1, "spread": 0.5},
    "cnn": {"width": 16, "strength": 1.6, "ratio": 4, "spread": 0.1},
}


def generate(
    folder: str | PathLike[str],
    *,
    seed: int = 0,
    subjects: int = 8,
    trials: tuple[int, int] = (4, 8),
    seconds: tuple[float, float] = (35.0, 60.0),
    signals: Mapping[str, Mapping[str, float]] | None = None,
    delay: float = 0.0,
    annotators: int = 5,
) -> Manifest:
    """Write trials and their manifest: rows of features per trial, and the mean trace of several annotators.

    The latent v(t) of a trial is Gaussian noise below 0.1 Hz of standard deviation 0.065 plus an offset of
    -0.05, 0 or 0.05 by the trial's class (``tag`` 0, 1, 2: unpleasant, neutral, pleasant). Annotators follow
    it with delays of 0.2 to 0.6 s and noise of their own; the label is their mean at 4 Hz. A signal's row is
    ``strength * gain_s * v(t - delay) / 0.065 * direction + noise``: a direction of unit length that all
    subjects share, a gain per subject, and noise of sd 1 that forgets a row in half a second.

    Parameters
    ----------
    folder : gets ``manifest.csv``, ``signals/<trial>.npz`` (one array per signal), ``traces/<trial>.csv``,
        and ``planted.npz`` with ``planted.json``: directions, gains, delays and the latent traces.
    seed : of everything.
    subjects : number of subjects, each with a number of trials and lengths within `trials` and `seconds`,
        ends included.
    signals : name -> ``width``, ``strength``, ``ratio`` (rows per label), ``spread`` (of the gains);
        default: ``eeg`` (24 wide, weak) and ``cnn`` (16 wide, strong, 4 rows per label).
    delay : seconds by which the signals lag behind the latent trace; a negative one lets them run ahead, so
        that the label of a step stands in rows of long before it and only a model with memory finds it.
    annotators : how many are averaged.

    Returns
    -------
    Manifest : as `affekt.data.read_manifest` gives it of ``manifest.csv``.
    """
    pandas = require("pandas", purpose="generated trials")
    seed = _checks.integer(seed, "seed", low=0)
    subjects = _checks.integer(subjects, "subjects", low=1)
    annotators = _checks.integer(annotators, "annotators", low=1)
    for name, (low, high) in {"trials": trials, "seconds": seconds}.items():
        if not 0 < low <= high:
            raise InputError(f"{name} must be (least, most), above 0; got {(low, high)}")
    wanted = {name: dict(given) for name, given in (SIGNALS if signals is None else signals).items()}
    for name, given in wanted.items():
        unknown = sorted(set(given) - set(SIGNALS["eeg"]))
        if unknown or not name.isidentifier():
            raise InputError(f"signals: expected {', '.join(SIGNALS['eeg'])} of {name!r}, got {unknown}")
        wanted[name] = {**SIGNALS["eeg"], **given}
    place = _checks.path(folder, "folder")
    (place / "signals").mkdir(parents=True, exist_ok=True)
    (place / "traces").mkdir(exist_ok=True)
    rng = np.random.default_rng([seed, 0])
    planted: dict[str, np.ndarray] = {}
    for name, given in wanted.items():
        direction = rng.normal(size=int(given["width"]))
        planted[f"{name}_direction"] = direction / np.linalg.norm(direction)
        planted[f"{name}_gain"] = np.exp(given["spread"] * rng.normal(size=subjects))
    rows: list[dict[str, Any]] = []
    for subject in range(subjects):
        count = int(rng.integers(trials[0], trials[1] + 1))
        for trial in range(count):
            own = np.random.default_rng([seed, 1, subject, trial])
            title = f"P{subject + 1:02d}-T{trial + 1:02d}"
            tag = int(own.integers(3))
            steps = round(float(own.uniform(*seconds)) * RATE)
            fine = 16  # points per label
            latent = _slow(own, steps * fine, RATE * fine) * SD + 0.05 * (tag - 1)
            traces = []
            for _ in range(annotators):
                late = round(float(own.uniform(0.2, 0.6)) * RATE * fine)
                heard = np.concatenate([np.repeat(latent[:1], late), latent])[: len(latent)]
                traces.append(heard + 0.02 * _slow(own, len(latent), RATE * fine))
            label = np.clip(np.mean(traces, axis=0)[::fine], -1, 1)
            made = {}
            for name, given in wanted.items():
                ratio = int(given["ratio"])
                at = np.arange(steps * ratio) * (fine // ratio if fine % ratio == 0 else fine / ratio)
                driver = latent[np.clip(np.round(at - delay * RATE * fine).astype(int), 0, len(latent) - 1)]
                gain = given["strength"] * planted[f"{name}_gain"][subject]
                noise = _coloured(own, (steps * ratio, int(given["width"])), 0.5 * RATE * ratio)
                made[name] = (noise + gain * (driver / SD)[:, None] * planted[f"{name}_direction"]).astype(
                    np.float32
                )
            np.savez(place / "signals" / f"{title}.npz", **cast(Any, made))
            table = pandas.DataFrame({"valence": label})
            table.to_csv(place / "traces" / f"{title}.csv", index=False, float_format="%.7f")
            planted[f"latent_{title}"] = latent[::fine]
            rating = int(np.clip(round(5 + 2 * (tag - 1) + own.normal()), 1, 9))
            rows.append({
                "file": f"traces/{title}.csv", "subject": f"P{subject + 1:02d}", "trial": title, "tag": tag,
                "sam": int(own.integers(3)) if own.random() < 0.15 else tag, "rating": rating,
                "trace": f"traces/{title}.csv",
                **{column: value for name in wanted
                   for column, value in ((name, f"signals/{title}.npz"), (f"{name}_key", name))},
            })  # fmt: skip
    np.savez(place / "planted.npz", **cast(Any, planted))
    facts = {"seed": seed, "rate": RATE, "delay": delay, "annotators": annotators, "signals": wanted}
    (place / "planted.json").write_text(json.dumps(facts, indent=1) + "\n")
    attrs = {"corpus": f"generated-{seed}", "licence": "CC0-1.0"}
    manifest = Manifest(pandas.DataFrame(rows), root=place, attrs=attrs)
    manifest.save(Path(place) / "manifest.csv")
    return manifest


def _slow(rng: np.random.Generator, n: int, rate: float, cutoff: float = 0.1) -> np.ndarray:
    """Gaussian noise of unit variance in expectation, nothing above `cutoff` Hz."""
    long = n + int(4 * rate / cutoff)  # cut out of a longer period, so that the ends do not meet
    spectrum = np.fft.rfftfreq(long, 1 / rate)
    kept = (spectrum > 0) & (spectrum <= cutoff)
    bins = np.zeros(len(spectrum), complex)
    bins[kept] = rng.normal(size=kept.sum()) + 1j * rng.normal(size=kept.sum())
    return np.fft.irfft(bins, long)[:n] * long / (2 * np.sqrt(kept.sum()))


def _coloured(rng: np.random.Generator, shape: tuple[int, int], memory: float) -> np.ndarray:
    """First-order noise of unit variance that forgets within `memory` rows."""
    keep = float(np.exp(-1 / max(memory, 1e-3)))
    white = rng.normal(size=shape)
    out = np.empty(shape)
    out[0] = white[0]
    for t in range(1, shape[0]):
        out[t] = keep * out[t - 1] + np.sqrt(1 - keep**2) * white[t]
    return out
