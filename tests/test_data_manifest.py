"""Manifests keep what they are given and refuse what cannot be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affekt.data import Manifest, group_kfold, read_manifest
from affekt.errors import DataError, InputError

pd = pytest.importorskip("pandas")


def table(**columns: object) -> pd.DataFrame:
    base = {"file": ["a.wav", "b.wav", "c.wav"], "subject": ["1", "2", "2"]}
    return pd.DataFrame({**base, **columns})


def test_csv_keeps_identifiers_as_text_and_resolves_paths(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "file,subject,session,emotion,valence,note\n"
        "x/a.wav,007,01,NA,0.5,hello\n"
        "b.wav,010,01,,,\n"
        "/abs/c.wav,1e3,02,sad,-1,x\n"
    )
    m = read_manifest(tmp_path / "m.csv")
    assert m.groups().tolist() == ["007", "010", "1e3"]
    assert m.groups("session").tolist() == ["01", "01", "02"]
    assert m.table["emotion"].tolist() == ["NA", None, "sad"]  # "NA" is a name, not a missing value
    assert m.classes == ["NA", "sad"]
    assert m.labels == ["emotion", "valence"]
    assert np.isnan(m.table["valence"][1])
    assert m.table["note"][0] == "hello"
    assert m.path(0) == tmp_path / "x" / "a.wav"
    assert m.path(2) == Path("/abs/c.wav")
    assert m.missing_files() == ["x/a.wav", "b.wav", "/abs/c.wav"]


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_saved_and_loaded_is_the_same(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    m = Manifest(
        table(
            start=[0.0, 0.125, 2.0955910399],
            end=[1.0, np.nan, 2.5],
            subject=["001", "b", None],
            emotion=["sad", None, "angry"],
            arousal=[0.1 + 0.2, np.nan, -1.0],
        ),
        root=tmp_path,
        attrs={"corpus": "mine", "scales": {"arousal": [1.0, 9.0]}},
    )
    back = Manifest.load(m.save(tmp_path / name))
    pd.testing.assert_frame_equal(back.table, m.table, check_exact=True)
    assert back.attrs == m.attrs
    assert back.path(1) == m.path(1)
    assert back.part(1) == (0.125, None)
    assert back.part(0) == (0.0, 1.0)


def test_saving_elsewhere_keeps_the_files_findable(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "out").mkdir()
    m = Manifest(table(), root=tmp_path / "audio")
    back = read_manifest(m.save(tmp_path / "out" / "m.csv"))
    assert back.path(0) == tmp_path / "audio" / "a.wav"


def test_columns_can_be_renamed_and_scales_converted() -> None:
    source = pd.DataFrame(
        {"wav": ["a", "b", "c"], "spk": [1, 2, 3], "act": [1, 3, 9], "emo": ["hap", "sad", None]}
    )
    m = read_manifest(
        source,
        columns={"file": "wav", "subject": "spk", "arousal": "act", "emotion": "emo"},
        scales={"arousal": (1, 9)},
        emotions={"hap": "happy"},
    )
    assert m.table["arousal"].tolist() == [-1.0, -0.5, 1.0]
    assert m.attrs["scales"] == {"arousal": [1.0, 9.0]}
    assert m.table["emotion"].tolist() == ["happy", "sad", None]
    assert m.groups().tolist() == ["1", "2", "3"]
    assert "wav" in source  # the caller's table is not touched


@given(
    low=st.floats(-100, 100),
    width=st.floats(0.5, 100),
    at=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_a_scale_maps_its_ends_to_minus_one_and_one(low: float, width: float, at: list[float]) -> None:
    high = low + width
    values = [low, *[low + a * (high - low) for a in at if low + a * (high - low) <= high], high]
    frame = pd.DataFrame({"file": [str(i) for i in range(len(values))], "valence": values})
    got = read_manifest(frame, scales={"valence": (low, high)}).table["valence"].to_numpy()
    assert got[0] == pytest.approx(-1)
    assert got[-1] == pytest.approx(1)
    assert (np.abs(got) <= 1).all()
    np.testing.assert_allclose((got + 1) / 2 * width + low, values, atol=1e-9 * max(1, abs(low) + width))


def test_numbers_with_gaps_do_not_become_floats_in_names() -> None:
    m = Manifest(table(subject=[1.0, 2.0, np.nan]))
    assert m.table["subject"].tolist() == ["1", "2", None]
    with pytest.raises(DataError, match=r"1 of 3 rows have no 'subject'; the first is row 2 \(c.wav\)"):
        m.groups()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"path": ["a"]}), "no column 'file'; it has 'path'"),
        (pd.DataFrame({"file": []}), "no rows"),
        (table(file=["a.wav", "b.wav", None]), "no file; the first is row 2"),
        (table(file=["a.wav", "b.wav", "a.wav"]), r"2 rows repeat the same \(file\): rows 0, 2 \(a.wav"),
        (
            table(file=["a", "a", "a"], start=[0, 1, 1], end=[1, 2, 2]),
            r"2 rows repeat the same \(file, start, end\): rows 1, 2",
        ),
        (table(file=["a", "a", "b"], start=[np.nan] * 3), "2 rows repeat"),
        (table(file=["a", "a", "b"], start=[np.nan, 0, 0]), r"2 rows repeat .* rows 0, 1"),
        (table(file=["a", "a", "b"], end=[np.nan, np.inf, 1]), r"2 rows repeat .* rows 0, 1"),
        (table(file=["x/a", "b", "./x//y/../a"]), r"2 rows repeat .* rows 0, 2"),
        (
            table(valence=[0, 3, 0]),
            r"valence must lie in \[-1, 1\]; 1 of 3 .* row 1 \(b.wav\) with 3.*scales=",
        ),
        (table(arousal=[0, np.inf, 0]), r"arousal must lie in \[-1, 1\]"),
        (table(dominance=["0.5", "high", ""]), "dominance must be numbers; 1 row.*row 1 with 'high'"),
        (table(start=[0, -1, 0]), "start must not be negative; row 1"),
        (table(start=[0, 2, 0], end=[1, 2, 1]), "end must be greater than start; 1 row.*row 1"),
        (table(end=[1, 0, 1]), "end must be greater than start"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Manifest(frame)


def test_repeated_columns_are_refused() -> None:
    frame = pd.DataFrame([["a", "1", "2"]], columns=["file", "subject", "subject"])
    with pytest.raises(DataError, match="subject more than once"):
        Manifest(frame)


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing column.* emotion; it has 'file', 'subject'"):
        read_manifest(table(), require_columns=("subject", "emotion"))
    with pytest.raises(DataError, match="no column 'speaker' to use as 'subject'"):
        read_manifest(table(), columns={"subject": "speaker"})
    with pytest.raises(DataError, match="no such manifest"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text('file,subject\n"a,1\nb,2,3\n')
    with pytest.raises(DataError, match=r"bad.csv"):
        read_manifest(tmp_path / "bad.csv")
    (tmp_path / "zero.csv").write_text("")
    with pytest.raises(DataError, match=r"zero.csv"):
        read_manifest(tmp_path / "zero.csv")
    (tmp_path / "bytes.csv").write_bytes(b"file\n\xff\xfe\x00\x81\n")
    with pytest.raises(DataError, match=r"bytes.csv"):
        read_manifest(tmp_path / "bytes.csv")
    with pytest.raises(InputError, match="scale of 'valence'"):
        read_manifest(table(valence=[1, 2, 3]), scales={"valence": (5, 1)})
    with pytest.raises(DataError, match=r"valence must lie in \[1, 5\]; 1 of 3"):
        read_manifest(table(valence=[1, 2, 7]), scales={"valence": (1, 5)})


def test_one_group_only_cannot_be_split() -> None:
    m = Manifest(table(subject=["1", "1", "1"]))
    with pytest.raises(DataError, match=r"at least 2 groups; got 1 \('1'\)"):
        group_kfold(m, 2)


def test_selection_by_number_and_by_boolean() -> None:
    m = Manifest(table(), root="/r", attrs={"corpus": "x"})
    assert m.select([2, 0]).table["file"].tolist() == ["c.wav", "a.wav"]
    assert m.select([False, True, False]).table["file"].tolist() == ["b.wav"]
    assert m.select([1]).attrs == {"corpus": "x"}
    with pytest.raises(InputError, match="same length"):
        m.select([True])


def test_joining_keeps_people_apart(tmp_path: Path) -> None:
    one = Manifest(table(emotion=["sad"] * 3), root=tmp_path / "one")
    two = Manifest(table(subject=["8", "9", "9"], valence=[0.0, 1.0, -1.0]), root=tmp_path / "two")
    both = Manifest.concat([one, two])
    assert len(both) == 6
    assert both.path(3) == tmp_path / "two" / "a.wav"
    assert both.table["emotion"].tolist() == ["sad"] * 3 + [None] * 3
    assert both.table["valence"].isna().tolist() == [True] * 3 + [False] * 3
    with pytest.raises(DataError, match=r"manifests 0 and 1 share subject\(s\) 1, 2"):
        Manifest.concat([one, Manifest(table(), root=tmp_path / "two")])
