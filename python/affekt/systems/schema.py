"""Typed configuration: dataclasses built from nested mappings, with errors a person can act on.

A schema is a tree of dataclasses whose fields have a default each. Field types may be bool, int, float, str,
`list[T]`, `dict[str, T]`, other dataclasses, `Any`, and each of these or None.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from affekt._checks import nearest
from affekt.errors import InputError

__all__ = ["as_dict", "build", "differences"]

T = TypeVar("T")


def build(schema: type[T], values: Mapping[str, Any] | None, where: str = "") -> T:
    """An instance of the dataclass `schema` with `values` over its defaults.

    Parameters
    ----------
    values : nested mapping; a missing key keeps its default.
    where : dotted name of `values` in error messages.

    Raises
    ------
    InputError : a key that the schema does not have (the nearest valid one is named), or a value of another
        type.

    >>> @dataclasses.dataclass
    ... class Demo:
    ...     rate: float = 1.0
    >>> build(Demo, {"rate": 2})
    Demo(rate=2.0)
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise InputError(f"{where or schema.__name__} must be a mapping, got {values!r}")
    hints = typing.get_type_hints(schema)
    fields = {f.name for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    result = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in fields:
            raise InputError(f"unknown key {name!r}: {nearest(str(key), fields, where)}")
        result[key] = _convert(hints[key], value, name)
    return schema(**result)


def as_dict(config: Any) -> dict[str, Any]:
    """The plain nested dict of a built schema, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The values in which two nested mappings differ: dotted name, value in `a`, value in `b`, by name.

    A key that one lacks has the value None there.

    >>> differences({"x": {"y": 1, "z": 2}}, {"x": {"y": 1}})
    [('x.z', 2, None)]
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [
            found
            for key in sorted(a.keys() | b.keys())
            for found in differences(a.get(key), b.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if a == b else [(name, a, b)]


def _convert(hint: Any, value: Any, name: str) -> Any:
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        if value is None:
            if len(options) < len(typing.get_args(hint)):
                return None
            raise InputError(f"{name} must be {_say(hint)}, got None")
        problems = []
        for option in options:
            try:
                return _convert(option, value, name)
            except InputError as error:
                problems.append(error)
        raise problems[0] if len(problems) == 1 else InputError(f"{name} must be {_say(hint)}, got {value!r}")
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, name)
    if origin is list or hint is list:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise InputError(f"{name} must be {_say(hint)}, got {value!r}")
        (item,) = typing.get_args(hint) or (Any,)
        return [_convert(item, v, f"{name}[{i}]") for i, v in enumerate(value)]
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{name} must be a mapping, got {value!r}")
        item = (typing.get_args(hint) or (str, Any))[1]
        return {str(k): _convert(item, v, f"{name}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise InputError(f"{name} must be {_say(hint)}, got {value!r}")


def _say(hint: Any) -> str:
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "null"}
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_say(a) for a in typing.get_args(hint))
    if origin is list:
        return f"a list of {_say(typing.get_args(hint)[0])}"
    return words.get(hint, "a mapping" if dataclasses.is_dataclass(hint) else str(hint))
