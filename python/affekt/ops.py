"""The native kernels as torch custom ops, `torch.ops.affekt.*`.

The ops live in a shared library of their own that is built on request (``AFFEKT_TORCH=ON``) and loads into
any torch from 2.10 on.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from affekt import _core
from affekt._lazy import require
from affekt.errors import AffektError

__all__ = ["library_path", "load_library"]


def library_path() -> Path | None:
    """Path of the op library, or None in a build without it."""
    path = Path(_core.__file__).with_name("libaffekt_ops.so")
    return path if path.exists() else None


@cache
def load_library() -> None:
    """Register `torch.ops.affekt.*` with torch; a second call does nothing.

    Raises
    ------
    MissingExtraError : torch is not installed.
    AffektError : affekt was built without the op library, or torch refuses it.
    """
    torch = require("torch", purpose="the torch ops")
    path = library_path()
    if path is None:
        raise AffektError(
            "this build of affekt has no torch ops: build it with AFFEKT_TORCH=ON in the environment"
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise AffektError(f"torch {torch.__version__} cannot load {path}: {error}") from error

    @torch.library.register_fake("affekt::_frontend")
    def _(signal: Any, options: str) -> Any:
        plan = _core.FrontEnd(options)
        return signal.new_empty((*signal.shape[:-1], plan.frames(int(signal.shape[-1])), plan.features))
