"""The exception tree of affekt.

Messages name the argument, what was expected and what came.
"""

from __future__ import annotations

__all__ = [
    "AffektError",
    "DataError",
    "InputError",
    "MissingExtraError",
    "ModelFileError",
    "NotStreamableError",
]


class AffektError(Exception):
    """Base of every error that affekt raises on purpose."""


class InputError(AffektError, ValueError):
    """An argument has the wrong type, shape, range or content."""


class DataError(AffektError, ValueError):
    """A recording, manifest or split cannot be used as it is."""


class ModelFileError(AffektError, ValueError):
    """A model file is truncated, corrupt, foreign, of another schema version, or inconsistent."""


class NotStreamableError(AffektError, ValueError):
    """The configuration cannot run step by step; the message gives the reason."""


class MissingExtraError(AffektError, ImportError):
    """An optional dependency is absent; the message names the `pip install affekt[...]` that brings it."""
