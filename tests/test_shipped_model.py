"""The model that ships: small, complete, honest about its licence, and usable with no model named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import affekt
from affekt import live, weights
from affekt.cli import main
from sounds import tone

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("pandas")

pytestmark = pytest.mark.skipif(
    not weights.list_models(), reason="this build carries no weights (AFFEKT_WEIGHTS=OFF)"
)

EMOTIONS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
COLUMNS = ["valence", "arousal", "dominance", *(f"p_{name}" for name in EMOTIONS)]


both = pytest.mark.parametrize("name", ["speech-small", "speech-small-int8"])


@both
def test_it_is_small_and_gives_every_column(name):
    path = weights.default_model(name)
    assert path.stat().st_size <= 2_000_000
    model = affekt.load(path)
    assert model.name == name
    assert sorted(model.columns) == sorted(COLUMNS)


def test_the_int8_twin_is_that_of_the_model():
    path, twin = (affekt.load(weights.default_model(name)) for name in ("speech-small", "speech-small-int8"))
    assert twin.card["info"]["quantised"]["from"]["sha256"] == path.native.hash
    assert twin.path.stat().st_size < 0.3 * path.path.stat().st_size


@both
def test_its_card_says_what_it_may_be_used_for(name):
    info = affekt.load(weights.default_model(name)).card["info"]
    for key in ("licence", "data", "intended_use"):
        assert info.get(key), f"the card lacks {key}"
    assert "ravdess" in info["data"]
    assert "CC BY-NC-SA" in info["licence"]


def test_its_licence_names_the_corpus_and_the_limits():
    text = weights.licence()
    assert "RAVDESS" in text
    assert "non-commercial" in text


def test_it_loads_by_name_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = affekt.load("speech-small")
    assert model.path == weights.default_model()
    assert affekt.load("shipped").hash == affekt.load(Path("shipped")).hash == model.hash
    (tmp_path / "speech-small-int8").mkdir()  # a folder is no model
    assert affekt.load("speech-small-int8").name == "speech-small-int8"
    twin = affekt.quantise(model, tmp_path / "speech-small", name="mine")
    assert affekt.load("speech-small").name == "mine"
    assert affekt.load(twin).name == "mine"
    with pytest.raises(affekt.ModelFileError, match=r"speech-smal: no such file.*mean 'speech-small'\?"):
        affekt.load("speech-smal")
    with pytest.raises(
        affekt.ModelFileError, match=r"xyz: no such file.* carries speech-small, speech-small-"
    ):
        affekt.load("xyz")
    with pytest.raises(affekt.ModelFileError, match=r"xyz\.safetensors: no such file$"):
        affekt.load("xyz.safetensors")


def test_its_licence_is_said_in_one_line_once_per_process(monkeypatch, capsys):
    monkeypatch.setattr("affekt.weights._announced", False)
    for name in ("speech-small", None, "speech-small-int8", "shipped"):
        affekt.load(name)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for words in ("speech-small", "non-commercial research only", "CC BY-NC-SA 4.0", "LICENSE"):
        assert words in err
    path = err.strip().rpartition("licence: ")[2]
    assert "non-commercial research only" in Path(path).read_text(encoding="utf-8")


VERBS = {  # a command line in which the model is MODEL, and what must come of it
    "info": ["info", "MODEL"],
    "predict": ["predict", "talk.wav", "--model", "MODEL"],
    "stream": ["stream", "talk.wav", "--model", "MODEL"],
    "evaluate": ["evaluate", "labels.csv", "--model", "MODEL"],
    "robustness": ["robustness", "labels.csv", "--model", "MODEL", "--out", "c", "--conditions", "gain"],
    "enrol": ["enrol", "MODEL", "talk.wav", "--out", "anna.json"],
    "quantise": ["quantise", "MODEL", "--out", "int8.safetensors"],
    "ensemble": ["ensemble", "MODEL", "speech-small-int8", "--out", "both.safetensors"],
    "export": ["export", "MODEL", "--out", "again.safetensors"],
    "train": ["train", "own", "data.manifest=labels.csv", "--init", "MODEL", "--dry-run"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_it_by_name(verb, tmp_path, monkeypatch, capsys):
    if verb in ("export", "train"):
        pytest.importorskip("omegaconf")
        pytest.importorskip("pytorch_lightning")
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    # Bursts of tone: the model hears "speech" in them, which enrolment needs.
    bursts = np.repeat(draw.uniform(0, 1, 30) > 0.4, 1600) * tone(3.0) + 1e-4 * draw.standard_normal(48000)
    soundfile.write("talk.wav", bursts, 16000)
    (tmp_path / "labels.csv").write_text("file,subject,arousal\ntalk.wav,anna,0.5\n")
    for name in ("shipped", "speech-small"):
        assert main([name if word == "MODEL" else word for word in VERBS[verb]]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["speech-smal" if word == "MODEL" else word for word in VERBS[verb]]) == 2
    assert "did you mean 'speech-small'?" in capsys.readouterr().err


def test_its_name_opens_it_everywhere(tmp_path):
    model, twin = affekt.load("speech-small"), affekt.load("speech-small-int8")
    assert live.Engine("speech-small").model.hash == model.hash
    again = affekt.load(affekt.quantise("speech-small", tmp_path / "int8.safetensors"))
    assert again.card["info"]["quantised"]["from"]["sha256"] == model.hash
    both = affekt.load(affekt.ensemble(["speech-small", "speech-small-int8"], tmp_path / "both.safetensors"))
    assert [member["sha256"] for member in both.card["info"]["members"]] == [model.hash, twin.hash]


def test_prediction_without_a_model_prints_the_licence_once_per_process(tmp_path):
    soundfile.write(tmp_path / "voice.wav", tone(2.0), 16000)
    code = (
        "import sys, affekt\n"
        "first = affekt.predict(sys.argv[1])\n"
        "second = affekt.predict(sys.argv[1], mode='stream')\n"
        "assert len(first) and first.equals(second)\n"
        "assert first.notna().all().all()\n"
        "print(*first.columns)\n"
    )
    licence = "affekt: the shipped model speech-small is for non-commercial research only"
    for _ in range(2):  # every process says it anew
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "voice.wav")],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith(licence)
        assert done.stderr.count("\n") == 1
        assert done.stdout.split() == ["file", "start", "end", *COLUMNS, "valid"]
