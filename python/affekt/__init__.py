"""affekt: multimodal affect recognition with a C++ core.

Importing this package is cheap and has no side effects; every submodule loads at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from affekt._core import __version__

# For type checkers and editors; `X as X` marks a name as exported.
if TYPE_CHECKING:
    from affekt import cli as cli
    from affekt import data as data
    from affekt import detectors as detectors
    from affekt import errors as errors
    from affekt import features as features
    from affekt import live as live
    from affekt import losses as losses
    from affekt import metrics as metrics
    from affekt import nn as nn
    from affekt import ops as ops
    from affekt import report as report
    from affekt import robustness as robustness
    from affekt import systems as systems
    from affekt import training as training
    from affekt._cost import cost as cost
    from affekt._ensemble import ensemble as ensemble
    from affekt._native import Model as Model
    from affekt._native import get_cmake_dir as get_cmake_dir
    from affekt._native import get_include as get_include
    from affekt._native import get_num_threads as get_num_threads
    from affekt._native import isa as isa
    from affekt._native import load as load
    from affekt._native import set_num_threads as set_num_threads
    from affekt._onnx import export_onnx as export_onnx
    from affekt._predict import enrol as enrol
    from affekt._predict import evaluate as evaluate
    from affekt._predict import predict as predict
    from affekt._profile import Profile as Profile
    from affekt._quantise import quantise as quantise
    from affekt.errors import AffektError as AffektError
    from affekt.errors import DataError as DataError
    from affekt.errors import InputError as InputError
    from affekt.errors import MissingExtraError as MissingExtraError
    from affekt.errors import ModelFileError as ModelFileError
    from affekt.errors import NotStreamableError as NotStreamableError
    from affekt.systems import create as create
    from affekt.systems import list_systems as list_systems

# Public submodules.
_MODULES = {
    "cli",
    "data",
    "detectors",
    "errors",
    "features",
    "live",
    "losses",
    "metrics",
    "nn",
    "ops",
    "report",
    "robustness",
    "systems",
    "training",
}
# Public name -> module that defines it.
_NAMES = {
    "AffektError": "affekt.errors",
    "DataError": "affekt.errors",
    "InputError": "affekt.errors",
    "MissingExtraError": "affekt.errors",
    "ModelFileError": "affekt.errors",
    "NotStreamableError": "affekt.errors",
    "Model": "affekt._native",
    "Profile": "affekt._profile",
    "cost": "affekt._cost",
    "create": "affekt.systems",
    "enrol": "affekt._predict",
    "ensemble": "affekt._ensemble",
    "evaluate": "affekt._predict",
    "export_onnx": "affekt._onnx",
    "get_cmake_dir": "affekt._native",
    "get_include": "affekt._native",
    "get_num_threads": "affekt._native",
    "isa": "affekt._native",
    "list_systems": "affekt.systems",
    "load": "affekt._native",
    "predict": "affekt._predict",
    "quantise": "affekt._quantise",
    "set_num_threads": "affekt._native",
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
