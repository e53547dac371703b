"""Several models as one file whose estimates are the mean of theirs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from affekt._native import MAX_INPUTS, Model, as_model
from affekt.errors import InputError, ModelFileError
from affekt.modelfile import canonical_json, members_of, model_bytes, names_of, provenance, write_model

__all__ = ["ensemble"]


def ensemble(
    models: Iterable[Model | str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    info: Mapping[str, Any] | None = None,
) -> Path:
    """Write one model file whose estimates are the mean of those of several models.

    y = 1/M sum_m y_m for every column, probabilities included (a linear opinion pool: Lakshminarayanan et
    al. 2017, arXiv:1612.01474). Nodes that are the same in several members, by type, options, inputs and
    tensors, are kept once, so members with the same front end and statistics share its work. What each member
    learns of a speaker stays its own; a profile of the ensemble holds it all.

    Parameters
    ----------
    models : 2 to 16 different models, their files or names of shipped ones, with the same inputs, outputs,
        timing and validity. int8 weights become float32 again; `affekt.quantise` takes the ensemble.
    out : target, customarily ``*.safetensors``.
    name : on the card; by default that of the first model with ``-ensemble``.
    info : for the card. What all members say alike stands there beside it, the licences and data of all of
        them are added to those in `info`, and ``info.members`` names each: name, version, ``affekt.sha256``,
        data, licence.

    Returns
    -------
    Path : the file written.

    Raises
    ------
    InputError : there are too few or too many models, or one twice; one is an ensemble itself; they differ in
        inputs, outputs, timing or in what makes an estimate valid; together they exceed the limits of a model
        file (docs/model_file.md).
    ModelFileError : a model cannot be read.
    OSError : the file cannot be written.

    Examples
    --------
    >>> affekt.ensemble(["seed_0.safetensors", "seed_1.safetensors"], "both.safetensors")  # doctest: +SKIP
    """
    if info is not None and not isinstance(info, Mapping):
        raise InputError(f"info: expected a mapping for the card or None, got {type(info).__name__}")
    members = _opened(models)
    for member in members[1:]:
        _must_agree(members[0], member)
    nodes, tensors, places = _merged(members)
    first = members[0].card
    card: dict[str, Any] = {
        "name": name or f"{first['name']}-ensemble",
        "version": "1",
        "inputs": first["inputs"],
        "outputs": [],
        "latency": members[0].timing,
        "info": _joint_info(members, dict(info or {})),
    }
    for i, output in enumerate(first["outputs"]):
        means = [place[m.card["outputs"][i]["node"]] for m, place in zip(members, places, strict=True)]
        node = f"mean_{output['name']}"
        nodes.append({"name": node, "type": "average", "inputs": means, "options": {}})
        card["outputs"].append({**output, "node": node})
    if "validity" in first:
        card["validity"] = {**first["validity"], "node": _shared_validity(members, places)}
    card["nodes"] = nodes
    try:
        Model.from_bytes(model_bytes(card, tensors))
    except ModelFileError as error:
        raise InputError(f"models: together they are no model that can be run: {error}") from error
    return write_model(out, card, tensors)


def _opened(models: Any) -> list[Model]:
    """The members, loaded."""
    if isinstance(models, str | os.PathLike | Model) or not isinstance(models, Iterable):
        raise InputError(f"models: expected 2 to {MAX_INPUTS} models, got {type(models).__name__}")
    members = [as_model(model, "models") for model in models]
    if not 2 <= len(members) <= MAX_INPUTS:
        raise InputError(f"models: expected 2 to {MAX_INPUTS}, got {len(members)}")
    seen: dict[str, Model] = {}
    for member in members:
        if member.hash in seen:
            raise InputError(
                f"models: expected different ones, but {_title(member)} is the same as "
                f"{_title(seen[member.hash])}"
            )
        seen[member.hash] = member
        if inner := members_of(member.card):
            raise InputError(
                f"models: {_title(member)} is an ensemble itself; give its members instead: "
                f"{', '.join(inner)}"
            )
    return members


def _title(model: Model) -> str:
    """A model as the user named it; members of one run have the same name on the card."""
    return repr(model.name) if model.path is None else str(model.path)


def _contract(model: Model) -> dict[str, Any]:
    """What members must have in common, by what to call it."""
    inputs, outputs = model.card["inputs"], model.card["outputs"]
    return {
        "the names of inputs": [entry["name"] for entry in inputs],
        **{f"{key} of input {e['name']!r}": value for e in inputs for key, value in e.items()},
        "the names of outputs": [entry["name"] for entry in outputs],
        **{
            f"{key} of output {e['name']!r}": e.get(key)
            for e in outputs
            for key in ("kind", "labels", "range")
        },
        **model.timing,
        "the least validity": model.card.get("validity", {}).get("least"),
    }


def _must_agree(first: Model, other: Model) -> None:
    """`InputError` for the first difference in what an ensemble's members must have in common."""
    theirs = _contract(other)
    for what, value in _contract(first).items():
        if theirs.get(what) != value:
            raise InputError(
                f"models: {_title(other)} differs from {_title(first)} in {what}: expected {value!r}, got "
                f"{theirs.get(what)!r}"
            )


def _merged(
    members: Sequence[Model],
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], list[dict[str, str]]]:
    """The nodes of all members, inputs first and every one once; their tensors; and per member where each of
    its nodes went."""
    nodes: list[dict[str, Any]] = []
    tensors: dict[str, np.ndarray] = {}
    places: list[dict[str, str]] = []
    known: dict[Any, str] = {}
    for number, member in enumerate(members, 1):
        own: dict[str, dict[str, np.ndarray]] = {node["name"]: {} for node in member.card["nodes"]}
        for key, value in member.tensors().items():
            node_name, _, parameter = key.partition(".")
            own[node_name][parameter] = value
        place = {entry["name"]: entry["name"] for entry in member.card["inputs"]}
        for node in _inputs_first(member):
            inputs = [place[source] for source in node["inputs"]]
            weights = own[node["name"]]
            same = (
                node["type"],
                canonical_json(node["options"]),
                tuple(inputs),
                tuple((p, weights[p].shape, weights[p].tobytes()) for p in sorted(weights)),
            )
            if same not in known:
                known[same] = f"m{number}_{node['name']}"
                nodes.append({**node, "name": known[same], "inputs": inputs})
                tensors |= {f"{known[same]}.{p}": value for p, value in weights.items()}
            place[node["name"]] = known[same]
        places.append(place)
    return nodes, tensors, places


def _inputs_first(model: Model) -> list[dict[str, Any]]:
    """The nodes of a card, which may stand in any order, each behind its inputs."""
    ready = {entry["name"] for entry in model.card["inputs"]}
    waiting, ordered = list(model.card["nodes"]), []
    while waiting:  # ends: the core has refused cycles
        node = next(n for n in waiting if ready.issuperset(n["inputs"]))
        waiting.remove(node)
        ready.add(node["name"])
        ordered.append(node)
    return ordered


def _shared_validity(members: Sequence[Model], places: Sequence[Mapping[str, str]]) -> str:
    """The node that says what is valid for all members; `InputError` where they have different ones."""
    wanted = places[0][members[0].card["validity"]["node"]]
    for member, place in zip(members[1:], places[1:], strict=True):
        node = member.card["validity"]["node"]
        if place[node] == wanted:
            continue
        cards = {entry["name"]: entry for entry in member.card["nodes"]}
        shared = {*places[0].values()}
        while own := [s for s in cards[node]["inputs"] if place[s] not in shared]:
            node = own[0]  # towards the input, to where the two part
        raise InputError(
            f"models: {_title(member)} and {_title(members[0])} tell differently which estimates are valid: "
            f"node {node!r} has no equal with the same options, inputs and tensors"
        )
    return wanted


def _joint_info(members: Sequence[Model], info: dict[str, Any]) -> dict[str, Any]:
    """`info`, what all members say alike, and where they come from; their licences and data all bind."""
    said = [member.card.get("info", {}) for member in members]
    alike = {key: value for key, value in said[0].items() if all(s.get(key) == value for s in said)}
    entries = [provenance(member.card, member.hash) for member in members]
    licences = [str(info["licence"])] if info.get("licence") else []
    licences += [entry["licence"] for entry in entries]
    data = [*names_of(info.get("data")), *(source for entry in entries for source in entry["data"])]
    return {
        **alike,
        **info,
        "licence": "; ".join(dict.fromkeys(licences)),
        **({"data": list(dict.fromkeys(data))} if data else {}),
        "members": entries,
    }
