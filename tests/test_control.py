"""What follows from an epoch's figure, against the published loop, and in the training loop."""

# ruff: noqa: E402
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("pytorch_lightning")

from affekt import nn
from affekt.errors import InputError
from affekt.losses import ccc_loss
from affekt.systems import Head, System
from affekt.training import Examples, load_config, train
from affekt.training.config import LoopConfig
from affekt.training.control import Control
from checklist import row

EEG = {"lr": 1e-5, "min_lr": 1e-6, "factor": 0.5, "plateau": 5, "patience": 15, "epochs": 15}
FACE = {**EEG, "patience": 20, "epochs": 30, "release": ["head", "stage4"]}
WILD = {"lr": 1e-5, "min_lr": 1e-7, "factor": 0.1, "plateau": 5, "patience": 100, "epochs": 100,
        "release": ["head", "stage4", "stage3_last3"], "release_at_start": True}  # fmt: skip


def config(**options):
    return LoopConfig(**{"schedule": "plateau", "reload_best": True, "warmup": 0, **options})


def published(values, options):
    """The published loop with PyTorch's own scheduler: rate and groups per epoch, and why it ends."""
    groups = list(options.get("release", ()))
    trainable, at_start = bool(groups), options.get("release_at_start", False)
    parameter = torch.nn.Parameter(torch.zeros(1))

    def fresh():
        optimiser = torch.optim.SGD([parameter], lr=options["lr"])
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, mode="max", factor=options["factor"], patience=options["plateau"], threshold=0.0,
            min_lr=options["min_lr"], eps=0.0,
        )  # fmt: skip
        return optimiser, scheduler

    optimiser, scheduler = fresh()
    best, best_epoch, bad, released, trace = -np.inf, -1, 0, [], []
    for epoch in range(min(options["epochs"], len(values))):
        rate = optimiser.param_groups[0]["lr"]
        if trainable and ((epoch == 0 and at_start) or rate <= options["min_lr"] * (1 + 1e-6)):
            if not groups:
                return trace, best_epoch, "groups"
            released.append(groups.pop(0))
            optimiser, scheduler = fresh()
            bad = 0
        rate = optimiser.param_groups[0]["lr"]
        trace.append((rate, tuple(released)))
        value = values[epoch]
        if value > best:
            best, best_epoch, bad = value, epoch, 0
        else:
            bad += 1
        scheduler.step(value)
        if bad >= options["patience"]:
            return trace, best_epoch, "patience"
    return trace, best_epoch, None


def controlled(values, options):
    control = Control(config(**options))
    trace = []
    for epoch in range(min(options["epochs"], len(values))):
        trace.append((control.lr, tuple(control.released)))
        decision = control.after(epoch, values[epoch])
        control = Control(control.config, control.state_dict())  # as a resumed run would
        if decision.stop is not None:
            return trace, control.state.best_epoch, decision.stop
    return trace, control.state.best_epoch, None


def same_course(values, options):
    """The published loop sees at the start of an epoch that no group is left, ours at the end before."""
    theirs, ours = published(values, options), controlled(values, options)
    assert [groups for _, groups in ours[0]] == [groups for _, groups in theirs[0]]
    assert [rate for rate, _ in ours[0]] == pytest.approx([rate for rate, _ in theirs[0]], rel=1e-12)
    assert ours[1] == theirs[1]
    if theirs[2] is None:
        assert ours[2] is None or ("no group" in ours[2] and len(ours[0]) == len(values[: options["epochs"]]))
    else:
        assert ours[2] is not None
        assert ("no group" in ours[2]) == (theirs[2] == "groups")


@row("zhang", 19)
def test_exact_epochs_of_release_and_stop():
    # Never better after the first epoch: a reduction after 6 bad epochs each; two by a tenth reach 1e-7.
    flat = [0.5] + [0.1] * 99
    trace, best, why = controlled(flat, WILD)
    # One at the start, the next after the best epoch and 12 bad ones; a plateau's first value is its best.
    first, second = (next(e for e, (_, groups) in enumerate(trace) if len(groups) == n) for n in (2, 3))
    assert (first, second, len(trace), best) == (13, 26, 39, 0)
    assert why.startswith("at the least rate")
    assert trace[12][0] == pytest.approx(1e-6)
    assert trace[13] == (1e-5, ("head", "stage4"))
    same_course(flat, WILD)


@row("zhang", 19)
def test_as_printed_the_face_teacher_stops_before_its_backbone_learns():
    # Four halvings of six bad epochs each are 24; the early stop comes at 20.
    flat = [0.5] + [0.1] * 29
    trace, _, why = controlled(flat, FACE)
    assert all(groups == () for _, groups in trace)
    assert len(trace) == 21
    assert why == "no better epoch in 20"
    # With one better epoch on the way, which does not help the plateau for long, a single release fits.
    better = [0.5] + [0.1] * 15 + [0.6] + [0.1] * 13
    trace, best, _ = controlled(better, FACE)
    assert max(len(groups) for _, groups in trace) <= 1
    assert best == 16
    same_course(flat, FACE)
    same_course(better, FACE)


@row("zhang", 19)
def test_a_tenth_of_a_tenth_counts_as_the_least_rate():
    assert 1e-5 * 0.1 * 0.1 > 1e-7  # in floating point
    control = Control(config(**WILD))
    for epoch in range(13):
        decision = control.after(epoch, 0.5 if epoch == 0 else 0.1)
    assert decision.release == "stage4"


@row("zhang", 19)
def test_without_a_backbone_training_goes_on_at_the_least_rate():
    trace, _, why = controlled([0.5] + [0.1] * 99, {**EEG, "epochs": 100, "patience": 100})
    assert [rate for rate, _ in trace[::6]][-1] == 1e-6
    assert len(trace) == 100
    assert why is None
    assert controlled([0.5] + [0.1] * 99, EEG)[2] is None  # 15 epochs


@given(
    values=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), min_size=1, max_size=60),
    plateau=st.integers(1, 3), patience=st.integers(2, 12), factor=st.sampled_from([0.1, 0.5]),
    groups=st.integers(0, 3), at_start=st.booleans(),
)  # fmt: skip
@settings(max_examples=150)
def test_any_course_is_that_of_the_published_loop(values, plateau, patience, factor, groups, at_start):
    options = {"lr": 1e-5, "min_lr": 1e-6, "factor": factor, "plateau": plateau, "patience": patience,
               "epochs": 60, "release": ["a", "b", "c"][:groups], "release_at_start": at_start}  # fmt: skip
    same_course(values, options)


def test_a_figure_that_is_not_finite_stops():
    control = Control(config(**EEG))
    assert control.after(0, 0.3).stop is None
    assert "not finite" in control.after(1, float("nan")).stop


def test_without_patience_no_figure_stops():
    assert Control(LoopConfig(patience=None)).after(0, float("nan")).stop is None


# In the training loop -------------------------------------------------------------------------------------


class Layered(System):
    """A system with a backbone of three groups."""

    Config = dataclasses.make_dataclass("LayeredConfig", [])
    system_name = "layered"
    heads = {"affect": Head(labels=["arousal"])}  # noqa: RUF012

    def __init__(self):
        super().__init__(self.Config())
        self.stem = torch.nn.Linear(3, 3)
        self.stage4 = torch.nn.Linear(3, 3)
        self.head = torch.nn.Linear(3, 3)
        self.tcn = nn.TCN(3, [4], dropout=0.0)
        self.out = torch.nn.Linear(4, 1)

    def backbone_parameters(self):
        for module in (self.stem, self.stage4, self.head):
            yield from module.parameters()

    def release_groups(self):
        return {"head": list(self.head.parameters()), "stage4": list(self.stage4.parameters())}

    def encoder_parameters(self):
        return self.tcn.parameters()

    def forward(self, features, mask=None):
        x = self.head(self.stage4(self.stem(features)))
        return {"affect": self.out(self.tcn(x)).mean(1)}

    def loss(self, batch):
        out = self(batch["features"])["affect"]
        loss = ccc_loss(out[:, None], batch["labels"]["affect"][:, None], over="batch")
        return {"loss": loss, "affect": loss}


def examples(n, seed):
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(6, 3)) for _ in range(n)]
    return Examples(features, {"affect": np.array([[f.mean()] for f in features], np.float32)})


def run(folder, values, stop_after=None, **options):
    """A training whose figures are given; records after each epoch which groups moved in it."""
    torch.manual_seed(0)
    system = Layered()
    rest, moved, last = list(values), [], {}

    def score(outputs, labels):
        now = {name: value.clone() for name, value in system.state_dict().items()}
        if last:
            moved.append({n.partition(".")[0] for n in now if not torch.equal(now[n], last["state"][n])})
        last["state"] = now
        return {"score": rest.pop(0)}

    loop = config(**{"epochs": len(values), "batch_size": 4, "lr": 1e-2, "min_lr": 1e-3, "factor": 0.1,
                     "plateau": 1, "patience": None, "tensorboard": False, "progress": False,
                     **options})  # fmt: skip
    parts = examples(8, 0), examples(4, 1)
    result = train(system, *parts, loop, folder, score=score, stop_after=stop_after)
    return system, result, moved


@row("zhang", 19)
def test_layers_learn_from_the_epoch_of_their_release_on(tmp_path):
    values = [0.1, 0.2, 0.1, 0.1, 0.3, 0.1, 0.1, 0.4]
    system, result, moved = run(tmp_path, values, release=["head", "stage4"])
    # Rate 1e-2 to 1e-3 after two bad epochs (2, 3): head from epoch 4 on; (5, 6): stage4 from epoch 7 on.
    assert [row["released"] for row in result.history] == [0, 0, 0, 0, 1, 1, 1, 2]
    learnt = [sorted(m & {"stem", "stage4", "head"}) for m in moved]
    assert learnt[:3] == [[], [], []]
    assert learnt[3] == ["head"]
    assert learnt[6] == ["head", "stage4"]
    assert not any("stem" in m for m in moved)
    assert [row["lr"] for row in result.history] == pytest.approx([1e-2] * 8)
    assert all(p.requires_grad for p in system.parameters())  # as it was before


@row("zhang", 19)
def test_each_epoch_starts_from_the_best_weights(tmp_path):
    values = [0.1, 0.5, 0.2, 0.3]
    system, result, _ = run(tmp_path / "a", values)
    assert result.best_epoch == 1
    two, _, _ = run(tmp_path / "b", values[:2])
    for name, value in system.state_dict().items():  # what came after the best epoch was thrown away
        assert torch.equal(value, two.state_dict()[name])
    kept = torch.load(tmp_path / "a" / "kept.ckpt", weights_only=True)
    assert kept["epoch"] == 1
    _, free, _ = run(tmp_path / "c", values, reload_best=False)
    assert free.best_epoch == 1


@row("zhang", 19, 20)
@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_run_cut_off_anywhere_goes_on_as_if_it_had_not_been(tmp_path, stop_after):
    values = [0.1, 0.2, 0.1, 0.1, 0.3, 0.1, 0.1, 0.4, 0.2]
    whole, result, _ = run(tmp_path / "whole", values, release=["head", "stage4"])
    options = {"release": ["head", "stage4"], "epochs": len(values)}
    run(tmp_path / "parts", values[:stop_after], stop_after=stop_after, **options)
    parts, again, _ = run(tmp_path / "parts", values[stop_after:], **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    drop = [{k: v for k, v in r.items() if k != "seconds"} for r in result.history]
    assert drop == [{k: v for k, v in r.items() if k != "seconds"} for r in again.history]


def test_bad_options_are_errors(tmp_path):
    for key in ("release=[head]", "reload_best=true"):
        with pytest.raises(InputError, match=r"training\.release needs|exclude each other"):
            load_config(None, [f"training.{key}", "training.averaging=ema"])
    with pytest.raises(InputError, match="exclude each other"):
        load_config(None, ["training.release=[head]", "training.schedule=plateau",
                           "training.reload_best=true", "training.freeze_epochs=2"])  # fmt: skip
    with pytest.raises(InputError, match="names stage9; the groups of layered are head, stage4"):
        run(tmp_path, [0.1], release=["stage9"])
    with pytest.raises(InputError, match=r"training\.decay must be one of"):
        load_config(None, ["training.decay=none"])


def test_weight_decay_on_everything_or_on_matrices():
    from affekt.training.loop import _Module

    for decay, count in (("weights", 1), ("all", 0)):
        system = Layered()
        loop = config(decay=decay, weight_decay=0.1)
        groups = (
            _Module(system, examples(4, 0), None, loop, 0, None, "score").configure_optimizers().param_groups
        )
        assert len(groups) == 1 + count
        assert groups[0]["weight_decay"] == 0.1
        assert sum(len(g["params"]) for g in groups) == len(list(system.parameters()))
