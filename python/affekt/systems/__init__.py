"""Systems: complete models by name, from feature rows to named affect estimates.

`create` builds one, `export` writes it to the model file that the native core runs, `restore` reads it back.
A system knows nothing of corpora or of the training loop.
"""

# ruff: noqa: E402
from affekt._lazy import require

require("torch", purpose="affekt.systems")

from affekt.systems.base import (
    Head,
    System,
    create,
    export,
    get,
    initialise,
    list_systems,
    merge,
    register,
    restore,
    source_of,
)
from affekt.systems.cer import Cer
from affekt.systems.lfan import Lfan
from affekt.systems.speech import Speech
from affekt.systems.traced import TracedSystem

__all__ = [
    "Cer",
    "Head",
    "Lfan",
    "Speech",
    "System",
    "TracedSystem",
    "create",
    "export",
    "get",
    "initialise",
    "list_systems",
    "merge",
    "register",
    "restore",
    "source_of",
]
