"""A task for many items, here or in several processes; results, messages and errors come back."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

from affekt.errors import AffektError

__all__ = ["in_processes"]

Item = TypeVar("Item")
Say = Callable[[str], None]


def in_processes(
    task: Callable[[Any, Any, Say], Any], shared: Any, items: Sequence[Item], jobs: int, say: Say
) -> Iterator[tuple[Item, Any]]:
    """``(item, task(shared, item, say))`` for every item, as they finish.

    With `jobs` 1 in this process, in order. Otherwise in up to `jobs` new processes (started, not forked)
    with one torch thread each; `task` must then be importable, `shared`, items and results picklable, and
    `say` is called here. When a task fails, or the caller stops early or is interrupted, the other processes
    are ended.

    Raises
    ------
    AffektError : a process ended without a word (killed, out of memory).
    Whatever a task raises, its traceback in that process as the cause.
    """
    if jobs == 1 or len(items) < 2:
        for item in items:
            yield item, task(shared, item, say)
        return
    context = multiprocessing.get_context("spawn")
    rest = list(items)[::-1]
    busy: dict[Connection, tuple[Any, Item]] = {}
    processes = []
    try:
        for _ in range(min(jobs, len(items))):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, task, shared), daemon=True)
            process.start()
            there.close()  # so that the end of the process ends the connection
            processes.append(process)
            busy[here] = process, rest.pop()
            here.send(busy[here][1])
        while busy:
            for here in cast(list[Connection], wait(list(busy))):
                process, item = busy[here]
                try:
                    kind, value = here.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    raise AffektError(
                        f"the process that worked on {item} ended with exit code {process.exitcode}; "
                        "where memory is short, take fewer jobs"
                    ) from None
                if kind == "say":
                    say(value)
                elif kind == "warning":
                    warnings.warn_explicit(*value)
                elif kind == "error":
                    error, told = value
                    raise error from AffektError(f"in the process that worked on {item}:\n{told}")
                else:
                    if rest:
                        busy[here] = process, rest.pop()
                        here.send(busy[here][1])
                    else:
                        del busy[here]
                        here.close()
                    yield item, value
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(there: Connection, task: Callable[[Any, Any, Say], Any], shared: Any) -> None:
    """A process: items in; messages, warnings and results out; until there is nobody to talk to."""
    import torch

    def warn(
        message: Any, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        there.send(("warning", (str(message), category, filename, lineno)))

    def say(line: str) -> None:
        there.send(("say", line))

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    torch.set_num_threads(1)
    warnings.showwarning = warn
    while True:
        try:
            item = there.recv()
        except EOFError:
            return
        try:
            reply: tuple[str, Any] = ("done", task(shared, item, say))
        except Exception as error:
            reply = ("error", (_portable(error), traceback.format_exc()))
        try:
            there.send(reply)
        except OSError:
            return


def _portable(error: Exception) -> Exception:
    """The exception itself where it survives the way, else one with its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return AffektError(f"{type(error).__name__}: {error}")
    return error
