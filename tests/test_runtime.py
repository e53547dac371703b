"""What the core runs on: the instruction set and the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import affekt


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter with these environment variables."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_a_narrower_instruction_set_can_be_forced() -> None:
    done = run("import affekt; print(affekt.isa())", AFFEKT_ISA="baseline")
    assert done.stdout.strip() == "baseline", done.stderr


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AFFEKT_ISA", "sse9", 'got "sse9"'),
        ("AFFEKT_NUM_THREADS", "0", 'got "0"'),
        ("AFFEKT_NUM_THREADS", "two", 'got "two"'),
    ],
)
def test_a_wrong_environment_variable_is_an_error_of_the_import(name: str, value: str, expected: str) -> None:
    done = run("import affekt", **{name: value})
    assert done.returncode != 0
    assert name in done.stderr
    assert expected in done.stderr


def test_the_number_of_threads_can_be_read_and_set() -> None:
    done = run("import affekt; print(affekt.get_num_threads())", AFFEKT_NUM_THREADS="3")
    assert done.stdout.strip() == "3", done.stderr
    before = affekt.get_num_threads()
    try:
        affekt.set_num_threads(2)
        assert affekt.get_num_threads() == 2
    finally:
        affekt.set_num_threads(before)


@pytest.mark.parametrize("n", [0, -1, 1025, 1.5, "2", None, True])
def test_a_wrong_number_of_threads_is_refused(n: object) -> None:
    before = affekt.get_num_threads()
    with pytest.raises(affekt.InputError, match=r"n: expected .* in \[1, 1024\], got"):
        affekt.set_num_threads(n)  # type: ignore[arg-type]
    assert affekt.get_num_threads() == before
