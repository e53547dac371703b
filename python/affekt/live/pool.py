"""Many live sessions over one model, computed as one block."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from affekt import _core
from affekt._checks import integer
from affekt._native import Model, as_model, start_from
from affekt._profile import Profile
from affekt.live.engine import Engine, core_options

__all__ = ["EnginePool", "PoolEstimates"]


@dataclass(frozen=True, slots=True, eq=False)
class PoolEstimates:
    """Estimates of the sessions of a pool, a row each; those of one session in their order.

    Attributes
    ----------
    sessions : (n,) whose estimate it is, as the pool counts its sessions.
    times, samples, latency : (n,) as in `affekt.live.Estimate`.
    values : (n, columns) float32, the columns in the order of `Model.columns`.
    valid : (n,) bool.
    present : (n, inputs) bool, the inputs in the order of `Model.inputs`, for a model with a clock; else
        (n, 0).
    confidence : (n,) float32, for a model whose card defines it; else None.
    """

    sessions: np.ndarray
    times: np.ndarray
    samples: np.ndarray
    values: np.ndarray
    valid: np.ndarray
    present: np.ndarray
    confidence: np.ndarray | None
    latency: np.ndarray

    def __len__(self) -> int:
        return len(self.times)


class EnginePool:
    """Many live sessions over one model, run by the C++ core as one block.

    Every session is an `Engine`, to push to, finish, reset, snapshot and so on by itself; its estimates have
    the same bits as those of an engine alone. `poll` computes all sessions together, so that the networks'
    weights are read once for all that are due, and gives what there is as arrays.

    Parameters
    ----------
    model : path of a model file, the name of a shipped one, or a `Model`.
    sessions : how many to begin with.
    queue_s, reanchor_s, adapt, wait_s, dejitter_s : of every session, as for `Engine`.

    Notes
    -----
    Samples may be pushed from threads of their own, one per session and input. A person who leaves can be
    followed by another one in the same session, after its `reset`.

    Examples
    --------
    >>> pool = EnginePool("model.safetensors", sessions=64)      # doctest: +SKIP
    >>> pool[3].push("audio", samples)                           # doctest: +SKIP
    >>> found = pool.poll()                                      # doctest: +SKIP
    >>> found.values[found.sessions == 3]                        # doctest: +SKIP

    Raises
    ------
    ModelFileError : see `affekt.load`. InputError : an option is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        sessions: int = 0,
        *,
        queue_s: float | None = None,
        reanchor_s: float = 0.1,
        adapt: bool = True,
        wait_s: float | None = None,
        dejitter_s: float | None = None,
    ) -> None:
        self.model = as_model(model)
        sessions = integer(sessions, "sessions", low=0)
        self._options = core_options(queue_s, reanchor_s, adapt, wait_s, dejitter_s)
        self._native = _core.EnginePool(self.model.native, *self._options)
        self._sessions: list[Engine] = []
        self._adding = threading.Lock()  # a session has the same number here and in the core
        for _ in range(sessions):
            self.add()

    def add(self, profile: Profile | None = None) -> Engine:
        """One session more; `pool[len(pool) - 1]` from now on. Any thread may add one.

        Parameters
        ----------
        profile : what is known of its speaker, as for `Engine`.

        Raises
        ------
        InputError : the profile belongs to another model; no session is added.
        """
        if profile is not None:  # refused before there is a session
            start_from(_core.FullPass(self.model.native), self.model, profile)
        with self._adding:
            session = Engine._session(self.model, self._native.add(), self._options, profile)
            self._sessions.append(session)
        return session

    def __len__(self) -> int:
        return len(self._sessions)

    def __getitem__(self, session: int) -> Engine:
        return self._sessions[session]

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._sessions))

    def poll(self) -> PoolEstimates:
        """Compute what is due in all sessions; the estimates, none if nothing is due.

        At most 1024 times as many as there are sessions, so that it ends whatever is pushed meanwhile; the
        next call gives the rest."""
        sessions, times, samples, values, valid, present, confidence, latency = self._native.poll()
        sure = confidence if "confidence" in self.model.card else None
        return PoolEstimates(sessions, times, samples, values, valid, present, sure, latency)

    def __repr__(self) -> str:
        return f"<affekt.live.EnginePool of {len(self)} sessions over {self.model.name!r}>"
