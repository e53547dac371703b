"""The marker that says which rows of a published work's checklist a test shows (scripts/checklist.py)."""

from __future__ import annotations

import pytest


def row(work: str, *numbers: int) -> pytest.MarkDecorator:
    """Mark a test that shows these rows of docs/checklists/<work>.csv."""
    return pytest.mark.row(work, *numbers)
