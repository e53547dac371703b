"""The demo: a real voice, both ways, and a failure when they differ."""

from __future__ import annotations

import shutil
import subprocess
import wave

import numpy as np
import pandas as pd
import pytest

import affekt
from affekt import _demo
from affekt.errors import DataError
from small_model import small_model

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(small_model(tmp_path_factory.mktemp("model") / "small.safetensors"))


@pytest.fixture
def voice(tmp_path):
    path = tmp_path / "mine.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, 90_000), 44100)
    return str(path)


def test_own_recording_both_ways_agree(model, voice, tmp_path, capsys):
    out = tmp_path / "out"
    assert _demo.main([voice, "--model", model, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "largest difference between full and stream, over all steps and outputs: 0\n" in text
    assert str(out / "mine.csv") in text
    assert str(out / "mine.png") in text
    assert len(pd.read_csv(out / "mine.csv")) > 5
    assert (out / "mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("fault", ["value", "row", "time"])
def test_a_difference_fails_the_demo(model, voice, tmp_path, capsys, monkeypatch, fault):
    honest = affekt.predict

    def wrong(*args, **options):
        table = honest(*args, **options)
        if options.get("mode") == "stream" and fault == "value":
            table.loc[2, "arousal"] = np.nextafter(table.loc[2, "arousal"], np.float32(2))
        if options.get("mode") == "stream" and fault == "row":
            table = table.iloc[:-1]
        if options.get("mode") == "stream" and fault == "time":
            table.loc[2, "end"] += 1e-9
        return table

    monkeypatch.setattr(affekt, "predict", wrong)
    assert _demo.main([voice, "--model", model, "--out", str(tmp_path / "out")]) == 1
    assert "FAILED" in capsys.readouterr().err


def test_a_bad_recording_is_one_line(model, tmp_path, capsys):
    assert _demo.main([str(tmp_path / "none.wav"), "--model", model]) == 1
    assert capsys.readouterr().err == f"demo: error: {tmp_path / 'none.wav'}: no such file\n"


def pack(folder, wavs, raws=()):
    """A package as Debian's archive has it, with the given recordings."""
    place = folder / "tree" / "usr/share/pocketsphinx/test/data"
    (place / "librivox").mkdir(parents=True)
    for name, samples in wavs:
        with wave.open(str(place / "librivox" / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(np.asarray(samples, "<i2").tobytes())
    for name, samples in raws:
        np.asarray(samples, "<i2").tofile(place / name)
    return folder / "tree"


def test_sentences_are_read_in_order(tmp_path):
    tree = pack(tmp_path, [("b.wav", [3, 4]), ("a.wav", [1, 2])], [("go.raw", [9])])
    assert _demo.read_sentences(tree).tolist() == [1, 2, 3, 4]


def test_raw_recordings_are_the_second_choice(tmp_path):
    assert _demo.read_sentences(pack(tmp_path, [], [("go.raw", [-5, 300])])).tolist() == [-5, 300]


def test_a_package_without_recordings_is_said(tmp_path):
    with pytest.raises(DataError, match="holds no recording that the demo knows"):
        _demo.read_sentences(pack(tmp_path, []))


@pytest.fixture
def fake_apt(tmp_path, monkeypatch):
    """apt-get and dpkg-deb that need no network: they hand out a package made here."""
    sound = (3000 * np.sin(np.arange(24000) * 0.05)).astype("<i2")
    tree = pack(tmp_path, [("a.wav", sound)])
    calls = []
    failing = set()

    def run(command, cwd, **options):
        calls.append(command[0] + (" update" if "update" in command else ""))
        words = "own" if "-o" in command else "plain"
        if (command[0], words) in failing or (command[0], "any") in failing:
            return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package\n")
        if command[:1] == ["apt-get"] and "download" in command:
            (cwd / "pocketsphinx-testdata_1_all.deb").write_bytes(b"!<arch>")
        if command[0] == "dpkg-deb":
            shutil.copytree(tree, command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(_demo.subprocess, "run", run)
    monkeypatch.setattr(_demo.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    return calls, failing


def test_the_sample_is_fetched_once(fake_apt, tmp_path):
    calls, _ = fake_apt
    path = _demo.sample_recording(tmp_path / "cache")
    info = affekt.data.audio_info(path)
    assert (info.sample_rate, info.channels, info.frames) == (16000, 1, 24000)
    assert calls == ["apt-get", "dpkg-deb"]
    assert _demo.sample_recording(tmp_path / "cache") == path
    assert len(calls) == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_machine_without_package_lists_gets_its_own(fake_apt, tmp_path):
    calls, failing = fake_apt
    failing.add(("apt-get", "plain"))
    assert _demo.sample_recording(tmp_path / "cache").is_file()
    assert calls == ["apt-get", "apt-get update", "apt-get", "dpkg-deb"]


def test_offline_says_what_to_do(fake_apt, model, tmp_path, capsys, monkeypatch):
    fake_apt[1].add(("apt-get", "any"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _demo.main(["--model", model]) == 1
    err = capsys.readouterr().err
    assert "Unable to locate package" in err
    assert "make demo AUDIO=my.wav" in err
    assert err.count("\n") == 1


def test_no_apt_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(_demo.shutil, "which", lambda tool: None)
    with pytest.raises(DataError, match=r"apt-get and dpkg-deb not found.*AUDIO=my\.wav"):
        _demo.sample_recording(tmp_path)
