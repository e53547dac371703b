"""Training that starts from a model file: what is taken, what is refused, and what the new card must say."""

# ruff: noqa: E402
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pandas = pytest.importorskip("pandas")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("pytorch_lightning")

import affekt
from affekt import data, systems
from affekt.cli import main
from affekt.errors import DataError, InputError
from affekt.training import Examples, export_checkpoint, load_config, run_protocol, train
from affekt.training.config import LoopConfig
from sounds import tone

LICENCE = "first corpus: CC BY-NC-SA 4.0"
SMALL = {
    "front_end": {"n_mels": 12, "hop_length": 320},
    "tcn": {"channels": [8, 6], "dropout": 0.1},
    "pool": {"window": 20, "hop": 2},
}
LEVELS = {"ruhig": 0.05, "zornig": 0.3}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A model file of another origin, with weights that are nobody's defaults."""
    torch.manual_seed(3)
    heads = {"affect": {"labels": ["arousal", "valence"]}, "emotion": {"labels": ["sad", "happy", "angry"]}}
    system = affekt.create("speech", **SMALL, heads=heads)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    system.set_statistics(np.linspace(-50, -30, system.features), np.full(system.features, 15.0))
    path = tmp_path_factory.mktemp("first") / "first.safetensors"
    return systems.export(system, path, {"data": ["corpus-a"], "licence": LICENCE}, name="first", version="7")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A table in other words: four speakers, two emotions of their own."""
    folder = tmp_path_factory.mktemp("mine")
    rows = []
    for speaker in range(4):
        for take in range(2):
            for emotion, level in LEVELS.items():
                name = f"{speaker}_{take}_{emotion}.wav"
                samples = tone(0.4 + 0.1 * take, frequency=90 + 30 * speaker + 7 * take, level=level)
                soundfile.write(folder / name, samples, 16000)
                rows.append({"file": name, "subject": f"s{speaker}", "emotion": emotion, "arousal": level})
    pandas.DataFrame(rows).to_csv(folder / "mine.csv", index=False)
    return folder / "mine.csv"


def configuration(first, mine, out, *overrides):
    system = {"heads": {"emotion": {"labels": list(LEVELS)}, "mood": {"labels": ["valence", "arousal"]}}}
    values = {
        "init": str(first),
        "out": str(out),
        "data": {"manifest": str(mine), "cache": str(Path(mine).parent / "features")},
        "protocol": {"folds": 2, "dev": 1},
        "system": system,
        "training": {"epochs": 2, "batch_size": 4, "tensorboard": False, "progress": False, "threads": 1},
    }
    return load_config(values, list(overrides))


@pytest.fixture(scope="module")
def tuned(first, mine, tmp_path_factory):
    lines = []
    config = configuration(first, mine, tmp_path_factory.mktemp("runs") / "tuned")
    return run_protocol(config, say=lines.append), lines


def test_the_system_is_the_files_where_the_user_says_nothing(first, mine, tmp_path):
    config = configuration(first, mine, tmp_path, "system.dropout=0.3")
    assert config.system["tcn"]["channels"] == [8, 6]
    assert config.system["front_end"]["n_mels"] == 12
    assert config.system["dropout"] == 0.3
    assert list(config.system["heads"]) == ["emotion", "mood"]
    assert config.init.sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    # A preset's system is not the user's; its heads are the task.
    preset = load_config("own", [f"init={first}", "system.heads.affect=null"])
    assert preset.system["tcn"]["channels"] == [8, 6]
    assert len(preset.system["heads"]["emotion"]["labels"]) == 8
    assert preset.system["heads"]["emotion"]["balance"]
    # Resolved once, it does not need the file again.
    assert load_config(config) == config


@pytest.mark.parametrize(
    "words",
    [["system.front_end.n_mels=20"], ["system.tcn.channels=[8,8]"], ["system.pool.kind=mean"],
     ["system.stack.size=2"], ["system.tcn.kernel_size=5"]],
)  # fmt: skip
def test_another_encoder_is_refused_by_its_key(first, mine, tmp_path, words):
    key = words[0].partition("=")[0]
    with pytest.raises(InputError, match=f"{key}: expected .* as in the initial model"):
        run_protocol(configuration(first, mine, tmp_path, *words))


@pytest.mark.parametrize(
    ("own", "key"),
    [({"pool": {"kind": "mean"}}, "pool.kind"), ({"activity": {"mask_pool": True}}, "pool.inputs")],
)
def test_nodes_of_one_type_are_compared_by_name(tmp_path, own, key):
    config = {
        "tcn": {"channels": [4]},
        "heads": {"affect": {"labels": ["valence"]}},
        "activity": {},
        "adapt": {},
    }
    there = systems.export(
        affekt.create("speech", **{**config, "pool": {"kind": "attention"}}), tmp_path / "a.safetensors"
    )
    system = affekt.create("speech", **{**config, "pool": {"kind": "attention"}, **own})
    with pytest.raises(InputError, match=f"system.{key}: expected .* as in the initial model"):
        systems.initialise(system, there)


def test_a_model_without_a_neutral_takes_average_speech_for_it(tmp_path):
    def speech(reference):
        heads = {"affect": {"labels": ["valence"]}}
        adapt = {"reference": reference}
        return affekt.create("speech", tcn={"channels": [4]}, heads=heads, activity={}, adapt=adapt,
                             pool={"kind": "mean"})  # fmt: skip

    first, system = speech(False), speech(True)
    first.adapt.set([1.0, 2.0, 3.0, 4.0], [0.5] * 4)
    systems.initialise(system, systems.export(first, tmp_path / "a.safetensors"))
    assert system.adapt.reference.tolist() == system.adapt.mean.tolist() == [1.0, 2.0, 3.0, 4.0]
    systems.initialise(speech(False), systems.export(system, tmp_path / "b.safetensors"))


def test_memory_and_regularisation_may_differ(first):
    config = {**SMALL, "pool": {"window": 9, "hop": 3}, "dropout": 0.5}
    system = affekt.create("speech", **config, heads={"emotion": {"labels": ["a", "b"]}})
    assert systems.initialise(system, first) == {}


def test_everything_before_the_heads_is_taken_and_equal_heads_in_any_order(first):
    heads = {"feeling": {"labels": ["happy", "angry", "sad"]}, "affect": {"labels": ["valence"]}}
    system = affekt.create("speech", **SMALL, heads=heads)
    own = system.linear["affect"].weight.detach().clone()
    assert systems.initialise(system, first) == {"feeling": "emotion"}
    torch.testing.assert_close(system.linear["affect"].weight, own, rtol=0, atol=0)
    other = systems.restore(first)
    rows = torch.randn(2, 40, system.features) * 15 - 40
    system.eval()
    ours, theirs = system(rows)["feeling"], other(rows)["emotion"]
    torch.testing.assert_close(ours, theirs[:, [1, 2, 0]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(system.statistics(), other.statistics())
    assert system.tcn.weight_norm, "it must go on learning magnitude and direction apart"


def test_the_encoder_is_all_but_the_heads(first):
    system = systems.restore(first)
    encoder = {id(p) for p in system.encoder_parameters()}
    heads = {id(p) for p in system.linear.parameters()}
    assert encoder | heads == {id(p) for p in system.parameters()}
    assert not encoder & heads


def test_a_run_says_what_it_starts_from_and_its_card_carries_it(tuned, first):
    result, lines = tuned
    (line,) = [line for line in lines if line.startswith("starting from")]
    assert "first 7" in line
    assert "heads kept: mood; heads that start anew: emotion (ruhig, zornig)" in line
    assert LICENCE in line
    info = affekt.load(result.runs[0].model).card["info"]
    assert info["initial_model"] == {
        "name": "first",
        "version": "7",
        "sha256": affekt.load(first).hash,
        "data": ["corpus-a"],
        "licence": LICENCE,
    }
    assert info["licence"] == f"not stated; initial model first 7: {LICENCE}"
    assert info["data"] == ["user's manifest", "corpus-a"]
    assert result.audit.ok, str(result.audit)


def test_no_later_step_loses_the_licence(tuned, tmp_path, mine):
    place = tuned[0].runs[0].folder
    path = export_checkpoint(place / "kept.ckpt", tmp_path / "a.safetensors", {"licence": "mine alone"})
    assert affekt.load(path).card["info"]["licence"] == f"mine alone; initial model first 7: {LICENCE}"
    words = ["--out", str(tmp_path / "b.safetensors"), "--info", "licence=internal"]
    assert main(["export", str(place), *words]) == 0
    assert LICENCE in affekt.load(tmp_path / "b.safetensors").card["info"]["licence"]
    again = run_protocol(configuration(path, mine, tmp_path / "again", "protocol.select=[1]"))
    info = affekt.load(again.runs[0].model).card["info"]
    assert info["initial_model"]["initial_model"]["name"] == "first"
    assert LICENCE in info["licence"]
    assert "corpus-a" in info["data"]
    # Written again it is the same file: nothing is added twice.
    copy = systems.export(
        systems.restore(path), tmp_path / "copy.safetensors", affekt.load(path).card["info"]
    )
    assert affekt.load(copy).card["info"] == affekt.load(path).card["info"]


def test_kept_statistics_are_the_models_and_refitted_ones_the_folds(tuned, first, mine, tmp_path):
    kept = data.Statistics.load(tuned[0].runs[0].folder)
    assert kept.fitted_on == "initial"
    np.testing.assert_allclose([kept.mean, kept.sd], systems.restore(first).statistics())
    out = tmp_path / "refit"
    words = ["init.statistics=refit", "protocol.select=[1]"]
    result = run_protocol(configuration(first, mine, out, *words))
    assert result.audit.ok
    fitted = data.Statistics.load(result.runs[0].folder)
    assert fitted.fitted_on == "train"
    assert np.abs(fitted.mean - kept.mean).max() > 1


def test_statistics_of_the_test_part_cannot_pass_for_the_initial_models(tuned, tmp_path):
    import shutil

    place = tmp_path / "run"
    shutil.copytree(tuned[0].runs[0].folder, place)
    record = json.loads((place / "statistics.json").read_text())
    store = data.FeatureStore(record["features"]["store"])
    table = data.read_split(place)
    rows = table["row"][table["partition"].isin(["train", "test"])].to_numpy()
    leaked = store.statistics(rows)
    record |= {"mean": leaked.mean.tolist(), "sd": leaked.sd.tolist()}
    (place / "statistics.json").write_text(json.dumps(record))
    report = data.audit(place)
    messages = [finding.message for finding in report.findings if finding.kind == "statistics"]
    assert any("are of train+test" in message for message in messages)
    assert any("not those of the initial model" in message for message in messages)


def test_a_corpus_that_the_first_model_knows_is_a_leak_unless_allowed(first, mine, tmp_path):
    table = pandas.read_csv(mine).assign(corpus="corpus-a")
    table["file"] = [str(Path(mine).parent / name) for name in table["file"]]
    table.to_csv(tmp_path / "known.csv", index=False)
    words = ["protocol.select=[1]"]
    with pytest.raises(
        DataError, match="8 test rows are of corpus-a, which the initial model was trained on"
    ):
        run_protocol(configuration(first, tmp_path / "known.csv", tmp_path / "a", *words))
    words.append("protocol.allow=[initial]")
    result = run_protocol(configuration(first, tmp_path / "known.csv", tmp_path / "b", *words))
    (finding,) = result.audit.findings
    assert finding.kind == "initial"
    assert finding.accepted


def test_another_file_under_the_same_name_is_refused(first, mine, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(first.read_bytes())
    config = configuration(path, mine, tmp_path / "run", "protocol.select=[1]")
    systems.export(systems.restore(first), path, name="another")
    with pytest.raises(InputError, match=r"init\.model: .* is not the file that this run started with"):
        run_protocol(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--init", "none.safetensors"],
            "none.safetensors: no such file; expected a model file or a shipped",
        ),
        (
            ["--init", "speech-smal"],
            "init.model: speech-smal: no such file, and no shipped model is called so",
        ),
        (["--init", "mine.csv"], "mine.csv"),
        (["init.statistics=guess"], "init.statistics must be one of keep, refit, got 'guess'"),
        (["training.encoder_lr_scale=0"], "training.encoder_lr_scale must be above 0"),
        (["training.freeze_epochs=-1"], "training.freeze_epochs must be at least 0"),
    ],
)
def test_the_command_line_refuses_in_one_line(mine, monkeypatch, capsys, words, message):
    monkeypatch.chdir(Path(mine).parent)
    assert main(["train", "own", "data.manifest=mine.csv", "--dry-run", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def examples(system, count=12):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, count)
    rows = [rng.normal(size=(30, system.features)) * 10 - 40 + 4 * k for k in label]
    return Examples(rows, {"emotion": label})


def small_system():
    torch.manual_seed(0)
    system = affekt.create("speech", **SMALL, heads={"emotion": {"labels": ["a", "b"]}})
    system.set_statistics(np.full(system.features, -40.0), np.full(system.features, 10.0))
    return system


def test_frozen_epochs_move_the_heads_alone(tmp_path):
    system = small_system()
    before = {name: value.clone() for name, value in system.state_dict().items()}
    options = {"batch_size": 4, "tensorboard": False, "progress": False, "threads": 1, "lr": 0.01}
    train(system, examples(system), None, LoopConfig(epochs=2, freeze_epochs=2, **options), tmp_path / "a")
    moved = {name for name, value in system.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"linear.emotion.weight", "linear.emotion.bias"}
    assert all(parameter.requires_grad for parameter in system.parameters())
    train(system, examples(system), None, LoopConfig(epochs=2, freeze_epochs=1, **options), tmp_path / "b")
    changed = [not torch.equal(value, before[name]) for name, value in system.state_dict().items()]
    assert sum(changed) > 10


def test_the_encoder_learns_at_its_share_of_the_rate(tmp_path):
    """A step of plain gradient descent is proportional to the rate."""
    steps = {}
    for share in (1.0, 0.25):
        system = small_system()
        before = {name: value.clone() for name, value in system.named_parameters()}
        config = LoopConfig(
            epochs=1, batch_size=12, tensorboard=False, progress=False, threads=1, lr=0.1, optimiser="sgd",
            schedule="constant", warmup=0, weight_decay=0, clip=None, encoder_lr_scale=share,
        )  # fmt: skip
        train(system, examples(system), None, config, tmp_path / str(share))
        steps[share] = {name: value.detach() - before[name] for name, value in system.named_parameters()}
    for name, step in steps[1.0].items():
        factor = 1.0 if name.startswith("linear.") else 0.25
        torch.testing.assert_close(steps[0.25][name], factor * step, rtol=1e-3, atol=1e-7)
    assert steps[1.0]["linear.emotion.weight"].abs().max() > 1e-4


def test_the_shipped_model_is_a_start_on_a_real_corpus(data_dir, tmp_path, capsys, monkeypatch):
    from affekt import weights

    if not weights.list_models():
        pytest.skip("this build carries no model")
    root = data_dir / "ravdess"
    if not root.is_dir():
        pytest.skip(f"no RAVDESS in {data_dir}")
    table = data.corpus("ravdess", root).table
    table = table[table["subject"].isin(["ravdess-01", "ravdess-02", "ravdess-03"])]
    table = table[table["emotion"].isin(["calm", "angry"]) & (table["repetition"] == "01")]
    table.assign(corpus="mine").to_csv(tmp_path / "mine.csv", index=False)
    monkeypatch.setattr("affekt.weights._announced", False)
    words = [f"data.manifest={tmp_path / 'mine.csv'}", f"data.root={root}", "--init", "shipped"]
    words += ["system.heads.emotion.labels=[calm,angry]", "system.heads.affect=null"]
    words += ["protocol.folds=3", "protocol.select=[1]", "training.epochs=2", "training.threads=1"]
    assert main(["train", "own", *words, "--out", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "heads that start anew: emotion (calm, angry)" in captured.err
    assert captured.err.count("for non-commercial research only") == 1
    assert "seed 0: 8 recordings to train" in captured.err
    assert "Split(" not in captured.out + captured.err
    path = tmp_path / "run/fold_1/seed_0/model.safetensors"
    assert f"  model: {path}" in captured.out.splitlines()
    summary = pandas.read_csv(tmp_path / "run/summary.csv").set_index(["metric", "over", "condition"])
    assert summary.loc[("uar", "pooled", "raw"), "mean"] > 0.7
    info = affekt.load(tmp_path / "run/fold_1/seed_0/model.safetensors").card["info"]
    assert "CC BY-NC-SA 4.0" in info["licence"]
