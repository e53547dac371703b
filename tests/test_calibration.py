"""Confidence: temperatures that minimise the likelihood, sds of residuals, and what the model file says."""

# ruff: noqa: E402
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_lightning")

import affekt
from affekt import metrics
from affekt.errors import InputError
from affekt.systems import Head, create, export, restore
from affekt.training.calibration import (
    TEMPERATURES,
    calibrate,
    fit_temperature,
    with_temperature,
)
from affekt.training.config import CalibrationConfig, load_config

HEADS = {"emotion": Head(labels=["a", "b", "c"]), "affect": Head(labels=["valence", "arousal"])}


def overconfident(rng, n=4000, factor=2.5):
    """Probabilities that are `factor` times too sure, and classes drawn from the honest ones."""
    logits = rng.normal(size=(n, 3)) * 1.5
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.array([rng.choice(3, p=p) for p in honest])
    loud = np.exp(factor * logits)
    return loud / loud.sum(1, keepdims=True), target, honest


def test_the_temperature_is_the_one_of_a_grid_and_restores_the_truth(rng):
    prob, target, honest = overconfident(rng)
    found = fit_temperature(prob, target)
    grid = np.geomspace(*TEMPERATURES, 4000)
    likelihoods = [metrics.nll(with_temperature(prob, t), target) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(likelihoods))], rel=2e-3)
    assert found == pytest.approx(2.5, rel=0.1)
    calm = with_temperature(prob, found)
    np.testing.assert_allclose(with_temperature(prob, 2.5), honest, atol=1e-9)
    np.testing.assert_array_equal(calm.argmax(1), prob.argmax(1))
    assert metrics.ece(calm, target) < 0.3 * metrics.ece(prob, target)


def test_the_temperature_stays_within_its_bounds():
    sure = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(sure, [0, 1]) == TEMPERATURES[0]
    assert fit_temperature(sure, [1, 0]) == TEMPERATURES[1]
    assert 0 < fit_temperature(np.array([[1.0, 0.0], [1.0, 0.0]]), [0, 1]) <= TEMPERATURES[1]
    with pytest.raises(InputError, match="at least one"):
        fit_temperature(np.empty((0, 2)), np.empty(0, int))


def test_what_is_fitted_and_what_is_stated(rng):
    prob, target, _ = overconfident(rng, 300)
    target[:50] = -1
    values = rng.normal(size=(300, 2)) * 0.2
    truth = values + rng.normal(size=(300, 2)) * [0.1, 0.3] + [0.0, 0.4]
    truth[10:20] = np.nan
    outputs, labels = {"emotion": prob, "affect": values}, {"emotion": target, "affect": truth}
    found = calibrate(CalibrationConfig(), HEADS, outputs, labels)
    assert found.temperature == {"emotion": fit_temperature(prob[50:], target[50:])}
    expected = np.sqrt(np.nanmean((truth - values) ** 2, axis=0))
    assert list(found.sd.values()) == pytest.approx(expected, rel=1e-12)
    assert found.sd["arousal"] == pytest.approx(0.5, abs=0.05)  # the bias of 0.4 counts
    assert "fitted on the development speakers" in found.how
    assert "not calibrated" not in found.how
    stated = calibrate(CalibrationConfig(temperature=1.7, sd={"arousal": 0.25}), HEADS, outputs, labels)
    assert stated.temperature == {"emotion": 1.7}
    assert stated.sd == {"valence": found.sd["valence"], "arousal": 0.25}
    assert "stated by the configuration: emotion, arousal" in stated.how
    without = calibrate(CalibrationConfig(), HEADS, None, None)
    assert (without.temperature, without.sd) == ({"emotion": 1.0}, {})
    assert "not calibrated, for want of development recordings: emotion, valence, arousal" in without.how


def test_unknown_names_and_bad_numbers_are_refused():
    with pytest.raises(InputError, match=r"calibration.temperature names mood; expected some of emotion"):
        calibrate(CalibrationConfig(temperature={"mood": 2.0}), HEADS, None, None)
    with pytest.raises(InputError, match=r"calibration.sd names joy; expected some of valence, arousal"):
        calibrate(CalibrationConfig(sd={"joy": 2.0}), HEADS, None, None)
    for override in ("calibration.temperature=0", "calibration.sd.valence=-1"):
        with pytest.raises(InputError, match=r"calibration\.\w+ must be above 0"):
            load_config(None, [override])


def test_the_model_file_carries_the_temperature_and_gives_it_back(tmp_path):
    torch.manual_seed(0)
    options = {"front_end": {"n_mels": 8, "hop_length": 320}, "tcn": {"channels": [4]}, "pool": {"window": 9}}
    system = create("speech", **options, heads={"emotion": {"labels": ["a", "b", "c"]}}).eval()
    torch.nn.init.normal_(system.linear["emotion"].weight, std=0.01)
    samples = np.random.default_rng(0).normal(size=16000).astype(np.float32) * 0.1
    rows = torch.from_numpy(system.front_end()(samples))[None]
    plain = system.predict(rows)[0].numpy()
    path = export(system, tmp_path / "one.safetensors")
    system.set_temperature("emotion", 3.0)
    warm = export(system, tmp_path / "three.safetensors")
    np.testing.assert_allclose(system.predict(rows)[0], with_temperature(plain[None], 3.0)[0], atol=1e-6)
    _, values = affekt.load(warm).run(samples)
    np.testing.assert_allclose(values[-1], system.predict(rows)[0], atol=1e-4)
    assert affekt.load(path).run(samples)[1][-1].max() > values[-1].max()
    again = export(restore(warm), tmp_path / "again.safetensors")
    assert again.read_bytes() == warm.read_bytes()
    with pytest.raises(InputError, match="categorical"):
        system.set_temperature("affect", 2.0)
    with pytest.raises(InputError, match="positive"):
        system.set_temperature("emotion", 0.0)
