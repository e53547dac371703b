"""The checklists of published works: every row is shown by a test or open, and the pages are current."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("checklist_script", ROOT / "scripts" / "checklist.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_is_shown_or_open_and_the_pages_are_current(script, capsys):
    assert script.main(check=True) == 0, capsys.readouterr().out


def test_a_row_that_nothing_shows_is_found(script):
    rows = {1: ("a", False), 2: ("b", True), 3: ("c", False)}
    assert script.problems(rows, {1: ["t"], 3: ["t"]}) == []
    assert "row 3 (c) is shown by no test" in script.problems(rows, {1: ["t"]})
    assert "clear its `open`" in script.problems(rows, {1: ["t"], 2: ["t"], 3: ["t"]})[0]
    assert "row 4 is not on the list" in script.problems(rows, {1: ["t"], 3: ["t"], 4: ["t"]})[0]


def test_marks_are_read_from_the_source(script):
    source = (
        '@row("zhang", 1, 2)\n@other\ndef test_a():\n    pass\n\n@row("rajan", 3)\ndef test_b():\n    pass\n'
    )
    assert script.marks(source, "test_x.py") == [
        ("zhang", 1, "test_x.py::test_a"),
        ("zhang", 2, "test_x.py::test_a"),
        ("rajan", 3, "test_x.py::test_b"),
    ]


@pytest.mark.parametrize("mark", ["row('zhang')", "row('zhang', n)", "row(1, 2)", "row('zhang', *numbers)"])
def test_a_mark_that_cannot_be_read_is_an_error(script, mark):
    with pytest.raises(ValueError, match=r"test_x.py:1: expected row\(WORK"):
        script.marks(f"@{mark}\ndef test_a():\n    pass\n", "test_x.py")


def test_a_whole_tree(script, tmp_path, capsys):
    (tmp_path / "tests").mkdir()
    (tmp_path / "docs" / "checklists").mkdir(parents=True)
    (tmp_path / "tests" / "test_x.py").write_text('@row("w", 1)\ndef test_a():\n    pass\n')
    (tmp_path / "docs" / "checklists" / "w.csv").write_text("row,capability,open\n1,first,\n2,second,yes\n")
    assert script.main(tmp_path, check=True) == 1  # no page yet
    assert "docs/w.md is not what the tests say" in capsys.readouterr().out
    assert script.main(tmp_path) == 0
    assert script.main(tmp_path, check=True) == 0
    text = (tmp_path / "docs" / "w.md").read_text()
    assert "| 1 | first | `test_x.py::test_a` |" in text
    assert "| 2 | second | not yet |" in text
    (tmp_path / "tests" / "test_x.py").write_text("")
    assert script.main(tmp_path, check=True) == 1
    assert "w: row 1 (first) is shown by no test" in capsys.readouterr().out
