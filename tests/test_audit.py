"""The audit finds every planted leak, says what it is, and finds nothing in a clean run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import affekt
from affekt.data import FeatureStore, Manifest, Split, Statistics, audit, group_kfold, prepare
from affekt.errors import DataError, InputError
from affekt.modelfile import write_model
from small_model import small_model
from sounds import tone

pd = pytest.importorskip("pandas")


class Peaks:
    """Ten numbers per 10 ms."""

    def __init__(self) -> None:
        self.options = {"sample_rate": 16000}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        return samples[: len(samples) // 160 * 160].reshape(-1, 10, 16).max(axis=2)


@pytest.fixture
def store(write_wav: Callable[..., Path], tmp_path: Path) -> FeatureStore:
    pytest.importorskip("safetensors")
    files = [f"s{speaker}_{clip}.wav" for speaker in range(6) for clip in range(3)]
    for i, file in enumerate(files):
        write_wav(file, tone(0.2 + 0.01 * i, frequency=90.0 + 20 * i, level=0.1 + 0.03 * (i // 3)))
    frame = pd.DataFrame(
        {"file": files, "subject": [f[:2] for f in files], "session": [f[:2] for f in files]}
    )
    return prepare(Manifest(frame, root=tmp_path), Peaks(), tmp_path / "store")


def write_run(folder: Path, store: FeatureStore, split: Split, statistics: Statistics | None = None) -> Path:
    folder.mkdir(parents=True)
    split.save(folder, store.manifest)
    (statistics or store.statistics(split.train)).save(folder)
    return folder


def test_a_clean_protocol_passes(store: FeatureStore, tmp_path: Path) -> None:
    for fold in group_kfold(store.manifest, 3, dev=1):
        write_run(tmp_path / "run" / fold.name / "seed_0", store, fold)
    report = audit(tmp_path / "run")
    assert report.ok, str(report)
    assert report.findings == ()
    assert [split["where"] for split in report.checked] == [f"fold_{k}/seed_0" for k in (1, 2, 3)]
    assert report.checked[0]["checks"] == ["subject", "session", "file", "window", "content", "statistics"]
    assert report.checked[0]["subjects"] == {"train": 3, "dev": 1, "test": 2}
    assert "no leak found" in str(report)
    assert json.loads(report.to_json()) == {
        "ok": True,
        "findings": [],
        "checked": [dict(split) for split in report.checked],
    }


def test_a_shared_speaker_is_found(store: FeatureStore, tmp_path: Path) -> None:
    split = Split(range(0, 13), [], range(13, 18))  # speaker s4 has clips on both sides
    run = write_run(tmp_path / "run", store, split)
    report = audit(run)
    assert not report.ok
    assert [finding.kind for finding in report.findings] == ["subject", "session"]
    finding = report.findings[0]
    assert finding.partitions == ("train", "test")
    assert finding.examples == ("s4",)
    assert finding.message == "1 subject(s) are in train and test: s4"
    assert "[LEAK] run: subject" in str(report)
    assert audit(run, allow=["subject", "session"]).ok
    assert not audit(run, allow=["subject"]).ok


@pytest.mark.parametrize("pair", [("train", "dev"), ("dev", "test"), ("train", "test")])
def test_a_shared_speaker_is_found_between_any_two(pair: tuple[str, str]) -> None:
    rows = [("a.wav", "1", "train"), ("b.wav", "2", "dev"), ("c.wav", "3", "test")]
    rows += [("d.wav", "9", pair[0]), ("e.wav", "9", pair[1])]
    report = audit(pd.DataFrame(rows, columns=["file", "subject", "partition"]))
    assert [(f.kind, f.partitions) for f in report.findings] == [("subject", pair)]


def test_an_overlapping_window_is_found() -> None:
    rows = [
        ("x/a.wav", 0.0, 4.0, "1", "train"),
        ("x/../x/a.wav", 3.5, 7.5, "2", "test"),  # another spelling, and another claim about who it is
        ("b.wav", 0.0, 4.0, "3", "train"),
        ("b.wav", 4.0, 8.0, "4", "test"),  # one file, but the parts only touch
        ("c.wav", np.nan, np.nan, "5", "train"),
        ("c.wav", 60.0, 61.0, "6", "dev"),  # the whole file overlaps every part of it
        ("d.wav", 0.0, 4.0, "7", "train"),
        ("d.wav", 2.0, 6.0, "7", "train"),  # overlap within a partition is no leak
    ]
    table = pd.DataFrame(rows, columns=["file", "start", "end", "subject", "partition"])
    report = audit(table)
    found = {(f.kind, f.partitions): f for f in report.findings}
    assert set(found) == {
        ("window", ("train", "test")),
        ("window", ("train", "dev")),
        ("file", ("train", "test")),
    }
    assert found["window", ("train", "test")].examples == ("x/a.wav [0, 4) s and [3.5, 7.5) s",)
    assert found["window", ("train", "dev")].examples == ("c.wav [0, inf) s and [60, 61) s",)
    assert found["file", ("train", "test")].examples == ("b.wav",)


span = st.tuples(st.integers(0, 20), st.integers(1, 10)).map(lambda p: (float(p[0]), float(p[0] + p[1])))


@given(train=st.lists(span, min_size=1, max_size=8), test=st.lists(span, min_size=1, max_size=8))
def test_overlap_is_found_exactly_where_samples_are_shared(
    train: list[tuple[float, float]], test: list[tuple[float, float]]
) -> None:
    rows = [("a.wav", *s, "1", "train") for s in train] + [("a.wav", *s, "2", "test") for s in test]
    report = audit(pd.DataFrame(rows, columns=["file", "start", "end", "subject", "partition"]))
    seconds = [{t for a, b in part for t in range(int(a), int(b))} for part in (train, test)]
    kinds = {f.kind for f in report.findings}
    assert ("window" in kinds) == bool(seconds[0] & seconds[1])
    assert kinds <= {"window", "file"}
    assert kinds


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("everything", "they match train+dev+test"),
        ("test", "they match test"),
        ("dev", "they match dev"),
        ("train+dev", "they match train+dev"),
        ("nothing", "the nearest candidate"),
    ],
)
def test_statistics_fitted_elsewhere_are_found(
    store: FeatureStore, tmp_path: Path, source: str, words: str
) -> None:
    split = group_kfold(store.manifest, 3, dev=1)[0]
    wrong = {
        "everything": lambda: store.statistics(np.arange(len(store))),
        "test": lambda: store.statistics(split.test),
        "dev": lambda: store.statistics(split.dev),
        "train+dev": lambda: store.statistics(np.concatenate([split.train, split.dev])),
        "nothing": lambda: replace(store.statistics(split.train), mean=np.zeros(10), sd=np.ones(10)),
    }[source]()
    run = write_run(tmp_path / "run", store, split, wrong)
    report = audit(run)
    assert not report.ok
    assert [finding.kind for finding in report.findings] == ["statistics"]
    assert words in report.findings[0].message


def test_statistics_rounded_to_float32_still_pass(store: FeatureStore, tmp_path: Path) -> None:
    split = group_kfold(store.manifest, 3)[0]
    right = store.statistics(split.train)
    rounded = replace(
        right, mean=right.mean.astype(np.float32).astype(float), sd=right.sd.astype(np.float32).astype(float)
    )
    assert audit(write_run(tmp_path / "a", store, split, rounded)).ok
    lying = replace(right, count=right.count + 1)
    report = audit(write_run(tmp_path / "b", store, split, lying))
    assert "their count is" in report.findings[0].message
    confessed = replace(right, fitted_on="train+test")
    report = audit(write_run(tmp_path / "c", store, split, confessed))
    assert "fitted on 'train+test'" in report.findings[0].message


def write_fitted(run: Path, statistics: Statistics) -> Path:
    """A model beside the split whose standardise node holds `statistics`."""
    source = affekt.load(small_model(run / "model.safetensors", mels=len(statistics.mean)))
    card = {key: value for key, value in source.card.items() if key not in ("schema", "tensors")}
    fitted = {"norm.mean": statistics.mean, "norm.scale": 1 / np.maximum(statistics.sd, 1e-3)}
    return write_model(run / "model.safetensors", card, {**source.tensors(), **fitted})


def test_the_model_must_use_the_statistics_of_train(store: FeatureStore, tmp_path: Path) -> None:
    split = group_kfold(store.manifest, 3, dev=1)[0]
    right = store.statistics(split.train)
    run = write_run(tmp_path / "run", store, split)
    write_fitted(run, right)
    report = audit(run)
    assert report.ok, str(report)
    assert report.checked[0]["checks"][-2:] == ["statistics", "model"]

    everything = store.statistics(np.arange(len(store)))
    for wrong in (everything, replace(right, mean=everything.mean), replace(right, sd=everything.sd)):
        write_fitted(run, wrong)
        report = audit(run)
        assert [finding.kind for finding in report.findings] == ["statistics"]
        assert "in the model (node norm)" in report.findings[0].message


def test_a_model_that_cannot_be_checked_is_said(store: FeatureStore, tmp_path: Path) -> None:
    split = group_kfold(store.manifest, 3, dev=1)[0]
    run = write_run(tmp_path / "run", store, split)
    write_fitted(run, replace(store.statistics(split.train), mean=np.zeros(12), sd=np.ones(12)))
    report = audit(run)
    assert [finding.kind for finding in report.findings] == ["unverified"]
    assert "has 12 means" in report.findings[0].message
    (run / "model.safetensors").write_bytes(b"no model")
    report = audit(run)
    assert [finding.kind for finding in report.findings] == ["unverified"]
    assert "cannot be read" in report.findings[0].message

    write_fitted(run, store.statistics(split.train))
    (run / "statistics.json").unlink()
    for given_store in (None, store):
        report = audit(run, store=given_store)
        assert [finding.kind for finding in report.findings] == ["unverified"]
        assert "without the statistics.json" in report.findings[0].message
    write_fitted(run, store.statistics(np.arange(len(store))))
    assert [finding.kind for finding in audit(run, store=store).findings] == ["unverified", "statistics"]


def test_the_same_recording_under_two_names_is_found(
    store: FeatureStore, tmp_path: Path, write_wav: Callable[..., Path]
) -> None:
    (tmp_path / "copy.wav").write_bytes((tmp_path / "s0_0.wav").read_bytes())
    table = store.manifest.table.drop(columns=["object", "frames"])
    table.loc[len(table)] = {"file": str(tmp_path / "copy.wav"), "subject": "s9", "session": "s9"}
    bigger = prepare(Manifest(table), Peaks(), tmp_path / "bigger")
    split = Split(range(9), [], range(9, 19))
    report = audit(write_run(tmp_path / "run", bigger, split))
    assert [finding.kind for finding in report.findings] == ["content"]
    assert "s0_0.wav" in report.findings[0].examples[0]
    assert "copy.wav" in report.findings[0].examples[0]


def planted(kind: str, store: FeatureStore, folder: Path) -> Path:
    """A run that is clean but for one leak."""
    clean = group_kfold(store.manifest, 3, dev=1)[0]
    if kind == "shared speaker":
        moved = clean.train[0]  # one clip of a training speaker is tested
        leaking = Split(clean.train[1:], clean.dev, np.append(clean.test, moved))
        return write_run(folder, store, leaking)
    if kind == "statistics fitted on test":
        used = np.concatenate([clean.train, clean.test])
        return write_run(folder, store, clean, store.statistics(used))
    run = write_run(folder, store, clean)
    if kind == "overlapping window":
        table = pd.read_csv(run / "split.csv").drop(columns="row")
        window = {"file": "long.wav", "subject": "t0", "session": "t0", "partition": "train"}
        other = {**window, "subject": "t1", "session": "t1", "partition": "test"}
        more = pd.DataFrame([{**window, "start": 0.0, "end": 4.0}, {**other, "start": 3.0, "end": 7.0}])
        pd.concat([table, more]).to_csv(run / "split.csv", index=False)
        (run / "statistics.json").unlink()
    return run


@pytest.mark.parametrize("kind", ["", "shared speaker", "overlapping window", "statistics fitted on test"])
def test_the_command_fails_on_a_planted_leak(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    cli = pytest.importorskip("affekt.cli")
    run = planted(kind, store, tmp_path / "run")
    status = cli.main(["audit", str(run)])
    printed = "".join(capsys.readouterr())
    if not kind:
        assert status == 0
        assert "no leak found" in printed
        return
    assert status != 0
    word = {"shared speaker": "subject", "overlapping window": "window"}.get(kind, "statistics")
    assert f"[LEAK] run: {word}" in printed


def test_what_cannot_be_checked_is_not_passed(store: FeatureStore, tmp_path: Path) -> None:
    split = group_kfold(store.manifest, 3)[0]
    right = store.statistics(split.train)
    report = audit(write_run(tmp_path / "a", store, split, replace(right, store="")))
    assert [finding.kind for finding in report.findings] == ["unverified"]
    assert audit(tmp_path / "a", store=store).ok
    report = audit(write_run(tmp_path / "b", store, split, replace(right, store=str(tmp_path / "gone"))))
    assert "cannot be used" in report.findings[0].message
    assert audit(tmp_path / "b", store=tmp_path / "store").ok
    report = audit(write_run(tmp_path / "c", store, split, replace(right, key="0" * 64)))
    assert "other feature options" in report.findings[0].message
    report = audit(write_run(tmp_path / "d", store, split, replace(right, mean=np.zeros(3), sd=np.ones(3))))
    assert "the stored mean has 3 values" in report.findings[0].message
    small = prepare(store.manifest.select(range(10)), Peaks(), tmp_path / "small")
    report = audit(tmp_path / "a", store=small)
    assert "lacks 8 row(s) of the split" in report.findings[0].message


def test_rows_are_found_in_a_store_by_the_end_of_their_path(store: FeatureStore, tmp_path: Path) -> None:
    split = group_kfold(store.manifest, 3)[0]
    run = write_run(tmp_path / "run", store, split)
    table = pd.read_csv(run / "split.csv")
    table["file"] = [Path(file).name for file in table["file"]]
    table.to_csv(run / "split.csv", index=False)
    assert audit(run).ok


def test_unknown_subjects_and_empty_partitions_are_findings() -> None:
    table = pd.DataFrame({"file": ["a", "b"], "subject": [None, None], "partition": ["train", "train"]})
    report = audit(table)
    assert [finding.kind for finding in report.findings] == ["partition", "unknown_subject"]
    assert not report.ok
    assert audit(table, allow=["partition", "unknown_subject"]).ok


def test_a_manifest_with_fixed_partitions_can_be_audited() -> None:
    frame = pd.DataFrame(
        {"file": list("abc"), "subject": ["1", "2", "2"], "split": ["train", "train", "test"]}
    )
    report = audit(Manifest(frame).table)
    assert [finding.kind for finding in report.findings] == ["subject"]


@pytest.mark.parametrize(
    ("corpus", "seen", "kinds"),
    [
        (None, [], []),
        (None, ["a"], ["unverified"]),
        (None, ["user's manifest"], ["unverified"]),
        ("b", ["user's manifest"], ["unverified"]),
        ("b", ["a"], []),
        ("a", ["a"], ["initial"]),
    ],
)
def test_what_an_initial_model_may_have_heard_is_said(
    write_wav: Callable[..., Path], tmp_path: Path, corpus: str | None, seen: list[str], kinds: list[str]
) -> None:
    files = [write_wav(f"{i}.wav", tone(0.2, frequency=100.0 + 50 * i)).name for i in range(2)]
    known = pd.DataFrame({"file": files, "subject": ["s0", "s1"], "session": ["s0", "s1"]})
    with_corpus = known if corpus is None else known.assign(corpus=corpus)
    kept = prepare(Manifest(with_corpus, root=tmp_path), Peaks(), tmp_path / "store")
    table = known.assign(start=np.nan, end=np.nan, partition=["train", "test"])
    report = audit(table, store=kept, seen=seen)
    assert [finding.kind for finding in report.findings] == kinds
    assert report.ok == ("initial" not in kinds)
    unknown = "unverified" in kinds
    assert bool(report.notices) == unknown
    assert [f["notice"] for f in json.loads(report.to_json())["findings"]] == [unknown] * len(kinds)
    assert ("could not be checked" in str(report)) == unknown


def test_nothing_to_audit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split\.csv in it or below"):
        audit(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        audit(tmp_path / "none")
    with pytest.raises(DataError, match=r"missing column\(s\) partition"):
        audit(pd.DataFrame({"file": ["a"]}))
    with pytest.raises(InputError, match="allow must be one of"):
        audit(tmp_path, allow=["speaker"])
    (tmp_path / "split.csv").write_text("file,subject,partition\na,1,train\nb,2,test\n")
    (tmp_path / "statistics.json").write_text("nonsense")
    with pytest.raises(DataError, match=r"statistics\.json"):
        audit(tmp_path)
