"""What follows from the figure of each epoch: learning rate, release of layers, going back to the best,
stopping.

Plain numbers in, decisions out, no torch: the loop obeys it, and its state is what a resumed run needs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from affekt.training.config import LoopConfig

__all__ = ["AT_MINIMUM", "Control", "Decision"]

AT_MINIMUM = 1 + 1e-6
"""A rate counts as the least one within this factor: 1e-5 * 0.1 * 0.1 is not below 1e-7 in floating point."""


@dataclass(frozen=True)
class Decision:
    """What the loop does after an epoch.

    improved : the epoch is the best so far. reload : take the best weights again. release : name of the
    group of layers that learns from the next epoch on, with a new optimiser; None for none. stop : why the
    training ends, None where it goes on.
    """

    improved: bool = False
    reload: bool = False
    release: str | None = None
    stop: str | None = None


@dataclass
class _State:
    scale: float = 1.0
    plateau_best: float = -math.inf
    plateau_bad: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    bad: int = 0
    released: int = 0
    stop: str | None = None


class Control:
    """The state machine behind a training.

    After an epoch with figure v:

    1. v above the best so far: it is the best, and the count of bad epochs starts anew; else it is one
       higher.
    2. ``schedule="plateau"``: v above the plateau's own best: its count starts anew; else it is one higher,
       and above `plateau` the rate falls by `factor`, down to `min_lr`, and the count starts anew.
    3. ``reload_best``: the next epoch starts from the best weights.
    4. `patience` bad epochs: the training stops.
    5. With `release`: where the rate has come down to `min_lr`, the next group of layers is released: a new
       optimiser at the first rate, a plateau that knows nothing, no bad epochs, the best weights. Where no
       group is left the training stops.

    Parameters
    ----------
    config : the loop's.
    state : of a `state_dict`, to go on from.

    Source: the gradual release is that of Zhang (2023), chapters 3 and 6; the plateau is
    ``torch.optim.lr_scheduler.ReduceLROnPlateau(mode="max", threshold=0)``.
    """

    def __init__(self, config: LoopConfig, state: dict[str, Any] | None = None) -> None:
        self.config = config
        self.state = _State(**(state or {}))
        if state is None and config.release and config.release_at_start:
            self.state.released = 1

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.state)

    @property
    def released(self) -> list[str]:
        """The groups of layers that learn, in the order of their release."""
        return self.config.release[: self.state.released]

    @property
    def lr(self) -> float:
        """The learning rate on the plateau that the training is on (the other schedules have their own)."""
        return max(self.config.min_lr, self.config.lr * self.state.scale)

    def after(self, epoch: int, value: float) -> Decision:
        """Take in the figure of `epoch`; larger is better.

        One that is not finite stops a training that figures can stop, one with `patience` or `release`.
        """
        state, config = self.state, self.config
        improved = value > state.best
        if improved:
            state.best, state.best_epoch, state.bad = value, epoch, 0
        else:
            state.bad += 1
        if config.schedule == "plateau":
            if value > state.plateau_best:
                state.plateau_best, state.plateau_bad = value, 0
            else:
                state.plateau_bad += 1
                if state.plateau_bad > config.plateau:
                    state.scale, state.plateau_bad = state.scale * config.factor, 0
        release = None
        if not math.isfinite(value) and (config.patience is not None or config.release):
            state.stop = "the figure is not finite"
        elif config.patience is not None and state.bad >= config.patience:
            state.stop = f"no better epoch in {state.bad}"
        elif config.release and self.lr <= config.min_lr * AT_MINIMUM:
            if state.released == len(config.release):
                state.stop = "at the least rate, and no group of layers is left to release"
            else:
                release = config.release[state.released]
                state.released += 1
                state.scale, state.plateau_best, state.plateau_bad, state.bad = 1.0, -math.inf, 0, 0
        return Decision(improved, config.reload_best and not improved, release, state.stop)
