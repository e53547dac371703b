"""Published corpora by their own file layouts.

`corpus` walks a folder and returns a `Manifest`. A reader is a generator of row dictionaries registered with
`_reader`; to add a corpus, add one here. All of them use one emotion vocabulary (neutral, calm, happy, sad,
angry, fearful, disgust, surprised, bored), prefix subjects with the corpus name so that corpora can be
joined, and map continuous scales to [-1, 1], recording the map in ``attrs["scales"]``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from affekt import _checks
from affekt._lazy import require
from affekt.data.manifest import CONTINUOUS, Manifest, rescale
from affekt.errors import DataError, InputError

__all__ = ["corpus", "list_corpora"]

_AUDIO = {".wav", ".flac", ".ogg", ".mp3"}


@dataclass
class _Walk:
    """What a reader gets: the files, and where to note what it could not use."""

    root: Path
    files: list[Path]
    options: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    attrs: dict[str, Any] = field(default_factory=dict)

    def unmatched(self, file: Path, wanted: str) -> None:
        self.problems.append(f"{file.relative_to(self.root)} (expected a name like {wanted})")


@dataclass(frozen=True)
class _Corpus:
    read: Callable[[_Walk], Iterator[dict[str, Any]]]
    about: str
    licence: str
    options: dict[str, tuple[Any, ...]]


_READERS: dict[str, _Corpus] = {}


def _reader(name: str, *, about: str, licence: str, **options: tuple[Any, ...]) -> Callable[[Any], Any]:
    """Register a reader; each option is the tuple of its allowed values, the default first."""

    def register(read: Callable[[_Walk], Iterator[dict[str, Any]]]) -> Any:
        _READERS[name] = _Corpus(read, about, licence, options)
        return read

    return register


def list_corpora() -> dict[str, str]:
    """Names that `corpus` knows, with one line about each."""
    return {name: entry.about for name, entry in sorted(_READERS.items())}


def corpus(name: str, root: str | PathLike[str], *, on_error: str = "raise", **options: Any) -> Manifest:
    """The manifest of a published corpus from a copy on disk.

    Sub-folders are searched, and WAV, FLAC, OGG and MP3 are taken alike, because people convert and move
    files; the names must be the published ones. Rows are sorted by file.

    Parameters
    ----------
    name : one of `list_corpora`.
    root : folder of the corpus.
    on_error : what to do about audio files whose name does not fit the layout and about annotations without
        audio (or the reverse): ``"raise"``, or ``"skip"`` to leave them out, warn, and list them in
        ``attrs["skipped"]``.
    options : of the reader. ``ravdess``: ``channel="speech" | "song" | "all"``.

    Returns
    -------
    Manifest : with ``file, subject, session, emotion``, continuous labels where the corpus has them, and the
        corpus's own fields (``language``, ``gender``, ``sentence``, ``intensity`` ...).

    Raises
    ------
    InputError : unknown corpus or option.
    DataError : no folder, no usable file, the same clip twice, or (with ``"raise"``) anything that does not
        fit.
    """
    if name not in _READERS:
        raise InputError(f"name must be one of {', '.join(sorted(_READERS))}; got {name!r}")
    entry = _READERS[name]
    _checks.choice(on_error, ("raise", "skip"), "on_error")
    for option, value in options.items():
        if option not in entry.options:
            known = ", ".join(entry.options) or "none"
            raise InputError(f"corpus {name!r} has no option {option!r}; its options: {known}")
        _checks.choice(value, entry.options[option], option)
    folder = _checks.path(root, "root")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a copy of the corpus {name!r}")
    # Files that begin with a dot are litter of file managers (._x.wav), never clips.
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _AUDIO and p.name[0] != ".")
    if not files:
        raise DataError(f"{folder}: no audio files ({', '.join(sorted(_AUDIO))}) in it or below")
    walk = _Walk(folder, files, {key: options.get(key, values[0]) for key, values in entry.options.items()})
    rows = list(entry.read(walk))
    if walk.problems and on_error == "raise":
        raise DataError(
            f"{folder}: {len(walk.problems)} problem(s) in this copy of {name!r}: "
            f"{_checks.some(walk.problems)} (on_error='skip' leaves them out)"
        )
    if not rows:
        raise DataError(
            f"{folder}: no clip of {name!r} in it; {_checks.some(walk.problems) or 'nothing fits'}"
        )
    first: dict[str, Path] = {}
    for row in rows:
        file = Path(row["file"])
        if file.stem in first:
            raise DataError(
                f"{folder}: the clip {file.stem} is there twice, as {first[file.stem]} and {file}; "
                "point root at one copy"
            )
        first[file.stem] = file
    if walk.problems:
        warnings.warn(
            f"{folder}: left out {len(walk.problems)}: {_checks.some(walk.problems)}",
            UserWarning,
            stacklevel=2,
        )
        walk.attrs["skipped"] = walk.problems
    pandas = require("pandas", purpose="manifests")
    table = pandas.DataFrame(rows)
    table.insert(1, "corpus", name)
    attrs = {"corpus": name, "licence": entry.licence, "options": walk.options, **walk.attrs}
    return Manifest(table, root=folder, attrs=attrs)


def _relative(walk: _Walk, file: Path) -> str:
    return file.relative_to(walk.root).as_posix()


_RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


@_reader(
    "ravdess",
    about="RAVDESS: 24 actors, English, 8 acted emotions, speech (1440 clips) and song",
    licence="CC BY-NC-SA 4.0",
    channel=("speech", "song", "all"),
)
def _ravdess(walk: _Walk) -> Iterator[dict[str, Any]]:
    # modality-channel-emotion-intensity-statement-repetition-actor, two digits each; odd actors are men.
    shape = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")
    for file in walk.files:
        match = shape.fullmatch(file.stem)
        if not match or not 1 <= int(match[7]) <= 24:
            walk.unmatched(file, "03-01-05-02-01-01-16")
            continue
        _, channel, emotion, intensity, statement, repetition, actor = match.groups()
        kind = "speech" if channel == "01" else "song"
        folder = re.fullmatch(r"Actor_(\d\d)", file.parent.name)
        if folder and folder[1] != actor:
            walk.problems.append(f"{_relative(walk, file)} (actor {actor} in the folder of another)")
            continue
        if walk.options["channel"] not in (kind, "all"):
            continue
        yield {
            "file": _relative(walk, file),
            "subject": f"ravdess-{actor}",
            "session": f"ravdess-{actor}",
            "emotion": _RAVDESS_EMOTIONS[int(emotion) - 1],
            "language": "en",
            "gender": "male" if int(actor) % 2 else "female",
            "channel": kind,
            "intensity": "normal" if intensity == "01" else "strong",
            "sentence": statement,
            "repetition": repetition,
        }


_EMOTALE_EMOTIONS = {"A": "angry", "B": "bored", "H": "happy", "N": "neutral", "S": "sad"}


@_reader(
    "emotale",
    about="EmoTale: 18 speakers, Danish and English, 5 acted emotions, arousal/valence/dominance by raters",
    licence="none stated; cite EmoTale (ASRU 2025)",
)
def _emotale(walk: _Walk) -> Iterator[dict[str, Any]]:
    # LANGUAGE_SPEAKER_EMOTION_SENTENCE. A speaker number is one person in both languages, so the number alone
    # is the subject (keeping DK_001 and EN_001 apart would let a voice into training and test); the session
    # is one person in one language. Labels are the mean of all raters, 1..5.
    pandas = require("pandas", purpose="manifests")
    sheets = sorted(walk.root.rglob("annotations.csv"))
    if len(sheets) != 1:
        raise DataError(f"{walk.root}: expected one annotations.csv in it or below; found {len(sheets)}")
    try:
        sheet = pandas.read_csv(sheets[0])
    except (ValueError, OSError) as error:
        raise DataError(f"{sheets[0]}: cannot be read as a table ({error})") from error
    raters = sorted(m[1] for m in (re.fullmatch(r"a(\d+)_V", str(name)) for name in sheet.columns) if m)
    letters = {"valence": "V", "arousal": "A", "dominance": "D"}
    wanted = ["file", *(f"a{rater}_{letter}" for rater in raters for letter in letters.values())]
    missing = [name for name in wanted if name not in sheet]
    if missing or not raters:
        raise DataError(f"{sheets[0]}: missing column(s) {', '.join(missing or ['a1_V ...'])}")
    stems = [Path(str(name)).stem for name in sheet["file"]]
    if len(set(stems)) != len(stems):
        raise DataError(f"{sheets[0]}: {len(stems) - len(set(stems))} file(s) are annotated more than once")
    values = {}
    for label in CONTINUOUS:
        # A clip that a rater left out gets the mean of the others, and none at all if nobody rated it.
        scores = sheet[[f"a{rater}_{letters[label]}" for rater in raters]]
        try:
            scores = scores.astype(float)
        except ValueError as error:
            raise DataError(f"{sheets[0]}: the ratings of {label} must be numbers ({error})") from error
        for name in scores:
            rescale(scores[name].to_numpy(), (1, 5), f"{name} of {sheets[0].name}", sheet["file"])
        values[label] = dict(zip(stems, rescale(scores.mean(axis=1).to_numpy(), (1, 5), label), strict=True))
    walk.attrs["scales"] = {label: [1.0, 5.0] for label in CONTINUOUS}
    walk.attrs["raters"] = len(raters)
    shape = re.compile(r"(DK|EN)_(\d{3})_([ABHNS])_(\d)")
    left = set(stems)
    for file in walk.files:
        match = shape.fullmatch(file.stem)
        if not match:
            walk.unmatched(file, "DK_001_A_1")
            continue
        left.discard(file.stem)
        if file.stem not in values["valence"]:
            walk.problems.append(f"{_relative(walk, file)} (no row in annotations.csv)")
            continue
        language, speaker, emotion, sentence = match.groups()
        yield {
            "file": _relative(walk, file),
            "subject": f"emotale-{speaker}",
            "session": f"emotale-{language}_{speaker}",
            "emotion": _EMOTALE_EMOTIONS[emotion],
            **{label: values[label][file.stem] for label in CONTINUOUS},
            "language": "da" if language == "DK" else "en",
            "sentence": sentence,
        }
    walk.problems += [f"{stem} (annotated, but there is no audio)" for stem in sorted(left)]


# Emotion letters are the initials of the German words (Wut, Langeweile, Ekel, Angst, Freude, Trauer).
_EMODB_EMOTIONS = {
    "W": "angry",
    "L": "bored",
    "E": "disgust",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
_EMODB_MEN = {"03", "10", "11", "12", "15"}
_EMODB_WOMEN = {"08", "09", "13", "14", "16"}


@_reader(
    "emodb",
    about="EMO-DB (Berlin): 10 speakers, German, 7 acted emotions, 535 clips",
    licence="as the distributor states it",
)
def _emodb(walk: _Walk) -> Iterator[dict[str, Any]]:
    # Speaker (2 digits), text (letter and 2 digits), emotion letter, version letter: 03a01Fa.
    shape = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z])")
    for file in walk.files:
        match = shape.fullmatch(file.stem)
        if not match or match[1] not in _EMODB_MEN | _EMODB_WOMEN:
            walk.unmatched(file, "03a01Fa")
            continue
        speaker, text, emotion, version = match.groups()
        yield {
            "file": _relative(walk, file),
            "subject": f"emodb-{speaker}",
            "session": f"emodb-{speaker}",
            "emotion": _EMODB_EMOTIONS[emotion],
            "language": "de",
            "gender": "male" if speaker in _EMODB_MEN else "female",
            "sentence": text,
            "repetition": version,
        }


_CREMAD_EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgust",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}


@_reader(
    "cremad",
    about="CREMA-D: 91 actors, English, 6 acted emotions, 7442 clips",
    licence="ODbL 1.0",
)
def _cremad(walk: _Walk) -> Iterator[dict[str, Any]]:
    # Actor, sentence, emotion, level. One published name ends in X instead of XX.
    pandas = require("pandas", purpose="manifests")
    shape = re.compile(r"(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)")
    levels = {"LO": "low", "MD": "medium", "HI": "high"}
    gender: dict[str, str] = {}
    for sheet in sorted(walk.root.rglob("VideoDemographics.csv"))[:1]:
        table = pandas.read_csv(sheet, dtype=str)
        if not {"ActorID", "Sex"} <= set(table.columns):
            raise DataError(f"{sheet}: missing column(s) ActorID or Sex")
        gender = dict(zip(table["ActorID"], table["Sex"].str.strip().str.lower(), strict=True))
    for file in walk.files:
        match = shape.fullmatch(file.stem)
        if not match:
            walk.unmatched(file, "1001_DFA_ANG_XX")
            continue
        actor, sentence, emotion, level = match.groups()
        row = {
            "file": _relative(walk, file),
            "subject": f"cremad-{actor}",
            "session": f"cremad-{actor}",
            "emotion": _CREMAD_EMOTIONS[emotion],
            "language": "en",
            "intensity": levels.get(level, "unspecified"),
            "sentence": sentence,
        }
        if gender:
            row["gender"] = gender.get(actor, "unknown")
        yield row
