"""The command line: what a newcomer types works, what goes wrong is said in one line."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import affekt
from affekt import cli, weights
from affekt.cli import main
from affekt.modelfile import write_model
from small_model import COLUMNS, small_model

soundfile = pytest.importorskip("soundfile")

VERBS = ["info", "prepare", "train", "evaluate", "predict", "enrol", "stream", "replay", "audit", "export"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(small_model(tmp_path_factory.mktemp("model") / "small.safetensors"))


@pytest.fixture
def voice(tmp_path):
    path = tmp_path / "talk.wav"
    draw = np.random.default_rng(0)
    soundfile.write(path, draw.uniform(-0.3, 0.3, 2 * 16000), 16000)
    return str(path)


def test_help_lists_every_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {verb}\s", text, re.MULTILINE) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    # Each example is itself a command line that the parser takes.
    for line in re.findall(rf"^  (affekt {verb}\b.*)$", text, re.MULTILINE):
        words = [word.strip("'") for word in line.split()[1:]]
        assert cli._parser().parse_args(words).verb == verb


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predikt", "a.wav"], "affekt: error: unknown verb 'predikt': did you mean 'predict'?"),
        (["dance"], "affekt: error: unknown verb 'dance': known: audit, enrol, ensemble, evaluate"),
        (["--versoin"], "affekt: error: unknown option --versoin: did you mean '--version'?"),
        (["predict", "a.wav", "--sumary", "mean"], "unknown option --sumary: did you mean '--summary'?"),
        (["predict", "a.wav", "-out=x"], "affekt predict: error: unknown option -out: did you mean '--out'?"),
        (["enrol", "m", "a.wav", "--uot", "x"], "unknown option --uot: did you mean '--out'?"),
        (["train", "own", "--epochs", "3"], "values of the configuration are changed with KEY=VALUE"),
        (["robustness", "a.csv", "--gain", "-20,20"], "argument --gain: expected one argument"),
    ],
)
def test_what_is_misspelt_is_suggested(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert "usage: affekt" in err


def test_short_forms_and_file_names_are_no_misspelling(voice, model, capsys, tmp_path, monkeypatch):
    assert main(["predict", voice, "--model", model, "--summ=last", "--out", "-"]) == 0
    monkeypatch.chdir(tmp_path)
    shutil.copy(voice, "--odd.wav")
    assert main(["predict", "--model", model, "--", "--odd.wav"]) == 0
    assert "--odd.wav" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["dance"], ["predict"], ["predict", "a.wav", "--mode", "fast"]])
def test_wrong_usage_is_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "usage: affekt" in capsys.readouterr().err


def test_version_and_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "affekt", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"affekt {affekt.__version__}\n"


def test_info_says_what_is_there(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"affekt {affekt.__version__}\n")
    for word in ("core", "model", "extras", "audio", "train", "corpora", "ravdess"):
        assert word in text


def test_info_about_a_missing_extra_names_the_command(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_importable", lambda package: package != "torch")
    main(["info"])
    text = capsys.readouterr().out
    assert re.search(r"train .*no .*pip install 'affekt\[train\]'", text)
    assert re.search(r"audio .*yes", text)


def test_info_works_on_the_base_install():
    """With numpy alone: nothing else may be imported."""
    program = (
        "import sys\n"
        "for name in ('pandas','soundfile','soxr','torch','omegaconf','matplotlib','sklearn','scipy'):\n"
        "    sys.modules[name] = None\n"
        "from affekt.cli import main\n"
        "sys.exit(main(['info']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'affekt[audio]'" in done.stdout


def test_a_verb_without_its_extra_names_the_command(voice, model):
    program = (
        "import sys\n"
        "sys.modules['pandas'] = None\n"
        "from affekt.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "predict", voice, "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'affekt[audio]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_info_says_how_it_computes(capsys):
    main(["info"])
    text = capsys.readouterr().out
    assert f"kernels     {affekt.isa()}, threads: {affekt.get_num_threads()}" in text
    there = affekt.ops.binary_path() is not None
    assert ("torch ops   there" in text) == there
    assert ("torch ops   not in this build" in text) != there


def test_info_prints_a_models_card(model, capsys):
    assert main(["info", model, "--card"]) == 0
    text = capsys.readouterr().out
    assert "valence, arousal, dominance" in text
    assert "16000 Hz" in text
    assert "licence: none, random weights" in text
    assert main(["info", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == affekt.load(model).card
    for option in ("--json", "--card"):
        assert main(["info", option]) == 2
        assert f"{option} needs MODEL" in capsys.readouterr().err


def test_info_of_a_model_is_short(model, tmp_path, capsys):
    loaded = affekt.load(model)
    card = {key: value for key, value in loaded.card.items() if key not in ("schema", "tensors")}
    figures = {
        "raw": {"ccc_arousal": 0.25, "ccc_valence": 0.5, "ccc": 0.375, "uar": 0.75},
        "whole": {"uar": 0.9},
    }
    card["info"] |= {"metrics": {"test": figures}, "protocol": "group_kfold, fold 1", "intended_use": "tests"}
    write_model(tmp_path / "own.safetensors", card, loaded.tensors())
    assert main(["info", str(tmp_path / "own.safetensors")]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 15
    for line in (
        r"small, version \S+",
        r"takes +audio, one channel, 16000 Hz",
        r"gives +valence, arousal, dominance in \[-1, 1\]",
        rf" +probabilities of {', '.join(name.removeprefix('p_') for name in COLUMNS[3:])}",
        rf"estimates +every {loaded.timing['hop_s']:.3g} s from .*",
        rf"latency +at most {loaded.timing['hop_s']:.3g} s .*",
        rf"cost +{affekt.cost(loaded)['parameters']} parameters, .*",
        r"figures +test speakers \(group_kfold, fold 1\); last valid estimate of each recording",
        r"  raw +UAR 0\.750; CCC valence 0\.500, arousal 0\.250",
        r"  chance +UAR 0\.250; CCC 0",
        r"licence +none, random weights",
        r"meant for +tests",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE), line
    main(["info", model])
    assert "figures    none on the card" in capsys.readouterr().out


def test_info_of_the_shipped_model_has_its_figures(capsys):
    if not weights.list_models():
        pytest.skip("this build carries no model")
    assert main(["info", "shipped"]) == 0
    out, err = capsys.readouterr()
    assert err == ""  # the licence stands among the lines
    tested = affekt.load("shipped").card["info"]["cross_validation"]["figures"]
    assert len(out.splitlines()) <= 18
    for condition in ("raw", "running"):
        value = tested[condition]["all speakers"]["uar"]["mean"]
        assert re.search(rf"^  {condition} +UAR {value:.3f}; CCC valence ", out, re.MULTILINE)
    assert "chance   UAR 0.125" in out
    assert "affekt info speech-small --card" in out


def test_predict_without_out_prints_a_line_per_file(voice, model, capsys):
    assert main(["predict", voice, "--model", model]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (line,) = [line for line in out.splitlines() if "talk.wav" in line]
    last = affekt.predict(voice, model).iloc[-1]
    assert f"valence {last['valence']:+.2f}" in line
    assert out.startswith("last valid estimate of each recording, which published figures score")
    assert main(["predict", voice, "--model", model, "--summary", "mean"]) == 0
    out = capsys.readouterr().out
    mean = affekt.predict(voice, model)[COLUMNS].mean()
    assert f"valence {mean['valence']:+.2f}" in out
    assert out.startswith("mean of the valid estimates of each recording")


def test_predict_prints_the_last_estimate_that_is_valid(voice, model, capsys, monkeypatch):
    table = affekt.predict(voice, model)
    table["valid"] = np.arange(len(table)) < 4
    monkeypatch.setattr(affekt, "predict", lambda *args, **options: table)
    main(["predict", voice])
    assert f"valence {table['valence'][3]:+.2f}" in capsys.readouterr().out
    table["valid"] = False
    main(["predict", voice])
    assert "no speech" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predict_writes_the_table(voice, model, tmp_path, suffix, capsys):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"table{suffix}"
    assert main(["predict", voice, "--model", model, "--out", str(out)]) == 0
    read = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    expected = affekt.predict(voice, model)
    assert list(read.columns) == list(expected.columns)
    np.testing.assert_allclose(read[COLUMNS], expected[COLUMNS], rtol=1e-6)
    assert f"table  {out} ({len(expected)} rows)" in capsys.readouterr().err


def test_predict_to_standard_output_is_clean_csv(voice, model, capsys):
    assert main(["predict", voice, "--model", model, "--out", "-", "--summary", "last"]) == 0
    read = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(read) == 1
    assert list(read.columns) == ["file", "start", "end", *COLUMNS, "valid"]


def test_predict_draws_a_picture_per_file(voice, model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    other = tmp_path / "other" / "talk.wav"
    other.parent.mkdir()
    soundfile.write(other, np.random.default_rng(1).uniform(-0.3, 0.3, 16000), 16000)
    assert main(["predict", voice, "--model", model, "--plot", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert main(["predict", voice, str(other), "--model", model, "--plot", str(tmp_path / "two.svg")]) == 0
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two.talk.2.svg", "two.talk.svg"]
    assert str(tmp_path / "two.talk.2.svg") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "table.xlsx"], r"--out: expected a name that ends in .csv or .parquet"),
        (["--out", "no/such/folder/t.csv"], r"--out: the folder .*no/such/folder does not exist"),
        (["--plot", "picture.docx"], r"--plot: expected a file name that ends in one of .*png"),
        (["--plot", "no/such/folder/t.png"], r"--plot: the folder .*no/such/folder does not exist"),
        (["--window", "2"], r"window, hop: for mode='window' only"),
    ],
)
def test_predict_refuses_targets_and_options(voice, model, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Before any work: a file that is not there is not even looked for.
    assert main(["predict", voice if "--window" in words else "missing.wav", "--model", model, *words]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert "Traceback" not in err


def test_stream_prints_a_line_per_estimate_off_a_terminal(voice, model, tmp_path, capsys):
    out = tmp_path / "live.csv"
    assert main(["stream", voice, "--model", model, "--chunk-ms", "33", "--out", str(out)]) == 0
    expected = affekt.predict(voice, model)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected)
    assert re.fullmatch(
        r" +0\.21 s  valence [+-]\d\.\d\d  arousal .*  dominance .*  \|  \w+ \d\.\d\d  \w+ .*", lines[0]
    )
    pd.testing.assert_frame_equal(pd.read_csv(out), expected, rtol=1e-6, check_dtype=False)


def test_stream_renews_one_line_on_a_terminal(voice, model, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["stream", voice, "--model", model]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.count("\r") == len(affekt.predict(voice, model))


def test_stream_stops_after_the_seconds_asked_for(voice, model, capsys):
    assert main(["stream", voice, "--model", model, "--seconds", "0.95"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert float(last.split()[0]) == pytest.approx(0.99, abs=0.05)


def test_stream_in_real_time_takes_the_time_of_the_recording(voice, model, capsys, monkeypatch):
    naps = []
    now = [0.0]

    def sleep(seconds):
        naps.append(seconds)
        now[0] += seconds

    original = affekt.live.FileSource

    def paced(*args, **options):
        return original(*args, **options, clock=lambda: now[0], sleep=sleep)

    monkeypatch.setattr("affekt.live.sources.FileSource", paced)
    assert main(["stream", voice, "--model", model, "--realtime"]) == 0
    assert sum(naps) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "stream takes either a FILE to replay or --mic"),
        (["--mic", "x.wav"], "stream takes either a FILE to replay or --mic"),
        (["--mic", "--realtime"], "--realtime is for a FILE"),
        (["x.wav", "--chunk-ms", "0"], "--chunk-ms: expected a positive number, got 0"),
        (["none.wav"], "none.wav: no such file"),
    ],
)
def test_stream_refuses_what_makes_no_sense(model, words, message, capsys):
    assert main(["stream", *words, "--model", model]) == 2
    assert message in capsys.readouterr().err


def test_evaluate_prints_and_writes(model, tmp_path, capsys):
    pytest.importorskip("sklearn")
    rows = []
    for number, emotion in enumerate(["happy", "sad", "happy", "angry"]):
        sound = np.random.default_rng(number).uniform(-0.3, 0.3, 16000)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16000)
        rows.append({"file": f"{number}.wav", "emotion": emotion, "valence": number / 4})
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    words = ["--model", model, "--out", str(tmp_path / "figures.csv"), "--plot", str(tmp_path / "c.png")]
    words += ["--predictions", str(tmp_path / "rows.csv")]
    assert main(["evaluate", str(tmp_path / "labels.csv"), *words]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"valence +CCC -?\d\.\d{3}  PCC -?\d\.\d{3}  RMSE \d\.\d{3}  \(n = 4, concatenated\)", text
    )
    assert "UAR" in text
    assert "confusion" in text
    figures = pd.read_csv(tmp_path / "figures.csv")
    assert set(figures["metric"]) == {"CCC", "PCC", "RMSE", "UAR", "WAR", "macro-F1"}
    assert set(figures["mode"]) == {"full"}
    assert set(figures["estimate"]) == {"last"}
    assert "could choose any of its 4 emotions" in figures["notes"][0]
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 4
    assert (tmp_path / "c.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,arousal\na.wav,0.5\n", "column.*file"),
        ("file,arousal\na.wav,0.5\na.wav,0.5\n", "a.wav"),
        ("file,arousal\na.wav,1.5\n", "arousal"),
        ("file,arousal\na.wav,loud\n", "arousal must be numbers"),
        ("file\n", "no rows"),
        ("file,mood\na.wav,good\n", "nothing to compare"),
    ],
)
def test_evaluate_refuses_a_bad_manifest_in_one_line(model, tmp_path, content, message, capsys):
    (tmp_path / "labels.csv").write_text(content)
    assert main(["evaluate", str(tmp_path / "labels.csv"), "--model", model]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.count("\n") == 1


def test_evaluate_names_what_it_skips(model, voice, tmp_path, capsys, monkeypatch):
    (tmp_path / "broken.wav").write_text("no sound")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,arousal\ntalk.wav,0.5\nbroken.wav,0.1\n")
    assert main(["evaluate", str(labels), "--model", model, "--on-error", "skip"]) == 0
    err = capsys.readouterr().err
    assert re.search(r"affekt evaluate: skipped: .*broken\.wav", err)
    assert "1 of 2 recordings skipped" in err

    from affekt.data import Manifest

    corpus = Manifest(
        pd.DataFrame({"file": [voice], "arousal": [0.5]}), attrs={"skipped": ["x.wav: not a clip"]}
    )
    monkeypatch.setattr("affekt.data.corpus", lambda *args, **options: corpus)
    assert main(["evaluate", "ravdess", "--root", ".", "--model", model, "--on-error", "skip"]) == 0
    out, err = capsys.readouterr()
    assert "affekt evaluate: skipped: x.wav: not a clip" in err
    assert "1 more were left out when the corpus was read" in out


@pytest.mark.parametrize(("words", "count"), [([], "any of its 4"), (["--only-present"], "only among the 2")])
def test_evaluate_says_what_the_model_could_choose(model, tmp_path, capsys, words, count):
    for number in range(2):
        sound = np.random.default_rng(number).uniform(-0.3, 0.3, 16000)
        soundfile.write(tmp_path / f"{number}.wav", sound, 16000)
    (tmp_path / "labels.csv").write_text("file,emotion\n0.wav,happy\n1.wav,sad\n")
    assert main(["evaluate", str(tmp_path / "labels.csv"), "--model", model, *words]) == 0
    assert f"note: the model could choose {count} emotions" in capsys.readouterr().out


def test_evaluate_needs_the_folder_of_a_corpus(model, capsys):
    assert main(["evaluate", "ravdess", "--model", model]) == 2
    assert "needs --root FOLDER" in capsys.readouterr().err


def split_table(path, rows):
    header = "file,start,end,subject,session,partition\n"
    path.write_text(header + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return str(path)


def test_audit_passes_a_clean_split_and_fails_a_leaking_one(tmp_path, capsys):
    clean = split_table(
        tmp_path / "clean.csv", [("a.wav", 0, 1, "anna", "s1", "train"), ("b.wav", 0, 1, "ben", "s2", "test")]
    )
    assert main(["audit", clean]) == 0
    assert "no leak found" in capsys.readouterr().out
    leaking = split_table(
        tmp_path / "leak.csv", [("a.wav", 0, 1, "anna", "s1", "train"), ("b.wav", 0, 1, "anna", "s2", "test")]
    )
    assert main(["audit", leaking]) == 1
    assert "[LEAK]" in capsys.readouterr().out
    assert main(["audit", leaking, "--allow", "subject"]) == 0
    assert main(["audit", leaking, "--json"]) == 1
    assert '"ok": false' in capsys.readouterr().out.split("no leak")[-1]
    assert main(["audit", leaking, "--allow", "everything"]) == 2
    assert main(["audit", str(tmp_path / "none")]) == 2


def test_no_model_in_this_build_is_said(voice, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("affekt.weights._FOLDER", tmp_path)
    assert main(["predict", voice]) == 2
    err = capsys.readouterr().err
    assert "carries no model" in err
    assert "--model" in err
    assert main(["info"]) == 0
    assert "none in this build" in capsys.readouterr().out


def test_the_licence_of_the_shipped_model_is_printed_once(voice, model, capsys, monkeypatch, tmp_path):
    shutil.copy(model, tmp_path / "speech-small.safetensors")
    (tmp_path / "LICENSE").write_text("For research only.\n")
    monkeypatch.setattr("affekt.weights._FOLDER", tmp_path)
    monkeypatch.setattr("affekt.weights._announced", False)
    said = "affekt: the shipped model speech-small is for non-commercial research only (none, random weights)"
    assert main(["predict", voice]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(said)
    assert err.endswith(f"its licence: {tmp_path / 'LICENSE'}\n")
    assert err.count("\n") == 1
    assert said not in out
    assert main(["predict", voice]) == 0
    assert capsys.readouterr().err == ""
    # A model that the user names has its own licence.
    monkeypatch.setattr("affekt.weights._announced", False)
    assert main(["predict", voice, "--model", model]) == 0
    assert capsys.readouterr().err == ""


def test_debug_shows_the_traceback(model, tmp_path):
    with pytest.raises(affekt.DataError):
        main(["predict", str(tmp_path / "none.wav"), "--model", model, "--debug"])
    with pytest.raises(affekt.DataError):
        main(["--debug", "predict", str(tmp_path / "none.wav"), "--model", model])


def test_a_fault_of_ours_is_called_one(voice, model, capsys, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(affekt, "predict", broken)
    assert main(["predict", voice, "--model", model]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "internal error: RuntimeError: two lines" in err
    assert "--debug" in err


def test_an_interrupt_ends_quietly(voice, model, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(affekt, "predict", interrupted)
    assert main(["predict", voice, "--model", model]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(voice, model):
    command = [sys.executable, "-m", "affekt", "stream", voice, "--model", model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_stream_can_print_the_table_alone(voice, model, capsys):
    assert main(["stream", voice, "--model", model, "--out", "-"]) == 0
    out, err = capsys.readouterr()
    assert len(pd.read_csv(io.StringIO(out))) == len(err.splitlines())


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("pyarrow", ["predict", "a.wav", "--out", "t.parquet"], "train"),
        ("sklearn", ["evaluate", "labels.csv"], "evaluate"),
        ("matplotlib", ["predict", "a.wav", "--plot", "a.png"], "report"),
    ],
)
def test_a_missing_package_is_said_before_the_work(
    package, words, extra, model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("file,emotion\na.wav,happy\n")  # and there is no a.wav
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main([*words, "--model", model]) == 2
    assert f"pip install 'affekt[{extra}]'" in capsys.readouterr().err
