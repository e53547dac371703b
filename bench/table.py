"""From the report of a run to the table: rows, Markdown, CSV."""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from .probe import bound

HERE = Path(__file__).parent
COLUMNS = [
    "suite", "group", "contender", "threads", "median_us", "lowest_us", "highest_us", "turns",
    "peer_over_affekt", "ratio_lowest", "ratio_highest", "floor", "aim", "verdict",
    "bound_us", "bound_by", "time_over_bound", "test",
]  # fmt: skip

# The aim is met; the floor is met; there is an aim alone and it is not met; the floor is not met.
VERDICTS = ("aim", "floor", "below aim", "MISS")


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return table rows from the JSON report of pytest-benchmark, ours first in each group.

    Times are in microseconds per unit: the median over the turns, with the lowest and the highest turn. A
    ratio is taken within each turn, and the median over the turns is the ratio of the row.
    """
    rates = report.get("affekt", {}).get("rates", {})
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for entry in report["benchmarks"]:
        contenders = groups.setdefault(entry["group"], {})
        contenders.setdefault(entry["extra_info"]["contender"], []).append(entry)
    rows = []
    for group, contenders in groups.items():
        facts = merged(group, [e["extra_info"] for entries in contenders.values() for e in entries])
        ours = times_of(contenders["affekt"]) if "affekt" in contenders else {}
        for name in sorted(contenders, key=lambda name: name != "affekt"):
            entries = contenders[name]
            info = entries[-1]["extra_info"]
            times = times_of(entries)
            row = dict.fromkeys(COLUMNS)
            row |= {
                "suite": contenders.get("affekt", entries)[-1]["fullname"].partition("::")[0],
                "group": group,
                "contender": name,
                "threads": info["threads"],
                "median_us": median(times.values()),
                "lowest_us": min(times.values()),
                "highest_us": max(times.values()),
                "turns": len(times),
                "test": info["test"],
                "note": " ".join(facts.get("note", [])),
            }
            row |= judged(row, facts, times, ours)
            least = bound(facts, rates, info["threads"])
            if least:
                # The work is that of one call of ours, so its time per unit is what compares.
                units = contenders["affekt"][-1]["extra_info"]["units"] if ours else info["units"]
                row["bound_us"] = least[0] * 1e6 / units
                row["bound_by"] = least[1]
                row["time_over_bound"] = row["median_us"] / row["bound_us"]
                if name == "affekt" and "within" in facts and row["aim"] is None:
                    row["aim"] = f"{facts['within']:g}x bound"
                    if row["time_over_bound"] <= facts["within"]:
                        row["verdict"] = "aim"
                    else:
                        row["verdict"] = row["verdict"] or "below aim"
            rows.append(row)
    return rows


def times_of(entries: list[dict[str, Any]]) -> dict[int, float]:
    """Return the median time of each turn, microseconds per unit."""
    return {e["extra_info"]["turn"]: e["stats"]["median"] * 1e6 / e["extra_info"]["units"] for e in entries}


def merged(group: str, infos: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the contenders of a group say of it; two that contradict each other are an error."""
    facts: dict[str, Any] = {}
    for info in infos:
        for key, value in info["facts"].items():
            if key == "note":
                facts.setdefault(key, []).extend([value] if value not in facts.get(key, []) else [])
            elif facts.setdefault(key, value) != value:
                raise ValueError(f"{group}: {key} is {facts[key]} and {value}, expected one value per group")
    return facts


def judged(
    row: dict[str, Any], facts: dict[str, Any], times: dict[int, float], ours: dict[int, float]
) -> dict[str, Any]:
    """Return the ratio of a row with its spread, its floor and aim, and which of them it meets."""
    found: dict[str, Any] = {}
    if row["contender"] == "affekt":
        floor, aim, value = facts.get("floor_us"), facts.get("aim_us"), row["median_us"]
        reached = lambda limit: value <= limit  # noqa: E731
    else:
        ratios = [times[turn] / ours[turn] for turn in times if turn in ours]
        if not ratios:
            return found
        value = median(ratios)
        found |= {
            "peer_over_affekt": value,
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
        }
        floor, aim = (
            limit.get(row["contender"]) if isinstance(limit := facts.get(key), dict) else limit
            for key in ("floor", "aim")
        )
        reached = lambda limit: value >= limit  # noqa: E731
    return found | {"floor": floor, "aim": aim, "verdict": verdict(reached, floor, aim)}


def verdict(reached: Callable[[float], bool], floor: float | None, aim: float | None) -> str | None:
    """Return which of `VERDICTS` holds; None where there is neither floor nor aim."""
    if aim is not None and reached(aim):
        return "aim"
    if floor is not None:
        return "floor" if reached(floor) else "MISS"
    return None if aim is None else "below aim"


def duration(microseconds: float) -> str:
    """Return a time in the unit that reads best, with three figures."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} us"


def ratio(value: float) -> str:
    """Return a ratio with about three figures and no exponent."""
    if value <= 0 or not math.isfinite(value):
        return str(value)
    return f"{value:.{max(0, min(2, 2 - math.floor(math.log10(value))))}f}"


def limit(value: Any, *, ours: bool) -> str:
    """Return a floor or an aim as the table shows it."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"<= {duration(value)}" if ours else f"{value:g}x"


def title(suite: str) -> str:
    """Return the docstring of a suite: what it compares and in which definition."""
    path = HERE / suite
    text = ast.get_docstring(ast.parse(path.read_text())) if path.is_file() else None
    return text or suite


def markdown(
    rows: list[dict[str, Any]],
    *,
    heading: str,
    about: list[str],
    absent: dict[str, str],
    profiles: dict[str, str],
) -> str:
    """Return the table as Markdown.

    Args:
        rows: from `rows_of`.
        heading: first line.
        about: lines on the machine and the versions.
        absent: test -> why it gave no row.
        profiles: group -> where the time of a missed row goes.
    """
    lines = [f"# {heading}", "", *(f"- {line}" for line in about)]
    judgements = [row["verdict"] for row in rows if row["verdict"]]
    if judgements:
        counts = ", ".join(f"{judgements.count(v)} {v}" for v in VERDICTS)
        lines.append(f"- Of {len(judgements)} rows with a floor or an aim: {counts}.")
    for suite in dict.fromkeys(row["suite"] for row in rows):
        first, _, rest = title(suite).partition("\n")
        lines += ["", f"## {first.rstrip('.')}", ""]
        if rest.strip():
            lines += [rest.strip(), ""]
        lines += [
            "| what | contender | time | from, to | ratio | from, to | floor | aim | met | bound | / bound |",
            "|---|---|--:|--:|--:|--:|--:|--:|:-:|--:|--:|",
        ]
        notes = {}
        for row in (row for row in rows if row["suite"] == suite):
            lines.append(line_of(row))
            if row["note"]:
                notes[row["group"]] = row["note"]
        lines += [""] if notes else []
        lines += [f"- {group}: {note}" for group, note in notes.items()]
        missed = dict.fromkeys(r["group"] for r in rows if r["suite"] == suite and r["verdict"] == "MISS")
        told = [f"- missed, {group}: {profiles[group]}" for group in missed if group in profiles]
        lines += ["", *told] if told else []
    if absent:
        lines += ["", "## Not run here", "", *(f"- `{test}`: {why}" for test, why in absent.items())]
    return "\n".join(lines) + "\n"


def line_of(row: dict[str, Any]) -> str:
    """Return one line of the Markdown table."""
    ours = row["contender"] == "affekt"
    threads = f", {row['threads']} threads" if row["threads"] != 1 else ""
    cells = [
        row["group"],
        row["contender"] + (threads if ours else ""),
        duration(row["median_us"]),
        f"{duration(row['lowest_us'])}, {duration(row['highest_us'])}",
        "" if row["peer_over_affekt"] is None else ratio(row["peer_over_affekt"]),
        ""
        if row["peer_over_affekt"] is None
        else f"{ratio(row['ratio_lowest'])}, {ratio(row['ratio_highest'])}",
        limit(row["floor"], ours=ours),
        limit(row["aim"], ours=ours),
        row["verdict"] or "",
        "" if row["bound_us"] is None else f"{duration(row['bound_us'])} ({row['bound_by']})",
        "" if row["time_over_bound"] is None else ratio(row["time_over_bound"]),
    ]
    return f"| {' | '.join(cells)} |"


def write_csv(rows: list[dict[str, Any]], path: Path, columns: list[str] = COLUMNS) -> None:
    """Write these columns of the rows with every figure."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
