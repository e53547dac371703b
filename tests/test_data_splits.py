"""Folds never share a group, cover every row once, and come out the same for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affekt.data import (
    Manifest,
    Split,
    corpus,
    group_kfold,
    leave_one_group_out,
    listed_folds,
    published_folds,
    random_split,
    read_split,
)
from affekt.errors import DataError, InputError

pd = pytest.importorskip("pandas")

group_lists = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1)


def assert_apart(split: Split, groups: list[str]) -> None:
    names = [{groups[i] for i in part} for part in (split.train, split.dev, split.test)]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    assert len(split.train)
    assert len(split.test)


@given(groups=group_lists, k=st.integers(2, 8), seed=st.integers(0, 99), dev=st.sampled_from([None, 1, 0.3]))
def test_group_kfold(groups: list[str], k: int, seed: int, dev: float | None) -> None:
    n = len(set(groups))
    if k > n:
        with pytest.raises(InputError, match=f"k must not exceed the number of groups, {n}; got {k}"):
            group_kfold(groups, k)
        return
    # With few groups, a fold may have too few training groups to give some away.
    try:
        folds = group_kfold(groups, k, seed=seed, dev=dev)
    except DataError as error:
        assert "at least 1 must be left to train on" in str(error)  # noqa: PT017
        return
    for fold in folds:
        assert_apart(fold, groups)
        rows = np.concatenate([fold.train, fold.dev, fold.test])
        assert sorted(rows.tolist()) == list(range(len(groups)))
        assert len(fold.dev) == 0 if dev is None else len(fold.dev) > 0
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested.tolist()) == list(range(len(groups)))
    again = group_kfold(groups, k, seed=seed, dev=dev)
    assert all(
        np.array_equal(getattr(a, part), getattr(b, part))
        for a, b in zip(folds, again, strict=True)
        for part in ("train", "dev", "test")
    )


@given(groups=group_lists, k=st.integers(2, 6), seed=st.integers(0, 9))
def test_fold_sizes_are_those_of_scikit_learn(groups: list[str], k: int, seed: int) -> None:
    if k > len(set(groups)):
        return
    model_selection = pytest.importorskip("sklearn.model_selection")
    theirs = [len(test) for _, test in model_selection.GroupKFold(k).split(groups, groups=groups)]
    ours = [len(fold.test) for fold in group_kfold(groups, k, seed=seed)]
    assert sorted(ours) == sorted(theirs)


def test_folds_are_pinned() -> None:
    # Results are compared between machines and versions, so the draw itself must never change.
    groups = [f"s{i:02d}" for i in range(12) for _ in range(3)]
    folds = group_kfold(groups, 4, seed=3, dev=2)
    drawn = [sorted({groups[i] for i in fold.test}) for fold in folds]
    assert drawn == [
        ["s00", "s06", "s08"],
        ["s07", "s09", "s11"],
        ["s01", "s02", "s04"],
        ["s03", "s05", "s10"],
    ]
    assert [sorted({groups[i] for i in fold.dev}) for fold in folds] == [
        ["s09", "s10"],
        ["s03", "s04"],
        ["s07", "s11"],
        ["s07", "s09"],
    ]
    assert group_kfold(groups, 4, seed=4)[0].test.tolist() != folds[0].test.tolist()


def test_leave_one_group_out() -> None:
    groups = ["b", "a", "b", "c/d", "a"]
    folds = leave_one_group_out(groups, dev=1)
    assert [fold.name for fold in folds] == ["a", "b", "c_d"]
    assert [fold.test.tolist() for fold in folds] == [[1, 4], [0, 2], [3]]
    for fold in folds:
        assert_apart(fold, groups)
        assert len({groups[i] for i in fold.dev}) == 1


def test_fixed_development_groups_stay_out_of_training_and_testing_keeps_its_own() -> None:
    groups = list("aabbccdd")
    for fold in leave_one_group_out(groups, dev=["a", "b"]):
        tested = {groups[i] for i in fold.test}
        assert {groups[i] for i in fold.dev} == {"a", "b"} - tested
        assert not {groups[i] for i in fold.train} & {"a", "b"}
    with pytest.raises(InputError, match=r"dev names group\(s\) that do not exist: z"):
        leave_one_group_out(groups, dev=["z"])
    with pytest.raises(DataError, match="leave it 0 development and 3 training groups"):
        leave_one_group_out(groups, dev=["a"])


def test_random_split_keeps_groups_together() -> None:
    groups = [f"s{i}" for i in range(10) for _ in range(4)]
    split = random_split(groups, test=0.2, dev=0.25, seed=1)
    assert_apart(split, groups)
    assert (len(split.test), len(split.dev), len(split.train)) == (8, 8, 24)
    assert random_split(groups, test=3, seed=1).test.size == 12
    for test in (0, 1.0, -0.5, True, "x"):
        with pytest.raises(InputError, match="test"):
            random_split(groups, test=test)


def test_bad_groups_are_named() -> None:
    with pytest.raises(DataError, match=r"at least 2 groups; got 1 \('a'\)"):
        group_kfold(["a", "a"], 2)
    with pytest.raises(DataError, match="at least 2 groups; got 0"):
        leave_one_group_out([])
    with pytest.raises(DataError, match="must have a value in every row"):
        group_kfold(["a", None, "b"], 2)
    with pytest.raises(DataError, match="must have a value in every row"):
        group_kfold([1.0, float("nan"), 2.0], 2)
    with pytest.raises(InputError, match="groups must be"):
        group_kfold("abc", 2)
    with pytest.raises(InputError, match="k must be an integer not below 2"):
        group_kfold(["a", "b"], 1)
    with pytest.raises(DataError, match="dev = 1 takes all 1 group"):
        group_kfold(["a", "b"], 2, dev=1)


def test_a_row_cannot_be_in_two_partitions() -> None:
    with pytest.raises(DataError, match=r"1 row\(s\) are in more than one partition, the first is row 2"):
        Split([0, 1, 2], [], [2, 3])


def test_a_split_on_disk_comes_back(tmp_path: Path) -> None:
    m = Manifest(
        pd.DataFrame(
            {"file": list("abcd"), "subject": ["01", "01", "02", "03"], "start": [0.5, 0, 0, 1], "x": 1}
        )
    )
    split = Split([3, 0], [1], [2])
    split.save(tmp_path, m)
    table = read_split(tmp_path)
    assert list(table) == ["file", "start", "end", "subject", "session", "partition", "row"]
    assert table["partition"].tolist() == ["train", "dev", "test", "train"]
    assert table["subject"].tolist() == ["01", "01", "02", "03"]
    assert table["row"].tolist() == [0, 1, 2, 3]
    assert table["start"].tolist() == [0.5, 0, 0, 1]
    assert table["end"].isna().all()
    with pytest.raises(InputError, match="row 4 of a manifest of 4 rows"):
        Split([4], [], []).save(tmp_path, m)


def test_a_broken_split_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    with pytest.raises(DataError, match="no such split"):
        read_split(tmp_path)
    for content, reason in (
        ("file,subject\na,1\n", r"missing column\(s\) partition"),
        ("file,partition\na,validation\n", "partition must be one of train, dev, test; got validation"),
        ("file,partition\n", "no rows"),
        ("file,partition,start\na,train,soon\n", "start must be numbers"),
        ("", "cannot be read"),
    ):
        file.write_text(content)
        with pytest.raises(DataError, match=reason):
            read_split(file)


def folds_on_disk(folder: Path, folds: list[tuple[list[str], list[str]]]) -> Path:
    folder.mkdir(exist_ok=True)
    for k, parts in enumerate(folds, 1):
        for part, names in zip(("train", "test"), parts, strict=True):
            lines = [json.dumps({"key": f"ravdess-{name}", "dataset": "ravdess"}) for name in names]
            (folder / f"ravdess_{part}_fold_{k}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def six_clips() -> Manifest:
    clips = [f"03-01-0{k}-01-01-01-0{actor}" for actor in (1, 2, 3) for k in (1, 2)]
    return Manifest(pd.DataFrame({"file": [f"{c}.flac" for c in clips], "subject": [c[-2:] for c in clips]}))


def test_published_folds(tmp_path: Path) -> None:
    m = six_clips()
    names = [Path(file).stem for file in m.table["file"]]
    folder = folds_on_disk(tmp_path / "f", [(names[2:], names[:2]), (names[:4], names[4:])])
    folds = published_folds(folder, m)
    assert [fold.name for fold in folds] == ["fold_1", "fold_2"]
    assert [fold.test.tolist() for fold in folds] == [[0, 1], [4, 5]]
    assert [fold.train.tolist() for fold in folds] == [[2, 3, 4, 5], [0, 1, 2, 3]]
    assert all(fold.grouped_by == "subject" and not len(fold.dev) for fold in folds)
    for fold in published_folds(folder, m, dev=1, seed=5):
        assert_apart(fold, m.groups().tolist())
        assert len(fold.dev) == 2
    pair = [(folder / "ravdess_train_fold_2.jsonl", folder / "ravdess_test_fold_2.jsonl")]
    assert published_folds(pair, m)[0].test.tolist() == [4, 5]


def test_published_folds_that_do_not_fit(tmp_path: Path) -> None:
    m = six_clips()
    names = [Path(file).stem for file in m.table["file"]]
    folder = folds_on_disk(tmp_path / "f", [([*names[2:], "03-01-08-01-01-01-09"], names[:2])])
    with pytest.raises(DataError, match=r"fold_1: the manifest lacks 1 clip.*03-01-08-01-01-01-09"):
        published_folds(folder, m)
    fold = published_folds(folder, m, dev=1, on_missing="skip")[0]
    assert len(fold.train) + len(fold.dev) == 4
    assert fold.missing == ("03-01-08-01-01-01-09",)
    shared = published_folds(folds_on_disk(tmp_path / "g", [(names[1:], names[:1])]), m)
    assert shared[0].grouped_by is None  # as published; the audit reports the shared speaker
    with pytest.raises(DataError, match="more than one partition"):
        published_folds(folds_on_disk(tmp_path / "h", [(names, names[:1])]), m)
    with pytest.raises(DataError, match=r"no file like ravdess_train_fold_1.jsonl"):
        published_folds(tmp_path, m)
    (folder / "ravdess_test_fold_1.jsonl").unlink()
    with pytest.raises(DataError, match="fold 1 has no test file"):
        published_folds(folder, m)
    for content, reason in (("{}\n", "line 1: expected"), ("nonsense\n", "line 1"), ("\n", "is empty")):
        (folder / "ravdess_test_fold_1.jsonl").write_text(content)
        with pytest.raises(DataError, match=reason):
            published_folds(folder, m)


def test_real_published_folds(data_dir: Path) -> None:
    if not (data_dir / "ravdess_folds").is_dir():
        pytest.skip("the published folds are not there")
    m = corpus("ravdess", data_dir / "ravdess")
    folds = published_folds(data_dir / "ravdess_folds", m, dev=4)
    assert len(folds) == 6
    groups = m.groups().tolist()
    tested: Counter[str] = Counter()
    for fold in folds:
        assert_apart(fold, groups)
        assert (len(fold.train), len(fold.dev), len(fold.test)) == (960, 240, 240)
        tested.update({groups[i] for i in fold.test})
    assert len(tested) == 24
    assert set(tested.values()) == {1}


def test_listed_folds() -> None:
    groups = list("abcabcddee")
    folds = listed_folds(groups, [["a", "d"], ["b"]], dev=1, seed=2)
    assert [f.name for f in folds] == ["fold_1", "fold_2"]
    assert [{groups[i] for i in f.test} for f in folds] == [{"a", "d"}, {"b"}]
    for fold in folds:
        assert_apart(fold, groups)
        assert len(fold.train) + len(fold.dev) + len(fold.test) == len(groups)
        assert len({groups[i] for i in fold.dev}) == 1


@pytest.mark.parametrize(
    ("tests", "error", "words"),
    [
        ([["a"], ["x"]], DataError, "x, of whom there is no recording"),
        ([["a"], ["a", "b"]], InputError, "a more than once"),
        ([["a"], []], InputError, "at least one group per fold"),
        ([], InputError, "at least one group per fold"),
    ],
)
def test_listed_folds_that_do_not_fit(tests: list[list[str]], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        listed_folds(list("abcd"), tests)


def test_the_shipped_ravdess_folds_are_the_published_ones(data_dir: Path) -> None:
    training = pytest.importorskip("affekt.training")
    manifest = corpus("ravdess", data_dir / "ravdess")
    published = published_folds(data_dir / "ravdess_folds", manifest)
    listed = listed_folds(manifest, training.load_config("ravdess").protocol.tests)
    assert len(listed) == len(published) == 6
    for ours, theirs in zip(listed, published, strict=True):
        np.testing.assert_array_equal(ours.test, theirs.test)
        np.testing.assert_array_equal(ours.train, theirs.train)


@pytest.mark.parametrize(("preset", "people"), [("ravdess", 24), ("emotale", 18)])
def test_every_person_can_be_left_out_from_the_command_line(data_dir: Path, preset: str, people: int) -> None:
    protocol = pytest.importorskip("affekt.training.protocol")
    if not (data_dir / preset).is_dir():
        pytest.skip(f"no {preset}")
    options = [f"data.root={data_dir}", "protocol.kind=leave_one_group_out"]
    config = protocol.load_config(preset, options)
    _, manifest = protocol._manifests(config)
    folds = protocol._folds(config, manifest)
    assert len(folds) == people
    person = manifest.table["file"].str.extract(r"(\d+)\.\w+$" if preset == "ravdess" else r"_(\d{3})_")[0]
    for fold in folds:  # by the number in the file name: one person is one number, in whatever language
        assert person[fold.test].nunique() == 1
        assert not set(person[fold.test]) & set(person[np.concatenate([fold.train, fold.dev])])
        assert len(fold.dev)
