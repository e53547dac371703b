"""The small trained models that ship with affekt, and the licence they come under.

The licence of the code does not cover them: what a model may be used for follows from the recordings it was
trained on, and stands in the LICENSE file of this folder. A build without them is possible
(``AFFEKT_WEIGHTS=OFF``); then every call that would fall back on them asks for a model by name.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from affekt._checks import closest
from affekt.errors import ModelFileError

__all__ = ["ALIAS", "announce_licence", "default_model", "licence", "list_models", "locate"]

ALIAS = "shipped"
"""Stands for the default model wherever a model is named."""

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


def locate(model: str | os.PathLike[str] | None = None) -> tuple[Path, str | None]:
    """The file that `model` means, and the name of the shipped model that it is; None for one of the user.

    Parameters
    ----------
    model : a file, which need not be there; the name of a shipped model (`list_models`), or ``"shipped"`` for
        the default one, where no file is called so; or None for the default one.

    Raises
    ------
    ModelFileError
        `model` is a mere name, neither of a file nor of a shipped model; or this build carries none.
    """
    if model is None:
        return default_model(), _DEFAULT
    word = os.fspath(model)
    path, shipped = Path(word), list_models()
    if path.is_file():
        return path, None
    if word == ALIAS:
        return default_model(), _DEFAULT
    if word in shipped:
        return default_model(word), word
    if shipped and re.fullmatch(r"[\w-]+", word) and not path.exists():
        near = closest(word, [*shipped, ALIAS])
        hint = f"did you mean {near!r}?" if near else f"this build carries {', '.join(shipped)}"
        raise ModelFileError(f"{word}: no such file, and no shipped model is called so; {hint}")
    return path, None


def licence() -> str:
    """Text of the licence that the shipped models come under; empty when this build carries none."""
    path = _FOLDER / "LICENSE"
    return path.read_text(encoding="utf-8").strip() if path.is_file() and list_models() else ""


def announce_licence(model: str, terms: str) -> None:
    """Say on standard error, once per process, under what licence a shipped model comes.

    Parameters
    ----------
    model : its name.
    terms : the licence on its card, which names those of the recordings.
    """
    global _announced
    if not _announced:
        _announced = True
        print(
            f"affekt: the shipped model {model} is for non-commercial research only ({terms}); "
            f"its licence: {_FOLDER / 'LICENSE'}",
            file=sys.stderr,
        )
