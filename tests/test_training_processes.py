"""Tasks in several processes: results, messages, warnings and errors come back as from one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings

import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_lightning")

from affekt.errors import AffektError, InputError
from affekt.training.processes import in_processes


class Stubborn(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, one, two):
        super().__init__(one)


def work(shared, item, say):
    import torch

    if item == "fail":
        raise InputError("no such thing")
    if item == "stubborn":
        raise Stubborn(1, 2)
    if item == "die":
        os._exit(7)
    if item == "wait":
        time.sleep(3600)
    if item == "warn":
        warnings.warn("look out", UserWarning, stacklevel=1)
    say(f"{shared} {item}")
    return item, os.getpid(), torch.get_num_threads()


def test_results_messages_and_warnings_come_back():
    said = []
    with pytest.warns(UserWarning, match="look out"):
        found = dict(in_processes(work, "s", [1, 2, "warn", 4], 2, said.append))
    assert sorted(map(str, found)) == ["1", "2", "4", "warn"]
    assert all(result[0] == item for item, result in found.items())
    assert 1 <= len({pid for _, pid, _ in found.values()} - {os.getpid()}) <= 2
    assert {threads for _, _, threads in found.values()} == {1}
    assert sorted(said) == ["s 1", "s 2", "s 4", "s warn"]


def test_one_job_stays_here_and_in_order():
    found = list(in_processes(work, "s", [3, 1, 2], 1, lambda line: None))
    assert [item for item, _ in found] == [3, 1, 2]
    assert {pid for _, (_, pid, _) in found} == {os.getpid()}


@pytest.mark.parametrize(
    ("item", "error", "words"),
    [
        ("fail", InputError, "no such thing"),
        ("stubborn", AffektError, "Stubborn: 1"),
        ("die", AffektError, "worked on die ended with exit code 7"),
    ],
)
def test_errors_come_back_and_end_the_others(item, error, words):
    with pytest.raises(error, match=words) as caught:  # and nobody waits for the sleeper
        list(in_processes(work, "s", [item, "wait"], 2, lambda line: None))
    assert not multiprocessing.active_children()
    if item != "die":
        assert "in work" in str(caught.value.__cause__)


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_all_processes():
    threading.Timer(3.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        list(in_processes(work, "s", ["wait", "wait"], 2, lambda line: None))
    assert not multiprocessing.active_children()
