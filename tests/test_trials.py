"""Trials: signals at their own rates and label traces, joined step by step, each file read once."""

# ruff: noqa: E402
from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

pandas = pytest.importorskip("pandas")
pytest.importorskip("safetensors")

from affekt import data
from affekt.data import store as store_module
from affekt.errors import DataError, InputError
from checklist import row


def write(folder, names, eeg, face=None, traces=None, **columns):
    """Trials with EEG rows at the rate of the labels and, if given, face rows at four times that."""
    rows = []
    for i, name in enumerate(names):
        np.savez(folder / f"{name}.npz", eeg=eeg[i], **({} if face is None else {"face": face[i]}))
        trace = np.zeros(len(eeg[i])) if traces is None else traces[i]
        pandas.DataFrame({"valence": trace}).to_csv(folder / f"{name}.csv", index=False)
        rows.append({
            "file": f"{name}.npz", "subject": f"s{i // 2}", "trace": f"{name}.csv", "eeg_key": "eeg",
            "face_key": "face", **{key: value[i] for key, value in columns.items()},
        })  # fmt: skip
    return data.Manifest(pandas.DataFrame(rows), root=folder)


def prepared(manifest, folder, *, face=False, **options):
    sources = {"eeg": data.make_source("matrix", rate=4)}
    if face:
        sources["face"] = data.make_source("matrix", rate=16)
    return data.prepare_trials(manifest, sources, data.Trace(rate=4, labels=["valence"]), folder, **options)


def counting(steps, ratio, width=2):
    """Rows that say which row they are."""
    return np.arange(steps * ratio, dtype=np.float32)[:, None] + np.linspace(0, 0.5, width, dtype=np.float32)


def test_steps_take_the_rows_of_their_time(tmp_path):
    lengths = [10, 7]
    manifest = write(
        tmp_path, ["a", "b"], [counting(n, 1) for n in lengths], [counting(n, 4) for n in lengths]
    )
    trials = prepared(manifest, tmp_path / "f", face=True)
    assert trials.steps.tolist() == lengths
    assert trials.ratios == {"eeg": 1.0, "face": 4.0}
    for offset in range(4):
        values, present = trials.load(1, "face", offset=offset)
        assert values[:, 0].tolist() == [4 * i + offset for i in range(7)]
        assert present.all()
    assert trials.load(0, "eeg", start=3, stop=6)[0][:, 0].tolist() == [3, 4, 5]
    assert trials.load(0, "face", offset=2, start=8)[0][:, 0].tolist() == [34, 38]
    assert len(trials.load(0, "eeg", start=10)[0]) == 0
    assert trials.stretch(1, "face")[0][:, 0].tolist() == list(range(28))


def test_rates_that_do_not_fit_are_sampled_by_nearest_time(tmp_path):
    manifest = write(tmp_path, ["a"], [counting(9, 1)], [np.arange(90, dtype=np.float32)[:, None]])
    sources = {"eeg": data.make_source("matrix", rate=4), "face": data.make_source("matrix", rate=39)}
    trace = data.Trace(rate=4, labels=["valence"])
    with pytest.raises(
        InputError, match=r"39 rows per second are no whole multiple of 4 labels.*nearest=\[face\]"
    ):
        data.prepare_trials(manifest, sources, trace, tmp_path / "f")
    trials = data.prepare_trials(manifest, sources, trace, tmp_path / "f", nearest=["face"])
    assert trials.load(0, "face", offset=3)[0][:, 0].tolist() == [int(i * 9.75 + 0.5) for i in range(9)]
    with pytest.raises(InputError, match="nearest names mouth"):
        data.prepare_trials(manifest, sources, trace, tmp_path / "f", nearest=["mouth"])


def test_what_is_short_is_held_and_what_is_long_is_cut_and_both_are_counted(tmp_path):
    eeg, trace = [counting(8, 1), counting(12, 1), counting(2, 1)], [np.zeros(10)] * 3
    manifest = write(tmp_path, ["short", "long", "broken"], eeg, traces=trace)
    with pytest.raises(DataError, match=r"2 rows for 10 labels, expected 10.*more than 1 s short"):
        prepared(manifest, tmp_path / "f", slack=1.0)
    trials = prepared(manifest, tmp_path / "f", slack=1.0, on_error="skip")
    assert trials.load(0, "eeg")[0][:, 0].tolist() == [*range(8), 7, 7]
    assert trials.load(1, "eeg")[0][:, 0].tolist() == [*range(10)]
    assert trials.adjusted[["signal", "rows", "wanted"]].values.tolist() == [["eeg", 8, 10], ["eeg", 12, 10]]
    assert len(trials.failures) == 1
    assert "broken.npz" in trials.failures["file"].iloc[0]
    assert "2 rows for 10 labels" in trials.failures["reason"].iloc[0]


def test_missing_signals_drop_the_trial_or_are_masked(tmp_path):
    manifest = write(tmp_path, ["a", "b"], [counting(5, 1)] * 2, [counting(5, 4)] * 2)
    table = manifest.table.assign(face=["a.npz", None])
    manifest = data.Manifest(table, root=tmp_path)
    with pytest.raises(DataError, match="no file in the column 'face'"):
        prepared(manifest, tmp_path / "f", face=True)
    with pytest.warns(UserWarning, match="left out 1 of 2"):
        dropped = prepared(manifest, tmp_path / "f", face=True, on_error="skip")
    assert len(dropped) == 1
    assert "no file in the column 'face'" in dropped.failures["reason"].iloc[0]
    with pytest.warns(UserWarning, match="left out 1 of 2"):
        masked = prepared(manifest, tmp_path / "f", face=True, missing="mask")
    assert len(masked) == 2
    values, present = masked.load(1, "face")
    assert values.shape == (5, 2)
    assert not values.any()
    assert not present.any()
    assert masked.load(0, "face")[1].all()
    assert not masked.stretch(1, "face")[1].any()


def test_absent_rows_are_masked_and_not_counted(tmp_path):
    eeg = counting(6, 1)
    eeg[2:4] = np.nan
    trials = prepared(write(tmp_path, ["a"], [eeg]), tmp_path / "f")
    values, present = trials.load(0, "eeg")
    assert present.tolist() == [True, True, False, False, True, True]
    assert not values[2:4].any()
    found = trials.statistics([0], "eeg")
    assert found.count == 4
    np.testing.assert_allclose(found.mean, eeg[[0, 1, 4, 5]].mean(0), rtol=1e-6)
    everywhere = np.full((3, 2), np.nan)
    with pytest.raises(DataError, match="nothing of it is there"):
        prepared(write(tmp_path, ["n"], [everywhere]), tmp_path / "g")


@row("zhang", 43)
@pytest.mark.parametrize("mode", ["feature", "scalar"])
def test_statistics_are_those_of_the_training_trials_whatever_the_others_hold(tmp_path, rng, mode):
    eeg = [rng.normal(2, 3, size=(n, 3)) for n in (30, 40, 50)]

    def fitted(folder, values):
        folder.mkdir()
        trials = prepared(write(folder, ["a", "b", "c"], values), folder / "f")
        found = trials.statistics([0, 1], "eeg")
        return found.scalar() if mode == "scalar" else found

    one = fitted(tmp_path / "one", eeg)
    two = fitted(tmp_path / "two", [*eeg[:2], eeg[2] * 100])
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.sd, two.sd)
    both = np.concatenate(eeg[:2]).astype(np.float32).astype(np.float64)
    expected = (both.mean(0), both.std(0)) if mode == "feature" else ([both.mean()] * 3, [both.std()] * 3)
    np.testing.assert_allclose(one.mean, expected[0], rtol=1e-12)
    np.testing.assert_allclose(one.sd, expected[1], rtol=1e-12)
    data.save_statistics({"eeg": one}, tmp_path)
    loaded = data.load_statistics(tmp_path)["eeg"]
    assert loaded.mode == mode
    np.testing.assert_array_equal(loaded.sd, one.sd)
    assert json.loads((tmp_path / "statistics.json").read_text())["modalities"]["eeg"]["fitted_on"] == "train"


def test_the_audit_finds_statistics_of_the_test_trials(tmp_path, rng):
    manifest = write(tmp_path, list("abcd"), [rng.normal(size=(20, 2)) * (i + 1) for i in range(4)])
    trials = prepared(manifest, tmp_path / "f")
    split = data.Split([0, 1], [], [2, 3])
    split.save(tmp_path, trials.manifest)
    data.save_statistics({"eeg": trials.statistics([0, 1], "eeg")}, tmp_path)
    assert data.audit(tmp_path, store=trials.first).ok
    data.save_statistics({}, tmp_path)
    assert data.audit(tmp_path, store=trials.first).ok
    for rows, scalar in (([0, 1, 2, 3], False), ([2, 3], True)):
        found = trials.statistics(rows, "eeg")
        data.save_statistics({"eeg": found.scalar() if scalar else found}, tmp_path)
        report = data.audit(tmp_path, store=trials.first)
        assert [f.kind for f in report.findings] == ["statistics"]


def test_prepared_rows_are_kept_and_changed_files_are_computed_again(tmp_path, monkeypatch):
    manifest = write(tmp_path, ["a", "b"], [counting(5, 1), counting(6, 1)])
    prepared(manifest, tmp_path / "f")
    read = []
    monkeypatch.setattr(
        data.Matrix,
        "matrix",
        lambda self, place, old=data.Matrix.matrix: read.append(place.file.name) or old(self, place),
    )
    trials = prepared(manifest, tmp_path / "f")
    assert read == []
    assert trials.first.stale() == []
    np.savez(tmp_path / "b.npz", eeg=counting(6, 1) + 1)
    assert trials.first.stale() == [str(tmp_path / "b.npz")]
    assert prepared(manifest, tmp_path / "f").load(1, "eeg")[0][0, 0] == 1
    assert read == ["b.npz"]


def test_what_is_pickled_is_small_and_loads_the_same(tmp_path, rng):
    trials = prepared(write(tmp_path, ["a"], [rng.normal(size=(5000, 20))]), tmp_path / "f")
    before = trials.load(0, "eeg")[0]
    packed = pickle.dumps(trials)
    assert len(packed) < before.nbytes / 10
    np.testing.assert_array_equal(pickle.loads(packed).load(0, "eeg")[0], before)


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("affekt.data.trials._CACHE", 100_000)
    eeg = [np.full((1000, 10), i, np.float32) for i in range(6)]
    trials = prepared(write(tmp_path, list("abcdef"), eeg), tmp_path / "f")
    for _ in range(2):
        for i in range(6):
            assert trials.load(i, "eeg", start=1, stop=2)[0][0, 0] == i
    assert sum(values.nbytes for values, _ in trials._cache.values()) <= 100_000


def test_pictures_are_stored_as_bytes_and_read_in_part(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)

    class Frames(data.Source):
        rate, shape, options = 16.0, (4, 4, 3), {"rate": 16.0}

        def rows(self, place):
            return data.Rows(frames, np.arange(40) != 5)

    manifest = write(tmp_path, ["a"], [counting(10, 1)])
    trials = data.prepare_trials(
        manifest, {"video": Frames()}, data.Trace(rate=4, labels=["valence"]), tmp_path / "f"
    )
    values, present = trials.load(0, "video", offset=1, start=1, stop=4)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, np.where(present[:, None, None, None], frames[[5, 9, 13]], 0))
    assert present.tolist() == [False, True, True]
    with pytest.raises(InputError, match="have no statistics"):
        trials.statistics([0], "video")


# Files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("ending", ["npy", "npz", "mat", "csv", "tsv", "parquet"])
def test_matrices_in_the_formats_that_people_share(tmp_path, ending, dtype):
    x = np.asfortranarray(np.arange(12).reshape(6, 2)[::-1], dtype=dtype)
    file = tmp_path / f"x.{ending}"
    table = pandas.DataFrame(x, columns=["u", "v"])
    if ending == "npy":
        np.save(file, x)
    elif ending == "npz":
        np.savez(file, rows=x, other=x[0])
    elif ending == "mat":
        pytest.importorskip("scipy.io").savemat(file, {"rows": x, "other": x[0]})
    elif ending == "parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(file)
    else:
        table.to_csv(file, index=False, sep="\t" if ending == "tsv" else ",")
    found = data.make_source("matrix", rate=2, features=2, key="rows").rows(data.Place(file))
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.values, x.astype(np.float32))
    part = data.make_source("matrix", rate=2, key="rows").rows(data.Place(file, 1.0, 2.5))
    np.testing.assert_array_equal(part.values, x[2:5].astype(np.float32))
    if ending in ("csv", "tsv", "parquet"):
        one = data.make_source("matrix", rate=2, columns=["v"]).rows(data.Place(file))
        np.testing.assert_array_equal(one.values, x[:, 1:].astype(np.float32))


@pytest.mark.parametrize(
    ("write_it", "options", "wanted"),
    [
        (lambda f: None, {}, "no such file"),
        (lambda f: f.with_suffix(".npy").write_bytes(b"\x93NUMPY rubbish"), {}, "cannot be read as a matrix"),
        (lambda f: np.savez(f, a=np.zeros(3), b=np.zeros(3)), {}, "holds a, b; expected the name of one"),
        (lambda f: np.savez(f, a=np.zeros(3)), {"key": "c"}, "expected 'c' among them"),
        (lambda f: np.savez(f, a=np.zeros((2, 3, 4))), {}, r"expected a matrix .*got shape \(2, 3, 4\)"),
        (lambda f: np.savez(f, a=np.zeros((2, 5))), {"features": 2}, r"expected 2 features.*exchanged\?"),
        (lambda f: np.savez(f, a=np.zeros((0, 2))), {}, "no rows in it"),
        (lambda f: np.savez(f, a=np.full((2, 2), np.inf)), {}, "holds infinite values"),
        (lambda f: np.savez(f, a=np.full((2, 2), 1e60)), {}, "holds infinite values"),
        (lambda f: np.savez(f, a=np.array([["x"]])), {}, "expected numbers"),
        (lambda f: np.savez(f, a=np.array([{}])), {}, "cannot be read|expected numbers"),
    ],
)
def test_a_file_that_is_no_matrix_is_named(tmp_path, write_it, options, wanted):
    write_it(tmp_path / "x.npz")
    file = next(iter(tmp_path.iterdir()), tmp_path / "x.npz")
    with pytest.raises(DataError, match=wanted) as caught:
        data.make_source("matrix", rate=4, **options).rows(data.Place(file))
    assert str(file) in str(caught.value)


def test_traces_in_other_scales_with_gaps_and_delays(tmp_path):
    file = tmp_path / "t.csv"
    pandas.DataFrame({"arousal": [1, 5, 3, 2], "valence": [9, 1, -5, 5]}).to_csv(file, index=False)
    trace = data.Trace(rate=4, labels=["valence", "arousal"], invalid=-5, scale=[1, 9])
    found = trace.rows(data.Place(file))
    np.testing.assert_allclose(found.values, [[1, -1], [-1, 0], [np.nan, -0.5], [0, -0.75]])
    assert found.present is None
    late = data.Trace(rate=4, labels=["arousal"], scale=[1, 5], shift=0.5).rows(data.Place(file))
    np.testing.assert_allclose(late.values[:, 0], [0, -0.5, -0.5, -0.5])
    pandas.DataFrame({"valence": [0.5, -5, np.nan, 0]}).to_csv(file, index=False)
    found = data.Trace(rate=4, labels=["valence"], invalid=-5).rows(data.Place(file))
    assert found.present.tolist() == [True, False, False, True]
    with pytest.raises(DataError, match=r"valence must lie from -1 to 1; step 1 is -5 .*trace.invalid"):
        data.Trace(rate=4, labels=["valence"]).rows(data.Place(file))
    with pytest.raises(DataError, match="no column arousal; it has valence"):
        data.Trace(rate=4, labels=["arousal"]).rows(data.Place(file))


def test_unlabelled_steps_stay_unknown_in_the_store(tmp_path):
    trace = np.array([0.1, np.nan, 0.3, np.nan, np.nan])
    trials = prepared(write(tmp_path, ["a"], [counting(5, 1)], traces=[trace]), tmp_path / "f")
    np.testing.assert_allclose(trials.trace(0)[:, 0], trace, rtol=1e-6)
    np.testing.assert_allclose(trials.trace(0)[:, 0], trace, rtol=1e-6)  # from memory as well


def test_sources_by_name():
    assert data.list_sources() >= ["matrix", "trace"]
    with pytest.raises(InputError, match="unknown kind of source 'matrx': did you mean 'matrix'"):
        data.make_source("matrx", rate=4)
    with pytest.raises(InputError, match="unknown option 'rat' of the source 'matrix': did you mean 'rate'"):
        data.make_source("matrix", rat=4)
    with pytest.raises(InputError, match="needs rate"):
        data.make_source("matrix")
    with pytest.raises(InputError, match="registered already"):
        data.source("matrix")(type("Other", (data.Source,), {}))
    with pytest.raises(InputError, match="labels must be distinct"):
        data.Trace(rate=4, labels=["valence", "valence"])
    with pytest.raises(InputError, match="scale must be"):
        data.Trace(rate=4, labels=["valence"], scale=[5, 1])


def test_places_of_signals(tmp_path):
    table = pandas.DataFrame({
        "file": ["a.wav", "b.wav"], "start": [1.0, np.nan], "eeg": ["x.bdf", None],
        "eeg_start": [30.0, np.nan],
        "eeg_end": [60.0, np.nan], "eeg_key": [7, None],
    })  # fmt: skip
    manifest = data.Manifest(table, root=tmp_path)
    assert manifest.place(0, "eeg") == (tmp_path / "x.bdf", 30.0, 60.0, "7")
    assert manifest.place(1, "eeg") is None
    assert manifest.place(0, "face") == (tmp_path / "a.wav", 1.0, None, None)
    assert manifest.place(1) == (tmp_path / "b.wav", 0.0, None, None)
    again = manifest.absolute(["eeg"])
    assert again.place(0, "eeg") == manifest.place(0, "eeg")
    assert again.root is None
    bad = data.Manifest(table.assign(eeg_end=[20.0, np.nan]), root=tmp_path)
    with pytest.raises(DataError, match="eeg must be a part of its file; got 30 to 20 s"):
        bad.place(0, "eeg")


def test_a_damaged_object_is_computed_again(tmp_path):
    manifest = write(tmp_path, ["a"], [counting(5, 1)])
    trials = prepared(manifest, tmp_path / "f")
    (file,) = (tmp_path / "f" / "eeg" / "objects").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match="run prepare again"):
        trials.load(0, "eeg")
    assert len(prepared(manifest, tmp_path / "f").load(0, "eeg")[0]) == 5
    assert store_module._read_object(file, file.stem)[0] == 5


# The generated corpus -------------------------------------------------------------------------------------


def test_generated_trials_hold_what_was_planted_and_repeat(tmp_path):
    made = [data.generate(tmp_path / name, seed=3, subjects=3, trials=(2, 3)) for name in ("one", "two")]
    first, second = ((tmp_path / name) for name in ("one", "two"))
    for file in first.rglob("*"):
        if file.is_file() and file.suffix == ".csv":
            assert file.read_bytes() == (second / file.relative_to(first)).read_bytes()
    pandas.testing.assert_frame_equal(made[0].table, made[1].table)
    sources = {"eeg": data.make_source("matrix", rate=4), "cnn": data.make_source("matrix", rate=16)}
    trials = data.prepare_trials(made[0], sources, data.Trace(rate=4, labels=["valence"]), tmp_path / "f")
    planted = np.load(first / "planted.npz")
    label = np.concatenate([trials.trace(i)[:, 0] for i in range(len(trials))])
    assert 0.04 < label.std() < 0.1
    found = {}
    for name in sources:
        rows = np.concatenate([trials.load(i, name)[0] for i in range(len(trials))])
        found[name] = np.corrcoef(rows @ planted[f"{name}_direction"], label)[0, 1]
    assert found["cnn"] > 0.7
    assert found["cnn"] > found["eeg"] > 0.1
    assert json.loads((first / "planted.json").read_text())["seed"] == 3
    assert set(made[0].table["tag"]) <= {0, 1, 2}
    with pytest.raises(InputError, match="expected width, strength, ratio, spread of 'eeg', got"):
        data.generate(tmp_path / "x", signals={"eeg": {"power": 1.0}})
    with pytest.raises(InputError, match=r"trials must be \(least, most\)"):
        data.generate(tmp_path / "x", trials=(0, 3))
