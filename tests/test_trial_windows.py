"""Windows of trials for training, and back to one trace per trial."""

# ruff: noqa: E402
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pandas = pytest.importorskip("pandas")
pytest.importorskip("pytorch_lightning")

from affekt import data
from affekt.errors import InputError
from affekt.systems import Head
from affekt.training.loop import predict_examples
from affekt.training.windows import TrialWindows, sub_sample, trace_targets
from checklist import row

HEADS = {"affect": Head(labels=["valence"])}
LENGTHS = [140, 300, 468, 40]


class Memory:
    """Trials in memory, with what `TrialWindows` asks of `affekt.data.Trials`."""

    def __init__(self, lengths, ratios=None, nearest=(), width=2):
        self.steps = np.array(lengths)
        self.ratios = ratios or {"eeg": 1.0, "face": 16.0}
        self.nearest, self.labels, self.width = frozenset(nearest), ["valence"], width
        self.asked = []
        self.traces = None

    def trace(self, i):
        trace = np.sin(np.arange(self.steps[i]) / 9 + i).astype(np.float32)[:, None]
        trace[3::17] = np.nan
        return trace

    def load(self, i, modality, *, offset=0, start=0, stop=None):
        steps = np.arange(self.steps[i])[start:stop]
        self.asked.append((i, modality, offset))
        rows = steps * self.ratios[modality] + offset
        return np.repeat(rows[:, None], self.width, 1).astype(np.float32), steps % 5 != 4


def windows(trials, rows=None, **options):
    rows = range(len(trials.steps)) if rows is None else rows
    options = {"size": 96, "hop": 32, **options}
    return TrialWindows(trials, list(rows), list(trials.ratios), trace_targets(trials, HEADS), **options)


class Echo(torch.nn.Module):
    """A system whose output is its first input feature."""

    heads = HEADS

    def forward(self, features, mask, present):
        return {"affect": features["eeg"][..., :1] + 0.0}


@row("zhang", 14)
def test_windows_cover_every_step_and_are_masked_beyond_the_end():
    part = windows(Memory(LENGTHS))
    counts = [sum(place == which for place, _ in part.items) for which in range(4)]
    assert counts == [3, 8, 13, 1]
    closer = windows(Memory(LENGTHS), hop=24)
    assert [sum(place == which for place, _ in closer.items) for which in range(4)] == [3, 10, 17, 1]
    for which, steps in enumerate(LENGTHS):
        covered = np.zeros(steps, int)
        for (place, start), mask in zip(part.items, part._masks, strict=True):
            if place == which:
                covered[start : start + int(mask.sum())] += 1
                assert len(mask) == 96
        assert (covered >= 1).all()
    batch = part.batch([len(part) - 1])
    assert batch["mask"].sum() == 40
    assert not batch["features"]["eeg"][0, 40:].any()
    assert not batch["present"]["eeg"][0, 40:].any()
    assert not batch["label_mask"]["affect"][0, 40:].any()


@row("zhang", 15)
def test_a_system_that_returns_its_input_gives_the_trials_back():
    trials = Memory(LENGTHS)
    part = windows(trials)
    found = predict_examples(Echo(), part, batch_size=7)["affect"]
    assert [len(trace) for trace in found] == LENGTHS
    for trace, steps in zip(found, LENGTHS, strict=True):
        np.testing.assert_array_equal(trace[:, 0], np.arange(steps))


class Placed(torch.nn.Module):
    """A system whose output is the place in the window: what overlaps differs."""

    heads = HEADS

    def forward(self, features, mask, present):
        batch, time = mask.shape
        return {"affect": torch.arange(float(time)).expand(batch, time)[..., None]}


@row("zhang", 15)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    size=st.integers(2, 20),
    hop=st.integers(1, 20),
)
@settings(max_examples=30)
def test_overlapping_steps_take_the_mean(lengths, size, hop):
    hop = min(hop, size)
    part = windows(Memory(lengths), size=size, hop=hop)
    found = predict_examples(Placed(), part, batch_size=5)["affect"]
    for which, steps in enumerate(lengths):
        total, count = np.zeros(steps), np.zeros(steps)
        for place, start in part.items:
            if place == which:
                for t in range(start, min(start + size, steps)):
                    total[t] += t - start
                    count[t] += 1
        np.testing.assert_allclose(found[which][:, 0], total / count, rtol=1e-6)


@row("zhang", 13)
def test_the_row_of_a_step_is_drawn_anew_each_epoch_and_is_the_first_otherwise():
    trials = Memory([120, 120], {"eeg": 1.0, "face": 16.0, "video": 5.0})
    part = windows(trials, size=None, seed=3)
    drawn = {}
    for epoch in (0, 1, 2, 1):
        batch = part.batch([0, 1], epoch)
        first = {name: batch["features"][name][:, 0, 0].tolist() for name in trials.ratios}
        assert drawn.setdefault(epoch, first) == first  # the same again
        assert first["eeg"] == [0.0, 0.0]
        for name, ratio in trials.ratios.items():
            rows = batch["features"][name][..., 0].numpy()
            np.testing.assert_array_equal(np.diff(rows, axis=1), ratio)
            assert ((rows[:, 0] >= 0) & (rows[:, 0] < ratio)).all()
    assert drawn[0] != drawn[1]
    still = part.batch([0, 1])
    assert all(not still["features"][name][:, 0].any() for name in trials.ratios)
    fixed = windows(trials, size=None, seed=3, moving=False).batch([0, 1], 1)
    assert all(not fixed["features"][name][:, 0].any() for name in trials.ratios)


@row("zhang", 13)
def test_offsets_are_uniform_and_move_all_signals_of_a_trial_together():
    drawn = np.array([[sub_sample(0, e, t, 16) for t in range(40)] for e in range(40)])
    counts = np.bincount(drawn.ravel(), minlength=16)
    assert len(counts) == 16
    # 1600 draws over 16 values: 100 each, sd 9.7
    assert np.abs(counts - 100).max() < 5 * 9.7
    assert [sub_sample(1, e, 0, 1) for e in range(20)] == [0] * 20
    for epoch in range(30):
        assert sub_sample(2, epoch, 7, 16) // 4 == sub_sample(2, epoch, 7, 4)
    assert [sub_sample(0, e, 0, 16) for e in range(20)] != [sub_sample(1, e, 0, 16) for e in range(20)]


def test_windows_of_one_trial_share_the_offset_of_the_epoch():
    trials = Memory([300])
    part = windows(trials)
    batch = part.batch(range(len(part)), 4)
    offsets = batch["features"]["face"][:, 0, 0] - 16 * batch["features"]["eeg"][:, 0, 0]
    assert len(set(offsets.tolist())) == 1


def test_signals_sampled_by_nearest_time_have_no_offset():
    trials = Memory([100], {"eeg": 1.0, "mfcc": 25.0}, nearest=["mfcc"])
    part = windows(trials)
    for epoch in range(5):
        part.batch([0], epoch)
    assert {offset for _, name, offset in trials.asked if name == "mfcc"} == {0}


def test_labels_without_a_value_do_not_count():
    part = windows(Memory([100]))
    batch = part.batch([0])
    known = batch["label_mask"]["affect"][0, :, 0].numpy()
    assert known.tolist() == [t % 17 != 3 for t in range(96)]
    assert torch.isfinite(batch["labels"]["affect"]).all()
    assert np.isnan(part.labels["affect"][0][3])


def test_further_rows_come_with_the_offset_of_the_signals():
    trials = Memory([300])

    def teacher(trial, offset):
        return (np.arange(300) * 16 + offset(16.0))[:, None].astype(np.float32)

    part = windows(trials, extra={"knowledge": teacher})
    plain = windows(trials)
    for epoch in (None, 0, 5):
        batch = part.batch([1, 3], epoch)
        np.testing.assert_array_equal(batch["extra"]["knowledge"][..., 0], batch["features"]["face"][..., 0])
        for name, value in plain.batch([1, 3], epoch)["features"].items():
            assert torch.equal(value, batch["features"][name])  # it changes nothing else


def test_whole_trials():
    part = windows(Memory([30, 50]), size=None)
    batch = part.batch([0, 1])
    assert batch["mask"].sum(1).tolist() == [30, 50]
    found = predict_examples(Echo(), part)["affect"]
    assert [len(trace) for trace in found] == [30, 50]


def test_a_head_that_the_traces_do_not_have_is_named():
    with pytest.raises(
        InputError, match=r"head 'affect' must follow traces of the data \(valence\).*arousal"
    ):
        trace_targets(Memory([10]), {"affect": Head(labels=["arousal"])})
    with pytest.raises(InputError, match="categorical calm, angry"):
        trace_targets(Memory([10]), {"mood": Head(labels=["calm", "angry"])})
    with pytest.raises(InputError, match="targets of 'x' must be 10 steps, got 9"):
        TrialWindows(Memory([10]), [0], ["eeg"], lambda i: {"x": np.zeros(9)}, size=4, hop=2)


def test_classes_per_step(tmp_path):
    part = TrialWindows(
        Memory([10]),
        [0],
        ["eeg"],
        lambda i: {"mood": np.array([0, 1, 2, -1, 0, 1, 2, 0, 0, 0])},
        size=6,
        hop=4,
    )
    batch = part.batch([0])
    assert batch["labels"]["mood"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch["label_mask"]["mood"].tolist() == [[True, True, True, False, True, True]]


def test_the_fingerprint_knows_the_trials_and_the_windows(tmp_path):
    manifest = data.generate(tmp_path, subjects=2, trials=(2, 2), signals={"eeg": {"width": 3}})
    sources = {"eeg": data.make_source("matrix", rate=4)}
    trials = data.prepare_trials(manifest, sources, data.Trace(rate=4, labels=["valence"]), tmp_path / "f")

    def mark(rows, **options):
        options = {"size": 40, "hop": 20, **options}
        part = TrialWindows(trials, rows, ["eeg"], trace_targets(trials, HEADS), **options)
        return b"".join(part.fingerprint())

    one = mark([0, 1])
    assert one == mark([0, 1])
    assert (
        len({one, mark([0, 2]), mark([0, 1], hop=10), mark([0, 1], seed=1), mark([0, 1], moving=False)}) == 5
    )
