"""The stub `_core.pyi` names what the binary module has; `make check` compares the signatures too."""

from __future__ import annotations

import ast
from pathlib import Path

from affekt import _core

STUB = Path(__file__).resolve().parents[1] / "python/affekt/_core.pyi"


def public(names) -> set[str]:
    """Return the names without a leading underscore."""
    return {name for name in names if not name.startswith("_")}


def declared(body: list[ast.stmt]) -> set[str]:
    """Return the public names that a module or class body of the stub declares."""
    names = {n.name for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    names |= {n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return public(names)


def test_stub_names_what_the_module_has():
    stub = ast.parse(STUB.read_text(encoding="utf-8"))
    assert declared(stub.body) == public(dir(_core)) != set()
    for node in stub.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            members = vars(getattr(_core, node.name))
            assert declared(node.body) == public(members), node.name
