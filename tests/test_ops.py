"""The torch op library: loads, carries its schemas, and runs on the libaffekt of the package."""

from __future__ import annotations

import pytest

import affekt
from affekt import ops

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _loaded():
    if ops.library_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    ops.load_library()


def test_runs_on_the_library_of_the_package():
    assert torch.ops.affekt._version() == affekt.__version__


def test_loading_twice_is_harmless():
    ops.load_library()
    ops.load_library()
    assert str(torch.ops.affekt._version.default._schema) == "affekt::_version() -> str"
