"""Disturbances have the amounts that they claim, and the curves are the figures of disturbed recordings."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import affekt
from affekt import robustness
from affekt.cli import main
from affekt.errors import DataError, InputError
from small_model import small_model
from sounds import tone

pd = pytest.importorskip("pandas")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
pytest.importorskip("sklearn")

RATE = 16000
SPEAKERS = 4


def pitch(speaker):
    """Frequency of a speaker: a whole number of periods per second, apart from the others' harmonics."""
    return (311, 457, 701, 1009)[speaker]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return affekt.load(small_model(tmp_path_factory.mktemp("model") / "small.safetensors"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Four speakers, each a tone of their own between pauses, with labels of both kinds."""
    folder = tmp_path_factory.mktemp("voices")
    rows = []
    for speaker in range(SPEAKERS):
        for take in range(2):
            t = np.arange(round((0.5 + 0.1 * take) * RATE)) / RATE
            sound = 0.1 * (1 + take) * np.sin(2 * np.pi * pitch(speaker) * t)
            name = f"{speaker}-{take}.wav"
            soundfile.write(folder / name, np.concatenate([np.zeros(1600), sound, np.zeros(800)]), RATE)
            rows.append({"file": name, "subject": f"s{speaker}", "emotion": ["happy", "sad"][take],
                         "arousal": 0.2 * speaker - 0.3})  # fmt: skip
    path = folder / "labels.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def power_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


@given(st.floats(-20, 40), st.floats(0.01, 0.9), st.integers(0, 3))
def test_the_snr_is_the_one_asked_for_over_speech_alone(snr, level, silence):
    speech = tone(0.5, frequency=200, level=level)
    padded = np.concatenate([np.zeros(silence * 3200), speech, np.zeros(silence * 1600)]).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal(len(padded)).astype(np.float32)
    added = robustness.mix(padded, noise, snr, RATE).astype(np.float64) - padded
    active = robustness.active_frames(padded, RATE)
    assert power_db(padded[active]) - power_db(added[active]) == pytest.approx(snr, abs=0.05)
    # Silence around a clip changes nothing about what is added to its speech but the draw.
    assert active.sum() == robustness.active_frames(speech, RATE).sum()


def test_active_frames_are_those_near_the_loud_ones():
    parts = [np.zeros(3200), tone(0.4, level=0.5), 0.001 * tone(0.2, level=0.5), tone(0.2, level=0.05)]
    active = robustness.active_frames(np.concatenate(parts), RATE)
    ends = np.cumsum([len(part) for part in parts])
    shares = [piece.mean() for piece in np.split(active, ends[:-1])]
    assert shares[0] == 0
    assert shares[1] > 0.9
    assert shares[2] == 0
    assert shares[3] > 0.9
    with pytest.raises(DataError, match="no active speech"):
        robustness.active_frames(np.zeros(1000), RATE)


def test_a_disturbance_that_is_silent_or_of_another_length_is_refused():
    speech = tone(0.2)
    with pytest.raises(DataError, match="silent wherever speech is active"):
        robustness.mix(speech, np.zeros_like(speech), 10, RATE)
    with pytest.raises(InputError, match="must have the same length"):
        robustness.mix(speech, speech[1:], 10, RATE)


def test_a_band_keeps_what_is_inside_and_nothing_else():
    t = np.arange(RATE) / RATE
    inside, low, high = (np.sin(2 * np.pi * f * t) for f in (1000, 200, 4000))
    heard = robustness.bandpass(inside + low + high, 300, 3400, RATE)
    np.testing.assert_allclose(heard, inside, atol=1e-5)
    # Edges inside the slope are weakened, not cut.
    edge = np.sin(2 * np.pi * 3570 * t)
    assert 0.1 < np.std(robustness.bandpass(edge, 300, 3400, RATE)) / np.std(edge) < 0.9
    with pytest.raises(InputError, match="0 <= LOW < HIGH"):
        robustness.bandpass(inside, 3400, 300, RATE)


@given(st.floats(0.0, 0.5))
def test_the_share_of_clipped_samples_is_the_one_asked_for(share):
    samples = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    clipped = robustness.clip_loudest(samples, share, RATE)
    assert np.mean(clipped != samples) == pytest.approx(share, abs=2e-4)
    assert np.abs(clipped).max() <= np.abs(samples).max()
    with pytest.raises(InputError, match="from 0 to below 1"):
        robustness.clip_loudest(samples, 1.0, RATE)


def heard_by(monkeypatch, model, table, levels, **options):
    """What the model was given: per recording, a signal per entry of the plan."""
    given = []
    whole = type(model).run

    def run(self, samples, *rest, **more):
        given.append(np.array(samples))
        return whole(self, samples, *rest, **more)

    monkeypatch.setattr(type(model), "run", run)
    found = robustness.curves(model, table, levels, resamples=20, **options)
    count = 1 + sum(map(len, levels.values()))
    return found, [given[at : at + count] for at in range(0, len(given), count)]


def test_babble_is_made_of_the_others_and_never_of_the_speaker(monkeypatch, model, table):
    _, signals = heard_by(monkeypatch, model, table, {"babble": [0.0]}, talkers=2)
    rows = pd.read_csv(table)
    voices = set()
    for row, (clean, heard) in zip(rows.itertuples(), signals, strict=True):
        added = heard.astype(np.float64) - clean
        spectrum = np.abs(np.fft.rfft(added * np.hanning(len(added)), 4 * RATE)) ** 2
        share = np.array([spectrum[4 * pitch(s) - 40 : 4 * pitch(s) + 41].sum() for s in range(SPEAKERS)])
        share /= share.sum()
        own = int(row.subject[1])
        assert share[own] < 1e-3, (row.file, share)
        assert (share > 0.1).sum() == 2
        voices |= set(np.flatnonzero(share > 0.1))
    assert voices == set(range(SPEAKERS)), "everybody should be among the talkers somewhere"


def test_what_the_model_hears_is_the_recording_disturbed_by_the_level(monkeypatch, model, table):
    levels = {"gain": [-20.0, 6.0], "bandwidth": [8000.0, 16000.0], "bandpass": ["300-3400"], "noise": [20.0]}
    _, signals = heard_by(monkeypatch, model, table, levels)
    for clean, quiet, loud, narrow, whole, band, noisy in signals:
        np.testing.assert_allclose(quiet, 0.1 * clean, rtol=1e-5)
        np.testing.assert_allclose(loud, 10**0.3 * clean, rtol=1e-5)
        np.testing.assert_array_equal(whole, clean)
        assert len(narrow) == len(clean)
        spectrum = np.abs(np.fft.rfft(narrow)) ** 2
        assert spectrum[len(spectrum) * 11 // 20 :].sum() < 1e-4 * spectrum.sum()
        np.testing.assert_array_equal(band, robustness.bandpass(clean, 300, 3400, RATE))
        active = robustness.active_frames(clean, RATE)
        assert power_db(clean[active]) - power_db((noisy - clean)[active]) == pytest.approx(20, abs=0.1)


def test_noise_follows_the_seed_and_not_the_other_recordings(monkeypatch, model, table):
    levels = {"noise": [10.0]}
    _, first = heard_by(monkeypatch, model, table, levels)
    found, again = heard_by(monkeypatch, model, table, levels)
    part = affekt.data.read_manifest(table).select([5, 2])
    _, few = heard_by(monkeypatch, model, part, levels)
    _, other = heard_by(monkeypatch, model, table, levels, seed=1)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[1], two[1])
    np.testing.assert_array_equal(few[0][1], first[5][1])
    np.testing.assert_array_equal(few[1][1], first[2][1])
    assert not np.array_equal(other[0][1], first[0][1])
    assert not np.array_equal(first[0][1][:4000], first[1][1][:4000])
    assert "seed 0" in found.notes[0]


def test_the_clean_figures_are_those_of_evaluate_and_no_disturbance_is_clean(model, table):
    levels = {"gain": [0.0], "clipping": [0.0], "bandwidth": [16000.0]}
    found = robustness.curves(model, table, levels, estimate="mean", resamples=100).table
    expected = affekt.evaluate(model, table, estimate="mean").metrics
    for condition in ("clean", "gain", "clipping", "bandwidth"):
        rows = found[found["condition"] == condition]
        assert rows["value"].tolist() == pytest.approx(expected["value"].tolist())
        assert rows["metric"].tolist() == expected["metric"].tolist()
    assert set(found["speakers"]) == {SPEAKERS}
    assert (found["low"] <= found["high"]).all()


@pytest.mark.parametrize(
    ("levels", "options", "error", "message"),
    [
        ({"echo": [1]}, {}, InputError, "condition must be one of 'noise', 'babble'"),
        ({"noise": []}, {}, InputError, "noise: expected at least one level"),
        ({"noise": [float("nan")]}, {}, InputError, "level of noise must be a finite number"),
        ({"clipping": [1.5]}, {}, InputError, "level of clipping must be a finite number from 0.0 to 0.99"),
        ({"bandwidth": [48000]}, {}, InputError, "level of bandwidth must be .* to 16000"),
        (
            {"bandpass": ["telephone"]},
            {},
            InputError,
            "expected LOW-HIGH in Hz, e.g. 300-3400, got 'telephone'",
        ),
        ({"bandpass": ["300-9000"]}, {}, InputError, "reaches beyond 8000 Hz"),
        ({"babble": [10]}, {"talkers": 4}, DataError, "needs more than 4 speakers.* the manifest has 4"),
        ({"babble": [10]}, {"talkers": 0}, InputError, "talkers must be an integer not below 1"),
        ({"noise": [10]}, {"seed": -1}, InputError, "seed must be an integer not below 0"),
        ({"noise": [10]}, {"estimate": "first"}, InputError, "estimate must be one of 'last', 'mean'"),
    ],
)
def test_what_cannot_be_done_says_why(model, table, levels, options, error, message):
    with pytest.raises(error, match=message):
        robustness.curves(model, table, levels, **options)


def test_babble_needs_to_know_who_speaks(model, table):
    rows = affekt.data.read_manifest(table)
    nobody = affekt.data.Manifest(rows.table.drop(columns="subject"), root=rows.root)
    with pytest.raises(DataError, match="needs a column 'subject'"):
        robustness.curves(model, nobody, {"babble": [10]})


def test_recordings_that_cannot_be_used_are_named_or_left_out(model, table, tmp_path):
    rows = pd.read_csv(table)
    rows["file"] = [str(table.parent / name) for name in rows["file"]]
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "short.wav", tone(0.01), RATE)
    for name in ("silent", "short"):
        extra = {"file": str(tmp_path / f"{name}.wav"), "subject": "s9", "emotion": "sad", "arousal": 0.0}
        rows = pd.concat([rows, pd.DataFrame([extra])], ignore_index=True)
    with pytest.raises(DataError, match=r"silent\.wav: every sample is zero"):
        robustness.curves(model, rows, {"noise": [10]})
    with pytest.warns(affekt.data.AudioWarning):
        found = robustness.curves(model, rows, {"noise": [10]}, on_error="skip")
    reasons = [failure["reason"] for failure in found.failures]
    assert re.search(r"silent\.wav: every sample is zero", reasons[0])
    assert re.search(r"short\.wav: 0\.010 s is too short", reasons[1])
    assert set(found.table["recordings"]) == {8}
    assert "2 of 10 recordings could not be used" in str(found)


def test_the_command_writes_a_table_and_a_picture_per_condition(model, table, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    words = ["robustness", str(table), "--model", str(model.path), "--out", str(tmp_path / "out")]
    options = [
        "--conditions",
        "noise,gain,bandpass",
        "--noise",
        "20,0",
        "--gain=-6,6",
        "--bandpass",
        "300-3400",
        "--no-adapt",
    ]
    assert main([*words, *options]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^noise +20 dB +-?\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]", out, re.MULTILINE)
    found = pd.read_csv(tmp_path / "out/curves.csv", dtype={"level": str})
    assert list(dict.fromkeys(found["condition"])) == ["clean", "noise", "gain", "bandpass"]
    assert list(found.columns) == ["condition", "level", "unit", "label", "metric", "value", "low", "high",
                                   "recordings", "speakers"]  # fmt: skip
    assert set(found["metric"]) == {"CCC", "PCC", "RMSE", "UAR", "WAR", "macro-F1"}
    for name in ("noise", "gain", "bandpass"):
        assert (tmp_path / f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}.png" in err
    assert "SNR over active speech" in (tmp_path / "out/notes.txt").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--conditions", "noise,rain"], "--conditions: expected some of noise, babble"),
        (["--noise", "loud"], "--noise: expected numbers apart by commas, got 'loud'"),
        (["--conditions", "babble"], "babble of 4 talkers needs more than 4 speakers"),
    ],
)
def test_the_command_refuses_in_one_line(model, table, tmp_path, capsys, options, message):
    words = ["robustness", str(table), "--model", str(model.path), "--out", str(tmp_path / "out")]
    assert main([*words, *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_figure_needs_a_condition_of_the_table(model, table):
    pytest.importorskip("matplotlib")
    from affekt.report import robustness_figure

    found = robustness.curves(model, table, {"noise": [10.0]}, resamples=20).table
    with pytest.raises(InputError, match=r"expected one of the table \(noise\), got 'babble'"):
        robustness_figure(found, "babble")
    figure = robustness_figure(found, "noise")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["UAR", "CCC"]
    line = figure.axes[1].lines[0]
    shown = found[(found["metric"] == "CCC") & (found["label"] == "arousal")]["value"]
    np.testing.assert_allclose(line.get_ydata(), shown)


def test_a_figure_says_of_which_model_and_recordings_it_is(model, table, tmp_path):
    pytest.importorskip("matplotlib")
    from affekt.report import robustness_figure

    count = len(pd.read_csv(table))
    named = pd.read_csv(table).assign(corpus="field")
    named.to_csv(table.parent / "named.csv", index=False)
    found = robustness.curves(model, table.parent / "named.csv", {"noise": [10.0]}, resamples=20).table
    figure = robustness_figure(found, "noise")
    assert figure.get_suptitle() == f"noise: {model.card['name']} {model.card['version']} on field"
    assert (
        figure.get_supxlabel() == f"{count} recordings, 95 % intervals over {found['speakers'][0]} speakers"
    )
    figure.draw_without_rendering()
    box = figure._supxlabel.get_window_extent()
    assert not any(box.overlaps(axis.get_tightbbox()) for axis in figure.axes)
    nameless = found.copy()
    nameless.attrs = {}
    assert robustness_figure(nameless, "noise").get_suptitle() == "noise"
    assert robustness_figure(found, "noise", title="mine").get_suptitle() == "mine"
    # Of a corpus without a name the file's stands for it.
    words = ["robustness", str(table), "--model", str(model.path), "--out", str(tmp_path / "out")]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "affekt.report.robustness_figure",
            lambda given, name: (seen.append(given.attrs["corpus"]), figure)[1],
        )
        assert main([*words, "--conditions", "noise", "--noise", "10"]) == 0
    assert seen == [table.name]


def test_real_speech_is_judged_worse_in_noise(data_dir):
    from affekt import data, weights

    if not weights.list_models():
        pytest.skip("this build carries no model")
    if not (data_dir / "ravdess").is_dir():
        pytest.skip(f"no RAVDESS in {data_dir}")
    rows = data.corpus("ravdess", data_dir / "ravdess")
    few = rows.select((rows.table["subject"].isin([f"ravdess-{k:02d}" for k in range(1, 6)])
                       & (rows.table["repetition"] == "01")).to_numpy())  # fmt: skip
    found = robustness.curves(weights.default_model(), few, {"noise": [0.0], "babble": [0.0]}, resamples=0)
    uar = found.table[found.table["metric"] == "UAR"].set_index("condition")["value"]
    assert uar["noise"] < uar["clean"] - 0.1
    assert uar["babble"] < uar["clean"] - 0.1
