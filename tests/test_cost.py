"""What a model costs: parameters and arithmetic against a count by hand, and a speed that is measured."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

import affekt
from affekt._cost import _COUNTS
from affekt.cli import main
from affekt.errors import AffektError, InputError
from affekt.modelfile import model_bytes, write_model
from fused_model import fused

FRONT = {"sample_rate": 16000.0, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 10}


def card_and_tensors():
    """Front end, two rows stacked, one block of width 6 with residual, pool over 7 rows, linear, softmax."""
    rng = np.random.default_rng(0)
    shapes = {
        "norm.mean": (10,), "norm.scale": (10,),
        "tcn.0.conv1.weight": (6, 20, 3), "tcn.0.conv1.bias": (6,),
        "tcn.0.conv2.weight": (6, 6, 3), "tcn.0.conv2.bias": (6,),
        "tcn.0.residual.weight": (6, 20), "tcn.0.residual.bias": (6,),
        "pool.score.weight": (1, 6), "pool.score.bias": (1,),
        "class.weight": (3, 18), "class.bias": (3,),
    }  # fmt: skip
    tensors = {name: rng.normal(size=shape).astype(np.float32) * 0.1 for name, shape in shapes.items()}
    chain = [
        ("mel", "front_end", FRONT),
        ("norm", "standardise", {}),
        ("stack", "stack", {"size": 2, "stride": 2}),
        ("tcn", "tcn", {"channels": [6], "kernel_size": 3, "activation": "relu"}),
        ("pool", "pool", {"kind": "attention_statistics", "window": 7, "hop": 5}),
        ("class", "linear", {"units": 3}),
        ("out", "activation", {"kind": "softmax"}),
    ]
    nodes = [
        {"name": name, "type": kind, "inputs": [chain[i - 1][0] if i else "audio"], "options": options}
        for i, (name, kind, options) in enumerate(chain)
    ]
    audio = {"name": "audio", "kind": "audio", "rate": 16000.0, "channels": 1, "unit": "full scale"}
    output = {"name": "class", "node": "out", "kind": "categorical", "labels": ["a", "b", "c"]}
    card = {"name": "m", "version": "1", "inputs": [audio], "nodes": nodes[::-1], "outputs": [output]}
    return card, tensors


def test_the_count_is_the_one_by_hand(tmp_path):
    card, tensors = card_and_tensors()
    path = write_model(tmp_path / "m.safetensors", card, tensors)
    found = affekt.cost(path, seconds=0)
    assert found["parameters"] == sum(value.size for value in tensors.values())
    assert found["bytes"] == path.stat().st_size
    assert "rtf" not in found
    assert found["macs_front_end"] == 100 * (400 + 512 * 9 + 4 * 257)  # 100 frames a second
    standardise = 100 * 10
    tcn = 50 * (6 * 20 * 3 + 6 * 6 * 3 + 6 * 20)
    pool = 10 * 7 * 6 * 4
    linear = 10 * 18 * 3
    assert found["macs_network"] == standardise + tcn + pool + linear
    with_cosines = {**FRONT, "n_mfcc": 8}
    card["nodes"] = [n | ({"options": with_cosines} if n["name"] == "mel" else {}) for n in card["nodes"]]
    tensors["norm.mean"] = tensors["norm.scale"] = np.ones(8, np.float32)
    tensors["tcn.0.conv1.weight"] = np.ones((6, 16, 3), np.float32)
    tensors["tcn.0.residual.weight"] = np.ones((6, 16), np.float32)
    more = affekt.cost(affekt.Model.from_bytes(model_bytes(card, tensors)), seconds=0)
    assert more["macs_front_end"] == found["macs_front_end"] + 100 * 10 * 8
    assert "bytes" not in more


def test_the_speed_is_measured(tmp_path):
    card, tensors = card_and_tensors()
    model = affekt.Model.from_bytes(model_bytes(card, tensors))
    found = affekt.cost(model, seconds=0.5, repeats=1)
    assert math.isfinite(found["rtf"])
    assert found["rtf"] > 0


def test_every_node_type_of_the_format_is_counted():
    page = Path(__file__).parents[1] / "docs" / "model_file.md"
    if not page.is_file():
        pytest.skip("not in a checkout")
    section = page.read_text(encoding="utf-8").partition("## Nodes")[2].partition("## Estimates")[0]
    types = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert {"tcn", "pool"} < types
    assert types - {"front_end"} == set(_COUNTS)


def test_every_kind_of_pool_is_counted():
    pytest.importorskip("torch")
    from affekt.nn.pool import POOL_KINDS

    for kind in {*POOL_KINDS, "count"}:
        options = {"kind": kind, "window": 7, "hop": 5}
        width, rate, each = _COUNTS["pool"](options, (6, 50.0), {})
        assert rate == 10
        assert width in (1, 6, 12, 18)
        assert each >= 10 * 7 * min(width, 6)


def test_bad_arguments_are_named():
    card, tensors = card_and_tensors()
    model = affekt.Model.from_bytes(model_bytes(card, tensors))
    with pytest.raises(InputError, match="seconds"):
        affekt.cost(model, seconds=-1)
    with pytest.raises(InputError, match="repeats"):
        affekt.cost(model, repeats=0)
    model.card["nodes"][3]["type"] = "wavelet"
    with pytest.raises(AffektError, match=r"node 'tcn' is of type 'wavelet'"):
        affekt.cost(model, seconds=0)


def test_info_of_a_model_with_nodes_that_are_not_counted(tmp_path, capsys):
    path = write_model(tmp_path / "m.safetensors", *fused())
    with pytest.raises(AffektError, match=r"is of type .*, which is not counted here"):
        affekt.cost(path, seconds=0)
    for more in ([], ["--card"]):
        assert main(["info", str(path), *more]) == 0
        out = capsys.readouterr().out
        assert "which is not counted here" in " ".join(out.split())
        if not more:
            for line in ("audio, one channel, 8000 Hz", "eeg, 4 channels, 128 Hz", "rows of 6 values, 25 Hz"):
                assert line in out
