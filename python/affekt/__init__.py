"""affekt: multimodal affect recognition with a C++ core.

Importing this package is cheap and has no side effects; every submodule loads at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from affekt._core import __version__

if TYPE_CHECKING:
    from affekt import cli, data, features, live, losses, metrics, nn, report, systems, training
    from affekt._native import Model, get_include, load
    from affekt._predict import evaluate, predict
    from affekt.errors import (
        AffektError,
        DataError,
        InputError,
        MissingExtraError,
        ModelFileError,
        NotStreamableError,
    )
    from affekt.systems import create, list_systems

_MODULES = {"cli", "data", "errors", "features", "live", "losses", "metrics", "nn", "report", "systems", "training"}
# Public name -> module that defines it.
_NAMES = {
    "AffektError": "affekt.errors",
    "DataError": "affekt.errors",
    "InputError": "affekt.errors",
    "MissingExtraError": "affekt.errors",
    "ModelFileError": "affekt.errors",
    "NotStreamableError": "affekt.errors",
    "Model": "affekt._native",
    "create": "affekt.systems",
    "evaluate": "affekt._predict",
    "get_include": "affekt._native",
    "list_systems": "affekt.systems",
    "load": "affekt._native",
    "predict": "affekt._predict",
}

__all__ = ["__version__", *sorted(_MODULES), *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"affekt.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'affekt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
