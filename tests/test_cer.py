"""The unimodal system: sizes against golden values, causality, model file, one pass against a stream."""

# ruff: noqa: E402
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")

import affekt
from affekt import metrics
from affekt._native import Model
from affekt.errors import InputError, NotStreamableError
from affekt.nn import LSTM
from affekt.systems import create, export, get, restore
from checklist import row

# Parameters of the TCN by kernel size 3, 5, 7, weight norm folded (Zhang 2023, table 6.3; computed by hand).
COUNTS = {
    "cnn": (1_394_560, 2_213_760, 3_032_960),
    "vggish": (267_072, 439_104, 611_136),
    "mfcc": (26_784, 43_616, 60_448),
    "landmark": (287_680, 461_760, 635_840),
    "bert": (1_656_704, 2_606_976, 3_557_248),
    "eeg": (246_400, 393_856, 541_312),
}


def small(**options):
    """A small system whose weights depend on nothing but the code."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        signal = {"features": 6, "tcn": {"channels": [8, 8], "kernel_size": 3}}
        return create("cer", **{"signal": {**signal, **options.pop("signal", {})}, **options}).eval()


def run(system, x, **options):
    with torch.no_grad():
        return system({"eeg": torch.from_numpy(x)[None]}, **options)["affect"][0].numpy()


@row("zhang", 8)
def test_parameter_counts():
    for modality, counts in COUNTS.items():
        for kernel, count in zip((3, 5, 7), counts, strict=True):
            system = create("cer", modality=modality, signal={"tcn": {"kernel_size": kernel}})
            assert system.encoders[modality].num_parameters() == count, (modality, kernel)
    width29 = create("cer", modality="mfcc", signal={"features": 29})
    assert width29.encoders["mfcc"].num_parameters() == 41_696
    assert create("cer", preset="kdcode", modality="cnn").encoders["cnn"].num_parameters() == 410_240
    assert create("cer", preset="paper").num_parameters() == 393_856 + 129
    assert create("cer", preset="lstm").num_parameters() == 139_441
    assert create("cer", preset="lstm", modality="cnn").num_parameters() == 986_241
    for preset, steps in (("paper", 25), ("kdcode", 13)):
        assert create("cer", preset=preset).encoders["eeg"].receptive_field == steps
    assert create("cer", preset="paper", modality="cnn").encoders["cnn"].receptive_field == 121


def test_the_model_stores_as_many_numbers_as_are_counted(tmp_path):
    system = small()
    model = affekt.load(export(system, tmp_path / "m.safetensors"))
    assert sum(v.size for v in model.tensors().values()) == system.num_parameters()


@pytest.mark.parametrize("standardise", ["none", "feature"])
@pytest.mark.parametrize("activation", ["none", "tanh"])
def test_model_file_one_pass_and_stream(tmp_path, rng, standardise, activation):
    system = small(signal={"standardise": standardise}, activation=activation)
    if standardise == "feature":
        system.set_modality_statistics("eeg", rng.normal(size=6), rng.uniform(0.5, 2, size=6))
    path = export(system, tmp_path / "m.safetensors", {"licence": "CC0-1.0"})
    model = affekt.load(path)
    assert model.card["outputs"][0].get("range") == ([-1, 1] if activation == "tanh" else None)
    assert model.timing["hop_s"] == 0.25
    assert model.timing["lookahead_s"] == 0
    x = rng.normal(size=(70, 6)).astype(np.float32)
    full = model.run({"eeg": x})
    np.testing.assert_allclose(full.values, run(system, x), atol=1e-5)
    np.testing.assert_allclose(full.times, np.arange(70) / 4, atol=1e-9)
    for chunk in (1, 7, 70):
        stream = model.run({"eeg": x}, "stream", chunk)
        np.testing.assert_array_equal(full.values, stream.values)
    again = restore(path)
    np.testing.assert_allclose(run(again, x), run(system, x), atol=1e-6)
    assert export(again, tmp_path / "n.safetensors", {"licence": "CC0-1.0"}).read_bytes() == path.read_bytes()


def test_rows_that_are_absent_are_zeros_after_standardisation(tmp_path, rng):
    system = small(signal={"standardise": "feature"}, silence=0.5)
    system.set_modality_statistics("eeg", rng.normal(size=6) + 5, np.ones(6))
    x = rng.normal(size=(40, 6)).astype(np.float32) + 5
    present = np.ones(40, bool)
    present[12:20] = False
    given = torch.from_numpy(present)[None]
    held = run(system, np.where(present[:, None], x, 77), present={"eeg": given})
    zeros = np.where(present[:, None], x, system.standardise["eeg"].mean.numpy()).astype(np.float32)
    np.testing.assert_allclose(held, run(system, zeros), atol=1e-6)
    model = Model(export(system, tmp_path / "m.safetensors"))
    live = model.run({"eeg": [(0.0, x[:12]), (5.0, x[20:])]})
    heard = np.round(live.times * 4).astype(int)
    early = heard < 12
    np.testing.assert_allclose(live.values[early], held[heard[early]], atol=1e-5)
    late = heard >= 20 + system.encoders["eeg"].receptive_field
    assert late.sum() == 7
    np.testing.assert_allclose(live.values[late], held[heard[late]], atol=1e-5)


def test_inside_a_window_steps_with_their_whole_past_are_those_of_one_pass(rng):
    system = small()
    seen = system.encoders["eeg"].receptive_field
    x = rng.normal(size=(60, 6)).astype(np.float32)
    full = run(system, x)
    for start in (0, 7, 20):
        window = run(system, x[start : start + 40])
        np.testing.assert_allclose(window[seen - 1 :], full[start : start + 40][seen - 1 :], atol=1e-5)
        assert start == 0 or np.abs(window[: seen - 1] - full[start : start + seen - 1]).max() > 1e-3


@row("zhang", 8)
def test_the_lstm_baseline_reads_forward_and_says_why_it_has_no_model_file(rng):
    system = create("cer", preset="lstm", signal={"features": 6}).eval()
    x = rng.normal(size=(30, 6)).astype(np.float32)
    before = run(system, x)
    x[20:] += 1
    np.testing.assert_array_equal(run(system, x)[:20], before[:20])
    assert system.causal
    with pytest.raises(NotStreamableError, match="encoder of eeg is an LSTM"):
        export(system, "nowhere.safetensors")
    both = create("cer", preset="lstm", signal={"features": 6, "lstm": {"bidirectional": True}})
    assert not both.causal


def test_a_bidirectional_lstm_starts_at_the_last_valid_step(rng):
    lstm = LSTM(4, [5, 3], bidirectional=True).eval()
    x = torch.tensor(rng.normal(size=(2, 12, 4)), dtype=torch.float32)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    padded = lstm(x, mask)
    torch.testing.assert_close(padded[1, :7], lstm(x[1:, :7])[0])
    torch.testing.assert_close(padded[0], lstm(x[:1])[0])
    assert lstm.out_features == 6


def test_padded_windows_have_the_loss_of_the_steps_that_are_there(rng):
    system = small()
    x = torch.tensor(rng.normal(size=(2, 30, 6)), dtype=torch.float32)
    y = torch.tensor(rng.normal(size=(2, 30, 1)), dtype=torch.float32) * 0.06
    keep = torch.ones(2, 30, 1, dtype=torch.bool)

    def loss(x, y, keep, mask):
        return system.loss(
            {"features": {"eeg": x}, "mask": mask, "labels": {"affect": y}, "label_mask": {"affect": keep}}
        )

    plain = loss(x, y, keep, torch.ones(2, 30, dtype=torch.bool))
    assert set(plain) == {"loss", "affect"}
    more = [torch.cat([v, torch.full((2, 9, v.shape[2]), 3.0).to(v)], 1) for v in (x, y, keep)]
    mask = torch.arange(39)[None].expand(2, 39) < 30
    assert loss(*more, mask)["loss"].item() == pytest.approx(plain["loss"].item(), abs=1e-6)
    expected = np.mean(
        [1 - metrics.ccc(run(system, x[i].numpy())[:, 0], y[i, :, 0].numpy()) for i in range(2)]
    )
    assert plain["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_classes_per_step_by_cross_entropy(rng):
    system = small(heads={"mood": {"labels": ["low", "mid", "high"], "smoothing": 0.1}})
    x = torch.tensor(rng.normal(size=(2, 10, 6)), dtype=torch.float32)
    target, keep = torch.tensor(rng.integers(0, 3, (2, 10))), torch.tensor(rng.random((2, 10)) < 0.7)
    batch = {"features": {"eeg": x}, "mask": torch.ones(2, 10, dtype=torch.bool), "labels": {"mood": target},
             "label_mask": {"mood": keep}}  # fmt: skip
    for weights in (None, [1.0, 2.0, 0.5]):
        if weights:
            system.set_class_weights("mood", weights)
        expected = torch.nn.functional.cross_entropy(
            system({"eeg": x})["mood"][keep], target[keep], label_smoothing=0.1,
            weight=None if weights is None else torch.tensor(weights),
        )  # fmt: skip
        torch.testing.assert_close(system.loss(batch)["mood"], expected)
    none = {**batch, "label_mask": {"mood": torch.zeros(2, 10, dtype=torch.bool)}}
    assert system.loss(none)["loss"].item() == 0


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"heads": {}}, "heads must name at least one output"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"silence": 0.3}, "silence must be at least two rows of eeg, 0.5 s, got 0.3"),
        ({"activation": "relu"}, "activation must be none or tanh, got 'relu'"),
        ({"window": {"size": 1}}, "window.size must be at least 2"),
        ({"modality": "pulse"}, "pulse: features must say how wide"),
        ({"modality": "pulse", "signal": {"features": 3}}, "pulse: tcn.channels must be given"),
        ({"modality": "my eeg"}, "must be an identifier"),
        ({"signal": {"encoder": "gru"}}, "encoder must be tcn or lstm, got 'gru'"),
        ({"signal": {"standardise": "yes"}}, "standardise must be none, feature or scalar"),
        ({"signal": {"sampling": "linear"}}, "sampling must be phase or nearest"),
        ({"signal": {"source": {"kind": "matrix", "ratte": 4}}}, "source of eeg: unknown option 'ratte'"),
        (
            {"signal": {"features": 5, "source": {"kind": "matrix", "features": 6}}},
            "width of its source's rows, 6",
        ),
        ({"heads": {"a": {"labels": ["valence"]}, "b": {"labels": ["valence"]}}}, "labels must be distinct"),
        ({"signal": {"tcn": {"chanels": [3]}}}, "unknown key 'cer.signal.tcn.chanels'"),
    ],
)
def test_bad_configurations_are_named(options, wanted):
    with pytest.raises(InputError, match=wanted):
        create("cer", **options)


def test_bad_batches_are_named(rng):
    system = small()
    with pytest.raises(InputError, match="features must hold eeg; eeg is missing"):
        system({"face": torch.zeros(1, 4, 6)})
    with pytest.raises(InputError, match=r"x must be \(batch, time, 6\), got \(1, 4, 5\)"):
        system({"eeg": torch.zeros(1, 4, 5)})
    with pytest.raises(InputError, match="labels must hold at least one of the heads"):
        system.loss({"features": {"eeg": torch.zeros(1, 4, 6)}, "labels": {}})
    with pytest.raises(InputError, match="one number per class"):
        system.set_class_weights("affect", [1.0, 2.0])


def test_a_source_that_looks_ahead_has_no_model_file(tmp_path):
    system = small()
    system.sources["eeg"].lookahead = 1.0
    assert not system.causal
    with pytest.raises(NotStreamableError, match="the rows of eeg look 1 s ahead"):
        export(system, tmp_path / "m.safetensors")


def test_presets_are_listed_and_the_system_registered():
    assert set(get("cer").presets) == {"paper", "kdcode", "lstm"}
    assert get("cer")(get("cer").Config()).traced
