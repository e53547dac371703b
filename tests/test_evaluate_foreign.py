"""A model meets a corpus in other words: names, dropped classes, scales, languages, intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import affekt
from affekt import metrics
from affekt.cli import main
from affekt.data import match_emotions, read_manifest
from affekt.errors import DataError, InputError
from small_model import small_model
from sounds import tone

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return affekt.load(small_model(tmp_path_factory.mktemp("model") / "small.safetensors"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twelve clips of four speakers in a folder with a name in another script."""
    folder = tmp_path_factory.mktemp("clips") / "записи голоса"
    folder.mkdir()
    for number in range(12):
        sound = tone(0.6 + 0.05 * number, frequency=90 + 37 * (number * 5 % 12), level=0.05 + 0.02 * number)
        soundfile.write(folder / f"überraschung {number} 声.wav", sound, 16000)
    return folder


def table(clips, emotions, **columns):
    names = [f"überraschung {number} 声.wav" for number in range(12)]
    subjects = [f"Sprecher ä{number // 3}" for number in range(12)]
    emotion = [emotions[number % len(emotions)] for number in range(12)]
    return pd.DataFrame({"file": names, "subject": subjects, "emotion": emotion, **columns})


def written(clips, emotions, **columns):
    path = clips / "étiquettes.csv"
    table(clips, emotions, **columns).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("names", "known", "found"),
    [
        (["happiness", "anger", "sadness"], ["happy", "angry", "sad"], ["happy", "angry", "sad"]),
        (["happy", "fearful", "surprised"], ["Joy", "fear", "surprise"], ["Joy", "fear", "surprise"]),
        (["ANGRY", " sad "], ["angry", "sad"], ["angry", "sad"]),
        (["calm", "contempt", "bored"], ["neutral", "disgust", "sad"], [None, None, None]),
        (["u\u0308bel"], ["\u00fcbel"], ["\u00fcbel"]),
        (["joy"], ["happy", "happiness"], [None]),  # which of the two is not ours to say
        (["happiness"], ["happy", "happiness"], ["happiness"]),
        (["Wut", "怒り"], ["angry", "怒り"], [None, "怒り"]),
    ],
)  # fmt: skip
def test_names_are_matched_where_they_mean_the_same(names, known, found):
    assert list(match_emotions(names, known).values()) == found


@given(st.lists(st.text(min_size=1), unique=True, max_size=6))
def test_equal_names_match_themselves_whatever_they_are(names):
    assert match_emotions(names, names) == {name: name for name in names}


def test_other_words_give_the_same_figures_and_what_was_dropped_is_counted(model, clips):
    own = affekt.evaluate(model, written(clips, ["happy", "sad", "angry"]))
    assert own.mapping == {name: name for name in ("happy", "sad", "angry")}
    other = affekt.evaluate(model, written(clips, ["happiness", "Sadness", "anger"]))
    assert other.mapping == {"happiness": "happy", "Sadness": "sad", "anger": "angry"}
    pd.testing.assert_series_equal(own.metrics["value"], other.metrics["value"])
    assert "happiness = happy" in str(other)
    fewer = affekt.evaluate(model, written(clips, ["happiness", "anger", "Wut", "calm"]))
    assert fewer.mapping == {"happiness": "happy", "anger": "angry", "Wut": None, "calm": None}
    assert "the model does not know Wut, calm: 6 recordings left out, 6 remain" in str(fewer)
    assert "not in the labels, so an error wherever chosen: neutral, sad" in str(fewer)
    assert set(fewer.metrics["recordings"]) == {6}


def test_merging_renames_labels_and_adds_probabilities(model, clips):
    path = written(clips, ["calm", "happy", "sad"])
    result = affekt.evaluate(model, path, merge={"calm": "neutral", "angry": "sad"})
    assert result.mapping == {"calm": "neutral", "happy": "happy", "sad": "sad"}
    rows = result.predictions
    chances = np.stack([rows["p_neutral"], rows["p_happy"], rows["p_sad"] + rows["p_angry"]], axis=1)
    best = np.array(["neutral", "happy", "sad"])[chances.argmax(axis=1)]
    assert result.predictions["estimated_emotion"].tolist() == best.tolist()
    true = rows["true_emotion"].replace({"calm": "neutral"}).to_numpy()
    figures = result.metrics.set_index("metric")["value"]
    assert figures["UAR"] == pytest.approx(metrics.uar(best, true))
    assert "calm = neutral" in str(result)


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"calm": "serene"}, "expected emotions of the model"),
        ({"cross": "angry"}, "neither the model nor the labels have 'cross'"),
        ({"sad": "happy", "happy": "angry"}, "'happy' is itself merged"),
    ],
)
def test_a_merge_that_makes_no_sense_is_refused(model, clips, merge, message):
    with pytest.raises(InputError, match=message):
        affekt.evaluate(model, written(clips, ["calm", "happy", "sad"]), merge=merge)


def test_intervals_are_over_speakers(model, clips):
    path = written(clips, ["happy", "sad", "angry"], arousal=np.linspace(-0.9, 0.9, 12))
    result = affekt.evaluate(model, path)
    rows = result.predictions
    found = result.metrics.set_index(["label", "metric"])
    subjects = table(clips, ["x"])["subject"]
    expected = metrics.bootstrap_interval(
        metrics.ccc, rows["arousal"].to_numpy(float), rows["true_arousal"].to_numpy(), subjects
    )
    assert found.loc[("arousal", "CCC"), ["low", "high"]].tolist() == pytest.approx(expected[1:3])
    assert set(found["speakers"]) == {4}
    row = found.loc[("emotion", "UAR")]
    assert row["low"] <= row["value"] <= row["high"]
    assert "95 % interval, bootstrap over 4 speakers" in str(result)
    # Without people there is nothing to take an interval over.
    alone = affekt.evaluate(model, read_manifest(path).select(np.arange(3)))
    assert alone.metrics["low"].isna().all()
    assert "95 %" not in str(alone)


def test_another_scale_is_refused_until_it_is_stated(model, clips, capsys):
    values = np.linspace(1, 5, 12)
    path = str(written(clips, ["happy", "sad"], arousal=values))
    with pytest.raises(DataError, match=r"arousal must lie in \[-1, 1\]; 11 of 12 row\(s\) do not"):
        affekt.evaluate(model, path)
    words = ["evaluate", path, "--model", str(model.path)]
    assert main(words) == 2
    assert "; pass --scale arousal=LOW,HIGH if the table uses another scale" in capsys.readouterr().err
    assert main([*words, "--scale", "arousal=1,4"]) == 2
    assert "arousal must lie in [1, 4]" in capsys.readouterr().err
    assert main([*words, "--scale", "arousal=1,5"]) == 0
    shown = capsys.readouterr().out
    converted = affekt.evaluate(model, written(clips, ["happy", "sad"], arousal=(values - 3) / 2))
    figure = converted.metrics.set_index(["label", "metric"])["value"]["arousal", "CCC"]
    assert f"CCC {figure:.3f}" in shown


def test_a_scale_that_hides_inside_ours_is_pointed_at(model, clips, tmp_path):
    rows = table(clips, ["happy", "sad"])
    many = pd.concat([rows.assign(start=0.1 * part, end=0.1 * part + 0.3) for part in range(2)])
    many["file"] = [str(clips / name) for name in many["file"]]
    many["arousal"] = np.linspace(0, 1, 24)
    assert "no arousal label is negative" in str(affekt.evaluate(model, many))
    many["arousal"] -= 0.5
    assert "is negative" not in str(affekt.evaluate(model, many))


def test_a_spreadsheet_of_another_country_is_read(model, clips):
    rows = table(clips, ["Wut", "Freude"], arousal=np.linspace(-0.5, 0.75, 12))
    rows = rows.rename(columns={"file": "Datei", "subject": "Sprecher", "emotion": "Gefühl"})
    columns = {"file": "Datei", "subject": "Sprecher", "emotion": "Gefühl"}
    options = {"columns": columns, "emotions": {"Wut": "angry", "Freude": "happy"}}
    rows.to_csv(clips / "plain.csv", index=False)
    expected = read_manifest(clips / "plain.csv", **options)
    rows.to_csv(clips / "excel.csv", index=False, sep=";", decimal=",", encoding="utf-8-sig")
    rows.to_csv(clips / "tabs.csv", index=False, sep="\t")
    for name in ("excel.csv", "tabs.csv"):
        found = read_manifest(clips / name, **options)
        pd.testing.assert_frame_equal(found.table, expected.table)
        assert found.classes == ["angry", "happy"]
    words = [word for new, old in columns.items() for word in ("--column", f"{new}={old}")]
    words += ["--emotion", "Wut=angry", "--emotion", "Freude=happy", "--model", str(model.path)]
    assert main(["evaluate", str(clips / "excel.csv"), *words]) == 0


def test_a_table_that_is_not_utf8_says_so(clips):
    rows = table(clips, ["Ärger", "Freude"]).assign(
        file="a.wav", start=np.arange(12.0), end=np.arange(12.0) + 1
    )
    rows.to_csv(clips / "latin.csv", index=False, encoding="latin-1")
    with pytest.raises(DataError, match=r"latin\.csv: not UTF-8 text \(byte \d+ is 0xe4\)"):
        read_manifest(clips / "latin.csv")
