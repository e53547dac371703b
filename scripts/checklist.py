"""The checklist of a published work beside the tests that show it: docs/<work>.md.

    python scripts/checklist.py            write the tables
    python scripts/checklist.py --check    say what does not fit, and write nothing

docs/checklists/<work>.csv lists the rows: ``row, capability, open``. A test shows rows by the decorator
``@row("zhang", 17)`` (tests/checklist.py). A row that no test shows must say "yes" under `open`, and one
that is shown must not.
"""

from __future__ import annotations

import ast
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# {title}

What of the work is here, row by row, and the tests that show it. Written by `python scripts/checklist.py`
from the markers on the tests and from [checklists/{work}.csv](checklists/{work}.csv).

| row | capability | shown by |
| --- | --- | --- |
"""
TITLES = {"zhang": "Zhang (2023), continuous emotion recognition"}

Shown = dict[str, dict[int, list[str]]]


def marks(source: str, file: str) -> list[tuple[str, int, str]]:
    """(work, row, test) of every ``@row(...)`` in a test file.

    Raises
    ------
    ValueError : a mark is not of a name and numbers, as they stand.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef):
            continue
        for mark in node.decorator_list:
            if not (isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "row"):
                continue
            values = [a.value if isinstance(a, ast.Constant) else None for a in mark.args]
            plain = len(values) > 1 and isinstance(values[0], str)
            if not plain or not all(isinstance(v, int) for v in values[1:]) or mark.keywords:
                raise ValueError(f"{file}:{mark.lineno}: expected row(WORK, NUMBER, ...) with plain values")
            found += [(str(values[0]), int(str(v)), f"{file}::{node.name}") for v in values[1:]]
    return found


def shown(folder: Path) -> Shown:
    """Work -> row -> tests, over all test files of a folder."""
    out: Shown = {}
    for path in sorted(folder.glob("test_*.py")):
        for work, number, test in marks(path.read_text(encoding="utf-8"), path.name):
            out.setdefault(work, {}).setdefault(number, []).append(test)
    return out


def rows_of(path: Path) -> dict[int, tuple[str, bool]]:
    """Row -> (capability, whether it is open)."""
    with path.open(encoding="utf-8", newline="") as file:
        return {int(r["row"]): (r["capability"], r["open"] == "yes") for r in csv.DictReader(file)}


def problems(rows: dict[int, tuple[str, bool]], tests: dict[int, list[str]]) -> list[str]:
    """What does not fit between a checklist and the marks on the tests."""
    out = [
        f"row {number} is not on the list: {tests[number][0]}" for number in sorted(set(tests) - set(rows))
    ]
    for number, (capability, is_open) in rows.items():
        if is_open and number in tests:
            out.append(f"row {number} ({capability}) is shown by {tests[number][0]}: clear its `open`")
        if not is_open and number not in tests:
            out.append(f"row {number} ({capability}) is shown by no test")
    return out


def page(work: str, rows: dict[int, tuple[str, bool]], tests: dict[int, list[str]]) -> str:
    """The table as a page of docs/."""
    lines = []
    for number, (capability, _) in rows.items():
        by = ", ".join(f"`{test}`" for test in tests.get(number, ())) or "not yet"
        lines.append(f"| {number} | {capability.replace('|', chr(92) + '|')} | {by} |")
    return HEAD.format(work=work, title=TITLES.get(work, work)) + "\n".join(lines) + "\n"


def main(root: Path = ROOT, check: bool = False) -> int:
    """Write the pages, or check them; 1 when something does not fit."""
    tests = shown(root / "tests")
    wrong = [f"{work}: no docs/checklists/{work}.csv" for work in tests
             if not (root / "docs" / "checklists" / f"{work}.csv").is_file()]  # fmt: skip
    for path in sorted((root / "docs" / "checklists").glob("*.csv")):
        rows, own = rows_of(path), tests.get(path.stem, {})
        wrong += [f"{path.stem}: {text}" for text in problems(rows, own)]
        target, text = root / "docs" / f"{path.stem}.md", page(path.stem, rows, own)
        if not check:
            target.write_text(text, encoding="utf-8")
        elif not target.is_file() or target.read_text(encoding="utf-8") != text:
            wrong.append(f"{target.relative_to(root)} is not what the tests say: python scripts/checklist.py")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
