"""Each corpus reader on a small tree in the published layout, and on the real files where they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from affekt.data import corpus, list_corpora
from affekt.errors import DataError, InputError

pytest.importorskip("pandas")
WriteWav = Callable[..., Path]


def test_the_list_names_every_reader() -> None:
    assert {"ravdess", "emotale", "emodb", "cremad"} <= set(list_corpora())
    with pytest.raises(InputError, match=r"name must be one of .*ravdess.*; got 'iemocap'"):
        corpus("iemocap", ".")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_ravdess(write_wav: WriteWav, tmp_path: Path, suffix: str) -> None:
    write_wav(f"Actor_01/03-01-01-01-01-01-01.{suffix}")
    write_wav(f"Actor_16/03-01-06-02-02-01-16.{suffix}")
    write_wav(f"Actor_16/03-02-06-02-02-01-16.{suffix}")  # song
    m = corpus("ravdess", tmp_path)
    assert m.table["file"].tolist() == [
        f"Actor_01/03-01-01-01-01-01-01.{suffix}",
        f"Actor_16/03-01-06-02-02-01-16.{suffix}",
    ]
    assert m.table["emotion"].tolist() == ["neutral", "fearful"]
    assert m.table["subject"].tolist() == ["ravdess-01", "ravdess-16"]
    assert m.table["gender"].tolist() == ["male", "female"]
    assert m.table["intensity"].tolist() == ["normal", "strong"]
    assert m.table["sentence"].tolist() == ["01", "02"]
    assert m.attrs["licence"] == "CC BY-NC-SA 4.0"
    assert m.path(0).is_file()
    assert len(corpus("ravdess", tmp_path, channel="all")) == 3
    assert corpus("ravdess", tmp_path, channel="song").table["emotion"].tolist() == ["fearful"]
    with pytest.raises(InputError, match="channel must be one of"):
        corpus("ravdess", tmp_path, channel="rap")
    with pytest.raises(InputError, match="no option 'modality'; its options: channel"):
        corpus("ravdess", tmp_path, modality="03")


def test_every_ravdess_emotion_has_its_code(write_wav: WriteWav, tmp_path: Path) -> None:
    for code in range(1, 9):
        write_wav(f"Actor_01/03-01-0{code}-01-01-01-01.wav")
    assert corpus("ravdess", tmp_path).table["emotion"].tolist() == [
        "neutral",
        "calm",
        "happy",
        "sad",
        "angry",
        "fearful",
        "disgust",
        "surprised",
    ]


def test_emotale(write_wav: WriteWav, tmp_path: Path) -> None:
    for name in ("DK_001_A_1", "EN_001_B_5", "DK_012_N_3"):
        write_wav(f"audio/{name}.flac")
    (tmp_path / "annotations.csv").write_text(
        "file,a1_A,a1_V,a1_D,a1_cat,a2_A,a2_V,a2_D,a2_cat,a3_A,a3_V,a3_D,a3_cat,gt_emotion\n"
        "DK_001_A_1.wav,4.0,1.5,4.5,A,4.0,2.5,5.0,A,5.0,1.0,4.5,A,A\n"
        "EN_001_B_5.wav,1.0,3.0,5.0,B,1.0,3.0,5.0,N,1.0,3.0,5.0,N,B\n"
        "DK_012_N_3.wav,3.0,,3.0,N,3.0,2.0,3.0,N,3.0,4.0,3.0,N,N\n"
    )
    m = corpus("emotale", tmp_path)
    t = m.table.set_index("file")
    row = t.loc["audio/DK_001_A_1.flac"]
    assert row["arousal"] == pytest.approx(((4 + 4 + 5) / 3 - 3) / 2)
    assert row["valence"] == pytest.approx(((1.5 + 2.5 + 1.0) / 3 - 3) / 2)
    assert row["dominance"] == pytest.approx(((4.5 + 5.0 + 4.5) / 3 - 3) / 2)
    assert row["emotion"] == "angry"
    assert t.loc["audio/EN_001_B_5.flac", ["valence", "arousal", "dominance"]].tolist() == [0.0, -1.0, 1.0]
    assert t.loc["audio/DK_012_N_3.flac", "valence"] == pytest.approx(0.0)  # the mean of those who rated
    # One person in two languages is one subject in two sessions.
    assert t["subject"].tolist() == ["emotale-001", "emotale-012", "emotale-001"]
    assert t["session"].tolist() == ["emotale-DK_001", "emotale-DK_012", "emotale-EN_001"]
    assert t["language"].tolist() == ["da", "da", "en"]
    assert m.attrs["scales"]["valence"] == [1.0, 5.0]
    assert m.attrs["raters"] == 3


def test_emotale_names_what_does_not_fit(write_wav: WriteWav, tmp_path: Path) -> None:
    head = "file,a1_A,a1_V,a1_D\n"
    sheet = tmp_path / "annotations.csv"
    write_wav("audio/DK_001_A_1.wav")
    with pytest.raises(DataError, match=r"expected one annotations.csv .*; found 0"):
        corpus("emotale", tmp_path)
    sheet.write_text("file,a1_A\nDK_001_A_1.wav,3\n")
    with pytest.raises(DataError, match="missing column"):
        corpus("emotale", tmp_path)
    sheet.write_text(head + "DK_001_A_1.wav,3,6,3\n")
    with pytest.raises(DataError, match=r"a1_V of annotations.csv must lie in \[1, 5\]"):
        corpus("emotale", tmp_path)
    sheet.write_text(head + "DK_001_A_1.wav,3,high,3\n")
    with pytest.raises(DataError, match="must be numbers"):
        corpus("emotale", tmp_path)
    sheet.write_text(head + "DK_001_A_1.wav,3,3,3\nDK_001_A_2.wav,3,3,3\n")
    with pytest.raises(DataError, match=r"1 problem.*DK_001_A_2 \(annotated, but there is no audio\)"):
        corpus("emotale", tmp_path)
    with pytest.warns(UserWarning, match="left out 1"):
        m = corpus("emotale", tmp_path, on_error="skip")
    assert len(m) == 1
    assert m.attrs["skipped"] == ["DK_001_A_2 (annotated, but there is no audio)"]


def test_emodb(write_wav: WriteWav, tmp_path: Path) -> None:
    names = ["03a01Wa", "08a02La", "09b01Eb", "10b10Ac", "11a05Fd", "13a07Ta", "16b03Na"]
    for name in names:
        write_wav(f"wav/{name}.wav")
    m = corpus("emodb", tmp_path)
    assert m.table["emotion"].tolist() == ["angry", "bored", "disgust", "fearful", "happy", "sad", "neutral"]
    assert m.table["subject"].tolist() == [f"emodb-{name[:2]}" for name in names]
    assert m.table["gender"].tolist() == ["male", "female", "female", "male", "male", "female", "female"]
    assert m.table["sentence"][3] == "b10"
    assert set(m.table["language"]) == {"de"}


def test_cremad(write_wav: WriteWav, tmp_path: Path) -> None:
    names = ["1001_DFA_ANG_XX", "1001_IEO_DIS_HI", "1002_IEO_FEA_LO", "1040_ITH_SAD_X", "1091_WSI_HAP_XX"]
    for name in names:
        write_wav(f"AudioWAV/{name}.wav")
    m = corpus("cremad", tmp_path)
    assert m.table["emotion"].tolist() == ["angry", "disgust", "fearful", "sad", "happy"]
    assert m.table["intensity"].tolist() == ["unspecified", "high", "low", "unspecified", "unspecified"]
    assert m.table["subject"].tolist() == [f"cremad-{name[:4]}" for name in names]
    assert "gender" not in m.table
    (tmp_path / "VideoDemographics.csv").write_text(
        "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,x\n"
    )
    assert corpus("cremad", tmp_path).table["gender"].tolist() == [
        "male",
        "male",
        "female",
        "unknown",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ravdess", "Actor_01/03-01-09-01-01-01-01.wav"),
        ("ravdess", "Actor_01/03-01-01-01-01-01-25.wav"),
        ("ravdess", "Actor_02/03-01-01-01-01-01-01.wav"),
        ("emodb", "wav/04a01Fa.wav"),
        ("cremad", "AudioWAV/1001_DFA_JOY_XX.wav"),
    ],
)
def test_a_file_that_does_not_fit_is_named(write_wav: WriteWav, tmp_path: Path, name: str, file: str) -> None:
    good = {
        "ravdess": "Actor_03/03-01-01-01-01-01-03.wav",
        "emodb": "wav/03a01Fa.wav",
        "cremad": "AudioWAV/1001_DFA_ANG_XX.wav",
    }[name]
    write_wav(file)
    write_wav(good)
    with pytest.raises(DataError, match=f"1 problem.*{Path(file).name}.*on_error='skip'"):
        corpus(name, tmp_path)
    with pytest.warns(UserWarning, match=Path(file).name):
        m = corpus(name, tmp_path, on_error="skip")
    assert m.table["file"].tolist() == [good]
    assert len(m.attrs["skipped"]) == 1


def test_a_copy_in_a_copy_is_not_counted_twice(write_wav: WriteWav, tmp_path: Path) -> None:
    # A widespread archive of RAVDESS holds all actors a second time in a sub-folder.
    first = write_wav("Actor_01/03-01-01-01-01-01-01.wav")
    second = tmp_path / "audio_speech_actors_01-24" / "Actor_01"
    second.mkdir(parents=True)
    shutil.copy(first, second)
    with pytest.raises(DataError, match="03-01-01-01-01-01-01 is there twice"):
        corpus("ravdess", tmp_path)
    assert len(corpus("ravdess", tmp_path / "audio_speech_actors_01-24")) == 1


def test_litter_and_empty_folders(write_wav: WriteWav, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no audio files"):
        corpus("emodb", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        corpus("emodb", tmp_path / "none")
    write_wav("wav/03a01Fa.wav")
    (tmp_path / "wav" / "._03a01Fa.wav").write_bytes(b"litter")
    (tmp_path / "README.txt").write_text("hello")
    assert len(corpus("emodb", tmp_path)) == 1


def test_real_ravdess(data_dir: Path) -> None:
    if not (data_dir / "ravdess").is_dir():
        pytest.skip("RAVDESS is not there")
    m = corpus("ravdess", data_dir / "ravdess")
    assert len(m) == 1440
    assert m.table["subject"].value_counts().tolist() == [60] * 24
    assert m.table["emotion"].value_counts().to_dict() == {
        "neutral": 96,
        **dict.fromkeys(["calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"], 192),
    }
    assert not m.missing_files()


def test_real_emotale(data_dir: Path) -> None:
    if not (data_dir / "emotale").is_dir():
        pytest.skip("EmoTale is not there")
    m = corpus("emotale", data_dir / "emotale")
    assert len(m) == 800
    assert m.table["subject"].nunique() == 18
    assert m.table["session"].nunique() == 32
    assert set(m.table["emotion"].value_counts()) == {160}
    values = m.table[["valence", "arousal", "dominance"]].to_numpy()
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 1
    assert not m.missing_files()


def test_real_cremad(data_dir: Path) -> None:
    if not (data_dir / "cremad_av").is_dir():
        pytest.skip("CREMA-D is not there")
    m = corpus("cremad", data_dir / "cremad_av")
    assert m.table["emotion"].tolist() == ["angry", "disgust", "fearful", "happy", "neutral", "sad"]
