"""The rooms of the package: nobody imports upward, the base install stays light, an import does nothing else.

ARCHITECTURE.md shows the same map as a picture.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import affekt

PACKAGE = Path(affekt.__file__).parent

# Room -> the rooms it may import. A room is a top-level module or subpackage of affekt.
LEAVES = {"errors", "_lazy", "_checks"}
_CORE_USERS = {"_core", *LEAVES}
_LIVE = {"features", "ops", "_native", "_profile", "detectors", *_CORE_USERS}
_BLOCKS = {"features", "ops", "metrics", *_CORE_USERS}
_SYSTEMS = {"nn", "losses", "data", "modelfile", "_native", *_BLOCKS}
_TRAINING = {"systems", "weights", "_cost", "_predict", "_scores", "live", *_SYSTEMS}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "_core": set(),
    "_lazy": {"errors"},
    "_checks": {"errors", "_lazy"},
    "metrics": LEAVES,
    "modelfile": LEAVES,
    "weights": LEAVES,
    "_profile": LEAVES,
    "detectors": LEAVES,
    "_rtc": _CORE_USERS,
    "cupy": {"_rtc", "features", *_CORE_USERS},
    "_native": {"_profile", "detectors", "weights", *_CORE_USERS},
    "_quantise": {"_native", "modelfile", *LEAVES},
    "_onnx": {"_native", *_CORE_USERS},
    "_cost": {"_native", "features", *LEAVES},
    "_ensemble": {"_native", "modelfile", *LEAVES},
    "ops": _CORE_USERS,
    "features": {"ops", *_CORE_USERS},
    "live": {"data", *_LIVE},
    "data": {"_native", *_BLOCKS},
    "nn": _BLOCKS,
    "losses": _BLOCKS,
    "systems": _SYSTEMS,
    "training": _TRAINING,
    "_scores": {"data", "metrics", *LEAVES},
    "_predict": {"_scores", "live", "data", "weights", "metrics", *_LIVE},
    "robustness": {"_predict", "_scores", "data", *_LIVE},
    "report": {"robustness", "training", "_predict", "weights", *_TRAINING},
    "cli": {
        "robustness",
        "report",
        "training",
        "_predict",
        "_quantise",
        "_ensemble",
        "live",
        "weights",
        *_TRAINING,
    },
    "_demo": {"report", "_predict", "live", "weights", "data", *_LIVE},
    "__main__": {"cli"},
}

# Rooms that never load torch, not even lazily: they run on a robot.
TORCH_FREE = {
    "_rtc",
    "cupy",
    "detectors",
    "live",
    "_native",
    "_profile",
    "_predict",
    "_scores",
    "robustness",
    "_quantise",
    "_cost",
    "_ensemble",
    "_onnx",
    "weights",
    "modelfile",
    "metrics",
    "_checks",
    "errors",
}
# Rooms that are torch code: they may import it at the top. So may the parts of ops, loaded by its root.
TORCH_ROOMS = {"nn", "losses", "systems", "training"}
# What the base install brings besides the standard library.
BASE = {"numpy", "affekt"}
# Rooms that are about another package, which they load at once.
ABOUT = {"cupy": {"cupy"}}


def room_of(module: str) -> str:
    """Return the room of a dotted module name: 'affekt.data.audio' -> 'data'."""
    return module.split(".")[1]


def is_torch_code(module: str) -> bool:
    """Tell whether a module may import torch at the top."""
    return room_of(module) in TORCH_ROOMS or module.startswith("affekt.ops.")


def imports_of(source: str, module: str, *, is_package: bool = False) -> list[tuple[str, bool, int]]:
    """Return the imports in `source` as (dotted name, at module level, line).

    Lazy ones count too: inside functions, `require("x.y")`, `importlib.import_module("x.y")`, and imports for
    type checkers alone.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    found: list[tuple[str, bool, int]] = []

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, top, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from affekt import data` names a module; for `from affekt.data import x` the room is enough.
            found.extend(
                (f"{name}.{a.name}" if name == "affekt" else name, top, node.lineno) for a in node.names
            )
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            callee = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            )
            if callee in {"require", "import_module"} and isinstance(node.args[0].value, str):
                found.append((node.args[0].value, top, node.lineno))
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, top and not function and not typing_only)

    visit(ast.parse(source), True)
    return found


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return each import of `source` that the map does not allow."""
    room = room_of(module)
    if room not in ALLOWED:
        return [f"{module}: the room {room!r} is not on the map; add it to ALLOWED and to ARCHITECTURE.md"]
    bad = []
    for name, top, line in imports_of(source, module, is_package=is_package):
        parts = name.split(".")
        if parts[0] == "affekt" and len(parts) > 1:
            target = parts[1]
            if target.startswith("__version__") or target == room:
                continue
            if target not in ALLOWED[room]:
                bad.append(f"{module}:{line}: {room} may not import {target}")
        elif parts[0] in {"torch", "pytorch_lightning", "lightning"}:
            if room in TORCH_FREE:
                bad.append(f"{module}:{line}: {room} may never import {parts[0]}")
            elif parts[0] != "torch" and room != "training":
                bad.append(f"{module}:{line}: {parts[0]} lives in training only")
            elif top and not is_torch_code(module):
                bad.append(
                    f"{module}:{line}: {room} may import torch inside functions only, through require()"
                )
        elif parts[0] in ABOUT.get(room, ()):
            continue
        elif top and parts[0] not in BASE | set(sys.stdlib_module_names) and not is_torch_code(module):
            bad.append(
                f"{module}:{line}: {parts[0]} is outside the base install: use require() in a function"
            )
    return bad


def modules() -> list[tuple[str, Path]]:
    """Return every Python module of the package with its file."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), [m for m in modules() if m[0] != "affekt"], ids=lambda v: str(v))
def test_imports_point_down(module, path):
    found = violations(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_map_has_no_cycle():
    done: set[str] = set()
    remaining = dict(ALLOWED)
    while remaining:
        free = [room for room, below in remaining.items() if below <= done]
        assert free, f"these rooms import each other in a circle: {sorted(remaining)}"
        done.update(free)
        for room in free:
            del remaining[room]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("affekt.nn.tcn", "from affekt.systems import create"),
        ("affekt.nn.tcn", "def f():\n    from affekt import training"),
        ("affekt.live.engine", "import torch"),
        ("affekt.live.engine", "def f():\n    return require('torch', purpose='x')"),
        ("affekt._predict", "def f():\n    importlib.import_module('affekt.systems')"),
        ("affekt.losses.ccc", "if TYPE_CHECKING:\n    from affekt.data import Manifest"),
        ("affekt.features.mel", "from ..systems import speech"),
        ("affekt.systems.speech", "import pytorch_lightning as pl"),
        ("affekt.data.audio", "import soundfile"),
        ("affekt.cli", "import pandas as pd"),
        ("affekt.newroom", "import math"),
    ],
)
def test_an_upward_import_is_found(module, source):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("affekt.systems.speech", "import torch\nfrom affekt.nn import TCN\nfrom affekt import features"),
        ("affekt.data.audio", "import numpy as np\ndef f():\n    sf = require('soundfile', purpose='audio')"),
        ("affekt.features.mel", "from . import presets\nfrom affekt import _core"),
        ("affekt.training.loop", "import pytorch_lightning\nfrom affekt import systems"),
    ],
)
def test_a_downward_import_is_allowed(module, source):
    assert violations(source, module) == []


def run_python(code: str) -> str:
    """Run `code` in a fresh interpreter that turns warnings into errors; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_import_loads_nothing_heavy():
    loaded = run_python(
        "import sys; import affekt; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    extra = set(loaded.split()) - set(sys.stdlib_module_names) - {"affekt", "numpy", "__main__"}
    # An editable install leaves the modules of its import hook behind.
    extra = {name for name in extra if not name.startswith(("_affekt_editable", "_editable", "__editable"))}
    extra -= {"_distutils_hack", "sitecustomize", "usercustomize", "_virtualenv"}
    assert not extra, f"import affekt also loads {sorted(extra)}"


def test_import_has_no_side_effects():
    out = run_python(
        """
import locale, logging, os, random, signal, sys, threading, warnings
def state():
    return {
        "environment": dict(os.environ),
        "threads": len(os.listdir("/proc/self/task")) if os.path.isdir("/proc") else threading.active_count(),
        "warning filters": list(warnings.filters),
        "log handlers": list(logging.getLogger().handlers),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGFPE)],
        "locale": locale.setlocale(locale.LC_ALL),
        "random": random.getstate(),
        "numpy random": str(numpy.random.get_state()),
        "numpy errors": numpy.geterr(),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "hooks": (sys.excepthook, sys.displayhook),
    }
import numpy, numpy.random
before = state()
import affekt
after = state()
print([name for name in before if before[name] != after[name]])
"""
    )
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [m for m, _ in modules() if m != "affekt" and not is_torch_code(m) and room_of(m) not in ABOUT],
)
def test_base_install_can_import(module):
    run_python(
        f"""
import sys
heavy = "torch pandas soundfile soxr scipy sklearn matplotlib omegaconf safetensors pyarrow pytorch_lightning"
for package in heavy.split():
    sys.modules[package] = None  # as if it were not installed
import {module}
"""
    )
