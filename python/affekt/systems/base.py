"""What every system offers, the registry, and the way to and from the model file."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from affekt._checks import nearest
from affekt.errors import InputError, ModelFileError
from affekt.modelfile import NEWEST_SCHEMA, members_of, names_of, provenance, write_model
from affekt.systems.schema import as_dict, build

__all__ = [
    "Head",
    "System",
    "create",
    "export",
    "get",
    "initialise",
    "list_systems",
    "register",
    "restore",
    "source_of",
]

AFFECT = ("valence", "arousal", "dominance")
_REGISTRY: dict[str, type[System]] = {}
# Options of nodes that may differ from those of the model whose weights a system starts from.
_FREE_OPTIONS = {"pool": {"window", "half_life", "hop"}}


@dataclass
class Head:
    """One output of a system.

    `labels` names its columns. `kind` is ``"continuous"`` (values in [-1, 1], CCC loss) or ``"categorical"``
    (class probabilities, cross-entropy); by default continuous where every label is one of valence, arousal,
    dominance. `weight` scales its loss. For classes: `balance` weighs them by inverse frequency in training,
    `smoothing` is label smoothing.
    """

    labels: list[str] = field(default_factory=list)
    kind: str | None = None
    weight: float = 1.0
    balance: bool = False
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise InputError(f"a head's labels must be distinct names, at least one, got {self.labels}")
        if self.kind is None:
            self.kind = "continuous" if set(self.labels) <= set(AFFECT) else "categorical"
        if self.kind not in ("continuous", "categorical"):
            raise InputError(f"a head's kind must be continuous or categorical, got {self.kind!r}")
        if self.kind == "categorical" and len(self.labels) < 2:
            raise InputError(f"a categorical head needs at least two labels, got {self.labels}")
        if not 0 <= self.smoothing < 1:
            raise InputError(f"smoothing must lie in [0, 1), got {self.smoothing}")
        if self.weight < 0:
            raise InputError(f"weight must not be negative, got {self.weight}")

    @property
    def columns(self) -> list[str]:
        """Names of the head's columns in result tables."""
        return [f"p_{label}" for label in self.labels] if self.kind == "categorical" else list(self.labels)


class System(nn.Module):
    """Base of all systems: an `nn.Module` that also knows its loss, its columns and its node graph.

    A subclass sets `Config` (a dataclass, the schema of its configuration) and `presets`, and defines what is
    abstract here.
    """

    Config: ClassVar[type]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    system_name: ClassVar[str] = ""
    initial: dict[str, Any] | None = None
    """Provenance of the model whose weights this one started from (see `initialise`); None for none."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.temperatures: dict[str, float] = {}
        self._class_weights: dict[str, Tensor] = {}

    @property
    def heads(self) -> dict[str, Head]:
        """The outputs by name, in order."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        """Names of all output columns, head after head, as in result tables."""
        return [column for head in self.heads.values() for column in head.columns]

    @property
    def adapts(self) -> bool:
        """Whether it learns how its speaker sounds, and wants several recordings of each in a batch."""
        return False

    @property
    def min_rows(self) -> int:
        """Feature rows that a recording needs for an estimate."""
        return 1

    def out_rows(self, rows: int) -> int:
        """Output steps of a recording of `rows` feature rows, for a system that answers per step."""
        return rows

    @property
    def traced(self) -> bool:
        """Whether it learns from the label traces of trials (`affekt.data.Trials`), one estimate per step;
        such a system is a `affekt.systems.TracedSystem`."""
        return False

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that learn only once they are released (`training.release`); by default none."""
        return iter(())

    def release_groups(self) -> dict[str, list[nn.Parameter]]:
        """Groups of `backbone_parameters` by name, in the order in which they are customarily released."""
        return {}

    def clock(self) -> dict[str, float] | None:
        """The card's `clock`, for a model of several inputs; None for none."""
        return None

    def front_end(self) -> Any:
        """The feature extractor: called on a signal, gives the rows that the system takes."""
        raise NotImplementedError

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Training loss: ``"loss"``, and one entry per head that had labels in the batch."""
        raise NotImplementedError

    def set_statistics(self, mean: Any, sd: Any) -> None:
        """Per-feature mean and standard deviation of the training part's rows."""
        raise NotImplementedError

    def set_class_weights(self, head: str, weights: Any) -> None:
        """Weights of a categorical head's classes in its loss (not stored in the model).

        Raises
        ------
        InputError : no such head, or not one weight per class.
        """
        value = torch.as_tensor(weights, dtype=torch.float32)
        if head not in self.heads or value.shape != (len(self.heads[head].labels),):
            raise InputError(
                f"weights of head {head!r} must be one number per class, got {tuple(value.shape)}"
            )
        self._class_weights[head] = value

    def set_temperature(self, head: str, temperature: float) -> None:
        """Let the probabilities of a categorical head be softmax(logits / temperature), here and in the model
        file; 1 until then. Training and its loss do not know of it.

        Raises
        ------
        InputError : no such categorical head, or a temperature that is not positive.
        """
        if head not in self.heads or self.heads[head].kind != "categorical":
            raise InputError(f"head must be a categorical one, got {head!r}")
        if not (np.isfinite(temperature) and temperature > 0):
            raise InputError(f"temperature must be positive, got {temperature}")
        self.temperatures[head] = float(temperature)

    def probabilities(self, head: str, logits: Tensor) -> Tensor:
        """softmax(logits / temperature) over the last axis, for a categorical head."""
        return (logits / self.temperatures.get(head, 1.0)).softmax(-1)

    def estimates(self, features: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Every estimate that the native core emits for one recording: times (n,) and values (n, columns)."""
        raise NotImplementedError

    def inputs(self) -> list[dict[str, Any]]:
        """The card's inputs."""
        raise NotImplementedError

    def graph(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """The card's nodes and their tensors."""
        raise NotImplementedError

    def outputs(self) -> list[dict[str, Any]]:
        """The card's outputs."""
        raise NotImplementedError

    def latency(self) -> dict[str, float]:
        """The card's declared latency, seconds."""
        raise NotImplementedError

    def validity(self) -> dict[str, Any] | None:
        """The card's `validity`: the node that tells valid estimates from guesses, if there is one."""
        return None

    def settle(self, features: Sequence[np.ndarray], neutral: Sequence[int] = ()) -> None:
        """Fit what gradients leave open, on the training part's feature rows; by default nothing.

        neutral : places of recordings labelled neutral, if any.
        """

    def check_settling(self, features: Sequence[np.ndarray]) -> None:
        """Raise before the training what `settle` would raise after it; by default nothing.

        Raises
        ------
        InputError : the training part's recordings cannot settle the system.
        """

    def load_graph(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take the tensors that `graph` gives."""
        raise NotImplementedError

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Per-feature mean and standard deviation in use; what `set_statistics` was given."""
        raise NotImplementedError

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters outside the heads."""
        raise NotImplementedError

    def start_from(self, other: System) -> dict[str, str]:
        """Take the weights and statistics of another system of this class and encoder, and those of its heads
        that have the same labels; returns own head -> head of the other that it was taken from."""
        raise NotImplementedError


def register(name: str) -> Callable[[type[System]], type[System]]:
    """Class decorator: make a system available as `create(name)`."""

    def add(cls: type[System]) -> type[System]:
        if name in _REGISTRY and _REGISTRY[name] is not cls:
            raise InputError(f"a system named {name!r} is registered already: {_REGISTRY[name].__name__}")
        cls.system_name = name
        _REGISTRY[name] = cls
        return cls

    return add


def list_systems(pattern: str = "*") -> list[str]:
    """Names of the registered systems that match a shell-style pattern."""
    return sorted(fnmatch.filter(_REGISTRY, pattern))


def get(name: str) -> type[System]:
    """The system class registered under `name`."""
    if name not in _REGISTRY:
        raise InputError(f"unknown system {name!r}: {nearest(name, _REGISTRY)}")
    return _REGISTRY[name]


def create(name: str, *, preset: str | None = None, **config: Any) -> System:
    """A new, untrained system.

    Parameters
    ----------
    name : one of `list_systems()`.
    preset : start from the system's preset of that name.
    config : values over the preset; nested mappings merge key by key.

    Raises
    ------
    InputError : unknown name, preset or key (the nearest valid one is named), or a value out of range.
    """
    cls = get(name)
    if preset is not None:
        if preset not in cls.presets:
            raise InputError(f"unknown preset {preset!r} of {name}: {nearest(preset, cls.presets)}")
        config = merge(cls.presets[preset], config)
    return cls(build(cls.Config, config, name))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged key by key, `over` winning."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def export(
    system: System,
    path: str | Path,
    info: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    version: str = "1",
) -> Path:
    """Write a system to a model file, the one that `affekt.load` and the C++ core run.

    Where the system started from another model (`initialise`), the card names it under ``initial_model``, and
    the licence and data of that model are added to those in `info`: they bind what was made from it too.

    Parameters
    ----------
    path : target, customarily ``*.safetensors``.
    info : licence, data, intended use, metrics and the like for the card; strings, numbers, lists, mappings.
    name, version : identity on the card; the name defaults to the system's.

    Raises
    ------
    NotStreamableError : the front end cannot run step by step.
    InputError : a weight is not finite.
    """
    nodes, tensors = system.graph()
    card: dict[str, Any] = {
        "name": name or system.system_name,
        "version": version,
        "inputs": system.inputs(),
        "nodes": nodes,
        "outputs": system.outputs(),
        "latency": system.latency(),
        "system": {"name": system.system_name, "config": as_dict(system.config)},
        "info": _with_initial(dict(info or {}), system.initial),
    }
    if (validity := system.validity()) is not None:
        card["validity"] = validity
    if (clock := system.clock()) is not None:
        card |= {"schema": NEWEST_SCHEMA, "clock": clock}
    return write_model(path, card, tensors)


def restore(path: str | Path) -> System:
    """The torch system that a model file was exported from, in evaluation mode.

    Its outputs equal the exported system's, and exporting it again gives the same file. Weight norm stays
    folded. No code is loaded from the file.

    Raises
    ------
    ModelFileError : the file is damaged, or names a system that is not registered or another configuration.
    """
    from affekt._native import load

    model = load(path)
    try:
        name, config = source_of(model.card)
        system = create(name, **config)
        system.load_graph(model.tensors())
        nodes = {node["name"]: node["options"] for node in model.card["nodes"]}
        for output in model.card["outputs"]:
            if output["kind"] == "categorical":
                system.set_temperature(output["name"], nodes[output["node"]].get("temperature", 1.0))
    except (InputError, KeyError, TypeError, RuntimeError) as error:
        raise ModelFileError(f"{path}: the torch system cannot be restored: {error}") from error
    system.initial = model.card.get("info", {}).get("initial_model")
    return system.eval()


def source_of(card: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and configuration of the system that a model card was written from, heads in their order.

    Raises
    ------
    ModelFileError : the card names no system; it was not written by `export`, or is that of an ensemble.
    """
    if members := members_of(card):
        raise ModelFileError(
            f"the model {card.get('name', '')!r} is an ensemble, which is no torch system; take one of its "
            f"members: {', '.join(members)}"
        )
    try:
        name, config = str(card["system"]["name"]), dict(card["system"]["config"])
        # The card's JSON sorts its keys; outputs keep the order of the heads, inputs that of the signals.
        config["heads"] = {output["name"]: config["heads"][output["name"]] for output in card["outputs"]}
        if "modalities" in config:
            own = config["modalities"]
            config["modalities"] = {given["name"]: own[given["name"]] for given in card["inputs"]}
    except (KeyError, TypeError) as error:
        raise ModelFileError(
            f"the model {card.get('name', '')!r} does not say which system it was trained as ({error!r})"
        ) from error
    return name, config


def initialise(system: System, path: str | Path) -> dict[str, str]:
    """Start `system` from the weights and statistics of a model file instead of random ones.

    Everything before the heads is taken, and every head that has the same kind and labels as one of the
    file's, in whatever order; the other heads stay as they are. ``system.initial`` then holds the file's
    name, version, `affekt.Model.hash`, data and licence, which `export` writes on the card.

    Returns
    -------
    dict : own head -> head of the file, for the heads that were taken.

    Raises
    ------
    ModelFileError : the file is damaged, or was not exported from a registered system.
    InputError : the front end or the encoder differ from the file's.
    """
    from affekt._native import load

    other = restore(path)
    ours, theirs = (_encoder_options(s) for s in (system, other))
    differing = [place for place in {**theirs, **ours} if ours.get(place) != theirs.get(place)]
    if differing or type(system) is not type(other):
        # First what the configuration says by that name; other nodes and all inputs follow from it.
        place = min(
            differing, key=lambda p: (p[1] == "inputs", not hasattr(system.config, p[0])), default=None
        )
        key, here, there = (
            ("name", system.system_name, other.system_name)
            if place is None
            else (".".join(place), ours.get(place), theirs.get(place))
        )
        raise InputError(
            f"system.{key}: expected {there!r} as in the initial model {path}, got {here!r}; leave it out to "
            "take the model's, or train without an initial model"
        )
    kept = system.start_from(other)
    model = load(path)
    system.initial = provenance(model.card, model.hash)
    return kept


def _encoder_options(system: System) -> dict[tuple[str, str], Any]:
    """What the weights before the heads depend on: inputs and options of every node that is part of no head,
    by the node's name and the option's. The front end bears the name that it has in configurations."""
    own = {name for head in system.heads for name in (head, f"{head}_out")}
    options: dict[tuple[str, str], Any] = {}
    for node in system.graph()[0]:
        if node["name"] in own:
            continue
        free = _FREE_OPTIONS.get(node["type"], ())
        name = "front_end" if node["type"] == "front_end" else node["name"]
        options |= {(name, key): value for key, value in node["options"].items() if key not in free}
        options[name, "inputs"] = node["inputs"]
    return options


def _with_initial(info: dict[str, Any], initial: Mapping[str, Any] | None) -> dict[str, Any]:
    """`info` with the provenance of the initial model."""
    if initial is None:
        return info
    info["initial_model"] = dict(initial)
    words = f"initial model {initial['name']} {initial['version']}: {initial['licence']}"
    licence = str(info.get("licence") or "not stated")
    info["licence"] = licence if words in licence else f"{licence}; {words}"
    data = names_of(info.get("data"))
    info["data"] = data + [name for name in initial["data"] if name not in data]
    return info


def to_tensor(value: Any) -> Tensor:
    """A float32 tensor from numpy or torch."""
    return (
        torch.as_tensor(np.asarray(value, dtype=np.float32))
        if not isinstance(value, Tensor)
        else value.float()
    )
