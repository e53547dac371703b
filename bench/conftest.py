"""What the suites share: how a contender is timed, how the contenders of a group alternate, the test signal.

`pytest bench` times each contender once, in the order of the files. With `--rounds N`, as `python -m bench`
calls it, every contender runs once untimed, which tells its group; then the contenders of each group take
turns N times, forth and back, so that a change in the load of the machine meets all of them alike.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from .probe import Probe

GROUPS = pytest.StashKey[dict[str, str]]()  # test -> group, from the untimed round
ABSENT = pytest.StashKey[dict[str, str]]()  # test -> why it was skipped or failed
PROBE = pytest.StashKey[Probe]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rounds", type=int, default=0, help="let the contenders of a group take turns so often"
    )
    parser.addoption(
        "--probe-seconds", type=float, default=2.0, help="how long to measure the machine, twice"
    )
    parser.addoption("--profile-to", help="let perf watch our contenders, two seconds each, into this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[GROUPS] = {}
    config.stash[ABSENT] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rounds = metafunc.config.getoption("--rounds")
    if rounds and "turn" in metafunc.fixturenames:
        turns = range(rounds + 1)
        metafunc.parametrize("turn", turns, indirect=True, ids=[f"turn{i}" for i in turns], scope="function")


def without_turn(nodeid: str) -> str:
    """Return the id of a test as it is without rounds: `bench_x[60-turn3]` -> `bench_x[60]`."""
    return re.sub(r"-?\bturn\d+\b-?", "", nodeid).replace("[]", "")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --rounds: the untimed turn of all, then group by group the timed turns, forth and back."""
    config = session.config
    if not config.getoption("--rounds") or config.option.collectonly or session.testsfailed:
        return None
    turns: dict[int, list[pytest.Item]] = {}
    for item in session.items:
        turns.setdefault(turn_of(item), []).append(item)
    run(session, turns.pop(0, []))
    known = config.stash[GROUPS]
    order = []
    for group in dict.fromkeys(known.values()):
        for turn, items in sorted(turns.items()):
            some = [item for item in items if known.get(without_turn(item.nodeid)) == group]
            order += some if turn % 2 else some[::-1]
    probe = config.stash[PROBE] = Probe()
    probe.measure(config.getoption("--probe-seconds"))
    run(session, order)
    probe.measure(config.getoption("--probe-seconds"))
    return True


def run(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Run the items in this order, as pytest's own loop does."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)


def turn_of(item: pytest.Item) -> int:
    callspec = getattr(item, "callspec", None)
    return 0 if callspec is None else callspec.params.get("turn", 0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and isinstance(report.longrepr, tuple):
        item.config.stash[ABSENT][without_turn(item.nodeid)] = report.longrepr[2].removeprefix("Skipped: ")
    elif report.failed:
        reason = str(call.excinfo.value).partition("\n")[0] if call.excinfo else "failed"
        item.config.stash[ABSENT][without_turn(item.nodeid)] = f"FAILED: {reason}"


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    probe = config.stash.get(PROBE, None)
    output_json["affekt"] = {
        "absent": config.stash[ABSENT],
        "rates": probe.report() if probe is not None else {},
    }


@pytest.fixture
def turn(request: pytest.FixtureRequest) -> int | None:
    """Which turn of --rounds this is: 0 is untimed; None without --rounds."""
    return getattr(request, "param", None)


@pytest.fixture
def contender(benchmark, request, turn) -> Callable[..., Any]:
    """Time one contender of a group; see `run` for what it may say of the group."""

    def run(
        group: str,
        name: str,
        function: Callable[[], Any],
        *,
        units: int = 1,
        floor: float | Mapping[str, float] | None = None,
        aim: float | Mapping[str, float] | None = None,
        floor_us: float | None = None,
        aim_us: float | None = None,
        operations: float | None = None,
        bytes_moved: float | None = None,
        working_set: float | None = None,
        dtype: str = "float32",
        within: float | None = None,
        note: str | None = None,
    ) -> Any:
        """Time `function()` as contender `name` of `group` and return what it returned.

        Rows of one group are compared with each other in the table; the name "affekt" is ours, and a ratio is
        the time of the peer over ours. The rest is said once per group, by whichever contender knows:

        - units: divide the time of this contender by it (frames of a block, streams); said per contender;
        - floor, aim: ratios to reach, {name of the peer: ratio}, or one number for every peer;
        - floor_us, aim_us: our own time per unit to reach, in microseconds;
        - operations, bytes_moved, working_set, dtype: the work that the problem needs at least, for one call
          of ours, from which `probe.bound` derives the least time on this machine;
        - within: the aim for our time over that bound;
        - note: how the definitions of the contenders differ, or what else a reader must know.

        Where ours and the peer are given different work (one hop and a block), say so in `units` or `note`.
        """
        group_of = request.config.stash[GROUPS]
        group_of[without_turn(request.node.nodeid)] = group
        watched = request.config.getoption("--profile-to")
        if watched:
            return watch(function, watched)
        if turn == 0:
            benchmark.disabled = True  # one call, no clock
            return benchmark(function)
        import affekt

        facts = {
            "floor": floor,
            "aim": aim,
            "floor_us": floor_us,
            "aim_us": aim_us,
            "operations": operations,
            "bytes_moved": bytes_moved,
            "working_set": working_set,
            "dtype": dtype if operations else None,
            "within": within,
            "note": note,
        }
        benchmark.group = group
        benchmark.extra_info |= {
            "contender": name,
            "units": units,
            "turn": turn or 1,
            "threads": affekt.get_num_threads(),
            "test": without_turn(request.node.nodeid),
            "facts": {key: value for key, value in facts.items() if value is not None},
        }
        return benchmark(function)

    return run


def watch(function: Callable[[], Any], path: str) -> Any:
    """Call `function` again and again while perf samples this process for two seconds into `path`."""
    function()
    sampler = ["perf", "record", "-q", "-e", "cpu-clock", "-o", path, "-p", str(os.getpid()), "sleep", "2"]
    with subprocess.Popen(sampler) as perf:
        while perf.poll() is None:
            result = function()
    return result


@pytest.fixture
def peer() -> Callable[[str], Any]:
    """Import a peer library, or skip the row with the reason."""

    def load(name: str) -> Any:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} is not installed here: {error}")

    return load


def voice(seconds: float, rate: int = 16000) -> np.ndarray:
    """Return a voice-like test signal, (time,) float32 in [-1, 1]; the same for every contender."""
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.6 * t)) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 15))
    noise = np.random.default_rng(0).standard_normal(t.size)
    return (0.1 * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * t)) * harmonics + 0.003 * noise).astype(np.float32)
