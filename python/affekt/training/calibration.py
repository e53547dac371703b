"""Honest confidence: a softmax temperature per categorical head and a predictive sd per continuous label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from affekt.errors import InputError
from affekt.systems.base import Head
from affekt.training.config import CalibrationConfig

__all__ = ["LEAST_SD", "TEMPERATURES", "Calibration", "calibrate", "fit_temperature", "with_temperature"]

TEMPERATURES = (0.05, 20.0)
"""Bounds of the search for a temperature."""

LEAST_SD = 1e-3
"""A predictive sd is at least this, so that a perfect fit on few recordings claims no certainty."""


@dataclass
class Calibration:
    """What a model's confidence is corrected by.

    temperature : categorical head -> T; its probabilities are softmax(logits / T).
    sd : continuous label -> predictive standard deviation, in the unit of the label.
    how : in words, where the numbers come from.
    """

    temperature: dict[str, float] = field(default_factory=dict)
    sd: dict[str, float] = field(default_factory=dict)
    how: str = ""


def fit_temperature(prob: Any, target: Any) -> float:
    """The temperature T that minimises the negative log likelihood of ``softmax(log(prob) / T)``.

    ``log(prob)`` stands for the logits, from which it differs by a constant per item. Over beta = 1 / T the
    likelihood is convex with derivative ``mean(sum_k p_k(beta) z_k - z_y)``, so bisection of that sign finds
    the one minimum in `TEMPERATURES`, or the bound beyond which it lies. One parameter cannot change which
    class is likeliest. Source: Guo et al., "On calibration of modern neural networks", arXiv:1706.04599.

    Parameters
    ----------
    prob : (items, classes) probabilities.
    target : (items,) class numbers; at least one.

    Raises
    ------
    InputError : there are no items.
    """
    z = _logits(prob)
    y = np.asarray(target)
    if not len(y):
        raise InputError("target must have at least one item, got none")
    true = z[np.arange(len(y)), y]

    def slope(beta: float) -> float:
        p = np.exp(beta * z)
        p /= p.sum(1, keepdims=True)
        return float(((p * z).sum(1) - true).mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        return TEMPERATURES[1]
    if slope(high) <= 0:
        return TEMPERATURES[0]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2 / (low + high)


def with_temperature(prob: Any, temperature: float) -> np.ndarray:
    """``softmax(log(prob) / temperature)``, (items, classes) float64."""
    p = np.exp(_logits(prob) / temperature)
    return p / p.sum(1, keepdims=True)


def _logits(prob: Any) -> np.ndarray:
    """Logarithms with their maximum at 0."""
    z = np.log(np.maximum(np.asarray(prob, dtype=np.float64), np.finfo(np.float32).tiny))
    return z - z.max(1, keepdims=True)


def calibrate(
    config: CalibrationConfig,
    heads: Mapping[str, Head],
    outputs: Mapping[str, np.ndarray] | None,
    labels: Mapping[str, np.ndarray] | None,
) -> Calibration:
    """The calibration of one training.

    What `config` states is taken; the rest is fitted on the development recordings: temperatures as in
    `fit_temperature`, and per continuous label the root mean square of label - estimate, so that a bias
    widens the interval too. Without development recordings, or labels among them, the
    temperature is 1 and there is no sd.

    Parameters
    ----------
    outputs, labels : by head, of the development recordings at temperature 1, under all conditions that are
        tested, each counted alike; None for no such recordings.

    Raises
    ------
    InputError : `config` names a head or label that the system does not have.
    """
    classes = [name for name, head in heads.items() if head.kind == "categorical"]
    values = [label for head in heads.values() if head.kind == "continuous" for label in head.labels]
    stated = config.temperature
    if not isinstance(stated, dict):
        stated = {} if stated is None else dict.fromkeys(classes, float(stated))
    for option, given, known in (("temperature", stated, classes), ("sd", config.sd, values)):
        strangers = sorted(set(given) - set(known))
        if strangers:
            raise InputError(
                f"calibration.{option} names {', '.join(strangers)}; expected some of "
                f"{', '.join(known) or 'none, for there are no such heads'}"
            )
    fitted = Calibration()
    for name, head in heads.items():
        if outputs is None or labels is None:
            break
        estimates, target = outputs[name], labels[name]
        if head.kind == "categorical":
            there = target >= 0
            if name not in stated and there.any():
                fitted.temperature[name] = fit_temperature(estimates[there], target[there])
            continue
        for column, label in enumerate(head.labels):
            miss = target[:, column].astype(np.float64) - estimates[:, column]
            miss = miss[np.isfinite(miss)]
            if label not in config.sd and len(miss):
                fitted.sd[label] = max(LEAST_SD, float(np.sqrt(np.mean(miss**2))))
    temperature = {name: stated.get(name, fitted.temperature.get(name, 1.0)) for name in classes}
    sd = {name: value for name in values if (value := config.sd.get(name, fitted.sd.get(name))) is not None}
    words = []
    if fitted.temperature or fitted.sd:
        words.append(
            f"fitted on the development speakers: temperature by least negative log likelihood within "
            f"{TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}, sd as root mean square of label - the last valid "
            "estimate of a recording, all tested conditions alike"
        )
    if stated or config.sd:
        words.append(f"stated by the configuration: {', '.join([*stated, *config.sd])}")
    left = [n for n in classes if n not in stated and n not in fitted.temperature]
    left += [n for n in values if n not in sd]
    if left:
        words.append(
            f"not calibrated, for want of development recordings: {', '.join(left)} (temperature 1, no sd)"
        )
    return Calibration(temperature, sd, "; ".join(words))
