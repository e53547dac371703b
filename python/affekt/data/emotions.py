"""Names of emotions: which name in one vocabulary is which in another."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["match_emotions"]

# Nouns and adjectives of one emotion, first the name that the corpus readers use. Neighbours that are
# emotions of their own (calm and neutral, contempt and disgust) stay apart: joining them is up to the user.
_SYNONYMS = (
    ("neutral", "neutrality"),
    ("calm", "calmness"),
    ("happy", "happiness", "joy", "joyful"),
    ("sad", "sadness"),
    ("angry", "anger"),
    ("fearful", "fear", "afraid", "fearfulness"),
    ("disgust", "disgusted"),
    ("surprised", "surprise"),
    ("bored", "boredom"),
    ("contempt", "contemptuous"),
    ("excited", "excitement"),
    ("frustrated", "frustration"),
)
_GROUP = {name: number for number, names in enumerate(_SYNONYMS) for name in names}


def match_emotions(names: Iterable[str], known: Iterable[str]) -> dict[str, str | None]:
    """For each of `names` the one of `known` that means the same, or None.

    The same are: equal names, names equal but for case, surrounding blanks and Unicode form, and the English
    nouns and adjectives of one emotion (happiness and happy, anger and angry, fear and fearful, surprise and
    surprised ...). Nothing else is guessed: calm is not neutral, and a word of another language matches only
    itself. Where several of `known` could be meant, none is.

    Examples
    --------
    >>> match_emotions(["Happiness", "calm", "Wut"], ["neutral", "happy", "angry"])
    {'Happiness': 'happy', 'calm': None, 'Wut': None}
    """
    known = list(known)
    return {name: _match(name, known) for name in names}


def _match(name: str, known: list[str]) -> str | None:
    if name in known:
        return name
    plain = [other for other in known if _plain(other) == _plain(name)]
    group = _GROUP.get(_plain(name))
    same = plain or [other for other in known if group is not None and _GROUP.get(_plain(other)) == group]
    return same[0] if len(same) == 1 else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()
