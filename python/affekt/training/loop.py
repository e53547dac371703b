"""The training loop: Lightning inside, one function outside.

What a resumed run needs beyond Lightning's own checkpoint is arranged so that it equals the uninterrupted run
bit for bit on CPU: the order of batches is a function of (seed, epoch), torch is seeded by (seed, epoch,
batch) before each batch, the learning rate is a function of the step and of state kept in the checkpoint, and
checkpoints are taken at the ends of epochs.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, cast

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from affekt._lazy import available
from affekt.errors import AffektError, DataError, InputError
from affekt.systems.base import System, create, export
from affekt.systems.schema import as_dict
from affekt.training.config import LoopConfig
from affekt.training.control import Control
from affekt.training.examples import Part, batch_order, speaker_batches

__all__ = ["LoopResult", "derive_seed", "export_checkpoint", "predict_examples", "train"]

Score = Callable[[dict[str, np.ndarray], Mapping[str, np.ndarray]], dict[str, float]]


@dataclass
class LoopResult:
    """What a training ended with.

    best_epoch : epoch (from 0) whose weights were kept. best : its scores. epochs : how many were run.
    history : one row per epoch, as in ``log.csv``. stopped : whether it ended before the last epoch.
    """

    best_epoch: int
    best: dict[str, float]
    epochs: int
    history: list[dict[str, float]]
    stopped: bool


def train(
    system: System,
    train_part: Part,
    dev_part: Part | None,
    config: LoopConfig,
    folder: str | Path,
    *,
    seed: int = 0,
    score: Score | None = None,
    monitor: str = "score",
    resume: bool = True,
    stop_after: int | None = None,
    say: Callable[[str], None] | None = None,
) -> LoopResult:
    """Train `system` in place; it ends with the weights that were kept, settled, in evaluation mode.

    Parameters
    ----------
    train_part, dev_part : examples. Without a development part the last epoch's weights are kept and nothing
        stops early.
    folder : gets ``log.csv`` (one row per epoch); ``last.ckpt``, from which an interrupted run goes on, and
        ``best.ckpt``, the epoch with the best score; at the end ``kept.ckpt``, the weights that `system` ends
        with, for `export_checkpoint`; and, where TensorBoard is installed and wanted, its event files.
    seed : of batch order, dropout, augmentation. The initial weights are the caller's.
    score : (outputs by head, labels by head) -> named figures on the development part; `monitor` names the
        one that picks the epoch (larger is better).
    resume : go on from ``last.ckpt`` if it is there.
    stop_after : end the call after this many epochs of this process, as if killed there.
    say : where no progress bar is shown, called with a line on epoch, loss, score and time left, at most once
        in ten seconds.

    Raises
    ------
    AffektError : the loss is no longer finite.
    InputError : a part is empty, cannot settle the system (`affekt.systems.System.settle`), or ``last.ckpt``
        belongs to another seed, configuration or data.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not len(train_part):
        raise InputError("the training part is empty")
    if dev_part is not None and not len(dev_part):
        dev_part = None
    if dev_part is not None and score is None:
        raise InputError("a development part needs a score")
    unknown = sorted(set(config.release) - set(system.release_groups()))
    if unknown:
        raise InputError(
            f"training.release names {', '.join(unknown)}; the groups of {system.system_name} are "
            f"{', '.join(system.release_groups()) or 'none, it has no backbone'}"
        )
    system.check_settling(train_part.features)  # before hours of training, not after
    module = _Module(system, train_part, dev_part, config, seed, score, monitor)
    identity = _identity(system, train_part, dev_part, config, seed)
    last = folder / "last.ckpt"
    checkpoint = _read_checkpoint(last) if resume else None
    if checkpoint is not None and checkpoint.get("affekt_identity") != identity:
        raise InputError(f"{last} belongs to another run (seed, configuration or data differ); remove it")
    module.identity = identity
    keeper = _Keeper(folder / "log.csv")
    controller = _Controller(config)
    callbacks: list[Callback] = [controller, _Averaging(config), keeper]
    if checkpoint is not None:
        controller.load_state_dict(checkpoint["callbacks"][controller.state_key])
    over = controller.control.state.stop is not None
    if dev_part is not None:
        best = _Checkpoint(
            folder, "best", monitor=monitor, mode="max", save_on_train_epoch_end=True,
            enable_version_counter=False, save_weights_only=True,
        )  # fmt: skip
        callbacks.append(best)
    callbacks.append(_Checkpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False))
    if stop_after is not None:
        callbacks.append(_StopAfter(stop_after))
    if say is not None and not _shows_bar(config):
        callbacks.append(_Teller(keeper, say))
    if checkpoint is not None and over:
        keeper.load_state_dict(checkpoint["callbacks"][keeper.state_key])
    else:
        system.train()  # Lightning leaves the mode as it finds it
        _fit(module, callbacks, folder, None if checkpoint is None else last)
    # Where every epoch ends with the best weights, the last checkpoint holds them.
    live = dev_part is None or config.keep == "last" or config.reload_best
    state = torch.load(last if live else folder / "best.ckpt", map_location="cpu", weights_only=True)
    if dev_part is not None and config.reload_best:
        state["epoch"] = controller.control.state.best_epoch
    _load_weights(system, state)
    system.settle(train_part.features, train_part.neutral.tolist())
    store_kept(folder, system, state)
    # Lightning compares scores as float32: the checkpoint knows which epoch it holds, the log need not.
    history, epoch = keeper.history, int(state["epoch"])
    return LoopResult(epoch, dict(history[epoch]), len(history), history, len(history) < config.epochs)


def _shows_bar(config: LoopConfig) -> bool:
    return sys.stderr.isatty() if config.progress is None else config.progress


def _fit(module: _Module, callbacks: list[Callback], folder: Path, start: Path | None) -> None:
    """Lightning's part of `train`; torch's threads and generator are left as they were."""
    config = module.loop
    logger: Any = False
    if config.tensorboard and available("tensorboard"):
        from pytorch_lightning.loggers import TensorBoardLogger

        logger = TensorBoardLogger(folder, name="tensorboard", version="")
    threads = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[]), _quiet():
            trainer = lightning.Trainer(
                accelerator="cpu",
                devices=1,
                max_epochs=config.epochs,
                accumulate_grad_batches=config.accumulate,
                gradient_clip_val=config.clip,
                callbacks=callbacks,
                logger=logger,
                enable_progress_bar=_shows_bar(config),
                enable_model_summary=False,
                num_sanity_val_steps=0,
                default_root_dir=folder,
                log_every_n_steps=10**9,
            )
            trainer.fit(module, ckpt_path=None if start is None else str(start), weights_only=True)
    finally:
        torch.set_num_threads(threads)


def export_checkpoint(
    checkpoint: str | Path, out: str | Path, info: Mapping[str, Any] | None = None, *, name: str | None = None
) -> Path:
    """Turn a training checkpoint into a model file.

    ``kept.ckpt`` holds the very model that the training ended with. ``best.ckpt`` and ``last.ckpt`` hold an
    epoch as the loop saw it: averaged weights are taken where the run averaged, nothing is settled or
    calibrated. `info` and `name` are for the card, see `affekt.systems.export`.

    Raises
    ------
    DataError : not a checkpoint of a training run.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_file():
        raise DataError(f"{checkpoint}: no such checkpoint")
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        record = state["affekt_system"]
    except Exception as error:  # the unpickler raises whatever comes to hand on foreign bytes
        raise DataError(f"{checkpoint}: not a checkpoint of a training run ({error})") from error
    system = create(record["name"], **record["config"])
    system.initial = record.get("initial")
    _load_weights(system, state)
    for head, value in state.get("affekt_temperatures", {}).items():
        system.set_temperature(head, value)
    return export(system, out, info, name=name)


def store_kept(folder: Path, system: System, state: Mapping[str, Any] | None = None) -> None:
    """Write ``kept.ckpt``, the system as it is, settled weights and temperatures, for `export_checkpoint`.

    state : the checkpoint that it came from; None for the ``kept.ckpt`` that is there.
    """
    path = folder / "kept.ckpt"
    if state is None:
        state = torch.load(path, map_location="cpu", weights_only=True)
    kept = {name: state[name] for name in ("epoch", "affekt_identity", "affekt_system")}
    kept |= {"state_dict": system.state_dict(), "affekt_temperatures": dict(system.temperatures)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(kept, temporary)
    os.replace(temporary, path)


def _load_weights(system: System, state: Mapping[str, Any]) -> None:
    """The kept weights of a checkpoint into the system."""
    weights = state.get("affekt_averaged") or state["state_dict"]
    system.load_state_dict({key.removeprefix("system."): value for key, value in weights.items()})
    system.eval()


@torch.no_grad()
def predict_examples(system: System, part: Part, batch_size: int = 64) -> dict[str, Any]:
    """Outputs of every head for all recordings in order: probabilities or values.

    (n, labels), or a list of n arrays (steps, labels) from a system that answers per step; of windows, a list
    of one array per trial.
    """
    was = system.training
    system.eval()
    out: dict[str, Any] = {}
    for index in batch_order(part.lengths, batch_size, seed=0, epoch=0, shuffle=False):
        batch = part.batch(index)
        for name, value in system(*part.given(batch)).items():
            value = system.probabilities(name, value) if system.heads[name].kind == "categorical" else value
            if value.dim() == 3:
                for i, rows in zip(index, value.numpy(), strict=True):
                    out.setdefault(name, [None] * len(part))[i] = rows[: part.steps(system, i)]
            else:
                empty = np.zeros((len(part), value.shape[-1]), np.float32)
                out.setdefault(name, empty)[index] = value.numpy()
    system.train(was)
    return part.joined(out)


def per_speaker(config: LoopConfig, system: System, part: Part) -> int:
    """Recordings of each of its speakers that a batch holds; 0: batches do not look at speakers."""
    if config.per_speaker is not None:
        return config.per_speaker
    return 8 if system.adapts and part.speakers is not None and bool((part.speakers >= 0).any()) else 0


class _Batches:
    """Batches of one epoch; asks for the epoch when iteration begins."""

    def __init__(
        self, part: Part, config: LoopConfig, seed: int, epoch: Callable[[], int], per_speaker: int
    ) -> None:
        self.part, self.config, self.seed, self.epoch = part, config, seed, epoch
        self.per_speaker = per_speaker
        self.strata = part.strata() if config.stratify else None
        self.count = sum(1 for _ in self.order(0))  # the same in every epoch

    def __len__(self) -> int:
        return self.count

    def order(self, epoch: int) -> Iterator[list[int]]:
        size = self.config.batch_size
        options: dict[str, Any] = {"seed": self.seed, "epoch": epoch, "strata": self.strata}
        if not self.per_speaker:
            return batch_order(self.part.lengths, size, **options)
        if self.part.speakers is None:
            raise InputError("training.per_speaker needs to know who speaks: Examples(..., speakers=)")
        return speaker_batches(self.part.speakers, size, self.per_speaker, **options)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = self.epoch()
        for index in self.order(epoch):
            yield self.part.batch(index, epoch)


class _Module(lightning.LightningModule):
    """What Lightning sees of a system."""

    def __init__(
        self,
        system: System,
        train_part: Part,
        dev_part: Part | None,
        config: LoopConfig,
        seed: int,
        score: Score | None,
        monitor: str,
    ) -> None:
        super().__init__()
        self.system, self.loop, self.seed = system, config, seed
        self.parts, self.score, self.monitor = (train_part, dev_part), score, monitor
        self.batches = _Batches(
            train_part, config, seed, lambda: self.trainer.current_epoch,
            per_speaker(config, system, train_part),
        )  # fmt: skip
        self.sums: dict[str, list[Tensor]] = {}
        self.identity = ""

    def train_dataloader(self) -> _Batches:
        return self.batches

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Biases, slopes and the magnitudes of weight norm are not pulled to zero, unless that is asked for.
        everything, all_of_it = list(self.system.parameters()), self.loop.decay == "all"
        decayed = [p for p in everything if all_of_it or (p.dim() > 1 and p.shape[1:].numel() > 1)]
        chosen = {id(p) for p in decayed}
        others = [p for p in everything if id(p) not in chosen]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.loop.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.loop.encoder_lr_scale != 1:  # the heads' groups first: the log shows their rate
            encoder = {id(p) for p in self.system.encoder_parameters()}
            groups = [
                {**group, "params": part, "scale": self.loop.encoder_lr_scale if inside else 1.0}
                for inside in (False, True)
                for group in groups
                if (part := [p for p in group["params"] if (id(p) in encoder) == inside])
            ]
        # One fused kernel: with few small tensors the step otherwise costs as much as a layer.
        if self.loop.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=self.loop.lr, momentum=0.9, nesterov=True, fused=True)
        cls = torch.optim.AdamW if self.loop.optimiser == "adamw" else torch.optim.Adam
        return cls(groups, lr=self.loop.lr, fused=True)

    def on_train_epoch_start(self) -> None:
        self.sums = {}
        self.started = time.perf_counter()
        if self.loop.freeze_epochs:
            self._freeze(self.current_epoch < self.loop.freeze_epochs)

    def _freeze(self, frozen: bool) -> None:
        for parameter in self.system.encoder_parameters():
            parameter.requires_grad_(not frozen)

    def freeze(self, names: Sequence[str] | None) -> None:
        """Let the system's backbone learn, but for the groups of those names and what is in no group of the
        loop's; None: let all of it learn."""
        groups = self.system.release_groups()
        learning = [name for name in self.loop.release if names is not None and name not in names]
        for parameter in self.system.backbone_parameters():
            parameter.requires_grad_(names is None)
        for name in learning:
            for parameter in groups[name]:
                parameter.requires_grad_(True)

    def on_fit_end(self) -> None:
        if self.loop.freeze_epochs:
            self._freeze(False)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        # The processor's generator alone: it is the one that `train` restores for its caller.
        torch.default_generator.manual_seed(derive_seed(self.seed, self.current_epoch, batch_idx))
        parts = self.system.loss(batch)
        if not bool(torch.isfinite(parts["loss"])):
            raise AffektError(
                f"the loss became {parts['loss'].item()} in epoch {self.current_epoch}, batch {batch_idx}: "
                "lower training.lr or training.clip, and look at the features"
            )
        for name, value in parts.items():
            self.sums.setdefault(name, []).append(value.detach())
        return parts["loss"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Here and not in the callbacks, whose hook checkpoints of weights alone skip.
        averaging = next(c for c in cast(Any, self.trainer).callbacks if isinstance(c, _Averaging))
        checkpoint["affekt_averaged"] = averaging.average
        checkpoint["affekt_identity"] = self.identity
        config = as_dict(self.system.config)
        checkpoint["affekt_system"] = {
            "name": self.system.system_name,
            "config": config,
            "initial": self.system.initial,
        }

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch


class _Controller(Callback):
    """Does what `Control` decides: learning rate by the optimiser step and the plateau, release, reload,
    stop."""

    def __init__(self, config: LoopConfig) -> None:
        self.control = Control(config)
        self.best: dict[str, Tensor] | None = None

    def state_dict(self) -> dict[str, Any]:
        return self.control.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.control = Control(self.control.config, dict(state))

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if self.control.config.release:
            self._learn(module)
        if self.control.config.reload_best:  # an epoch ends with the best weights: also the resumed one's
            self._remember(module)

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        if self.control.config.release:
            module.freeze(None)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        loop = module.loop
        per_epoch = math.ceil(len(module.batches) / loop.accumulate)
        step, warm, total = trainer.global_step, loop.warmup * per_epoch, loop.epochs * per_epoch
        if step < warm:
            lr = loop.lr * (step + 1) / (warm + 1)
        elif loop.schedule == "cosine":
            share = (step - warm) / max(1, total - warm)
            lr = loop.min_lr + (loop.lr - loop.min_lr) * 0.5 * (1 + math.cos(math.pi * share))
        else:
            lr = self.control.lr
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = lr * group.get("scale", 1.0)

    def after_epoch(self, trainer: Any, module: _Module, value: float) -> None:
        """Called once the epoch's figure is known."""
        decision = self.control.after(trainer.current_epoch, value)
        if self.control.config.reload_best:
            if decision.improved:
                self._remember(module)
            elif self.best is not None:
                module.system.load_state_dict(self.best)
        if decision.release is not None:
            trainer.optimizers[0].state.clear()  # a new optimiser, for all that an optimiser remembers
            self._learn(module)
        if decision.stop is not None:
            trainer.should_stop = True

    def _remember(self, module: Any) -> None:
        self.best = {key: value.detach().clone() for key, value in module.system.state_dict().items()}

    def _learn(self, module: Any) -> None:
        module.freeze(self.control.config.release[self.control.state.released :])


class _Averaging(Callback):
    """Exponential or stochastic averaging of the weights, saved beside the live ones."""

    def __init__(self, config: LoopConfig) -> None:
        self.config = config
        self.average: dict[str, Tensor] | None = None
        self.count = 0
        self.live: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.average = state["count"], state["average"]

    @torch.no_grad()
    def _take(self, share: float) -> None:
        if self.average is None or share >= 1:
            self.average = {key: value.clone() for key, value in self.live.items()}
        else:
            blended = [key for key, value in self.live.items() if value.is_floating_point()]
            torch._foreach_lerp_([self.average[k] for k in blended], [self.live[k] for k in blended], share)
            for key in self.live.keys() - set(blended):
                self.average[key].copy_(self.live[key])
        self.count += 1

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        # Views of the live weights; gathering them anew at every step costs as much as the average itself.
        self.live = module.system.state_dict()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.config.averaging == "ema" and trainer.global_step != self.step:
            self.step = trainer.global_step
            # The first steps average over what there is, so that the random start is soon forgotten.
            self._take(max(1 - self.config.ema_decay, 1 / (1 + self.count / 2)))

    def after_epoch(self, epoch: int) -> None:
        if self.config.averaging == "swa" and epoch >= math.floor(self.config.swa_start * self.config.epochs):
            self._take(1 / (self.count + 1))

    @contextlib.contextmanager
    def applied(self, module: _Module) -> Iterator[None]:
        """The averaged weights in place of the live ones, if there are any."""
        if self.average is None:
            yield
            return
        live = {key: value.clone() for key, value in module.system.state_dict().items()}
        module.system.load_state_dict(self.average)
        try:
            yield
        finally:
            module.system.load_state_dict(live)


class _Keeper(Callback):
    """Scores the development part after each epoch and keeps the log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = list(state["history"])

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        controller = next(c for c in trainer.callbacks if isinstance(c, _Controller))
        averaging = next(c for c in trainer.callbacks if isinstance(c, _Averaging))
        averaging.after_epoch(trainer.current_epoch)
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= {f"train_{name}": float(torch.stack(v).double().mean()) for name, v in module.sums.items()}
        row["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        dev = module.parts[1]
        if controller.control.config.release:
            row["released"] = controller.control.state.released
        value = None
        if dev is not None and module.score is not None:
            with averaging.applied(module):
                figures = module.score(predict_examples(module.system, dev), dev.labels)
            if module.monitor not in figures:
                raise InputError(f"monitor must be one of {', '.join(figures)}, got {module.monitor!r}")
            value = float(figures[module.monitor])
            row |= {name: float(v) for name, v in figures.items()}
            module.log_dict({name: float(v) for name, v in figures.items()}, prog_bar=True)
        module.log("train_loss", row["train_loss"], prog_bar=True)
        if value is not None:
            controller.after_epoch(trainer, module, value)
        row["seconds"] = time.perf_counter() - module.started
        self.history.append(row)
        columns = list(dict.fromkeys(key for r in self.history for key in r))
        temporary = self.path.with_name(f".{self.path.name}")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.history)
        os.replace(temporary, self.path)


class _Checkpoint(ModelCheckpoint):
    """Goes on in a folder that was moved; Lightning's own would forget the best score and overwrite it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:  # of either kind of path
            return str(Path(cast(str, self.dirpath)) / PureWindowsPath(path).name) if path else path

        state = {**state_dict, "dirpath": self.dirpath}
        for key in ("best_model_path", "last_model_path", "kth_best_model_path"):
            state[key] = here(state[key])
        state["best_k_models"] = {here(path): value for path, value in state["best_k_models"].items()}
        super().load_state_dict(state)


class _Teller(Callback):
    """Says how far the training is, now and then."""

    every = 10.0  # seconds

    def __init__(self, keeper: _Keeper, say: Callable[[str], None]) -> None:
        self.keeper, self.say = keeper, say

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.first, self.begun = trainer.current_epoch, time.perf_counter()
        self.last = self.begun

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        now, done = time.perf_counter(), trainer.current_epoch + 1
        if now - self.last < self.every or done == trainer.max_epochs:
            return
        self.last = now
        row = self.keeper.history[-1]
        left = (now - self.begun) / (done - self.first) * (trainer.max_epochs - done)
        score = f", {module.monitor} {row[module.monitor]:.3f}" if module.monitor in row else ""
        self.say(
            f"epoch {done} of {trainer.max_epochs}, loss {row['train_loss']:.3f}{score}, {left:.0f} s left"
        )


class _StopAfter(Callback):
    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.left -= 1
        if self.left <= 0:
            trainer.should_stop = True


def _read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none or a kill left half of one: the run then starts again."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever comes to hand on foreign bytes
        warnings.warn(f"{path} cannot be read, the training starts afresh: {error}", stacklevel=3)
        return None


def derive_seed(*numbers: int) -> int:
    """A torch seed from several numbers, so that neighbours are unrelated."""
    return int(np.random.SeedSequence([n & 0xFFFFFFFF for n in numbers]).generate_state(1, np.uint64)[0] >> 1)


def _identity(system: System, train_part: Part, dev_part: Part | None, config: LoopConfig, seed: int) -> str:
    """Hash of what a resumed run must share with the one it continues."""
    digest = hashlib.sha256()
    loop = {k: v for k, v in as_dict(config).items() if k not in ("progress", "tensorboard")}
    digest.update(repr((system.system_name, as_dict(system.config), loop, seed)).encode())
    for part in (train_part, dev_part):
        if part is not None:
            for piece in part.fingerprint():
                digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says that nobody can act upon; errors and other warnings pass."""
    loggers = [
        logging.getLogger(f"pytorch_lightning.{n}") for n in ("utilities.rank_zero", "accelerators.cuda")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in (
                ".*does not have many workers.*",
                ".*number of training batches.*",
                ".*Checkpoint directory .* exists and is not empty.*",
                ".*GPU available but not used.*",
                ".*Starting from v1.9.0.*",
                ".*isinstance.treespec, LeafSpec.*",
                ".*No `val_dataloader`.*|.*defined a `validation_step`.*",
                ".*Trying to infer the `batch_size`.*",
            ):
                warnings.filterwarnings("ignore", message=text)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
