"""The training loop: resumed runs equal uninterrupted ones, whatever is switched on, and it learns."""

# ruff: noqa: E402
from __future__ import annotations

import csv
import dataclasses
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_lightning")

from affekt import metrics, nn
from affekt.errors import AffektError, InputError
from affekt.losses import ccc_loss
from affekt.systems import Head, System, create
from affekt.training import Examples, train
from affekt.training.config import LoopConfig
from affekt.training.examples import batch_order
from affekt.training.loop import predict_examples
from affekt.training.scoring import figures


@dataclasses.dataclass
class ToyConfig:
    width: int = 3


class Toy(System):
    """A small system with dropout and augmentation, so that every random source is in play."""

    Config = ToyConfig
    system_name = "toy"

    def __init__(self, config):
        super().__init__(config)
        self.augment = nn.FeatureAugment(gain=0.2, tempo=0.1, time_masks=1, time_width=3)
        self.tcn = nn.TCN(config.width, [8], dropout=0.2)
        self.pool = nn.Pool(8)
        self.emotion = torch.nn.Linear(24, 2)
        self.affect = torch.nn.Linear(24, 1)

    heads = {"emotion": Head(labels=["a", "b"]), "affect": Head(labels=["arousal"])}  # noqa: RUF012

    def encoder_parameters(self):
        return self.tcn.parameters()

    def forward(self, features, mask=None):
        if self.training:
            features, mask = self.augment(features, mask)
        z = self.pool(self.tcn(features), mask)
        return {"emotion": self.emotion(z), "affect": torch.tanh(self.affect(z))}

    def loss(self, batch):
        out = self(batch["features"], batch["mask"])
        keep = batch["label_mask"]["affect"]
        affect = ccc_loss(
            out["affect"][:, None], batch["labels"]["affect"][:, None], keep[:, None], over="batch"
        )
        emotion = torch.nn.functional.cross_entropy(out["emotion"], batch["labels"]["emotion"])
        return {"loss": affect + emotion, "affect": affect, "emotion": emotion}


def toy_examples(n, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    features = [rng.normal(size=(rng.integers(5, 30), 3)) * 0.5 + (2 * k - 1) * 0.7 for k in label]
    arousal = (2.0 * label - 1)[:, None].astype(np.float32) * 0.8
    arousal[: n // 4] = np.nan
    return Examples(features, {"emotion": label, "affect": arousal})


def score(outputs, labels):
    return {
        "score": float((outputs["emotion"].argmax(1) == labels["emotion"]).mean())
        - 1e-3 * outputs["affect"].std()
    }


def run(folder, seed=0, stop_after=None, **options):
    torch.manual_seed(7)
    system = Toy(ToyConfig())
    config = LoopConfig(**{"epochs": 4, "batch_size": 5, "tensorboard": False, "progress": False, **options})
    result = train(
        system,
        toy_examples(33, 0),
        toy_examples(14, 1),
        config,
        folder,
        seed=seed,
        score=score,
        stop_after=stop_after,
    )
    return system, result


def weights(system):
    return {k: v.clone() for k, v in system.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def live(folder):
    """The live weights and the optimiser's state at the end of the run."""
    state = torch.load(folder / "last.ckpt", weights_only=True)
    moments = state["optimizer_states"][0]["state"]
    return {**state["state_dict"], **{f"m{i}": v["exp_avg"] for i, v in moments.items()}}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2, "averaging": "ema", "schedule": "constant"},
        {"averaging": "swa", "swa_start": 0.25, "schedule": "plateau", "plateau": 1, "patience": None},
        {"freeze_epochs": 3, "encoder_lr_scale": 0.3},
        {"freeze_epochs": 2, "averaging": "ema"},
    ],
    ids=["plain", "accumulated-ema", "swa-plateau", "frozen-scaled", "frozen-ema"],
)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, options):
    whole, whole_result = run(tmp_path / "whole", **options)
    first, first_result = run(tmp_path / "parts", stop_after=2, **options)
    assert first_result.epochs == 2
    assert first_result.stopped
    parts, parts_result = run(tmp_path / "parts", **options)
    assert same(weights(whole), weights(parts))
    assert same(live(tmp_path / "whole"), live(tmp_path / "parts"))
    drop = [{k: v for k, v in row.items() if k != "seconds"} for row in whole_result.history]
    assert drop == [{k: v for k, v in row.items() if k != "seconds"} for row in parts_result.history]
    assert not same(live(tmp_path / "whole"), weights(first))
    again, _ = run(tmp_path / "again", **options)
    assert same(weights(whole), weights(again))
    other, _ = run(tmp_path / "other", seed=1, **options)
    assert not same(weights(whole), weights(other))


def test_a_finished_run_resumes_to_itself(tmp_path):
    one, first = run(tmp_path)
    two, second = run(tmp_path)
    assert same(weights(one), weights(two))
    assert first.history == second.history


def drop_seconds(result):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    options = {"epochs": 40, "patience": 1, "lr": 2e-2}
    one, first = run(tmp_path, **options)
    two, second = run(tmp_path, **options)
    assert first.stopped
    assert second.stopped
    assert first.history == second.history
    assert (first.best_epoch, first.best) == (second.best_epoch, second.best)
    assert same(weights(one), weights(two))
    assert not two.training


def scores(*values):
    """A score that gives one of `values` after the other."""
    rest = list(values)
    return lambda outputs, labels: {"score": rest.pop(0)}


def run_scored(folder, values, stop_after=None, **options):
    torch.manual_seed(7)
    system = Toy(ToyConfig())
    config = LoopConfig(**{"epochs": 4, "batch_size": 5, "tensorboard": False, "progress": False, **options})
    parts = toy_examples(12, 0), toy_examples(6, 1)
    return system, train(system, *parts, config, folder, score=scores(*values), stop_after=stop_after)


def test_a_score_that_is_not_finite_stops_for_good(tmp_path):
    one, first = run_scored(tmp_path, [0.5, float("nan")], patience=3)
    two, second = run_scored(tmp_path, [], patience=3)
    assert first.epochs == second.epochs == 2
    assert same(weights(one), weights(two))


def test_a_moved_folder_goes_on_with_its_best_weights(tmp_path):
    whole, whole_result = run_scored(tmp_path / "whole", [0.9, 0.1, 0.2, 0.3])
    run_scored(tmp_path / "old", [0.9, 0.1], stop_after=2)
    (tmp_path / "old").rename(tmp_path / "new")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved, result = run_scored(tmp_path / "new", [0.2, 0.3])
    assert whole_result.best_epoch == result.best_epoch == 0
    assert same(weights(whole), weights(moved))
    assert drop_seconds(whole_result) == drop_seconds(result)
    assert not (tmp_path / "old").exists()
    _, better = run_scored(tmp_path / "better", [0.1, 0.2], stop_after=2)
    (tmp_path / "better").rename(tmp_path / "best")
    _, better = run_scored(tmp_path / "best", [0.3, 0.1])
    assert better.best_epoch == 2


def test_the_figures_are_those_of_the_kept_weights_among_scores_one_ulp_apart(tmp_path):
    kept, result = run_scored(tmp_path / "a", [0.5, np.nextafter(0.5, 1), 0.4, 0.3])
    first, _ = run_scored(tmp_path / "b", [0.5, 0.4, 0.4, 0.3])
    assert same(weights(kept), weights(first))
    assert result.best_epoch == 0
    assert result.best["score"] == 0.5


def test_an_error_in_the_score_leaves_the_live_weights(tmp_path):
    def fail(outputs, labels):
        raise RuntimeError("no score")

    systems = []
    for averaging in ("none", "ema"):
        torch.manual_seed(7)
        systems.append(Toy(ToyConfig()))
        config = LoopConfig(epochs=1, batch_size=5, tensorboard=False, progress=False, averaging=averaging)
        with pytest.raises(RuntimeError, match="no score"):
            train(
                systems[-1], toy_examples(12, 0), toy_examples(6, 1), config, tmp_path / averaging, score=fail
            )
    assert same(weights(systems[0]), weights(systems[1]))


def test_the_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(3)
    system, before = Toy(ToyConfig()), torch.get_rng_state()
    train(system, toy_examples(12, 0), None, LoopConfig(epochs=1, tensorboard=False), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_a_checkpoint_is_as_good_as_none(tmp_path):
    whole, _ = run(tmp_path / "whole")
    run(tmp_path / "cut", stop_after=2)
    content = (tmp_path / "cut" / "last.ckpt").read_bytes()
    (tmp_path / "cut" / "last.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="starts afresh"):
        again, _ = run(tmp_path / "cut")
    assert same(weights(whole), weights(again))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(tmp_path, stop_after=1)
    with pytest.raises(InputError, match="another run"):
        run(tmp_path, seed=3)
    with pytest.raises(InputError, match="another run"):
        run(tmp_path, lr=1e-4)


def test_a_checkpoint_of_other_features_is_refused(tmp_path):
    config = LoopConfig(epochs=2, tensorboard=False, progress=False)
    part = toy_examples(12, 0)
    train(Toy(ToyConfig()), part, None, config, tmp_path, stop_after=1)
    part.features[4][1, 2] += 1
    with pytest.raises(InputError, match="another run"):
        train(Toy(ToyConfig()), part, None, config, tmp_path)


def test_it_learns_logs_and_says_nothing(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, result = run(tmp_path, epochs=8, lr=5e-3)
    assert result.best["score"] > 0.9
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["epoch"]) for r in rows] == list(range(8))
    assert {"train_loss", "train_emotion", "train_affect", "score", "lr", "seconds"} <= set(rows[0])
    out = capfd.readouterr()
    assert out.out == ""
    assert out.err == ""


@pytest.mark.parametrize("averaging", ["none", "ema", "swa"])
def test_the_kept_weights_are_those_of_the_best_epoch(tmp_path, averaging):
    system, result = run(tmp_path, epochs=6, lr=2e-2, averaging=averaging, swa_start=0.3)
    figures = score(
        dict(zip(("emotion", "affect"), outputs(system), strict=True)), toy_examples(14, 1).labels
    )
    assert figures["score"] == pytest.approx(result.best["score"], abs=1e-6)
    assert result.best["score"] == max(r["score"] for r in result.history)


def outputs(system):
    out = predict_examples(system, toy_examples(14, 1))
    return out["emotion"], out["affect"]


def test_early_stop_and_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    _, result = run(tmp_path, epochs=40, lr=1e-12, patience=2, tensorboard=True)
    assert result.stopped
    assert result.epochs < 10
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_accumulation_counts_optimiser_steps(tmp_path):
    _, one = run(tmp_path / "a")
    _, three = run(tmp_path / "b", accumulate=3)
    assert one.history[-1]["step"] == 4 * 7
    assert three.history[-1]["step"] == 4 * 3


def test_schedules(tmp_path):
    _, cosine = run(tmp_path / "a", warmup=1, lr=1e-2)
    rates = [r["lr"] for r in cosine.history]
    assert rates[0] < 1e-2
    assert rates[1] > rates[2] > rates[3]
    assert rates[3] < 1e-3
    _, constant = run(tmp_path / "b", schedule="constant", warmup=0)
    assert {r["lr"] for r in constant.history} == {1e-3}
    options = {"schedule": "plateau", "plateau": 1, "warmup": 0, "min_lr": 0, "patience": None}
    _, plateau = run(tmp_path / "c", lr=1e-9, epochs=7, **options)
    assert plateau.history[-1]["lr"] < 1e-9


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path):
    part = toy_examples(10, 0)
    part.features[3][2, 1] = np.inf
    with pytest.raises(AffektError, match=r"the loss became .* lower training.lr"):
        train(Toy(ToyConfig()), part, None, LoopConfig(epochs=1, tensorboard=False), tmp_path)


def test_without_development_part_the_last_epoch_is_kept(tmp_path):
    torch.manual_seed(0)
    system = Toy(ToyConfig())
    result = train(system, toy_examples(20, 0), None, LoopConfig(epochs=2, tensorboard=False), tmp_path)
    assert result.best_epoch == 1
    assert not result.stopped
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert same(weights(system), {k.removeprefix("system."): v for k, v in state.items()})


def test_batches_cover_everything_once_and_depend_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(1, 400, 101)
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            batches = list(batch_order(lengths, 8, seed=seed, epoch=epoch))
            assert sorted(i for b in batches for i in b) == list(range(101))
            assert max(map(len, batches)) == 8
            assert batches == list(batch_order(lengths, 8, seed=seed, epoch=epoch))
            orders[seed, epoch] = str(batches)
    assert len(set(orders.values())) == 4
    padded = sum(len(b) * lengths[b].max() for b in batch_order(lengths, 8, seed=0, epoch=0))
    blind = np.random.default_rng(0).permutation(101)
    careless = sum(len(b) * lengths[b].max() for b in (blind[i : i + 8] for i in range(0, 101, 8)))
    assert padded < 0.8 * careless


@given(
    counts=st.lists(st.integers(1, 90), min_size=1, max_size=3),
    size=st.integers(2, 16),
    seed=st.integers(0, 9),
)
def test_every_batch_holds_its_share_of_each_kind(counts, size, seed):
    strata = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    lengths = np.random.default_rng(seed + 1).integers(1, 400, len(strata)) + 100 * strata
    batches = list(batch_order(lengths, size, seed=seed, epoch=2, strata=strata))
    assert sorted(i for b in batches for i in b) == list(range(len(strata)))
    if len(counts) == 1:
        assert batches == list(batch_order(lengths, size, seed=seed, epoch=2))
    for batch in batches:
        held = np.bincount(strata[batch], minlength=len(counts))
        share = len(batch) * np.array(counts) / len(strata)
        assert (np.abs(held - share) < 2.5).all()


def test_kinds_of_labels_are_told_apart():
    part = toy_examples(12, 0)  # the first three have no arousal
    assert part.strata().tolist() == [0] * 3 + [1] * 9
    part.labels["emotion"] = np.where(np.arange(12) == 5, -1, part.labels["emotion"])
    assert len(set(part.strata())) == 3
    steps = [np.array([[np.nan], [0.1]]), np.array([[np.nan]])]
    assert Examples([np.ones((4, 2))] * 2, {"affect": steps}).strata().tolist() == [1, 0]


def test_examples_pad_mask_and_measure():
    part = toy_examples(5, 3)
    batch = part.batch([4, 0])
    assert batch["mask"].sum(1).tolist() == [len(part.features[4]), len(part.features[0])]
    assert torch.equal(batch["features"][1, : len(part.features[0])], torch.tensor(part.features[0]))
    assert batch["label_mask"]["affect"][1].item() is False
    assert torch.isfinite(batch["labels"]["affect"]).all()
    mean, sd = part.statistics()
    rows = np.concatenate(part.features).astype(np.float64)
    np.testing.assert_allclose(mean, rows.mean(0))
    np.testing.assert_allclose(sd, rows.std(0))


def test_traces_train_on_labels_per_step(tmp_path):
    """The target is the smoothed first feature; a system that answers per step finds it."""
    rng = np.random.default_rng(0)

    def part(n):
        features, labels = [], []
        for _ in range(n):
            x = rng.normal(size=(rng.integers(60, 120), 4)).astype(np.float32)
            steps = len(x) // 2
            y = np.tanh(np.convolve(x[: 2 * steps, 0], np.ones(6) / 2)[: 2 * steps][1::2])[:, None]
            y[: steps // 8] = np.nan  # nobody rated the beginning
            features.append(x)
            labels.append(y.astype(np.float32))
        return Examples(features, {"affect": labels})

    torch.manual_seed(0)
    system = create(
        "speech",
        front_end={"n_mels": 4, "n_fft": 512},
        stack={"size": 2, "stride": 2},
        tcn={"channels": [16], "dropout": 0.0},
        task="trace",
        heads={"affect": {"labels": ["arousal"]}},
    )
    train_part, dev_part = part(24), part(7)
    config = LoopConfig(epochs=12, batch_size=4, lr=1e-2, tensorboard=False, progress=False)
    result = train(
        system, train_part, dev_part, config, tmp_path,
        score=lambda out, labels: figures(out, labels, system.heads),
    )  # fmt: skip
    assert result.best["ccc_arousal"] > 0.9
    values = predict_examples(system, dev_part)["affect"]
    assert [len(v) for v in values] == [len(f) // 2 for f in dev_part.features]
    known = np.isfinite(np.concatenate(dev_part.labels["affect"]))
    ccc = metrics.ccc(np.concatenate(values)[known], np.concatenate(dev_part.labels["affect"])[known])
    assert ccc == pytest.approx(result.best["ccc_arousal"], abs=1e-6)


def test_it_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("affekt.training.loop._Teller.every", 0.0)
    parts, lines = (toy_examples(12, 0), toy_examples(6, 1)), []
    config = LoopConfig(epochs=4, batch_size=5, tensorboard=False, progress=False)
    result = train(Toy(ToyConfig()), *parts, config, tmp_path, score=score, say=lines.append)
    for number, (line, row) in enumerate(zip(lines, result.history[:-1], strict=True), 1):
        words = f"epoch {number} of 4, loss {row['train_loss']:.3f}, score {row['score']:.3f}, "
        assert line.startswith(words)
        assert line.endswith(" s left")
    lines.clear()
    monkeypatch.setattr("affekt.training.loop._Teller.every", 3600.0)
    train(Toy(ToyConfig()), *parts, config, tmp_path / "b", score=score, say=lines.append)
    assert not lines


@pytest.mark.parametrize(
    ("progress", "terminal", "shown"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_the_progress_bar_needs_a_terminal_or_a_word(tmp_path, monkeypatch, progress, terminal, shown):
    class Asked(Exception):
        pass

    def trainer(**options):
        raise Asked(options["enable_progress_bar"])

    monkeypatch.setattr("pytorch_lightning.Trainer", trainer)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with pytest.raises(Asked) as asked:
        run(tmp_path, epochs=1, progress=progress)
    assert asked.value.args == (shown,)
