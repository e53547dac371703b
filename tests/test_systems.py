"""The speech system: shapes, masks, losses, and that the exported file does what torch does."""

# ruff: noqa: E402
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import affekt
from affekt import nn, systems
from affekt.errors import InputError, ModelFileError, NotStreamableError

AFFECT = ["valence", "arousal", "dominance"]
SMALL = {
    "front_end": {"n_mels": 20, "preemphasis": 0.97},
    "tcn": {"channels": [12, 8], "dropout": 0.0},
    "pool": {"window": 20, "half_life": 15.0, "hop": 4},
    "heads": {"affect": {"labels": AFFECT}, "emotion": {"labels": ["sad", "happy", "angry"]}},
}


def make(seed=0, **config):
    """A small system whose weights are all away from their initial zeros."""
    torch.manual_seed(seed)
    system = affekt.create("speech", **systems.merge(SMALL, config))
    with torch.no_grad():
        for p in system.parameters():
            p.add_(0.1 * torch.randn_like(p))
    system.set_statistics(np.linspace(-50, -30, system.features), np.full(system.features, 15.0))
    return system.eval()


def voice(seconds, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 16000)) / 16000
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * t + seed)) / 16000
    return (0.2 * np.sin(pitch) * (1 + np.sin(5 * t)) + 0.01 * rng.normal(size=len(t))).astype(np.float32)


def batch_of(lengths, features, seed=0):
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), features, generator=gen) * 15 - 40
    return x, nn.lengths_to_mask(lengths)


def test_registry():
    assert "speech" in affekt.list_systems()
    assert affekt.list_systems("sp*") == ["speech"]
    with pytest.raises(InputError, match="did you mean 'speech'"):
        affekt.create("speach")
    with pytest.raises(InputError, match="did you mean 'emotion'"):
        affekt.create("speech", preset="emotions")
    for preset in systems.Speech.presets:
        assert affekt.create("speech", preset=preset).heads


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"tnc": {}}, "unknown key 'speech.tnc': did you mean 'speech.tcn'"),
        ({"tcn": {"chanels": [3]}}, "'speech.tcn.chanels': did you mean 'speech.tcn.channels'"),
        ({"front_end": {"nmels": 3}}, "'front_end.nmels': did you mean 'front_end.n_mels'"),
        ({"front_end": {"kind": "plp"}}, "log_mel, mfcc"),
        ({"tcn": {"dropout": "much"}}, "must be a number"),
        ({"tcn": {"channels": [3, 2.5]}}, r"channels\[1\] must be an integer"),
        ({"task": "word"}, "utterance or trace"),
        ({"task": "trace", "augment": {"tempo": 0.1}}, "move a trace"),
        ({"heads": {"emotion": {"labels": ["a", "a"]}}}, "distinct"),
        ({"heads": {"emotion": {"labels": ["a"]}}}, "at least two"),
        ({"heads": {"tcn": {"labels": AFFECT}}}, "got 'tcn'"),
        ({"heads": {"a": {"labels": AFFECT}, "b": {"labels": AFFECT}}}, "distinct"),
        ({"heads": {}}, "at least one"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_configurations_are_named(config, words):
    with pytest.raises(InputError, match=words):
        affekt.create("speech", **config)


@pytest.mark.parametrize("task", ["utterance", "trace"])
@given(lengths=st.lists(st.integers(4, 60), min_size=1, max_size=4))
@settings(max_examples=15)
def test_a_padded_batch_equals_the_loop(task, lengths):
    system = make(task=task)
    x, mask = batch_of(lengths, system.features)
    out = system(x, mask)
    for i, n in enumerate(lengths):
        alone = system(x[i : i + 1, :n])
        for head in system.heads:
            steps = alone[head].shape[1] if task == "trace" else None
            torch.testing.assert_close(out[head][i, :steps] if steps else out[head][i], alone[head][0])


@pytest.mark.parametrize("kind", ["attention_statistics", "attention", "statistics", "mean", "trace"])
@pytest.mark.parametrize("activation", ["leaky_relu", "prelu"])
def test_the_exported_file_equals_torch_from_the_same_waveform(tmp_path, kind, activation):
    config = {"task": "trace"} if kind == "trace" else {"pool": {"kind": kind}}
    system = make(**config, tcn={"activation": activation, "init": "xavier"})
    path = systems.export(system, tmp_path / "m.safetensors", {"licence": "none"})
    native = affekt.load(path)
    assert native.columns == system.columns == [*AFFECT, "p_sad", "p_happy", "p_angry"]
    for name, value in system.latency().items():
        assert native.timing[name] == pytest.approx(value, abs=1e-9)
    restored = systems.restore(path)
    for seconds in (0.07, 0.5, 3.3):
        samples = voice(seconds)
        rows = torch.from_numpy(system.front_end()(samples))
        times, values = system.estimates(rows)
        native_times, native_values = native.run(samples)
        assert len(times) > 0
        np.testing.assert_allclose(native_times, times, atol=1e-12)
        np.testing.assert_allclose(native_values, values, atol=1e-4)
        np.testing.assert_array_equal(restored.estimates(rows)[1], values)
        if kind != "trace":  # the last estimate is what forward gives
            np.testing.assert_allclose(system.predict(rows[None])[0], values[-1], atol=1e-6)


def test_restored_systems_equal_the_exported_and_export_to_the_same_bytes(tmp_path):
    system = make(stack={"size": 1, "stride": 1}, pool={"half_life": None})
    one = systems.export(system, tmp_path / "a.safetensors", {"data": ["x"]}, name="n", version="2")
    again = systems.restore(one)
    two = systems.export(again, tmp_path / "b.safetensors", {"data": ["x"]}, name="n", version="2")
    assert one.read_bytes() == two.read_bytes()
    assert not again.training
    assert dataclasses.asdict(again.config) == dataclasses.asdict(system.config)
    x, mask = batch_of([30, 12], system.features)
    for head, value in system(x, mask).items():
        assert torch.equal(value, again(x, mask)[head])


def test_heads_keep_their_order_whatever_their_names(tmp_path):
    torch.manual_seed(0)
    heads = {"zeal": {"labels": ["x", "y"]}, "affect": {"labels": ["arousal"]}}
    system = affekt.create("speech", **{**SMALL, "heads": heads}).eval()
    path = systems.export(system, tmp_path / "m.safetensors")
    columns = ["p_x", "p_y", "arousal"]
    assert affekt.load(path).columns == systems.restore(path).columns == system.columns == columns


def test_files_that_cannot_be_restored_say_why(tmp_path, monkeypatch):
    path = systems.export(make(), tmp_path / "m.safetensors")
    monkeypatch.setattr(systems.base, "_REGISTRY", {})
    with pytest.raises(ModelFileError, match="unknown system 'speech'"):
        systems.restore(path)
    with pytest.raises(ModelFileError):
        systems.restore(tmp_path / "absent.safetensors")


def test_a_front_end_that_looks_ahead_is_not_exported(tmp_path):
    with pytest.raises(NotStreamableError, match="center"):
        systems.export(make(front_end={"center": True}), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_mfcc_front_end(tmp_path):
    system = make(front_end={"kind": "mfcc", "n_mfcc": 13})
    assert system.features == 13
    native = affekt.load(systems.export(system, tmp_path / "m.safetensors"))
    samples = voice(1.0)
    rows = torch.from_numpy(system.front_end()(samples))
    np.testing.assert_allclose(native.run(samples)[1], system.estimates(rows)[1], atol=1e-4)


def test_recordings_shorter_than_a_stacked_row_give_no_estimate():
    system = make()
    times, values = system.estimates(torch.zeros(3, system.features))
    assert times.shape == (0,)
    assert values.shape == (0, 6)
    with pytest.raises(InputError, match="valid row"):
        system(torch.zeros(1, 3, system.features))


def full_batch(system, n=6, seed=1):
    gen = torch.Generator().manual_seed(seed)
    x, mask = batch_of([20 + 3 * i for i in range(n)], system.features, seed)
    labels = {
        "affect": torch.rand(n, 3, generator=gen) * 2 - 1,
        "emotion": torch.randint(0, 3, (n,), generator=gen),
    }
    return {"features": x, "mask": mask, "labels": labels}


def test_the_loss_is_the_sum_of_its_heads():
    system = make(heads={"emotion": {"weight": 0.5}})
    batch = full_batch(system)
    parts = system.loss(batch)
    assert parts["loss"].item() == pytest.approx(parts["affect"].item() + 0.5 * parts["emotion"].item())
    out = system(batch["features"], batch["mask"])
    ce = torch.nn.functional.cross_entropy(out["emotion"], batch["labels"]["emotion"])
    torch.testing.assert_close(parts["emotion"], ce)
    p, y = out["affect"].detach().double().numpy(), batch["labels"]["affect"].double().numpy()
    cov = ((p - p.mean(0)) * (y - y.mean(0))).mean(0)
    ccc = 2 * cov / (p.var(0) + y.var(0) + (p.mean(0) - y.mean(0)) ** 2)
    assert parts["affect"].item() == pytest.approx(1 - ccc.mean(), abs=1e-5)


def test_class_weights_and_smoothing_are_those_of_torch():
    system = make(heads={"emotion": {"smoothing": 0.2}})
    batch = full_batch(system)
    weights = torch.tensor([0.5, 2.0, 1.0])
    system.set_class_weights("emotion", weights)
    logits = system(batch["features"], batch["mask"])["emotion"]
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"]["emotion"], weights)
    plain = make()
    plain.set_class_weights("emotion", weights)
    torch.testing.assert_close(plain.loss(batch)["emotion"], expected)
    smooth = make(heads={"emotion": {"smoothing": 0.2}}).loss(batch)["emotion"]
    torch.testing.assert_close(
        smooth, torch.nn.functional.cross_entropy(logits, batch["labels"]["emotion"], label_smoothing=0.2)
    )
    with pytest.raises(InputError, match="one number per class"):
        system.set_class_weights("emotion", [1.0, 2.0])


def test_masked_labels_have_no_influence_so_corpora_can_share_one_model():
    system = make()
    batch = full_batch(system)
    affect = torch.tensor([True, True, True, True, False, False])
    emotion = torch.tensor([False, False, True, True, True, True])
    batch["label_mask"] = {"affect": affect, "emotion": emotion}
    parts = system.loss(batch)
    batch["labels"]["affect"][~affect] = float("nan")
    batch["labels"]["emotion"][~emotion] = -1
    again = system.loss(batch)
    assert parts["loss"].item() == again["loss"].item()
    again["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)
    only = {name: value for name, value in batch["labels"].items() if name == "emotion"}
    alone = system.loss({**batch, "labels": only})
    assert set(alone) == {"loss", "emotion"}
    torch.testing.assert_close(alone["emotion"], parts["emotion"])
    # A batch without a single affect label teaches the affect head nothing, and breaks nothing.
    batch["label_mask"]["affect"] = torch.zeros(6, dtype=torch.bool)
    system.zero_grad()
    nothing = system.loss(batch)
    nothing["loss"].backward()
    assert nothing["affect"].item() == 0
    assert system.linear["affect"].weight.grad.abs().max() == 0
    with pytest.raises(InputError, match="at least one of the heads"):
        system.loss({**batch, "labels": {}})


def test_trace_loss_ignores_padding_and_per_step_masks():
    system = make(task="trace")
    x, mask = batch_of([40, 24], system.features)
    labels = torch.rand(2, 10, 3) * 2 - 1
    classes = torch.randint(0, 3, (2, 10))
    one = system.loss({"features": x, "mask": mask, "labels": {"affect": labels, "emotion": classes}})
    labels[1, 6:] = float("nan")
    classes[1, 6:] = -1
    two = system.loss({"features": x, "mask": mask, "labels": {"affect": labels, "emotion": classes}})
    assert one["loss"].item() == two["loss"].item()
    keep = torch.ones(2, 10, dtype=torch.bool)
    keep[0, 5:] = False
    masked = {"features": x, "mask": mask, "labels": {"affect": labels}, "label_mask": {"affect": keep}}
    three = system.loss(masked)["loss"].item()
    labels[0, 5:] = 7.0
    assert system.loss(masked)["loss"].item() == three


def test_everything_random_in_training_is_seeded_and_trains():
    system = make(
        dropout=0.2, channel_dropout=0.1, mixup=0.4, tcn={"dropout": 0.2},
        augment={"gain": 3, "tempo": 0.2, "shift": 1, "crop": 0.2, "time_masks": 1, "time_width": 9},
    ).train()  # fmt: skip
    batch = full_batch(system)
    torch.manual_seed(5)
    one = system.loss(batch)["loss"]
    two = system.loss(batch)["loss"]
    torch.manual_seed(5)
    assert system.loss(batch)["loss"].item() == one.item() != two.item()
    one.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in system.parameters())


def test_an_estimate_does_not_depend_on_audio_older_than_its_context(tmp_path):
    system = make()
    native = affekt.load(systems.export(system, tmp_path / "m.safetensors"))
    samples = voice(6.0)
    context = system.latency()["context_s"]
    times, values = native.run(samples)
    other = samples.copy()
    cut = int(2.5 * 16000)
    other[:cut] = voice(2.5, seed=9)
    _, changed = native.run(other)
    free = times - context >= (cut - 1) / 16000
    assert free.any()
    np.testing.assert_array_equal(values[free], changed[free])
    assert not np.array_equal(values, changed)
