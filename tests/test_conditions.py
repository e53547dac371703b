"""What a model may know of the speaker under each test condition: who learns from what, in which order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_lightning")

import affekt
from affekt.errors import InputError
from affekt.training.conditions import run_conditions
from affekt.training.config import ConditionsConfig, EnrolConfig, load_config

SPEAKERS = {"anna": [0, 2, 4, 6], "bo": [1, 3, 5]}


@dataclasses.dataclass
class Heard:
    """Estimates that name the recordings that the profile knew."""

    knew: tuple
    adapted: bool
    profile: tuple


class Known(tuple):
    """A profile: the recordings it rests on."""

    @property
    def empty(self):
        return not self


class Listener:
    """Stands for a model that adapts: its profile is the list of recordings it has heard speech in."""

    adapts = ("adapt",)
    card = {"tensors": {}}  # noqa: RUF012

    def run(self, samples, mode, *, profile=None, adapt=True):
        assert mode == "full"
        before = Known() if profile is None else profile
        spoken = adapt and samples[0] < 90
        return Heard(before, adapt, Known((*before, int(samples[0]))) if spoken else before)


def read(row):
    return None if row == 3 else np.array([row], np.float32)


def run(config=None, **options):
    found: dict = {}
    for condition, row, heard in run_conditions(
        Listener(), SPEAKERS, read, config or ConditionsConfig(), **options
    ):
        assert row not in found.setdefault(condition, {})
        found[condition][row] = heard
    return found


def test_every_condition_knows_what_it_may():
    found = run()
    assert list(found) == ["raw", "running", "enrolled", "whole"]
    for heard in found["raw"].values():
        assert (heard.knew, heard.adapted) == ((), False)
    for speaker, rows in SPEAKERS.items():
        usable = [row for row in rows if row != 3]
        running = [row for row in found["running"] if row in rows]
        assert sorted(running) == usable
        for place, row in enumerate(running):  # each knows exactly those before it
            assert found["running"][row].knew == tuple(running[:place])
            assert found["running"][row].adapted
        enrolled = {row: heard for row, heard in found["enrolled"].items() if row in rows}
        (known,) = {heard.knew for heard in enrolled.values()}
        assert enrolled, speaker
        assert not set(known) & set(enrolled)
        assert set(known) < set(rows)
        assert all(heard.adapted for heard in enrolled.values())
        for row in usable:
            assert sorted(found["whole"][row].knew) == usable
            assert not found["whole"][row].adapted


def test_the_order_depends_on_seed_and_speaker_alone():
    orders = {seed: list(run(ConditionsConfig(seed=seed))["running"]) for seed in range(6)}
    assert orders[0] == list(run(ConditionsConfig(seed=0, test=["running"]))["running"])
    assert len({tuple(order) for order in orders.values()}) > 1
    alone = [r for _, r, _ in run_conditions(Listener(), {"bo": [5, 3, 1]}, read, ConditionsConfig())]
    assert alone[2:4] == [row for row in orders[0] if row in SPEAKERS["bo"]]


def test_enrolment_on_a_class_and_speakers_without_it():
    said = []
    neutral = {0: "neutral", 2: "sad", 4: "neutral", 6: "neutral", 1: "sad", 3: "sad", 5: "happy"}
    config = ConditionsConfig(test=["enrolled"], enrol=EnrolConfig(2, "neutral", adapt=False))
    found = run(config, label=neutral.get, say=said.append)["enrolled"]
    assert len(found) == 2
    for heard in found.values():
        assert {neutral[row] for row in heard.knew} == {"neutral"}
        assert len(heard.knew) == 2
        assert not heard.adapted
    assert said == ["condition enrolled leaves out speaker bo: no 'neutral' recording"]
    said.clear()
    assert run(ConditionsConfig(test=["enrolled"], enrol=EnrolConfig(4)), say=said.append) == {}
    assert all("no recording is left to score" in line for line in said)
    assert len(said) == 2


@pytest.mark.parametrize("enrolled", [3, 99])  # cannot be read, holds no speech
def test_enrolment_without_speech_leaves_the_speaker_out_and_says_so(enrolled):
    said = []
    config = ConditionsConfig(test=["enrolled"], enrol=EnrolConfig(1, "sad"))
    found = list(
        run_conditions(
            Listener(), {"anna": [0, 2], "bo": [1, enrolled]}, read, config,
            {2: "sad", enrolled: "sad"}.get, said.append,
        )
    )  # fmt: skip
    assert [(condition, row) for condition, row, _ in found] == [("enrolled", 0)]
    assert said == ["condition enrolled leaves out speaker bo: no speech in 1 recording(s)"]


def test_recordings_of_unknown_speakers_are_no_speaker():
    said = []
    words = (lambda row: None, said.append, [9, 8])
    found = list(run_conditions(Listener(), SPEAKERS, read, ConditionsConfig(), *words))
    strange = [(condition, heard.knew, heard.adapted) for condition, row, heard in found if row > 7]
    assert strange == [("raw", (), False)] * 2
    assert said == ["2 recording(s) of unknown speakers are tested under raw alone"]
    said.clear()
    found = list(run_conditions(Listener(), SPEAKERS, read, ConditionsConfig(test=["running"]), *words))
    assert all(row < 7 for _, row, _ in found)
    assert said == [
        "2 recording(s) of unknown speakers are tested under raw alone, which conditions.test lacks"
    ]


def test_a_model_that_does_not_adapt_has_one_condition():
    class Deaf:
        adapts = ()

        def run(self, samples, mode):
            return samples

    assert [c for c, _, _ in run_conditions(Deaf(), SPEAKERS, read, ConditionsConfig())] == ["raw"] * 6


def test_a_real_model_gives_what_its_runs_in_that_order_give():
    model = affekt.load(Path(__file__).parent / "golden" / "schema1_speaker.safetensors")
    count = round(1.2 * model.sample_rate)
    t = np.arange(count) / model.sample_rate
    rise = np.random.default_rng(0).uniform(0.05, 0.5, 5)
    voices = [
        (level * np.sin(2 * np.pi * (150 + 90 * i) * t) * (t > 0.3)).astype(np.float32)
        for i, level in enumerate(rise)
    ]
    config = ConditionsConfig(enrol=EnrolConfig(1))
    found: dict = {}
    for condition, row, estimates in run_conditions(model, {"anna": range(5)}, voices.__getitem__, config):
        found.setdefault(condition, {})[row] = estimates.values
    profile = None
    for row, values in found["running"].items():
        expected = model.run(voices[row], profile=profile)
        np.testing.assert_array_equal(values, expected.values)
        profile = expected.profile
    for row, values in found["whole"].items():  # the same recordings in the same order
        np.testing.assert_array_equal(values, model.run(voices[row], profile=profile, adapt=False).values)
    (enrolled,) = set(range(5)) - set(found["enrolled"])
    known = model.run(voices[enrolled]).profile
    for row, values in found["enrolled"].items():
        np.testing.assert_array_equal(values, model.run(voices[row], profile=known).values)
    for row, values in found["raw"].items():
        np.testing.assert_array_equal(values, model.run(voices[row], adapt=False).values)
        assert not np.array_equal(values, found["whole"][row])


def test_unknown_conditions_are_refused():
    with pytest.raises(InputError, match=r"conditions.test must be one of raw, running, enrolled, whole"):
        load_config(None, ["conditions.test=[cold]"])
    with pytest.raises(InputError, match=r"conditions.enrol.clips must be at least 1"):
        load_config(None, ["conditions.enrol.clips=0"])
    with pytest.raises(InputError, match=r"conditions.test must name at least one"):
        load_config(None, ["conditions.test=[]"])
