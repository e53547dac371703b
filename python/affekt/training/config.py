"""Configuration of a training run: YAML or a preset, dotted overrides, one typed schema."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from affekt import weights
from affekt._checks import closest, nearest
from affekt._lazy import require
from affekt._native import load as native_load
from affekt.errors import InputError, ModelFileError
from affekt.systems.base import get, merge, source_of
from affekt.systems.schema import as_dict, build

__all__ = [
    "CONDITIONS",
    "CalibrationConfig",
    "ConditionsConfig",
    "DataConfig",
    "EnrolConfig",
    "ExtraConfig",
    "FloorConfig",
    "InitConfig",
    "LoopConfig",
    "ProtocolConfig",
    "RunConfig",
    "SourceConfig",
    "about_preset",
    "config_text",
    "list_presets",
    "load_config",
    "save_config",
]

PRESETS = Path(__file__).parent / "configs"
CONDITIONS = ("raw", "running", "enrolled", "whole")


@dataclass
class SourceConfig:
    """Where recordings and labels come from: a published corpus in `root`, or a table.

    `root` is the corpus's folder, or a folder that holds it under the corpus's name; for a manifest, the
    folder that relative paths start from. `options` go to the corpus reader; `columns`, `scales` and
    `emotions` to `affekt.data.read_manifest`.
    """

    corpus: str | None = None
    manifest: str | None = None
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    scales: dict[str, list[float]] = field(default_factory=dict)
    emotions: dict[str, str] = field(default_factory=dict)


@dataclass
class ExtraConfig(SourceConfig):
    """A further source. Its recordings only ever train; with `partition` they take part in the folds as well,
    so that every fold tests and develops on both. Without a `root` of its own it uses that of the run's data.
    """

    partition: bool = False


@dataclass
class DataConfig(SourceConfig):
    """The recordings of the run.

    `cache` is the folder of the cached features (default: `features` in the output folder). `on_error` says
    what a broken recording does: ``"raise"`` or ``"skip"`` (it is then named and counted in the tables).
    `longest` is the length in seconds that a recording, or the part of it in one row, may have: a longer one
    counts as broken, since one label over it says little and a batch has to hold it. `extra` are further
    sources; labels that one of them lacks are masked.

    For systems that follow traces: `trace` are options of `affekt.data.Trace` (``invalid``, ``scale``,
    ``shift``, a ``kind`` of one's own); `slack` and `missing` go to `affekt.data.prepare_trials`.
    """

    cache: str | None = None
    on_error: str = "raise"
    workers: int = 1
    longest: float | None = 120.0
    trace: dict[str, Any] = field(default_factory=dict)
    slack: float = 2.0
    missing: str = "drop"
    extra: list[ExtraConfig] = field(default_factory=list)


@dataclass
class InitConfig:
    """Start from the weights of a trained model (fine-tuning); in short ``init: MODEL``.

    model : model file of any origin, or a shipped model by name; null starts from random weights. The
        configuration of the system is then the file's wherever YAML or overrides of the user say nothing (a
        preset's is not the user's); only the heads are always the configuration's own. A head with the same
        labels as one of the file's keeps its weights, the others start anew.
    statistics : ``"keep"`` the model's mean and sd of the features, or ``"refit"`` them on each fold's
        training part.
    sha256 : of the file, filled in when the configuration is resolved; another file is then refused.

    See `LoopConfig` for `freeze_epochs` and `encoder_lr_scale`.
    """

    model: str | None = None
    statistics: str = "keep"
    sha256: str | None = None


@dataclass
class ProtocolConfig:
    """How recordings are parted into training, development and test.

    kind : ``"group_kfold"`` (`folds` parts), ``"leave_one_group_out"``, ``"listed"`` (`tests` names the ones
        each fold tests), ``"published"`` (fold files in the folder `files`), ``"column"`` (the
        manifest's own split column), ``"column_kfold"`` (that one, and `folds` more that each hold another
        part of its training rows out), ``"column_halves"`` (its development part in two halves, of which one
        tests), ``"rows"`` (`folds` parts of single rows, whoever they are of) or ``"all"`` (no test part:
        train on everything).
    group : manifest column whose values stay together.
    select : numbers of the folds to run, from 1; all when null.
    dev : development groups carved out of each fold's training part, for early stopping and model selection:
        a count, a share below 1, or a list of names. The choice depends on `seed` and the fold only, so all
        `seeds` share it. Where the split already has a development part, that is used. 0 for none: all epochs
        are trained and the last weights kept.
    dev_by : ``"group"``, or ``"row"``: `dev` is a share of single training rows (leave_one_group_out; rows
        always).
    strata : column of which each of ``column_halves`` gets its share.
    choices : groups on which choices of the recipe were made; the tables then also give every pooled figure
        over the others, ``untouched``.
    by : columns such as gender for which the tables give figures value by value, where the data have them.
    seeds : one training per fold and seed.
    seed : of the partition itself.
    jobs : folds and seeds that train at the same time, each in a process of its own with one torch thread
        (or `training.threads`). The numbers are those of jobs 1 with the same count of threads.
    allow : kinds of leak that are accepted, see `affekt.data.audit`; any other stops the run.
    """

    kind: str = "group_kfold"
    folds: int = 5
    files: str | None = None
    tests: list[list[str]] = field(default_factory=list)
    group: str = "subject"
    select: list[int] | None = None
    dev: int | float | list[str] = 0.15
    dev_by: str = "group"
    strata: str | None = None
    choices: list[str] = field(default_factory=list)
    by: list[str] = field(default_factory=lambda: ["gender", "language"])
    seeds: list[int] = field(default_factory=lambda: [0])
    seed: int = 0
    jobs: int = 1
    allow: list[str] = field(default_factory=list)


@dataclass
class LoopConfig:
    """The training loop.

    schedule : ``"cosine"`` (to `min_lr` over all epochs), ``"constant"`` or ``"plateau"`` (times `factor`
        after `plateau` epochs without improvement, down to `min_lr`), each after a linear warm-up of `warmup`
        epochs.
    stratify : where recordings differ in which heads they have labels for (mixed corpora), every batch holds
        its share of each kind; without effect where all have all.
    per_speaker : recordings of each of its speakers that a batch holds, which adaptation to speakers needs to
        learn (`affekt.nn.speaker_normalise`); 0: batches of similar length, whoever speaks; null: 8 where the
        system adapts and speakers are known, else 0.
    accumulate : batches per optimiser step.
    clip : largest gradient norm, null for none.
    patience : stop after this many epochs without improvement on the development part, null to never.
    reload_best : every epoch starts from the best weights so far (the optimiser goes on); they are kept.
    release : groups of layers of the backbone that do not learn until they are released, one after the other,
        each when the rate of a plateau has come down to `min_lr`; the rate then starts anew. The names are
        those of the system. The training ends where none is left. Needs ``schedule=plateau`` and
        `reload_best`. `release_at_start`: the first of them learns from the beginning.
    decay : ``"weights"``: weight decay on kernels and matrices alone; ``"all"``: on every parameter.
    keep : ``"best"`` epoch on the development part, or the ``"last"``.
    averaging : ``"none"``, ``"ema"`` (exponential, per step, decay `ema_decay`) or ``"swa"`` (plain mean of
        the weights after each epoch from the share `swa_start` of the epochs on). The averaged weights are
        the ones evaluated and kept.
    freeze_epochs : epochs at the beginning in which only the heads learn.
    encoder_lr_scale : learning rate of everything before the heads, as a share of `lr`. Below 1, a model that
        starts from another one forgets less of it.
    threads : torch threads, null for torch's default. The same seed gives the same numbers for the same
        count.
    progress : show a progress bar; null where standard error is a terminal.
    """

    epochs: int = 60
    batch_size: int = 32
    per_speaker: int | None = None
    lr: float = 1e-3
    weight_decay: float = 1e-2
    optimiser: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 1.0
    min_lr: float = 1e-6
    factor: float = 0.5
    plateau: int = 5
    stratify: bool = True
    accumulate: int = 1
    clip: float | None = 5.0
    patience: int | None = 15
    reload_best: bool = False
    release: list[str] = field(default_factory=list)
    release_at_start: bool = False
    decay: str = "weights"
    keep: str = "best"
    averaging: str = "none"
    ema_decay: float = 0.99
    swa_start: float = 0.75
    freeze_epochs: int = 0
    encoder_lr_scale: float = 1.0
    threads: int | None = None
    tensorboard: bool = True
    progress: bool | None = None


@dataclass
class FloorConfig:
    """A classical baseline on the same folds, see `affekt.training.floors`; it needs ``affekt[floors]``.

    features : ``"egemaps"`` or ``"compare"`` (openSMILE functionals), ``"none"`` for no floor.
    only : the floor alone; no system is trained.
    c, alpha : what is tried for the SVM's C and the ridge's alpha (on features of unit variance).
    inner_folds : of the cross-validation over training groups that chooses among them.
    """

    features: str = "none"
    only: bool = False
    c: list[float] = field(default_factory=lambda: [0.3, 1.0, 3.0, 10.0, 30.0])
    alpha: list[float] = field(default_factory=lambda: [1.0, 10.0, 100.0, 1000.0, 10000.0])
    inner_folds: int = 5


@dataclass
class CalibrationConfig:
    """Confidence stated by hand, in place of what `affekt.training.calibration` fits on the development
    speakers: for a training without any, for example, from the cross-validation before it.

    temperature : of the softmax; a number for every categorical head, or head -> number.
    sd : continuous label -> predictive standard deviation.
    """

    temperature: float | dict[str, float] | None = None
    sd: dict[str, float] = field(default_factory=dict)


@dataclass
class EnrolConfig:
    """Enrolment of a speaker: on `clips` recordings, of class `label` of the column emotion where that is
    given; `adapt` says whether the model goes on learning in the recordings that are scored."""

    clips: int = 2
    label: str | None = None
    adapt: bool = True


@dataclass
class ConditionsConfig:
    """Under what conditions a model that adapts to its speaker is tested, see `affekt.training.conditions`.

    test : some of raw, running, enrolled, whole.
    enrol : for ``enrolled``.
    adapt_whole : whether ``whole`` goes on learning in the recording that is scored.
    seed : of the order of a speaker's recordings.
    """

    test: list[str] = field(default_factory=lambda: list(CONDITIONS))
    enrol: EnrolConfig = field(default_factory=EnrolConfig)
    adapt_whole: bool = False
    seed: int = 0


@dataclass
class RunConfig:
    """Everything that a run depends on.

    `init` names a model to start from. `system` is `name` and the configuration of that system (see
    `affekt.systems`). `out` is the folder of results. `monitor` picks the model: ``"uar"``, ``"ccc"``, or
    null for the mean of what the heads allow. `info` goes into the model's card.
    """

    name: str = "run"
    out: str = "runs/run"
    data: DataConfig = field(default_factory=DataConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    init: InitConfig = field(default_factory=InitConfig)
    system: dict[str, Any] = field(default_factory=lambda: {"name": "speech"})
    training: LoopConfig = field(default_factory=LoopConfig)
    floor: FloorConfig = field(default_factory=FloorConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    monitor: str | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        system = dict(self.system)
        name = system.pop("name", "speech")
        cls = get(name)
        self.system = {"name": name, **as_dict(build(cls.Config, system, "system"))}
        _check(self)


def list_presets() -> list[str]:
    """Names of the shipped configurations."""
    return sorted(p.stem for p in PRESETS.glob("*.yaml"))


def about_preset(name: str) -> str:
    """What a shipped configuration is, in a sentence: the first of the comment that it begins with."""
    lines = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("# "), lines)
    return " ".join(line.lstrip("# ") for line in comment).partition(". ")[0].rstrip(".")


def load_config(
    source: str | Path | Mapping[str, Any] | RunConfig | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> RunConfig:
    """A checked configuration.

    Parameters
    ----------
    source : YAML file, name of a shipped preset (`list_presets`), mapping, or None for the defaults.
    overrides : ``["training.epochs=20", "protocol.select=[1]"]``, values in YAML syntax, or a nested mapping.

    Raises
    ------
    InputError : no such file or preset, not YAML, an unknown key (the nearest valid key is named), or a value
        of the wrong type or range.

    >>> load_config(None, ["training.epochs=3"]).training.epochs
    3
    """
    omegaconf = require("omegaconf", purpose="configuration files")
    if isinstance(source, RunConfig):
        values: Mapping[str, Any] = as_dict(source)
    elif source is None or isinstance(source, Mapping):
        values = dict(source or {})
    else:
        values = _read(source)
    values = _init_in_full(values)
    if isinstance(overrides, Mapping):
        over: Mapping[str, Any] = overrides
    else:
        if isinstance(overrides, str):
            raise InputError(f"overrides must be a list of 'key=value', got {overrides!r}")
        for item in overrides:
            if "=" not in item or not item.partition("=")[0].strip():
                raise InputError(f"an override must read key=value, got {item!r}")
        try:
            over = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.from_dotlist(list(overrides)))
        except Exception as error:  # OmegaConf and YAML raise a zoo of types
            raise InputError(f"overrides {list(overrides)} cannot be read: {error}") from error
    over = _init_in_full(over)
    own = {} if isinstance(source, str | Path) and _is_preset(Path(source)) else values
    if "model" in (over.get("init") or {}) and isinstance(values.get("init"), Mapping):
        values = {**values, "init": {k: v for k, v in values["init"].items() if k != "sha256"}}
    merged = _drop_null_heads(merge(values, over))
    merged = _adopted(merged, merge(own, over).get("system"))
    if isinstance(merged.get("data"), dict) and isinstance(over, Mapping):
        named = over.get("data") or {}
        if isinstance(named, Mapping) and named.get("manifest") and "corpus" not in named:
            merged["data"] = {
                **merged["data"],
                "corpus": None,
            }  # recordings of one's own replace the preset's
    known = {f.name for f in fields(RunConfig)}
    for key in merged:
        if key not in known:
            raise InputError(f"unknown key {key!r}: {_meant(key, known)}")
    return build(RunConfig, merged)


def _meant(key: str, known: set[str]) -> str:
    """What an unknown key without a section may have meant: a section, or a key of one."""
    sections = reversed(as_dict(RunConfig()).items())  # of two keys of one name the first section's is meant
    spelt = {k: f"{name}.{k}" for name, keys in sections if isinstance(keys, Mapping) for k in keys}
    spelt |= {name: name for name in known}
    found = closest(key, spelt)
    return nearest(key, known) if found is None else f"did you mean {spelt[found]!r}?"


def save_config(config: RunConfig, path: str | Path) -> None:
    """Write the resolved configuration as YAML; `load_config` reads it back to an equal one."""
    Path(path).write_text(config_text(config))


def config_text(config: RunConfig) -> str:
    """The resolved configuration as YAML text."""
    omegaconf = require("omegaconf", purpose="configuration files")
    return str(omegaconf.OmegaConf.to_yaml(omegaconf.OmegaConf.create(as_dict(config))))


def _read(source: str | Path) -> dict[str, Any]:
    omegaconf = require("omegaconf", purpose="configuration files")
    path = Path(source)
    if _is_preset(path):
        if str(source) not in list_presets():
            raise InputError(
                f"no configuration file or preset named {str(source)!r}: "
                f"{nearest(str(source), list_presets())}"
            )
        path = PRESETS / f"{source}.yaml"
    if not path.is_file():
        raise InputError(f"no configuration file {path}; presets: {', '.join(list_presets())}")
    try:
        loaded = omegaconf.OmegaConf.load(path)
        values = omegaconf.OmegaConf.to_container(loaded, resolve=True)
    except Exception as error:
        raise InputError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a mapping, got {type(values).__name__}")
    return values


def initial_model(config: RunConfig) -> Path | None:
    """The model file that training starts from, or None.

    Raises
    ------
    InputError : there is no such file, or it is not the one that the configuration was resolved with.
    """
    if config.init.model is None:
        return None
    path, _ = _model_path(config.init.model)
    if config.init.sha256 not in (None, _sha256(path)):
        raise InputError(
            f"init.model: {path} is not the file that this run started with; its content changed"
        )
    return path


def _model_path(model: str) -> tuple[Path, str | None]:
    """The file of the initial model, and its name where it is a shipped one."""
    try:
        path, shipped = weights.locate(Path(model).expanduser())
    except ModelFileError as error:
        raise InputError(f"init.model: {error}") from error
    path = path.absolute()
    if not path.is_file():
        raise InputError(
            f"init.model: {path}: no such file; expected a model file or a shipped model by name"
        )
    return path, shipped


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_preset(path: Path) -> bool:
    return not path.suffix and not path.is_file()  # a folder of that name is not in the way


def _init_in_full(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """``init: MODEL`` written out."""
    init = values.get("init")
    return {**values, "init": {"model": init}} if isinstance(init, str) else values


def _adopted(values: dict[str, Any], own: Any) -> dict[str, Any]:
    """`values` with the system of the initial model, unless that was done before; `own` is what the user says
    about the system himself."""
    init = values.get("init")
    if not isinstance(init, Mapping) or not isinstance(init.get("model"), str) or init.get("sha256"):
        return values
    path, shipped = _model_path(init["model"])
    card = native_load(shipped or path).card
    name, system = source_of(card)
    wanted = own.get("name") if isinstance(own, Mapping) else None
    if wanted not in (None, name):
        raise InputError(f"init.model: {card['name']} is a model of the system {name}, got {wanted}")
    heads = (values.get("system") or {}).get("heads") or system["heads"]
    system = {"name": name, **merge(system, own if isinstance(own, Mapping) else {}), "heads": heads}
    init = {**init, "model": shipped or str(path), "sha256": _sha256(path)}
    return {**values, "system": system, "init": init}


def _drop_null_heads(values: dict[str, Any]) -> dict[str, Any]:
    """`system.heads.NAME=null` takes a head of the file away."""
    system = values.get("system")
    if isinstance(system, Mapping) and isinstance(system.get("heads"), Mapping):
        heads = {name: head for name, head in system["heads"].items() if head is not None}
        values = {**values, "system": {**system, "heads": heads}}
    return values


def _check(config: RunConfig) -> None:
    def choice(name: str, value: Any, known: Sequence[Any]) -> None:
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")

    def least(name: str, value: float | None, low: float, *, strict: bool = False) -> None:
        if value is not None and (value < low or (strict and value == low)):
            raise InputError(f"{name} must be {'above' if strict else 'at least'} {low}, got {value}")

    loop, protocol = config.training, config.protocol
    choice("training.optimiser", loop.optimiser, ("adamw", "adam", "sgd"))
    choice("training.schedule", loop.schedule, ("cosine", "constant", "plateau"))
    choice("training.averaging", loop.averaging, ("none", "ema", "swa"))
    choice("training.keep", loop.keep, ("best", "last"))
    choice("training.decay", loop.decay, ("weights", "all"))
    if loop.release and not (loop.schedule == "plateau" and loop.reload_best and loop.min_lr > 0):
        raise InputError(
            "training.release needs training.schedule=plateau, training.reload_best=true and a "
            f"training.min_lr above 0, got {loop.schedule}, {loop.reload_best} and {loop.min_lr}"
        )
    if loop.reload_best and loop.averaging != "none":
        raise InputError("training.reload_best and training.averaging exclude each other: set one of them")
    if loop.release and loop.freeze_epochs:
        raise InputError("training.release and training.freeze_epochs exclude each other: set one of them")
    least("training.per_speaker", loop.per_speaker or 0, 0)
    choice("data.on_error", config.data.on_error, ("raise", "skip"))
    kinds = ("group_kfold", "leave_one_group_out", "listed", "published", "column", "column_kfold",
             "column_halves", "rows", "all")  # fmt: skip
    choice("protocol.kind", protocol.kind, kinds)
    choice("protocol.dev_by", protocol.dev_by, ("group", "row"))
    if protocol.dev_by == "row" and protocol.kind not in ("leave_one_group_out", "rows"):
        raise InputError(
            f"protocol.dev_by=row goes with protocol.kind=leave_one_group_out or rows, got {protocol.kind}"
        )
    choice("data.missing", config.data.missing, ("drop", "mask"))
    least("data.slack", config.data.slack, 0)
    choice("init.statistics", config.init.statistics, ("keep", "refit"))
    choice("monitor", config.monitor, (None, "uar", "ccc"))
    for name in ("epochs", "batch_size", "accumulate", "patience", "plateau", "threads"):
        least(f"training.{name}", getattr(loop, name), 1)
    for name in ("warmup", "weight_decay", "min_lr", "freeze_epochs"):
        least(f"training.{name}", getattr(loop, name), 0)
    for name in ("lr", "clip", "encoder_lr_scale"):
        least(f"training.{name}", getattr(loop, name), 0, strict=True)
    least("data.longest", config.data.longest, 0, strict=True)
    for name in ("factor", "ema_decay", "swa_start"):
        if not 0 < getattr(loop, name) < 1:
            raise InputError(f"training.{name} must lie between 0 and 1, got {getattr(loop, name)}")
    for condition in config.conditions.test:
        choice("conditions.test", condition, CONDITIONS)
    if not config.conditions.test:
        raise InputError(f"conditions.test must name at least one of {', '.join(CONDITIONS)}, got none")
    least("conditions.enrol.clips", config.conditions.enrol.clips, 1)
    stated = config.calibration.temperature
    for number in stated.values() if isinstance(stated, dict) else [stated]:
        least("calibration.temperature", number, 0, strict=True)
    for number in config.calibration.sd.values():
        least("calibration.sd", number, 0, strict=True)
    least("protocol.jobs", protocol.jobs, 1)
    if not protocol.seeds or len(set(protocol.seeds)) != len(protocol.seeds):
        raise InputError(f"protocol.seeds must be distinct integers, at least one, got {protocol.seeds}")
    if protocol.select is not None and (not protocol.select or min(protocol.select) < 1):
        raise InputError(f"protocol.select must list fold numbers from 1, got {protocol.select}")
    if not isinstance(protocol.dev, list) and protocol.dev < 0:
        raise InputError(f"protocol.dev must not be negative, got {protocol.dev}")
    if protocol.kind == "published" and not protocol.files:
        raise InputError("protocol.files must name the folder of the published fold files")
    if protocol.kind == "listed" and not protocol.tests:
        raise InputError("protocol.tests must list the groups that each fold tests, got none")
    if protocol.kind in ("group_kfold", "rows", "column_kfold"):
        least("protocol.folds", protocol.folds, 2)
    choice("floor.features", config.floor.features, ("none", "egemaps", "compare"))
    if config.floor.only and config.floor.features == "none":
        raise InputError("floor.only needs floor.features=egemaps or compare, got none")
    least("floor.inner_folds", config.floor.inner_folds, 2)
    for name in ("c", "alpha"):
        tried = getattr(config.floor, name)
        if not tried or min(tried) <= 0:
            raise InputError(f"floor.{name} must list numbers above 0, got {tried}")
