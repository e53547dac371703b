"""Prepared features are what the extractor gives, are never stale, and no recording is lost silently."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affekt.data import FeatureStore, Manifest, Statistics, feature_key, prepare, read_audio
from affekt.data.store import Moments
from affekt.errors import DataError, InputError
from sounds import tone

pd = pytest.importorskip("pandas")
pytest.importorskip("safetensors")
pytest.importorskip("soundfile")


class Energy:
    """Energy and peak per 10 ms: a feature extractor as the store wants it, and a count of its calls."""

    def __init__(self, hop: int = 160, sample_rate: int = 16000) -> None:
        self.options = {"hop": hop, "sample_rate": sample_rate}
        self.calls = 0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        self.calls += 1
        hop = self.options["hop"]
        frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
        return np.stack([(frames**2).mean(axis=1), np.abs(frames).max(axis=1)], axis=1)


@pytest.fixture
def clips(write_wav: Callable[..., Path], tmp_path: Path) -> Manifest:
    for i in range(4):
        write_wav(f"audio/c{i}.wav", tone(0.2 + 0.1 * i, frequency=100.0 + 50 * i))
    files = [f"c{i}.wav" for i in range(4)]
    frame = pd.DataFrame({"file": files, "subject": ["1", "1", "2", "2"], "emotion": ["sad", "happy"] * 2})
    return Manifest(frame, root=tmp_path / "audio", attrs={"corpus": "mine"})


@pytest.mark.parametrize("workers", [1, 3])
def test_features_are_those_of_the_extractor(clips: Manifest, tmp_path: Path, workers: int) -> None:
    seen: list[tuple[int, int]] = []
    store = prepare(
        clips, Energy(), tmp_path / "s", workers=workers, progress=lambda *step: seen.append(step)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(store) == 4
    assert store.lengths.tolist() == [20, 30, 40, 50]
    for i, values in enumerate(store):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, Energy()(read_audio(clips.path(i))).astype(np.float32))
    assert store.features == {"type": "Energy", "options": {"hop": 160, "sample_rate": 16000}}
    assert store.manifest.classes == ["happy", "sad"]
    assert store.manifest.attrs["corpus"] == "mine"
    assert not len(store.failures)
    again = FeatureStore(tmp_path / "s")
    np.testing.assert_array_equal(again.load(2), store.load(2))
    assert again.key == feature_key(Energy())
    assert not again.stale()


def test_the_real_front_end_fits(clips: Manifest, tmp_path: Path) -> None:
    features = pytest.importorskip("affekt.features")
    log_mel = features.LogMel(sample_rate=16000, n_mels=40)
    store = prepare(clips, log_mel, tmp_path / "s")
    np.testing.assert_array_equal(store.load(1), log_mel(read_audio(clips.path(1))))
    assert store.features["options"]["n_mels"] == 40
    assert feature_key(log_mel) != feature_key(features.LogMel(sample_rate=16000, n_mels=41))


def test_a_second_run_computes_nothing(clips: Manifest, tmp_path: Path) -> None:
    prepare(clips, Energy(), tmp_path / "s")
    again = Energy()
    prepare(clips, again, tmp_path / "s")
    assert again.calls == 0


def test_a_changed_file_or_option_is_computed_anew(
    clips: Manifest, tmp_path: Path, write_wav: Callable[..., Path]
) -> None:
    store = prepare(clips, Energy(), tmp_path / "s")
    old = store.load(1)
    stamp = clips.path(1).stat()
    write_wav("audio/c1.wav", tone(0.3, frequency=151.0))
    os.utime(clips.path(1), ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same size, same time, other content
    assert store.stale() == [str(clips.path(1))]
    again = Energy()
    store = prepare(clips, again, tmp_path / "s")
    assert again.calls == 1
    assert not np.array_equal(store.load(1), old)
    other = Energy(hop=80)
    store = prepare(clips, other, tmp_path / "s")
    assert other.calls == 4
    assert store.lengths.tolist() == [40, 60, 80, 100]
    assert store.prune() == 5
    assert len(store.load(3)) == 100


def test_parts_of_one_file(tmp_path: Path, write_wav: Callable[..., Path]) -> None:
    path = write_wav("long.wav", tone(2.0))
    frame = pd.DataFrame({"file": [str(path)] * 3, "start": [0, 0.5, 1.0], "end": [0.5, 1.0, np.nan]})
    store = prepare(Manifest(frame), Energy(), tmp_path / "s")
    whole = Energy()(read_audio(path)).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate(list(store)), whole)


def break_some(clips: Manifest) -> None:
    clips.path(0).unlink()
    clips.path(2).write_text("not sound")


def test_broken_recordings_raise_with_their_names(clips: Manifest, tmp_path: Path) -> None:
    break_some(clips)
    with pytest.raises(DataError, match=r"2 of 4 recordings cannot be used: .*c0\.wav.*c2\.wav"):
        prepare(clips, Energy(), tmp_path / "s")
    with pytest.raises(DataError, match="not a feature store"):
        FeatureStore(tmp_path / "s")


def test_broken_recordings_are_skipped_and_counted(clips: Manifest, tmp_path: Path) -> None:
    break_some(clips)
    with pytest.warns(UserWarning, match="left out 2 of 4 recordings: c0.wav, c2.wav"):
        store = prepare(clips, Energy(), tmp_path / "s", on_error="skip")
    assert len(store) == 2
    assert [Path(file).name for file in store.manifest.table["file"]] == ["c1.wav", "c3.wav"]
    assert len(store.load(1)) == 50
    again = FeatureStore(tmp_path / "s")
    assert again.failures["file"].tolist() == ["c0.wav", "c2.wav"]
    assert "no such file" in again.failures["reason"][0]
    assert "not an audio file" in again.failures["reason"][1]
    assert again.manifest.attrs["rows_given"] == 4
    assert again.manifest.attrs["rows_failed"] == 2


def test_nothing_left_is_an_error(clips: Manifest, tmp_path: Path) -> None:
    for i in range(4):
        clips.path(i).unlink()
    with pytest.raises(DataError, match="4 of 4 recordings"):
        prepare(clips, Energy(), tmp_path / "s", on_error="skip")


def test_too_short_and_not_finite_are_failures(
    clips: Manifest, tmp_path: Path, write_wav: Callable[..., Path]
) -> None:
    write_wav("audio/c0.wav", tone(0.005))
    with pytest.raises(DataError, match=r"c0\.wav: 0\.005 s are too short for one frame"):
        prepare(clips, Energy(), tmp_path / "s")

    class Bad(Energy):
        def __call__(self, samples: np.ndarray) -> np.ndarray:
            return np.full((3, 2), np.nan)

    with pytest.raises(DataError, match="NaN or Inf"):
        prepare(clips, Bad(), tmp_path / "s")


def test_a_damaged_object_is_an_error_and_is_mended(clips: Manifest, tmp_path: Path) -> None:
    store = prepare(clips, Energy(), tmp_path / "s")
    objects = tmp_path / "s" / "objects"
    names = store.manifest.table["object"].tolist()
    file = objects / f"{names[0]}.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    (objects / f"{names[1]}.safetensors").write_bytes((objects / f"{names[2]}.safetensors").read_bytes())
    (objects / f"{names[3]}.safetensors").unlink()
    for i in (0, 1, 3):
        with pytest.raises(DataError, match="run prepare again"):
            store.load(i)
    mender = Energy()
    store = prepare(clips, mender, tmp_path / "s")
    assert mender.calls == 3
    assert [len(values) for values in store] == [20, 30, 40, 50]


def test_a_damaged_store_is_named(clips: Manifest, tmp_path: Path) -> None:
    prepare(clips, Energy(), tmp_path / "s")
    (tmp_path / "s" / "features.json").write_text("{")
    with pytest.raises(DataError, match="not a usable feature store"):
        FeatureStore(tmp_path / "s")


def test_extractors_without_options_are_refused(clips: Manifest, tmp_path: Path) -> None:
    def wrong(samples: np.ndarray) -> np.ndarray:
        return samples[:, None]

    with pytest.raises(InputError, match="have an 'options' mapping; got function"):
        prepare(clips, wrong, tmp_path / "s")
    bare: Any = Energy()
    bare.options = {"hop": 160}
    with pytest.raises(InputError, match="'sample_rate' among its options"):
        prepare(clips, bare, tmp_path / "s")
    bare.options = {"sample_rate": np.nan}
    with pytest.raises(InputError, match="plain JSON"):
        prepare(clips, bare, tmp_path / "s")


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(sum),
    offset=st.sampled_from([0.0, -60.0, 1e6]),
    seed=st.integers(0, 99),
    at=st.integers(0, 8),
)
def test_joined_moments_are_those_of_all_rows(lengths: list[int], offset: float, seed: int, at: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.standard_normal((n, 3)) * [1, 10, 0.1] + offset for n in lengths]
    first, second = Moments(), Moments()
    for i, block in enumerate(blocks):
        (first if i < at else second).add(block)
    rows = np.concatenate(blocks)
    got = first.joined(second)
    assert got.count == len(rows)
    np.testing.assert_allclose(got.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.sd, rows.std(axis=0), rtol=1e-8, atol=1e-12 * max(abs(offset), 1))


def test_statistics_come_from_the_rows_asked_for(clips: Manifest, tmp_path: Path) -> None:
    store = prepare(clips, Energy(), tmp_path / "s")
    got = store.statistics([0, 2])
    rows = np.concatenate([store.load(0), store.load(2)]).astype(np.float64)
    np.testing.assert_allclose(got.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(got.sd, rows.std(axis=0), rtol=1e-12)
    assert got.count == 60
    back = Statistics.load(got.save(tmp_path))
    np.testing.assert_array_equal(back.mean, got.mean)
    np.testing.assert_array_equal(back.sd, got.sd)
    assert (back.count, back.fitted_on, back.key) == (60, "train", store.key)
    assert Path(back.store) == (tmp_path / "s").resolve()
    with pytest.raises(InputError, match="rows must be a non-empty list"):
        store.statistics([])


def test_broken_statistics_are_named(tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    good = {"mean": [0.0], "sd": [1.0], "count": 3, "fitted_on": "train"}
    for record in (
        "{",
        json.dumps([1]),
        json.dumps({**good, "sd": [1.0, 2.0]}),
        json.dumps({**good, "mean": [float("nan")]}),
        json.dumps({k: v for k, v in good.items() if k != "count"}),
    ):
        file.write_text(record)
        with pytest.raises(DataError, match=r"statistics\.json"):
            Statistics.load(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        Statistics.load(tmp_path)
