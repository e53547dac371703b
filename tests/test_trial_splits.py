"""Partitions of trials: rows shuffled, subjects left out with rows for development, published parts."""

# ruff: noqa: E402
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pandas = pytest.importorskip("pandas")

from affekt import data
from affekt.errors import DataError, InputError
from checklist import row

# Trials per subject of the continuously labelled part of MAHNOB-HCI.
COUNTS = [19, 5, 13, 9, 13, 9, 13, 13, 5, 6, 13, 2, 1, 11, 17, 10, 14, 15, 12, 16, 6, 4, 10, 3]


def trials(counts, **columns):
    subjects = [f"P{s:02d}" for s, n in enumerate(counts) for _ in range(n)]
    table = {"file": [f"{i}.npz" for i in range(len(subjects))], "subject": subjects, **columns}
    return data.Manifest(pandas.DataFrame(table))


def parts(split):
    return [set(getattr(split, part).tolist()) for part in ("train", "dev", "test")]


@row("zhang", 17)
def test_shuffled_trials_have_the_published_sizes():
    manifest = trials(COUNTS)
    assert len(manifest) == 239
    folds = data.row_kfold(manifest, 10)
    sizes = [tuple(map(len, parts(split))) for split in folds]
    assert sizes == [(129, 86, 24)] * 9 + [(130, 86, 23)]
    assert sorted(i for split in folds for i in split.test) == list(range(239))
    assert all(split.grouped_by is None for split in folds)
    assert any(set(manifest.groups()[s.train]) & set(manifest.groups()[s.test]) for s in folds)
    by_share = data.row_kfold(manifest, 10, dev=0.2)
    assert [len(split.dev) for split in by_share] == [43] * 10


@row("zhang", 17)
def test_subjects_left_out_with_rows_for_development():
    manifest = trials(COUNTS)
    folds = data.leave_one_group_out(manifest, dev=0.2, dev_by="row")
    assert [len(split.test) for split in folds] == COUNTS
    names = manifest.groups()
    for split in folds:
        assert len(split.dev) == round(0.2 * (239 - len(split.test)))
        assert not set(names[split.test]) & (set(names[split.train]) | set(names[split.dev]))
    # By rows, the development part knows the training subjects; by groups it does not.
    assert all(set(names[s.train]) & set(names[s.dev]) for s in folds)
    apart = data.leave_one_group_out(manifest, dev=0.2)
    assert not any(set(names[s.train]) & set(names[s.dev]) for s in apart)


@given(n=st.integers(4, 60), k=st.integers(2, 6), seed=st.integers(0, 5), dev=st.floats(0.05, 0.6))
@settings(max_examples=25)
def test_row_folds_are_disjoint_tile_the_rows_and_repeat(n, k, seed, dev):
    k = min(k, n // 2)
    folds = data.row_kfold(n, k, seed=seed, dev=dev)
    again = data.row_kfold(n, k, seed=seed, dev=dev)
    assert [parts(s) for s in folds] == [parts(s) for s in again]
    assert sorted(i for s in folds for i in s.test) == list(range(n))
    for split in folds:
        train, held, test = parts(split)
        assert train | held | test == set(range(n))
        assert train
        assert held
    assert max(len(s.test) for s in folds) - min(len(s.test) for s in folds) <= 1


def test_another_seed_gives_other_folds():
    one, two = (data.row_kfold(100, 5, seed=seed) for seed in (0, 1))
    assert [parts(s) for s in one] != [parts(s) for s in two]
    # The order is drawn by hashing, so that it is the same with every version of every library.
    assert one[0].test[:6].tolist() == [2, 3, 4, 6, 20, 22]


@row("zhang", 18)
def test_folds_around_a_published_partition():
    split = ["train"] * 341 + ["dev"] * 71 + ["test"] * 152
    manifest = trials([1] * 564, split=split)
    folds = data.split_kfold(manifest, 5)
    assert len(folds) == 6
    train, held, test = parts(folds[0])
    assert (train, held, test) == (set(range(341)), set(range(341, 412)), set(range(412, 564)))
    assert [len(s.dev) for s in folds] == [71, 68, 68, 68, 68, 69]
    assert sorted(i for s in folds[1:] for i in s.dev) == list(range(341))
    for fold in folds[1:]:
        assert set(range(341, 412)) <= set(fold.train.tolist())
        assert np.array_equal(fold.dev, np.arange(fold.dev[0], fold.dev[-1] + 1))  # consecutive
        assert len(fold.train) + len(fold.dev) == 412
        assert fold.grouped_by == "subject"


@row("zhang", 18)
def test_halves_of_a_published_development_part():
    culture = ["DE"] * 34 + ["HU"] * 34 + ["DE"] * 14 + ["HU"] * 14
    split = ["train"] * 68 + ["dev"] * 28
    manifest = trials([1] * 96, split=split, culture=culture)
    half = data.split_halves(manifest, strata="culture")
    assert tuple(map(len, parts(half))) == (68, 14, 14)
    kinds = manifest.groups("culture")
    for part in (half.dev, half.test):
        assert sorted(kinds[part].tolist()) == ["DE"] * 7 + ["HU"] * 7
    assert parts(half) == parts(data.split_halves(manifest, strata="culture"))
    assert parts(half) != parts(data.split_halves(manifest, strata="culture", seed=1))


def test_halves_keep_subjects_together():
    manifest = trials([2, 3, 4, 2, 2], split=["train"] * 2 + ["dev"] * 11)
    half = data.split_halves(manifest)
    names = manifest.groups()
    assert not set(names[half.dev]) & set(names[half.test])


def test_bad_partitions_are_errors():
    manifest = trials([2, 2, 2])
    with pytest.raises(InputError, match=r"k must not exceed the number of rows, 6; got 7"):
        data.row_kfold(manifest, 7)
    with pytest.raises(InputError, match="number of rows or a fraction"):
        data.row_kfold(manifest, 2, dev=0.0)
    with pytest.raises(DataError, match="takes all 3 row"):
        data.row_kfold(manifest, 2, dev=3)
    with pytest.raises(InputError, match="drawn one by one"):
        data.leave_one_group_out(manifest, dev=["P00"], dev_by="row")
    with pytest.raises(InputError, match="dev_by must be one of"):
        data.leave_one_group_out(manifest, dev=1, dev_by="trial")
    with pytest.raises(DataError, match="no column 'split'"):
        data.split_kfold(manifest)
    with pytest.raises(DataError, match="lacks dev"):
        data.split_kfold(trials([2, 2], split=["train"] * 3 + ["test"]))
    with pytest.raises(DataError, match="also has validation"):
        data.split_halves(trials([2, 2], split=["train"] * 2 + ["dev", "validation"]))
    with pytest.raises(DataError, match="both halves need one"):
        data.split_halves(trials([1, 2], split=["train"] + ["dev"] * 2))
    with pytest.raises(DataError, match="several values of 'culture'"):
        data.split_halves(
            trials([1, 2, 2, 2, 2], split=["train"] + ["dev"] * 8, culture=["a", *["a", "b"] * 4]),
            strata="culture",
        )
