"""What training does about odd tables and recordings: languages, scales, lengths, rates, lone speakers."""

# ruff: noqa: E402
from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pandas = pytest.importorskip("pandas")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("pytorch_lightning")

import affekt
from affekt.cli import main
from affekt.data import Manifest, prepare
from affekt.errors import DataError, InputError
from affekt.features import LogMel
from affekt.training import load_config, run_protocol
from sounds import tone

EMOTIONS = ("ruhig", "zornig")


def voices(folder, *, speakers=4, takes=2, emotions=EMOTIONS, seconds=0.5, rate=16000, prefix=""):
    """Rows of a table and their recordings: louder and higher where the emotion comes later."""
    rows = []
    for speaker in range(speakers):
        for take in range(takes):
            for number, emotion in enumerate(emotions):
                name = f"{prefix}{speaker}-{take}-{emotion}.wav"
                sound = tone(
                    seconds + 0.05 * take, rate, 120 + 200 * number + 11 * speaker, 0.05 + 0.25 * number
                )
                soundfile.write(folder / name, sound, rate)
                rows.append({"file": name, "subject": f"s{speaker}", "emotion": emotion,
                             "arousal": number - 0.5 + 0.01 * speaker})  # fmt: skip
    return pandas.DataFrame(rows)


def words(folder, table, *more, emotions=EMOTIONS):
    table.to_csv(folder / "mine.csv", index=False)
    heads = {"emotion": {"labels": list(emotions)}, "affect": {"labels": ["arousal"]}}
    values = {
        "out": str(folder / "run"),
        "data": {"manifest": str(folder / "mine.csv")},
        "protocol": {"folds": 2, "dev": 1, "select": [1]},
        "system": {
            "front_end": {"n_mels": 8, "hop_length": 320},
            "tcn": {"channels": [4]},
            "pool": {"window": 20, "hop": 2},
            "heads": heads,
        },
        "training": {"epochs": 1, "batch_size": 8, "tensorboard": False, "progress": False, "threads": 1},
    }
    return load_config(values, list(more))


def run(config):
    lines = []
    return run_protocol(config, say=lines.append), lines


# ---- tables


def test_another_language_in_paths_labels_and_columns(tmp_path):
    emotions = ("fröhlich", "怒り")
    table = voices(tmp_path, emotions=emotions, prefix="обида ")
    table = table.rename(columns={"subject": "говорящий", "emotion": "Gefühl"})
    columns = "data.columns={subject: говорящий, emotion: Gefühl}"
    result, _ = run(words(tmp_path, table, columns, emotions=emotions))
    model = affekt.load(result.runs[0].model)
    assert model.columns == ["p_fröhlich", "p_怒り", "arousal"]
    found = pandas.read_csv(tmp_path / "run/predictions.csv")
    assert set(found["true_emotion"]) == set(emotions)
    again = affekt.evaluate(model, tmp_path / "run/predictions.csv").predictions
    assert len(again) == len(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arousal": [1, 2, 3, 4, 5, 3, 2, 1] * 2}, r"arousal must lie in \[-1, 1\]; 16 of 16|12 of 16"),
        (
            {"arousal": [9.0] + [0.0] * 15},
            r"1 of 16 row\(s\) do not, the first is row 0 .*0-0-ruhig.wav.* with 9",
        ),
        ({"arousal": ["laut"] + ["0"] * 15}, "arousal must be numbers; .* row 0 with 'laut'"),
        ({"arousal": [float("inf")] + [0.0] * 15}, "with inf"),
    ],
)
def test_labels_out_of_scale_name_the_row_and_how_to_state_the_scale(
    tmp_path, monkeypatch, capsys, change, message
):
    import re

    config = words(tmp_path, voices(tmp_path).assign(**change))
    with pytest.raises(DataError) as caught:
        run_protocol(config)
    assert re.search(message, str(caught.value))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "own", "data.manifest=mine.csv"]) == 2
    err = capsys.readouterr().err
    if "must lie" in err:
        assert "pass data.scales.arousal=[LOW,HIGH] if the table uses another scale" in err
    assert err.count("\n") == 1


def test_a_stated_scale_is_converted_and_values_beyond_it_refused(tmp_path):
    table = voices(tmp_path)
    table["arousal"] = [1, 5, 2, 4] * 4
    run(words(tmp_path, table, "data.scales.arousal=[1,5]"))
    found = pandas.read_csv(tmp_path / "run/predictions.csv")
    assert set(found["true_arousal"]) <= {-1.0, -0.5, 0.5, 1.0}
    with pytest.raises(DataError, match=r"arousal must lie in \[1, 4\]; 4 of 16"):
        run(words(tmp_path, table, "data.scales.arousal=[1,4]", f"out={tmp_path / 'other'}"))


def test_a_class_of_one_speaker_is_named_with_the_speaker(tmp_path):
    table = voices(tmp_path)
    table.loc[table["file"] == "2-1-zornig.wav", "emotion"] = "müde"
    emotions = (*EMOTIONS, "müde", "heiter")
    _, lines = run(words(tmp_path, table, emotions=emotions))
    said = "\n".join(lines)
    assert "class 'müde' of head 'emotion' has recordings of one subject only, s2 (1)" in said
    assert "no recording is labelled 'heiter': head 'emotion' learns nothing about it" in said
    assert "'zornig'" not in said


def test_a_class_that_a_fold_tests_but_does_not_train_is_named(tmp_path):
    table = voices(tmp_path)
    tested = ["s0", "s1"]
    table = table[~((table["emotion"] == "zornig") & ~table["subject"].isin(tested))]
    fold = ["protocol.kind=listed", "protocol.tests=[[s0, s1]]", "protocol.dev=0"]
    _, lines = run(words(tmp_path, table, *fold))
    assert any("'zornig' of head 'emotion' (s0, s1) is tested but not trained in fold 1" in x for x in lines)


# ---- recordings


def test_a_tenth_of_a_second_is_enough_everywhere_and_less_is_named(tmp_path):
    table = voices(tmp_path, seconds=0.1)
    result, _ = run(words(tmp_path, table))
    model = result.runs[0].model
    assert len(affekt.predict(tmp_path / "0-0-ruhig.wav", model)) >= 1
    assert len(affekt.evaluate(model, tmp_path / "mine.csv").predictions) == len(table)
    assert len(affekt.predict(tmp_path / "0-0-ruhig.wav")) >= 1

    soundfile.write(tmp_path / "tiny.wav", tone(0.05), 16000)
    tiny = {"file": "tiny.wav", "subject": "s0", "emotion": "ruhig", "arousal": 0.1}
    table = pandas.concat([table, pandas.DataFrame([tiny])])
    result, _ = run(words(tmp_path, table, f"out={tmp_path / 'other'}"))
    assert result.skipped["file"].tolist() == [str(tmp_path / "tiny.wav")]
    assert "shorter than the 4 feature rows that the model needs" in result.skipped["reason"].iloc[0]


def write_hour(path, rate=16000):
    """An hour of quiet noise, written a minute at a time."""
    minute = (0.1 * np.random.default_rng(0).uniform(-1, 1, 60 * rate)).astype(np.float32)
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(minute)


def test_an_hour_in_one_row_is_refused_from_its_header_and_its_parts_are_used(tmp_path):
    """Peak memory of a whole process that prepares parts of an hour, against the samples of the hour."""
    write_hour(tmp_path / "hour.wav")
    table = voices(tmp_path)
    hour = {"file": "hour.wav", "subject": "s0", "emotion": "ruhig", "arousal": 0.1}
    whole = pandas.concat([table, pandas.DataFrame([hour])])
    with pytest.raises(
        DataError, match=r"hour\.wav: 3600 s in one row, at most 120 s are taken; .* start and end"
    ):
        run(words(tmp_path, whole))
    result, _ = run(words(tmp_path, whole, "data.on_error=skip", f"out={tmp_path / 'skipped'}"))
    assert "3600 s in one row" in result.skipped["reason"].iloc[0]

    manifest = tmp_path / "parts.csv"
    parts = [{**hour, "start": 1000.0 * k, "end": 1000.0 * k + 2} for k in range(4)]
    pandas.DataFrame(parts).to_csv(manifest, index=False)
    program = (
        "import sys, resource, affekt\n"
        "from affekt.data import prepare, read_manifest\n"
        "from affekt.features import LogMel\n"
        "if sys.argv[3] == 'yes':\n"
        "    store = prepare(read_manifest(sys.argv[1]), LogMel(sample_rate=16000), sys.argv[2])\n"
        "    assert len(store) == 4\n"
        "else:\n"
        "    import pandas, soundfile, safetensors.numpy, soxr\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peak = {}
    for doing in ("no", "yes"):
        call = [sys.executable, "-c", program, str(manifest), str(tmp_path / "store"), doing]
        peak[doing] = int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    assert peak["yes"] - peak["no"] < 60_000, f"peak RSS in KiB: {peak}; the hour has 225,000 of samples"


def test_the_length_is_that_of_the_part(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(3.0), 16000)
    table = pandas.DataFrame({"file": "a.wav", "start": [0.0, 1.0], "end": [0.9, np.nan]})
    manifest = Manifest(table, root=tmp_path)
    assert len(prepare(manifest, LogMel(sample_rate=16000), tmp_path / "store", longest=2.0)) == 2
    with pytest.raises(DataError, match=r"a\.wav: 2 s in one row, at most 1.5 s"):
        prepare(manifest, LogMel(sample_rate=16000), tmp_path / "store", longest=1.5)
    for wrong in (0, -1, float("nan"), "long"):
        with pytest.raises(InputError, match="longest must be a positive number"):
            prepare(manifest, LogMel(sample_rate=16000), tmp_path / "store", longest=wrong)


def test_two_speakers_in_one_file_stay_together_or_are_allowed_by_name(tmp_path):
    """A dialogue per pair of speakers, half of it each one's: a split by speaker cuts files in two."""
    table = voices(tmp_path)
    for pair in range(2):
        sounds = [soundfile.read(tmp_path / f"{2 * pair + k}-0-{e}.wav")[0] for k in (0, 1) for e in EMOTIONS]
        soundfile.write(tmp_path / f"dialogue{pair}.wav", np.concatenate(sounds), 16000)
    rows = [
        {"file": f"dialogue{k // 2}.wav", "session": f"d{k // 2}", "start": k % 2 + 0.5 * number,
         "end": k % 2 + 0.5 * number + 0.5, "subject": f"s{k}", "emotion": emotion, "arousal": number - 0.5}
        for k in range(4) for number, emotion in enumerate(EMOTIONS)
    ]  # fmt: skip
    table = pandas.DataFrame(rows)
    fold = ["protocol.kind=listed", "protocol.tests=[[s0, s2]]", "protocol.dev=0"]
    with pytest.raises(DataError) as caught:
        run(words(tmp_path, table, *fold))
    message = str(caught.value)
    assert "2 session(s) are in train and test: d0, d1" in message
    assert "2 file(s) have parts in train and test" in message
    assert "protocol.allow=[session,file]" in message
    assert "protocol.group=COLUMN" in message
    result, _ = run(words(tmp_path, table, *fold, "protocol.allow=[session,file]"))
    assert len(pandas.read_csv(tmp_path / "run/predictions.csv")) == 4
    together = ["protocol.group=session", f"out={tmp_path / 'together'}", "protocol.dev=0"]
    result, _ = run(words(tmp_path, table, *together))
    assert result.audit.ok
    assert result.audit.findings == ()


def test_mixed_sample_rates_are_resampled_and_said(tmp_path):
    table = voices(tmp_path, speakers=3)
    narrow = voices(tmp_path, speakers=1, rate=8000, prefix="telephone ").assign(subject="s3")
    wide = voices(tmp_path, speakers=1, rate=44100, prefix="studio ").assign(subject="s4")
    _, lines = run(words(tmp_path, pandas.concat([table, narrow, wide])))
    (said,) = [line for line in lines if line.startswith("sample rates")]
    assert "4 at 8000 Hz, 12 at 16000 Hz, 4 at 44100 Hz; all were brought to 16000 Hz" in said
    assert "Those below 16000 Hz are empty above half their rate" in said
    _, lines = run(words(tmp_path, table, "protocol.dev=0", f"out={tmp_path / 'plain'}"))
    assert not [line for line in lines if line.startswith("sample rates")]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("ravdess", "(data.on_error=skip leaves them out)"),
        ("manifest", "(data.on_error=skip leaves them out)"),
    ],
)
def test_hints_speak_the_language_of_the_command(tmp_path, monkeypatch, capsys, layout, message):
    monkeypatch.chdir(tmp_path)
    if layout == "ravdess":
        (tmp_path / "ravdess").mkdir()
        soundfile.write(tmp_path / "ravdess/03-01-05-01-01-01-01.wav", tone(0.3), 16000)
        soundfile.write(tmp_path / "ravdess/holiday.wav", tone(0.3), 16000)
        given = ["train", "ravdess", "data.root=ravdess"]
    else:
        table = voices(tmp_path)
        (tmp_path / "0-0-ruhig.wav").write_text("no sound")
        table.to_csv("mine.csv", index=False)
        given = ["train", "own", "data.manifest=mine.csv", "system.heads.emotion.labels=[ruhig,zornig]",
                 "system.heads.affect=null"]  # fmt: skip
    assert main([*given, "--out", "run"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "on_error='skip'" not in err
    if layout == "ravdess":
        assert main(["evaluate", "ravdess", "--root", "ravdess"]) == 2
        assert "(--on-error skip leaves them out)" in capsys.readouterr().err
