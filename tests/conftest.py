"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sounds import tone

# Small arrays on few cores: more threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

THOROUGH = 10  # times the examples, in the profile of that name


def pytest_configure() -> None:
    try:
        from hypothesis import settings
    except ImportError:
        return
    # Derandomised, so that a run of the same commit gives the same result; no deadline, machines differ.
    settings.register_profile("affekt", deadline=None, derandomize=True, max_examples=50, print_blob=True)
    # For `make check`: see pytest_collection_modifyitems.
    settings.register_profile("thorough", settings.get_profile("affekt"), derandomize=False)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "affekt"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the profile "thorough" only property tests run, with many times the examples that they ask for."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "thorough":
        return
    from hypothesis import is_hypothesis_test, settings

    items[:] = [item for item in items if is_hypothesis_test(getattr(item, "obj", None))]
    tests = {item.obj.__func__ if hasattr(item.obj, "__func__") else item.obj for item in items}
    for test in tests:
        own = test._hypothesis_internal_use_settings  # what @settings left; Hypothesis has no public reader
        test._hypothesis_internal_use_settings = settings(own, max_examples=THOROUGH * own.max_examples)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real corpora: $AFFEKT_DATA, else ../shared/data beside the repository."""
    named = os.environ.get("AFFEKT_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        lacking = pytest.fail if os.environ.get("AFFEKT_REQUIRE_DATA") else pytest.skip
        lacking(f"no real data at {folder} (set AFFEKT_DATA)")
    return folder


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where AFFEKT_REQUIRE_DATA is set, a test on real data that skips is a failure."""
    outcome = yield
    report = outcome.get_result()
    if (
        report.skipped
        and os.environ.get("AFFEKT_REQUIRE_DATA")
        and "data_dir" in getattr(item, "fixturenames", ())
    ):
        report.outcome = "failed"
        report.longrepr = f"AFFEKT_REQUIRE_DATA is set, but the test skipped: {report.longrepr}"


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20240229)


@pytest.fixture(params=["native", "plain torch"])
def native_or_plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test on the torch ops and on their plain-torch twins."""
    from affekt import ops

    if request.param == "plain torch":
        monkeypatch.setattr(ops, "available", lambda: False)
    elif ops.binary_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    return str(request.param)


@pytest.fixture
def write_wav(tmp_path: Path) -> Callable[..., Path]:
    """Write samples ``(time,)`` or ``(time, channels)`` to a file below tmp_path and return its path."""
    soundfile = pytest.importorskip("soundfile")

    def write(
        name: str, samples: np.ndarray | None = None, sample_rate: int = 16000, subtype: str | None = None
    ) -> Path:
        if samples is None:
            samples = tone(0.25, sample_rate)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, sample_rate, subtype=subtype)
        return path

    return write
