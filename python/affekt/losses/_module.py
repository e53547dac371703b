"""The module twin of a loss: its options, kept and shown."""

from __future__ import annotations

from typing import Any

from torch import nn

from affekt import ops


class LossModule(nn.Module):
    """Keeps the options of a loss function as attributes, and shows them.

    `torch.jit.script` takes the twins of the losses that are ops of this library; it needs the op library, as
    does the program that loads the script: see `affekt.ops`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        for name, value in options.items():
            setattr(self, name, value)
        self._names = list(options)
        ops.available()  # registers the op that a script refers to

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self._options().items())
