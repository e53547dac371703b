"""The small trained models that ship with affekt, and the licence they come under.

The licence of the code does not cover them: what a model may be used for follows from the recordings it was
trained on, and stands in the LICENSE file of this folder. A build without them is possible
(``AFFEKT_WEIGHTS=OFF``); then every call that would fall back on them asks for a model by name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

from affekt.errors import ModelFileError

__all__ = ["announce_licence", "default_model", "licence", "list_models"]

_FOLDER = Path(__file__).parent
_DEFAULT = "speech-small"
_announced = False


def list_models() -> list[str]:
    """Names of the models in this build; empty when it was built without them."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def default_model(name: str = _DEFAULT) -> Path:
    """Path of a shipped model.

    Parameters
    ----------
    name : one of `list_models()`.

    Raises
    ------
    ModelFileError
        This build carries no such model.
    """
    path = _FOLDER / f"{name}.safetensors"
    if path.is_file():
        return path
    shipped = list_models()
    if shipped:
        raise ModelFileError(f"no shipped model is called {name!r}; this build carries {', '.join(shipped)}")
    raise ModelFileError(
        "this build of affekt carries no model (it was built with AFFEKT_WEIGHTS=OFF): "
        "name a model file, e.g. model='my-model.safetensors' or --model my-model.safetensors"
    )


def licence() -> str:
    """Text of the licence that the shipped models come under; empty when this build carries none."""
    path = _FOLDER / "LICENSE"
    return path.read_text(encoding="utf-8").strip() if path.is_file() and list_models() else ""


def announce_licence(stream: TextIO | None = None) -> None:
    """Print the licence of the shipped models, once per process, to `stream` (standard error by default)."""
    global _announced
    if _announced:
        return
    _announced = True
    text = licence()
    if text:
        print(f"affekt uses its shipped model. {text}\n", file=stream or sys.stderr)
