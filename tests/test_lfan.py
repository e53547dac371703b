"""Fusion of several signals: sizes, attention by its equations, absent signals, model file and stream."""

# ruff: noqa: E402
from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pandas")

import affekt
from affekt import data
from affekt.cli import main
from affekt.errors import InputError, NotStreamableError
from affekt.nn import CoAttention, TemporalAttention
from affekt.systems import create, export, restore
from affekt.training import load_config, run_protocol
from checklist import row

WIDTHS = {"cnn": 6, "vggish": 5, "eeg": 4}


def small(names=("cnn", "vggish", "eeg"), seed=5, **options):
    """A small system of signals of `WIDTHS`, by default three."""
    own = options.pop("modalities", {})
    modalities = {
        name: {"features": WIDTHS.get(name, 3), "tcn": {"channels": [8, 7 - i % 3], "kernel_size": 3}}
        | own.get(name, {})
        for i, name in enumerate(names)
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create("lfan", modalities=modalities, **options).eval()


def rows_of(system, rng, time=40, batch=1):
    return {
        name: torch.from_numpy(rng.normal(size=(batch, time, system._rows_width(name))).astype(np.float32))
        for name in system.modalities
    }


def outputs(system, rows, **options):
    with torch.no_grad():
        return system(rows, **options)["affect"].numpy()


# Sizes ----------------------------------------------------------------------------------------------------


@row("zhang", 31)
def test_parameter_counts_of_the_presets():
    counts = {
        "cnn_vggish": 2_671_681, "cnn_mfcc": 2_273_121, "cnn_vggish_mfcc": 2_718_497,
        "cnn_vggish_bert": 5_291_073, "cnn_eeg": 2_632_577, "cnn_landmark": 2_694_337,
        "cnn_eeg_landmark": 3_100_609,
    }  # fmt: skip
    for preset, count in counts.items():
        assert create("lfan", preset=preset).num_parameters() == count, preset


@row("zhang", 32)
def test_parameter_counts_of_the_variants():
    encoders = 2_213_760 + 439_104  # CNN and VGGish, kernels of 5
    projections = 3 * (128 + 1) * 32 + 3 * (64 + 1) * 32
    joint = 5 * 192 * 128 + 128 + 3 * (5 * 128 * 128 + 128) + 192 * 128 + 128
    temporal = sum(3 * (width * width + width) + 2 * width for width in (128, 64))
    expected = {
        "cat": encoders + 192 + 1,
        "tcn": encoders + joint + 128 + 1,
        "noleader": encoders + projections + 64 + 1,
        "lfan": encoders + projections + 128 + 64 + 1,
        "tlfan": encoders + projections + temporal + 128 + 64 + 1,
    }
    for kind, count in expected.items():
        assert create("lfan", fusion={"kind": kind}).num_parameters() == count, kind
    led = {leader: create("lfan", preset="cnn_vggish_mfcc", leader=leader) for leader in ("vggish", "mfcc")}
    assert {name: next(iter(s.modalities)) for name, s in led.items()} == {"vggish": "vggish", "mfcc": "mfcc"}
    whole = 2_718_497  # the head reads the leader's 64 or 32 values instead of 128
    assert {name: s.num_parameters() for name, s in led.items()} == {"vggish": whole - 64, "mfcc": whole - 96}


@row("zhang", 33)
def test_every_set_of_signals_trains_a_step(rng):
    names = ("cnn", "vggish", "mfcc", "landmark", "bert", "eeg")
    sets = [c for n in range(1, 7) for c in itertools.combinations(names, n)]
    assert len(sets) == 63
    for chosen in sets:
        ordered = chosen[::-1] if len(chosen) % 2 else chosen
        system = small(ordered).train()
        assert list(system.modalities) == list(ordered)
        batch = {"features": rows_of(system, rng, 12, 2), "labels": {"affect": torch.randn(2, 12, 1)}}
        loss = system.loss(batch)["loss"]
        loss.backward()
        assert torch.isfinite(loss)
        touched = {n.split(".")[1] for n, p in system.named_parameters() if n.startswith("encoders.")
                   and p.grad is not None and p.grad.abs().sum() > 0}  # fmt: skip
        assert touched == set(chosen)


# Attention ------------------------------------------------------------------------------------------------


def by_the_equations(attention, rows, present=None):
    """Equations 6.3 to 6.6 step by step in float64."""
    batch, time = rows[0].shape[:2]
    count, size = len(rows), attention.dim // attention.heads

    def linear(layers, m, x):
        return layers[m].weight.detach().double().numpy() @ x + layers[m].bias.detach().double().numpy()

    out = np.zeros((batch, time, count * attention.dim))
    maps = np.zeros((batch, time, attention.heads, count, count))
    for b, t in np.ndindex(batch, time):
        there = [m for m in range(count) if present is None or present[b, t, m]]
        x = [r[b, t].double().numpy() for r in rows]
        q, k, v = ([linear(p, m, x[m]).reshape(attention.heads, size) for m in range(count)]
                   for p in (attention.query, attention.key, attention.value))  # fmt: skip
        for i, h in itertools.product(there, range(attention.heads)):
            scores = np.exp([q[i][h] @ k[j][h] / np.sqrt(size) for j in there])
            maps[b, t, h, i, there] = scores / scores.sum()
            own = sum(w * v[j][h] for w, j in zip(scores / scores.sum(), there, strict=True))
            at = i * attention.dim + h * size
            out[b, t, at : at + size] = own
    return out, maps


@row("zhang", 31)
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_its_equations(rng, heads, masked):
    attention = CoAttention([6, 5, 4], 8, heads=heads)
    rows = [torch.from_numpy(rng.normal(size=(2, 9, width)).astype(np.float32)) for width in (6, 5, 4)]
    present = torch.from_numpy(rng.random((2, 9, 3)) < 0.6) if masked else None
    if masked:
        present[0, 0] = False  # nobody
    out, maps = by_the_equations(attention, rows, present)
    np.testing.assert_allclose(attention(rows, present).detach(), out, atol=2e-6)
    found = attention.attention(rows, present).detach()
    np.testing.assert_allclose(found, maps, atol=2e-6)
    sums = found.sum(-1).numpy()
    there = np.ones((2, 9, 3)) if present is None else present.numpy()
    np.testing.assert_allclose(sums, np.repeat(there[:, :, None], heads, 2), atol=1e-6)


def test_projection_norm_and_residual(rng):
    plain, full = CoAttention([6, 5], 8), CoAttention([6, 5], 8, out_proj=True, residual_norm=True)
    full.load_state_dict(plain.state_dict(), strict=False)
    rows = [torch.randn(1, 7, 6), torch.randn(1, 7, 5)]
    value = torch.cat([layer(x) for layer, x in zip(plain.value, rows, strict=True)], -1)
    expected = torch.nn.functional.layer_norm(full.out_proj(plain(rows)) + value, (16,))
    torch.testing.assert_close(full(rows), expected)
    dropped = CoAttention([6, 5], 8, dropout=0.5)
    assert (dropped(rows) == 0).float().mean() > 0.2
    torch.testing.assert_close(dropped.eval()(rows), dropped(rows))


@row("zhang", 31, 32)
@pytest.mark.parametrize("kind", ["lfan", "noleader", "cat", "tcn", "tlfan"])
def test_what_comes_later_changes_nothing_before_it(rng, kind):
    system = small(fusion={"kind": kind})
    assert system.causal
    rows = rows_of(system, rng)
    before = outputs(system, rows)
    later = {name: torch.cat([x[:, :25], x[:, 25:] + 1], 1) for name, x in rows.items()}
    after = outputs(system, later)
    np.testing.assert_allclose(after[:, :25], before[:, :25], atol=1e-6)
    assert np.abs(after[:, 25:] - before[:, 25:]).max() > 1e-3


@row("zhang", 32)
def test_attention_over_time_looks_back_alone_unless_told_otherwise(rng):
    system = small(fusion={"kind": "tlfan", "causal": False})
    assert not system.causal
    rows = rows_of(system, rng)
    later = {name: torch.cat([x[:, :25], x[:, 25:] + 1], 1) for name, x in rows.items()}
    assert np.abs(outputs(system, later)[:, :25] - outputs(system, rows)[:, :25]).max() > 1e-4
    for causal in (True, False):
        layer = TemporalAttention(4, causal=causal)
        x, mask = torch.randn(2, 10, 4), torch.ones(2, 10, dtype=torch.bool)
        mask[1, 6:] = False
        junk = x.clone()
        junk[1, 6:] += 50  # what is padding is not looked at
        torch.testing.assert_close(layer(x, mask)[1, :6], layer(junk, mask)[1, :6])
        torch.testing.assert_close(layer(x, mask)[1, :6], layer(x[1:, :6])[0])


@row("zhang", 34)
def test_one_model_per_dimension_or_both_in_one(rng):
    heads = {"affect": {"labels": ["valence", "arousal"]}}
    both = small(heads=heads)
    rows, labels = rows_of(both, rng, 20, 3), torch.randn(3, 20, 2)
    assert outputs(both, rows).shape == (3, 20, 2)
    loss = both.loss({"features": rows, "labels": {"affect": labels}})["affect"]
    apart = []
    for column, label in enumerate(("valence", "arousal")):
        one = small(heads={"affect": {"labels": [label]}})
        with torch.no_grad():  # the same model for one of the dimensions
            one.load_state_dict(
                {k: v for k, v in both.state_dict().items() if "linear" not in k}, strict=False
            )
            one.linear["affect"].weight.copy_(both.linear["affect"].weight[column : column + 1])
            one.linear["affect"].bias.copy_(both.linear["affect"].bias[column : column + 1])
        np.testing.assert_allclose(outputs(one, rows)[..., 0], outputs(both, rows)[..., column], atol=1e-6)
        batch = {"features": rows, "labels": {"affect": labels[..., column : column + 1]}}
        apart.append(one.loss(batch)["affect"])
    torch.testing.assert_close(loss, torch.stack(apart).mean())


# Absent signals -------------------------------------------------------------------------------------------


@row("zhang", 50)
@pytest.mark.parametrize("kind", ["lfan", "noleader", "cat", "tcn", "tlfan"])
def test_an_absent_signal_has_no_influence(rng, kind):
    system = small(fusion={"kind": kind}, modalities={"vggish": {"standardise": "feature"}})
    rows = rows_of(system, rng)
    other = {**rows, "vggish": torch.full_like(rows["vggish"], 1e6)}
    present = {"vggish": torch.zeros(1, 40, dtype=torch.bool)}
    np.testing.assert_array_equal(
        outputs(system, rows, present=present), outputs(system, other, present=present)
    )
    gone = {name: torch.zeros(1, 40, dtype=torch.bool) for name in rows}
    assert np.isfinite(outputs(system, rows, present=gone)).all()


@row("zhang", 50)
def test_signals_are_dropped_window_by_window_but_never_all(rng):
    torch.manual_seed(0)
    system = small(drop=0.7).train()
    _, there = system._rows(rows_of(system, rng, 6, 400), None, None)
    assert (there == there[:, :1]).all()
    kept = there[:, 0].float()
    assert (kept.sum(1) > 0).all()
    # A follower stays with probability 0.3, the leader with 0.3 or where all others are gone too.
    np.testing.assert_allclose(kept.mean(0), [0.3 + 0.7**3, 0.3, 0.3], atol=0.08)
    _, there = system.eval()._rows(rows_of(system, rng, 6, 4), None, None)
    assert there.all()


# Model file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leader", [None, "eeg"])
@pytest.mark.parametrize("kind", ["lfan", "noleader", "cat", "tcn"])
def test_model_file_one_pass_and_stream(tmp_path, rng, kind, leader):
    fusion = {"kind": kind, "heads": 2, "tcn": {"channels": [9], "kernel_size": 2}}
    own = {"vggish": {"standardise": "feature"}}
    system = small(fusion=fusion, leader=leader, modalities=own, activation="tanh")
    system.set_modality_statistics("vggish", rng.normal(size=5), rng.uniform(0.5, 2, size=5))
    path = export(system, tmp_path / "m.safetensors", {"licence": "CC0-1.0"})
    model = affekt.load(path)
    rows = rows_of(system, rng)
    given = {name: x[0].numpy() for name, x in rows.items()}
    full = model.run(given)
    np.testing.assert_allclose(full.values, outputs(system, rows)[0], atol=1e-5)
    for chunk in (1, 7):
        np.testing.assert_array_equal(model.run(given, "stream", chunk).values, full.values)
    again = restore(path)
    assert list(again.modalities) == list(system.modalities)
    np.testing.assert_allclose(outputs(again, rows), outputs(system, rows), atol=1e-6)
    assert export(again, tmp_path / "n.safetensors", {"licence": "CC0-1.0"}).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["lfan", "cat"])
def test_cost_and_info_count_every_weight_once_per_step(tmp_path, capsys, kind):
    system = small(fusion={"kind": kind}, modalities={"vggish": {"standardise": "feature"}}, rate=5.0)
    path = export(system, tmp_path / "m.safetensors", {"licence": "CC0-1.0"})
    found = affekt.cost(path, seconds=0)
    matrices = [p for name, p in system.named_parameters() if p.dim() > 1 and not name.endswith("original0")]
    attention = 2 * 3 * 3 * 32 if kind == "lfan" else 0
    assert found["parameters"] == system.num_parameters() + 2 * 5  # mean and scale
    assert found["macs_network"] == 5 * (sum(p.numel() for p in matrices) + 5 + attention)
    assert found["macs_front_end"] == 0
    with pytest.raises(InputError, match=r"seconds must be 0 for a model that takes cnn \(rows\), vggish"):
        affekt.cost(path)
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "cnn: rows of 6 values, 5 Hz" in text
    assert f"{found['macs_network'] / 1e6:.2f} million multiply-accumulates per second" in text
    assert main(["info", str(path), "--card"]) == 0
    assert f"0.00 + {found['macs_network'] / 1e6:.2f} million" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cnn", "eeg"])
def test_a_signal_that_falls_silent_is_absent_live_as_in_torch(tmp_path, rng, name):
    system = small(silence=0.5)
    model = affekt.load(export(system, tmp_path / "m.safetensors"))
    rows = rows_of(system, rng, 60)
    present = torch.ones(1, 60, dtype=torch.bool)
    present[:, 12:20] = False
    given = {other: x[0].numpy() for other, x in rows.items()}
    given[name] = [(0.0, given[name][:12]), (5.0, given[name][20:])]
    live = model.run(given)
    held = outputs(system, rows, present={name: present})[0]
    step = np.round(live.times * 4).astype(int)
    np.testing.assert_array_equal(step, np.arange(60))
    seen = max(encoder.receptive_field for encoder in system.encoders.values())
    # Until it counts as gone its last row is held; then it is absent in both, and what is held passes out.
    same = (step < 12) | (step >= 20 + seen)
    np.testing.assert_allclose(live.values[same], held[same], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"fusion": {"kind": "tlfan"}}, "tlfan attends over all of the past"),
        ({"fusion": {"out_proj": True}}, r"no node for fusion\.out_proj"),
        ({"fusion": {"residual_norm": True}}, r"no node for fusion\.residual_norm"),
        ({"names": ("cnn",)}, "attention of one signal to itself"),
    ],
)
def test_what_cannot_run_live_says_why(tmp_path, options, wanted):
    with pytest.raises(NotStreamableError, match=wanted):
        export(small(**options), tmp_path / "m.safetensors")
    export(small(("cnn",), fusion={"kind": "cat"}), tmp_path / "m.safetensors")


# Training -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Trials of three subjects with a strong and a weak signal."""
    folder = tmp_path_factory.mktemp("corpus")
    data.generate(folder, seed=4, subjects=3, trials=(3, 3), seconds=(30.0, 36.0))
    return folder


def test_the_preset_trains_an_epoch_on_generated_trials_as_typed(corpus, tmp_path):
    full = create(**load_config("s6_mahnob").system)  # the published size builds and runs
    rows = {name: torch.zeros(1, 96, full._rows_width(name)) for name in full.modalities}
    assert outputs(full, rows).shape == (1, 96, 1)
    words = [f"data.manifest={corpus / 'manifest.csv'}", f"data.cache={corpus / 'features'}",
             "protocol.select=[1]", "protocol.folds=2",
             "system.modalities.cnn={features: 16, source: {rate: 16.0}, tcn: {channels: [6]}}",
             "system.modalities.eeg={features: 24, tcn: {channels: [6]}}", "training.epochs=1",
             "training.batch_size=16", "training.tensorboard=false", "training.threads=1"]  # fmt: skip
    config = load_config("s6_mahnob", [*words, f"out={tmp_path / 'out'}"])
    result = run_protocol(config)
    assert result.audit.ok
    assert set(result.results["mode"]) == {"window", "full"}
    assert np.isfinite(result.results["ccc_valence"]).all()
    model = affekt.load(result.runs[0].model)
    assert [given["name"] for given in model.card["inputs"]] == ["cnn", "eeg"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Trials with a published partition, two cultures and the signals of three presets, by their widths."""
    folder = tmp_path_factory.mktemp("published")
    widths = {"cnn": (6, 4), "vggish": (5, 4), "mfcc": (4, 25), "bert": (3, 4)}
    signals = {name: {"width": width, "ratio": ratio} for name, (width, ratio) in widths.items()}
    made = data.generate(folder, seed=9, subjects=10, trials=(1, 1), seconds=(14.0, 18.0), signals=signals)
    table = made.table.assign(culture=["g", "h"] * 5, split=["train"] * 6 + ["dev"] * 4)
    table.to_csv(folder / "manifest.csv", index=False)
    return folder, widths


@pytest.mark.parametrize("preset", ["s6_avec", "s6_affwild2"])
def test_presets_of_published_partitions_train_an_epoch(published, tmp_path, preset):
    folder, widths = published
    config = load_config(preset)
    full = create(**config.system)  # the published size builds and runs
    rows = {name: torch.zeros(1, 30, full._rows_width(name)) for name in full.modalities}
    assert outputs(full, rows).shape == (1, 30, 1)
    words = [f"data.manifest={folder / 'manifest.csv'}", f"data.cache={folder / 'features'}", "system.rate=4",
             f"out={tmp_path / 'out'}", "protocol.select=[1]", "training.epochs=1", "training.threads=1",
             "training.tensorboard=false"]  # fmt: skip
    for name in full.modalities:
        width, ratio = widths[name]
        words.append(f"system.modalities.{name}.features={width}")
        words.append(f"system.modalities.{name}.source.rate={4 * ratio}")
        words.append(f"system.modalities.{name}.tcn.channels=[4]")
    result = run_protocol(load_config(preset, words))
    assert result.audit.ok
    halves = preset == "s6_avec"
    assert np.isfinite(result.results["ccc_valence" if halves else "dev_ccc_valence"]).all()
    assert result.results["n_test"].iloc[0] == (2 if halves else 0)
    assert result.results["n_dev"].iloc[0] == (2 if halves else 4)


# Several heads ----------------------------------------------------------------------------------------------


@row("zhang", 50)
def test_heads_of_several_kinds_learn_together_and_weigh_themselves(rng):
    expression = {"labels": ["calm", "happy", "angry"], "kind": "categorical", "weight": 0.5}
    heads = {"affect": {"labels": ["valence", "arousal"]}, "expression": expression}
    fixed, learnt = (small(heads=heads, loss={"weights": w}) for w in ("fixed", "learnt"))
    assert learnt.num_parameters() == fixed.num_parameters()
    rows = rows_of(fixed, rng, 20, 3)
    known = torch.from_numpy(rng.random((3, 20)) < 0.7)
    labels = {
        "affect": torch.from_numpy(rng.normal(size=(3, 20, 2)).astype(np.float32)),
        "expression": torch.from_numpy(rng.integers(0, 3, (3, 20))),
    }
    batch = {"features": rows, "label_mask": {"expression": known}, "labels": labels}
    parts, own = fixed.loss(batch), learnt.loss(batch)
    for name in heads:
        torch.testing.assert_close(parts[name], own[name])
    torch.testing.assert_close(parts["loss"], parts["affect"] + 0.5 * parts["expression"])
    torch.testing.assert_close(own["loss"], parts["loss"])  # s is 0 at first
    gradients = torch.autograd.grad(own["loss"], list(learnt.log_uncertainty.values()))
    torch.testing.assert_close(gradients[0], 1 - parts["affect"])
    torch.testing.assert_close(gradients[1], 0.5 * (1 - parts["expression"]))
    optimiser = torch.optim.SGD(learnt.log_uncertainty.parameters(), lr=0.3)
    for _ in range(200):  # the rest held still, each weight goes to one over its loss
        optimiser.zero_grad()
        learnt.loss(batch)["loss"].backward()
        optimiser.step()
    for name, s in learnt.log_uncertainty.items():
        assert np.exp(-s.item()) == pytest.approx(1 / parts[name].item(), rel=1e-3)
    one = learnt.loss({**batch, "labels": {"affect": labels["affect"]}})
    s = learnt.log_uncertainty["affect"]
    torch.testing.assert_close(one["loss"], torch.exp(-s) * parts["affect"] + s)
    assert not {id(s) for s in learnt.log_uncertainty.values()} & {id(p) for p in learnt.encoder_parameters()}


@row("zhang", 50)
def test_learnt_weights_are_of_the_training_alone(tmp_path, rng):
    heads = {"affect": {"labels": ["valence"]}, "mood": {"labels": ["calm", "tense"], "kind": "categorical"}}
    system = small(heads=heads, loss={"weights": "learnt"})
    with torch.no_grad():
        system.log_uncertainty["mood"].fill_(1.5)
    path = export(system, tmp_path / "m.safetensors")
    again = restore(path)
    assert export(again, tmp_path / "n.safetensors").read_bytes() == path.read_bytes()
    rows = rows_of(system, rng)
    model = affekt.load(path)
    full = model.run({name: x[0].numpy() for name, x in rows.items()})
    with torch.no_grad():
        out = system(rows)
        wanted = torch.cat([out["affect"], system.probabilities("mood", out["mood"])], -1)[0]
    np.testing.assert_allclose(full.values, wanted, atol=1e-5)


# Bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"modalities": {}}, "modalities must name at least one signal"),
        ({"modalities": {"fused": {"features": 3}}}, "none 'fused'"),
        ({"leader": "face"}, "leader must be one of cnn, vggish, got 'face'"),
        ({"fusion": {"kind": "sum"}}, "fusion.kind must be one of lfan, .* got 'sum'"),
        ({"fusion": {"heads": 3}}, "dim must be a multiple of heads"),
        ({"fusion": {"dropout": 1.0}}, r"dropout must lie in \[0, 1\)"),
        ({"loss": {"weights": "even"}}, r"loss\.weights must be fixed or learnt, got 'even'"),
        ({"drop": 1.0}, r"drop must lie in \[0, 1\), got 1.0"),
        ({"modalities": {"pulse": {"features": 3}}}, "pulse: tcn.channels must be given"),
    ],
)
def test_bad_configurations_are_named(options, wanted):
    with pytest.raises(InputError, match=wanted):
        create("lfan", **options)


def test_bad_batches_are_named(rng):
    system = small()
    rows = rows_of(system, rng)
    with pytest.raises(InputError, match="eeg is missing"):
        system({name: x for name, x in rows.items() if name != "eeg"})
    with pytest.raises(InputError, match="the same batch and time for all signals"):
        system({**rows, "eeg": rows["eeg"][:, 1:]})
    with pytest.raises(InputError, match="has no attention between signals"):
        small(fusion={"kind": "cat"}).attention(rows)
    with pytest.raises(InputError, match=r"rows must be \(batch, time, 6\), \(batch, time, 5\), got"):
        CoAttention([6, 5])([torch.zeros(1, 3, 6)])
    with pytest.raises(InputError, match=r"present must be \(1, 3, 2\)"):
        CoAttention([6, 5])([torch.zeros(1, 3, 6), torch.zeros(1, 3, 5)], torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="widths must name at least one signal"):
        CoAttention([])
    with pytest.raises(InputError, match=r"x must be \(batch, time, 4\)"):
        TemporalAttention(4)(torch.zeros(1, 3, 5))
    with pytest.raises(InputError, match="width must be at least 1"):
        TemporalAttention(0)
