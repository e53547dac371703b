"""Test conditions of a model: what it may know of the speaker before it hears a recording.

- ``raw``: nothing, and it learns nothing: every recording by itself, normalised as the training population.
- ``running``: the recordings of a speaker one after the other in a seeded order, the first from the
  population; each starts from what was learnt in those before it, and goes on learning.
- ``enrolled``: every recording starts from a profile learnt on a few recordings of the speaker, which are not
  scored; whether it goes on learning is ``conditions.enrol.adapt``. Enrolment on neutral recordings
  (``conditions.enrol.label=neutral``) is `affekt.enrol` with neutral=True where the model can do that.
- ``whole``: transductive: every recording starts from a profile learnt on all recordings of the speaker in
  this part, the scored ones too; an upper bound. Whether it goes on learning is ``conditions.adapt_whole``.

A model that does not adapt has the condition ``raw`` alone, and so have recordings of which nobody knows who
speaks. No label reaches a profile but the one that may pick the enrolment (``conditions.enrol.label``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from affekt._predict import enrol
from affekt.errors import DataError
from affekt.training.config import CONDITIONS, ConditionsConfig

__all__ = ["run_conditions"]


def run_conditions(
    model: Any,
    speakers: Mapping[str, Sequence[int]],
    read: Callable[[int], np.ndarray | None],
    config: ConditionsConfig,
    label: Callable[[int], Any] = lambda row: None,
    say: Callable[[str], None] = lambda line: None,
    unknown: Sequence[int] = (),
) -> Iterator[tuple[str, int, Any]]:
    """``(condition, row, estimates)`` of every recording under every condition, see the module.

    Parameters
    ----------
    model : an `affekt.Model`.
    speakers : name -> rows of that speaker's recordings.
    read : row -> samples, None for a recording that cannot be used; called once per row and condition.
    label : row -> class, for ``enrol.label``.
    say : called with a line on every speaker whom ``enrolled`` leaves out, for want of a recording of the
        class that enrolment asks for, of speech in those recordings, or of another one to score; and on
        `unknown`.
    unknown : rows of which nobody knows who speaks: they are tested under ``raw`` alone, for they are not of
        one person.
    """
    tested = [c for c in CONDITIONS if c in config.test] if model.adapts else ["raw"]
    for name, rows in speakers.items():
        order = _order(rows, config.seed, name)
        for condition in tested:
            if condition == "raw":
                options = {"adapt": False} if model.adapts else {}
                yield from _each(model, condition, sorted(rows), read, options)
            elif condition == "running":
                profile = None
                for row in order:
                    found = _run(model, read(row), {"profile": profile, "adapt": True})
                    if found is not None:
                        profile = found.profile
                        yield condition, row, found
            elif condition == "enrolled":
                fitting = [row for row in order if config.enrol.label in (None, label(row))]
                chosen = fitting[: config.enrol.clips]
                if not chosen or len(chosen) == len(order):
                    why = (
                        "no recording is left to score" if chosen else f"no {config.enrol.label!r} recording"
                    )
                    say(f"condition enrolled leaves out speaker {name}: {why}")
                    continue
                profile = _enrolled(model, chosen, read, config.enrol.label)
                if profile is None or profile.empty:
                    why = f"no speech in {len(chosen)} recording(s)"
                    say(f"condition enrolled leaves out speaker {name}: {why}")
                    continue
                options = {"profile": profile, "adapt": config.enrol.adapt}
                yield from _each(model, condition, sorted(set(rows) - set(chosen)), read, options)
            else:
                options = {"profile": _profile(model, order, read), "adapt": config.adapt_whole}
                yield from _each(model, condition, sorted(rows), read, options)
    if unknown and tested != ["raw"]:
        lacking = "" if "raw" in tested else ", which conditions.test lacks"
        say(f"{len(unknown)} recording(s) of unknown speakers are tested under raw alone{lacking}")
    if unknown and "raw" in tested:
        yield from _each(model, "raw", sorted(unknown), read, {"adapt": False} if model.adapts else {})


def _order(rows: Sequence[int], seed: int, name: str) -> list[int]:
    """A permutation that depends on the seed and the speaker's name alone."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    return [sorted(rows)[i] for i in rng.permutation(len(rows))]


def _profile(model: Any, rows: Sequence[int], read: Callable[[int], np.ndarray | None]) -> Any:
    """What the model has learnt after these recordings."""
    profile = None
    for row in rows:
        found = _run(model, read(row), {"profile": profile, "adapt": True})
        profile = profile if found is None else found.profile
    return profile


def _enrolled(
    model: Any, rows: Sequence[int], read: Callable[[int], np.ndarray | None], label: str | None
) -> Any:
    """The profile of an enrolment, the plain one of the same recordings where nothing else is possible; None,
    or an empty one, where no speech was heard."""
    heard = [signal for signal in map(read, rows) if signal is not None]
    knows_neutral = all(f"{name}.reference" in model.card["tensors"] for name in model.adapts)
    if label == "neutral" and heard and knows_neutral:
        try:
            return enrol(model, heard, neutral=True)
        except DataError:  # no speech in them
            return None
    return _profile(model, rows, read)


def _each(
    model: Any,
    condition: str,
    rows: Sequence[int],
    read: Callable[[int], np.ndarray | None],
    options: Mapping[str, Any],
) -> Iterator[tuple[str, int, Any]]:
    for row in rows:
        found = _run(model, read(row), options)
        if found is not None:
            yield condition, row, found


def _run(model: Any, samples: np.ndarray | None, options: Mapping[str, Any]) -> Any:
    return None if samples is None else model.run(samples, mode="full", **options)
