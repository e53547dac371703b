"""A session on a terminal: the trace, how every source is doing, and how long estimates took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from affekt._lazy import require

if TYPE_CHECKING:
    from affekt.live.engine import Estimate
    from affekt.live.session import Session

__all__ = ["View"]

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = {"running": "green", "waiting": "yellow", "ended": "dim", "failed": "red"}
_PER_SECOND = 10  # redraws


class View:
    """A live picture of a session; call it with every estimate.

    Parameters
    ----------
    session : to look at.
    ranges : name -> (lowest, highest) of the traces; those not named run from 0 to 1 (probabilities).
    console : a `rich.console.Console`; None: standard error.

    Raises
    ------
    MissingExtraError : the package rich is not installed.
    """

    def __init__(
        self, session: Session, ranges: dict[str, Sequence[float]] | None = None, console: Any = None
    ) -> None:
        rich = require("rich.live", purpose="the terminal view")
        self._console = console or require("rich.console").Console(stderr=True)
        self._session, self._ranges = session, ranges or {}
        self._past: deque[Estimate] = deque(maxlen=512)
        self._live = rich.Live(
            get_renderable=self.picture,
            console=self._console,
            refresh_per_second=_PER_SECOND,
            transient=False,
        )

    def __enter__(self) -> View:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def __call__(self, estimate: Estimate) -> None:
        """Take one estimate into the picture."""
        self._past.append(estimate)

    def picture(self) -> Any:
        """The picture as it is now, for rich."""
        console = require("rich.console")
        return console.Group(self._traces(), self._sources(), self._delays())

    def _traces(self) -> Any:
        table = require("rich.table").Table(box=None, pad_edge=False)
        past = list(self._past)
        when = f"{past[-1].time:.1f} s" if past else "no estimate yet"
        table.add_column(when, no_wrap=True)
        table.add_column("now", justify="right")
        table.add_column("trace", no_wrap=True)
        width = max(8, self._console.width - 30)
        for name in past[-1].values if past else ():
            low, high = self._ranges.get(name, (0.0, 1.0))
            row = [estimate.values[name] if estimate.valid else math.nan for estimate in past[-width:]]
            now = f"{row[-1]:+.2f}" if math.isfinite(row[-1]) else "-"
            table.add_row(name, now, "".join(_bar(value, low, high) for value in row))
        if past and past[-1].confidence is not None:
            table.add_row("confidence", f"{past[-1].confidence:.2f}", "")
        return table

    def _sources(self) -> Any:
        text = require("rich.text").Text
        table = require("rich.table").Table(box=None, pad_edge=False)
        for title in ("input", "state", "at", "rate", "waiting", "in use", "lost", "late", ""):
            table.add_column(title, justify="left" if title in ("input", "state", "") else "right")
        present = self._past[-1].present if self._past else {}
        for name, health in self._session.health().items():
            engine = self._session.engine.counters(name)
            table.add_row(
                name,
                text(health.state, style=_COLOURS[health.state]),
                "-" if math.isnan(health.time) else f"{health.time:.1f} s",
                "-" if math.isnan(health.rate) else f"{health.rate:.4g} Hz",
                f"{health.queued:.2f} s",
                {True: "yes", False: "masked", None: "-"}[present.get(name)],
                str(health.counters["dropped"] + health.counters["rejected"])
                + (f", {lost}x by the device" if (lost := health.counters.get("overflows")) else ""),
                str(engine.get("late", 0)),
                text(health.problem, overflow="ellipsis", no_wrap=True),
            )
        return table

    def _delays(self) -> Any:
        delays = self._session.delays()
        text = "  ".join(
            f"{name} {'-' if math.isnan(value) else f'{value * 1e3:.1f} ms'}"
            for name, value in delays.items()
        )
        return require("rich.text").Text(f"from arrival to estimate: {text}", style="dim")


def _bar(value: float, low: float, high: float) -> str:
    """One character of a trace; a blank where there is no number."""
    if not math.isfinite(value):
        return " "
    share = (value - low) / (high - low) if high > low else 0.0
    return _BARS[min(max(int(share * len(_BARS)), 0), len(_BARS) - 1)]
