"""The figures: a trace along one recording, the curves of a training run, a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from affekt._lazy import require
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "confusion_figure",
    "reliability_figure",
    "robustness_figure",
    "save_figure",
    "save_traces",
    "trace_figure",
    "training_figure",
]

# Colours that people with any colour vision tell apart (Okabe and Ito), by what they stand for everywhere.
_AFFECT = {"valence": "#0072B2", "arousal": "#D55E00", "dominance": "#009E73"}
_OTHERS = ("#CC79A7", "#56B4E9", "#E69F00", "#000000")
_INK = "#333333"
_UNHEARD = "#e3e3e3"
_MAX_POINTS = 1500


def trace_figure(
    table: pandas.DataFrame, audio: str | PathLike[str] | None = None, *, title: str | None = None
) -> Figure:
    """Waveform, affect dimensions and emotion probabilities along one recording, over one time axis.

    Parameters
    ----------
    table : rows of one file, as `affekt.predict` gives them (columns ``file, start, end, ...``). With more
        than a few thousand rows the lines show means over short spans, and a band from lowest to highest.
        Where a column ``valid`` is False, nothing but grey is drawn: from the estimate before to that one.
    audio : the recording, for the waveform on top; None leaves it out.
    title : heading; the file's name by default.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        The table has rows of several files, none at all, or nothing to draw.
    """
    if not len(table):
        raise InputError("table: expected at least one estimate to draw, got none")
    files = table["file"].unique() if "file" in table else [""]
    if len(files) != 1:
        raise InputError(f"table: expected the rows of one file, got {len(files)} files (see save_traces)")
    emotions = [name for name in table.columns if name.startswith("p_")]
    dimensions = [name for name in table.columns if name not in ("file", "start", "end", "valid", *emotions)]
    if not emotions and not dimensions:
        raise InputError(f"table: expected columns with estimates, got only {', '.join(table.columns)}")

    end = table["end"].to_numpy(dtype=float)
    edges = np.concatenate([[_first_edge(table)], end])
    valid = table["valid"].to_numpy(dtype=bool) if "valid" in table else np.ones(len(table), bool)
    shown = {c: np.where(valid, table[c].to_numpy(dtype=float), np.nan) for c in (*dimensions, *emotions)}
    wave = None if audio is None else _envelope(audio)
    last = max(end[-1], wave[1] if wave else 0.0)
    heights = [1.1] * bool(wave) + [2.9] * bool(dimensions) + [0.45 + 0.31 * len(emotions)] * bool(emotions)
    figure = _figure(11, sum(heights) + 1.35)
    grid = figure.add_gridspec(len(heights), 2, width_ratios=[1, 0.014], height_ratios=heights)
    axes = [figure.add_subplot(grid[0, 0])]
    axes += [figure.add_subplot(grid[row, 0], sharex=axes[0]) for row in range(1, len(heights))]
    for axis in axes:
        _draw_unheard(axis, edges, valid, named=axis is axes[bool(wave)])
    rows = iter(enumerate(axes))

    heading = title if title is not None else Path(str(files[0])).name
    figure.suptitle(heading, x=0.012, ha="left", fontsize=14, fontweight="bold", color=_INK)
    notes = [str(table.attrs[key]) for key in ("model", "mode") if table.attrs.get(key)]
    if notes:
        note = "model " + ", ".join(notes) + " mode" * (len(notes) == 2)
        figure.text(0.988, 0.985, note, ha="right", va="top", fontsize=9, color="#666666")
    if wave:
        _draw_wave(next(rows)[1], *wave)
    if dimensions:
        _draw_dimensions(next(rows)[1], end, {name: shown[name] for name in dimensions})
    if emotions:
        row, axis = next(rows)
        chances = np.stack([shown[name] for name in emotions])
        _draw_emotions(axis, figure.add_subplot(grid[row, 1]), edges, chances, emotions)

    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
    axes[-1].set_xlim(0.0, last)
    _time_axis(axes[-1], last)
    return figure


def save_traces(table: pandas.DataFrame, path: str | PathLike[str], *, waveform: bool = True) -> list[Path]:
    """One trace figure per file of `table`.

    Parameters
    ----------
    table : as `affekt.predict` gives it.
    path : target, its suffix gives the format (png, pdf, svg). With several files in the table each goes to
        ``<path's stem>.<file's stem><suffix>``, numbered where names collide.
    waveform : draw the sound itself on top.

    Returns
    -------
    list of Path : the pictures written, in the order of the files.
    """
    path = Path(path)
    groups = list(table.groupby("file", sort=False))
    if not groups:
        raise InputError("table: expected at least one estimate to draw, got none")
    written: list[Path] = []
    for file, rows in groups:
        target = path
        if len(groups) > 1:
            target = path.with_name(f"{path.stem}.{Path(str(file)).stem}{path.suffix}")
            number = 2
            while target in written:
                target = path.with_name(f"{path.stem}.{Path(str(file)).stem}.{number}{path.suffix}")
                number += 1
        rows.attrs = table.attrs
        written.append(save_figure(trace_figure(rows, str(file) if waveform else None), target))
    return written


def training_figure(
    logs: pandas.DataFrame | Sequence[pandas.DataFrame], *, title: str = "Training"
) -> Figure:
    """Curves of one training or of several (folds, seeds), a panel per figure.

    Parameters
    ----------
    logs : the ``log.csv`` of a training, or several: a row per epoch, ``epoch``, ``train_<name>``, and the
        figures on the development part by name. With several trainings each is a thin line and their mean, as
        far as all of them went, a thick one.
    title : heading.

    Raises
    ------
    InputError
        A log has no epochs or nothing to draw.
    """
    runs: list[Any] = [logs] if hasattr(logs, "columns") else list(logs)
    panels: dict[str, dict[str, str]] = {}  # name -> part -> column
    for log in runs:
        if "epoch" not in log:
            raise InputError(f"logs: expected a column 'epoch', got {', '.join(log.columns) or 'none'}")
        for column in log.columns.difference(["epoch", "step", "seconds"], sort=False):
            if log[column].notna().any() and log[column].dtype.kind in "fiu":
                part = "training" if column.startswith("train_") else "development"
                panels.setdefault(column.removeprefix("train_").removeprefix("dev_"), {})[part] = column
    for name in list(panels)[::-1]:
        # With one head its loss is the loss and its figure the score: one panel says it all.
        if any(_same_curves(runs, panels[name], panels[other]) for other in panels if other != name):
            del panels[name]
    if not panels:
        raise InputError("logs: expected figures beside the epochs, found none")
    ticker = require("matplotlib.ticker", purpose="plots")
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    figure = _figure(4.2 * across, 2.9 * down + 0.5)
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold", color=_INK)
    grid = figure.add_gridspec(down, across)
    colours = {"training": "#8c8c8c", "development": "#0072B2"}
    for index, (name, parts) in enumerate(panels.items()):
        axis = figure.add_subplot(grid[index // across, index % across])
        _bare(axis)
        if name == "lr":  # a setting, of neither part
            parts = {"": parts["development"]}
        for part, column in parts.items():
            curves = [log.set_index("epoch")[column].dropna() for log in runs if column in log]
            colour = colours.get(part, _INK)
            if len(curves) > 1:
                for curve in curves:
                    axis.plot(curve.index, curve, color=colour, linewidth=0.7, alpha=0.45)
            mean = require("pandas").concat(curves, axis=1, join="inner").mean(axis=1)
            mark = "o" if len(mean) < 3 else None
            axis.plot(mean.index, mean, color=colour, label=part, linewidth=1.8, marker=mark)
        axis.set_title("learning rate" if name == "lr" else name.replace("_", " "), loc="left", fontsize=11)
        axis.set_xlabel("epoch", color=_INK)
        axis.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True))
        axis.grid(axis="y", color="#e5e5e5", linewidth=0.8)
        if "" not in parts:
            axis.legend(frameon=False, fontsize=9)
    return figure


def _same_curves(logs: Sequence[pandas.DataFrame], one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two panels would show the same: the same parts, and equal columns in every log."""
    return one.keys() == other.keys() and all(
        {one[part], other[part]} <= {*log} and log[one[part]].equals(log[other[part]])
        for log in logs
        for part in one
    )


def confusion_figure(matrix: Any, labels: list[str], *, title: str = "Confusion matrix") -> Figure:
    """A confusion matrix, true classes down and estimated ones across; colour is the share of the true class.

    Parameters
    ----------
    matrix : (classes, classes) counts.
    labels : names of the classes.
    title : heading.
    """
    counts = np.asarray(matrix, dtype=float)
    if counts.shape != (len(labels), len(labels)):
        raise InputError(f"matrix: expected shape ({len(labels)}, {len(labels)}), got {counts.shape}")
    size = 1.9 + 0.62 * len(labels)
    figure = _figure(size + 0.6, size)
    axis = figure.add_subplot()
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true, estimated in np.ndindex(counts.shape):
        if counts[true, estimated]:
            axis.text(
                estimated,
                true,
                f"{counts[true, estimated]:g}\n{shares[true, estimated]:.0%}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if shares[true, estimated] > 0.55 else _INK,
            )
    axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(
        range(len(labels)), [f"{label} ({n:g})" for label, n in zip(labels, totals[:, 0], strict=True)]
    )
    axis.set_xlabel("estimated")
    axis.set_ylabel("true (count)")
    axis.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return figure


def reliability_figure(probabilities: Any, target: Any, *, title: str = "Reliability") -> Figure:
    """A reliability diagram: share of right answers against confidence, with the count of items below.

    Parameters
    ----------
    probabilities : (items, classes), rows with sum 1.
    target : (items,) class numbers.
    title : heading; the expected calibration error stands in the picture.
    """
    from affekt import metrics

    edges, confidence, hits, counts = metrics.reliability(probabilities, target)
    figure = _figure(5.2, 5.6)
    grid = figure.add_gridspec(2, 1, height_ratios=[3.2, 1])
    axis, below = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    full = counts > 0
    for each in (axis, below):
        _bare(each)
        each.set_xlim(0, 1)
    axis.plot([0, 1], [0, 1], color="#999999", linewidth=1.0, linestyle="--", label="calibrated")
    width = np.diff(edges)[full]
    left = edges[:-1][full]
    axis.bar(left, hits[full], width, align="edge", color="#c6dbef", edgecolor="white", label="right")
    axis.plot(confidence[full], hits[full], color="#0072B2", marker="o", markersize=4, linewidth=1.4)
    axis.set_ylim(0, 1)
    axis.set_ylabel("share of right answers", color=_INK)
    axis.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
    error = metrics.ece(probabilities, target)
    likelihood = metrics.nll(probabilities, target)
    text = f"ECE {error:.3f} ({len(counts)} bins)\nNLL {likelihood:.3f}\n{counts.sum()} items"
    axis.text(0.97, 0.05, text, ha="right", va="bottom", fontsize=9, color=_INK)
    axis.legend(frameon=False, fontsize=9, loc="upper left")
    axis.tick_params(labelbottom=False)
    below.bar(left, counts[full], width, align="edge", color="#8c8c8c", edgecolor="white")
    below.set_ylabel("items", color=_INK)
    below.set_xlabel("confidence, probability of the likeliest class", color=_INK)
    return figure


def robustness_figure(table: pandas.DataFrame, condition: str, *, title: str | None = None) -> Figure:
    """Figures of merit against the levels of one condition, with bands for their 95 % intervals.

    UAR in one panel and CCC in another, as far as the table has them; the recordings as they are come first,
    or at 0 dB of gain.

    Parameters
    ----------
    table : as `affekt.robustness.curves` gives it.
    condition : one of the table, not ``clean``.
    title : heading; by default the condition, and the model and the corpus as ``table.attrs`` names them.
        The number of recordings and speakers stands beside it.

    Raises
    ------
    InputError
        The table does not have the condition.
    """
    rows = table[table["condition"].isin(["clean", condition])]
    if condition == "clean" or condition not in set(rows["condition"]):
        raise InputError(
            f"condition: expected one of the table ({', '.join(sorted({*table['condition']} - {'clean'}))}), "
            f"got {condition!r}"
        )
    levels = list(dict.fromkeys(rows["level"]))
    if condition == "gain":
        levels.sort(key=lambda level: 0.0 if level == "" else -float(level))
    words = [
        "clean" if level == "" else f"{level:g}" if isinstance(level, float) else level for level in levels
    ]
    panels = [name for name in ("UAR", "CCC") if name in set(rows["metric"])]
    figure = _figure(5.2 * len(panels), 3.6)
    for number, metric in enumerate(panels, 1):
        axis = figure.add_subplot(1, len(panels), number)
        _bare(axis)
        shown = rows[rows["metric"] == metric]
        for label, part in shown.groupby("label", sort=False):
            part = part.set_index("level").loc[levels]
            colour, at = _AFFECT.get(str(label), _OTHERS[0]), np.arange(len(levels))
            axis.plot(at, part["value"], color=colour, linewidth=1.8, marker="o", markersize=4, label=label)
            axis.fill_between(at, part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
            clean = float(part.loc[[""], "value"].iloc[0])
            axis.axhline(clean, color=colour, linewidth=0.8, linestyle=":")
        low = float(np.nanmin([shown["value"].min(), shown["low"].min(), 0.0]))
        axis.set_ylim(min(0.0, low), 1.0)
        axis.set_xticks(range(len(levels)), words)
        axis.grid(axis="y", color="#eeeeee", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.set_xlabel(str(rows["unit"].iloc[-1]), color=_INK)
        axis.set_title(metric, loc="left", fontsize=11, color=_INK)
        if shown["label"].nunique() > 1:
            axis.legend(frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 0.99),
                        borderaxespad=0)  # fmt: skip
    names = [str(table.attrs[key]) for key in ("model", "corpus") if table.attrs.get(key)]
    heading = title if title is not None else f"{condition}: {' on '.join(names)}".removesuffix(": ")
    figure.suptitle(heading, x=0.012, ha="left", fontsize=13, fontweight="bold", color=_INK)
    note = f"{rows['recordings'].max()} recordings"
    if rows["low"].notna().any():
        note += f", 95 % intervals over {rows['speakers'].max()} speakers"
    figure.supxlabel(note, x=0.988, ha="right", fontsize=9, color="#666666")
    return figure


def picture_path(path: str | PathLike[str]) -> Path:
    """Return `path`; an `InputError` where its suffix names no format or its folder does not exist."""
    path = Path(path)
    known = require("matplotlib.backend_bases", purpose="plots").FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise InputError(
            f"plot: expected a file name that ends in one of {', '.join(sorted(known))}, got {str(path)!r}"
        )
    if not path.resolve().parent.is_dir():
        raise InputError(f"plot: the folder {path.resolve().parent} does not exist")
    return path


def save_figure(figure: Figure, path: str | PathLike[str]) -> Path:
    """Write `figure`; the suffix of `path` gives the format."""
    path = picture_path(path)
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _figure(width: float, height: float) -> Figure:
    figure_module = require("matplotlib.figure", purpose="plots")
    figure = figure_module.Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, hspace=0.03, wspace=0.015)
    return figure


def _bare(axis: Axes) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#999999")
    axis.tick_params(colors=_INK, labelsize=9)


def _time_axis(axis: Axes, last: float) -> None:
    """Seconds, or minutes:seconds once seconds would be hard to read."""
    if last < 180:
        axis.set_xlabel("time (s)", color=_INK)
        return
    ticker = require("matplotlib.ticker", purpose="plots")
    step = next((s for s in (30, 60, 120, 300, 600, 900, 1800, 3600) if last / s <= 13), 7200)
    axis.xaxis.set_major_locator(ticker.MultipleLocator(step))
    if last < 3600:
        form, label = (lambda s, _: f"{int(s) // 60}:{int(s) % 60:02d}"), "time (min:s)"
    else:
        form, label = (lambda s, _: f"{int(s) // 3600}:{int(s) // 60 % 60:02d}"), "time (h:min)"
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(form))
    axis.set_xlabel(label, color=_INK)


def _first_edge(table: pandas.DataFrame) -> float:
    """Where the first cell begins: one step before the first estimate, but not before its own audio."""
    end = table["end"].to_numpy(dtype=float)
    step = float(np.median(np.diff(end))) if len(end) > 1 else end[0]
    return max(float(table["start"].iloc[0]), end[0] - step)


def _envelope(path: str | PathLike[str], bins: int = 2000) -> tuple[np.ndarray, float]:
    """Lowest and highest sample of at most `bins` equal spans (spans, 2), and the duration in seconds."""
    from affekt.data.audio import audio_info, stream_audio

    source = audio_info(path)
    width = max(1, math.ceil(source.frames / bins))
    spans = [np.empty((0, 2), dtype=np.float32)]
    rest = np.empty(0, dtype=np.float32)
    for block in stream_audio(path, source.sample_rate):
        block = np.concatenate([rest, block])
        whole = block.size - block.size % width
        pieces = block[:whole].reshape(-1, width)
        spans.append(np.stack([pieces.min(axis=1), pieces.max(axis=1)], axis=1))
        rest = block[whole:]
    if rest.size:
        spans.append(np.array([[rest.min(), rest.max()]], dtype=np.float32))
    return np.concatenate(spans), source.frames / source.sample_rate


def _draw_unheard(axis: Axes, edges: np.ndarray, valid: np.ndarray, *, named: bool) -> None:
    """Grey where estimates are not valid; that number i stands for ``edges[i]`` to ``edges[i + 1]``."""
    if valid.all():
        return
    heard = np.concatenate([[True], valid, [True]])
    first, last = (edges[np.flatnonzero(turn)] for turn in (heard[:-1] & ~heard[1:], ~heard[:-1] & heard[1:]))
    axis.broken_barh(
        list(zip(first, last - first, strict=True)),
        (0, 1),
        transform=axis.get_xaxis_transform(),
        color=_UNHEARD,
        linewidth=0,
        zorder=0.1,
        label="too little speech heard" if named else None,
    )


def _draw_wave(axis: Axes, spans: np.ndarray, duration: float) -> None:
    _bare(axis)
    at = (np.arange(len(spans)) + 0.5) * duration / max(len(spans), 1)
    axis.fill_between(at, spans[:, 0], spans[:, 1], color="#8c8c8c", linewidth=0.4)
    peak = max(float(np.abs(spans).max(initial=0.0)), 1e-3) * 1.05
    axis.set_ylim(-peak, peak)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_title("Sound", loc="left", fontsize=11, color=_INK)


def _draw_dimensions(axis: Axes, end: np.ndarray, lines: dict[str, np.ndarray]) -> None:
    _bare(axis)
    axis.axhline(0.0, color="#bbbbbb", linewidth=1.0, zorder=0)
    others = iter(_OTHERS * 8)
    colours = {name: _AFFECT.get(name) or next(others) for name in lines}
    for name, values in lines.items():
        at, low, mean, high = _thinned(end, values)
        axis.plot(at, mean, color=colours[name], linewidth=1.8, label=name)
        known = np.concatenate([[False], np.isfinite(mean), [False]])
        alone = known[1:-1] & ~known[:-2] & ~known[2:]  # of such no line can be drawn
        axis.plot(at[alone], mean[alone], color=colours[name], marker="o", linestyle="none")
        if len(at) < len(end):
            axis.fill_between(at, low, high, color=colours[name], alpha=0.18, linewidth=0)
    every = np.concatenate(list(lines.values()))
    lowest, highest = np.nanmin([-1.0, *every]), np.nanmax([1.0, *every])
    axis.set_ylim(lowest, highest)
    if lowest >= -1 and highest <= 1:
        axis.set_yticks(
            [-1, -0.5, 0, 0.5, 1], ["low  \N{MINUS SIGN}1", "\N{MINUS SIGN}0.5", "0", "+0.5", "high  +1"]
        )
    axis.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_title("Affect", loc="left", fontsize=11, color=_INK)
    axis.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.99),
        ncols=len(lines) + 1,
        frameon=False,
        fontsize=10,
        borderaxespad=0,
    )


def _draw_emotions(axis: Axes, scale: Axes, edges: np.ndarray, values: np.ndarray, names: list[str]) -> None:
    _bare(axis)
    if values.shape[1] > _MAX_POINTS:
        groups = np.array_split(np.arange(values.shape[1]), _MAX_POINTS)
        values = np.stack([_mean_known(values[:, group]) for group in groups], axis=1)
        edges = np.concatenate([edges[:1], [edges[group[-1] + 1] for group in groups]])
    # The scale ends at 0.5 or the next tenth above the highest: a model that is never sure stays readable.
    top = max(0.5, math.ceil(10 * float(np.nanmax(values, initial=0.0)) - 1e-6) / 10)
    mesh = axis.pcolormesh(
        edges, np.arange(len(names) + 1) - 0.5, values, cmap="Purples", vmin=0.0, vmax=top, rasterized=True
    )
    best = np.where(np.isfinite(values[0]), values.argmax(axis=0), -1)
    # A line along the likeliest emotion, broken where it changes.
    breaks = np.flatnonzero(np.diff(best)) + 1
    pieces = [p for p in np.split(np.arange(len(best)), breaks) if best[p[0]] >= 0]
    for number, piece in enumerate(pieces):
        axis.plot(
            [edges[piece[0]], edges[piece[-1] + 1]],
            [best[piece[0]]] * 2,
            color="#E69F00",
            linewidth=2.2,
            solid_capstyle="butt",
            label="likeliest" if number == 0 else None,
        )
    axis.set_yticks(range(len(names)), [name.removeprefix("p_") for name in names], fontsize=10)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    for line in range(1, len(names)):
        axis.axhline(line - 0.5, color="white", linewidth=1.2)
    axis.set_title("Emotion", loc="left", fontsize=11, color=_INK)
    if axis.get_legend_handles_labels()[0]:  # none where no estimate is valid and grey is named above
        axis.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=2, frameon=False, fontsize=9,
                    borderaxespad=0)  # fmt: skip
    bar = axis.figure.colorbar(mesh, cax=scale, ticks=[0, top / 2, top])
    bar.outline.set_visible(False)
    bar.set_label("probability", color=_INK, fontsize=9)
    bar.ax.tick_params(labelsize=8, length=0)


def _thinned(at: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """At most `_MAX_POINTS` points: time, lowest, mean, highest of what is known in consecutive groups."""
    if len(at) <= _MAX_POINTS:
        return at, values, values, values
    groups = np.array_split(np.arange(len(at)), _MAX_POINTS)
    time = np.array([at[g].mean() for g in groups])
    low = np.array([np.fmin.reduce(values[g]) for g in groups])
    high = np.array([np.fmax.reduce(values[g]) for g in groups])
    return time, low, np.array([_mean_known(values[g]) for g in groups]), high


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean along the last axis of what is not NaN; NaN where all is."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
