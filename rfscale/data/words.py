"""Captions -> the tokens that the hash encoder tells apart, in every script.

A token is a word of letters and digits, lower-cased, with the marks on them; a character of a script that is written
without spaces (Chinese, Japanese, Thai, Khmer, ...); or a symbol outside ASCII, such as an emoji with what is joined to
it. Punctuation and ASCII symbols separate words and are dropped, unless a caption has nothing else: then each of them
is a token.

The first version knew words of letters and digits alone (`first_words`), the second no keys such as that of # and no
flags of countries of the United Kingdom, which are spelled out behind a black flag. Data with a caption that an earlier
version read otherwise are told apart by the version in their identity, so that nothing trained on them keeps its id.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

READING = 3
"""The version of `words`. Raise it where any caption comes to be read otherwise, and keep what says which ones."""

_WORD = re.compile(r"[^\W_]+")
_APOSTROPHES = re.compile("['\u2019]")
_JOINER = "\u200d"
_SELECTORS = "\ufe0e\ufe0f"  # text or colour: the same sign
_TONES = "\U0001f3fb-\U0001f3ff"
_SPELLED = re.compile("[\U000e0020-\U000e007f]")  # of a flag that is spelled out: part of the sign before
_KEY = re.compile("([#*])\ufe0f?\u20e3")  # on a key: a sign, where # and * alone separate words
_FRACTION_SLASH = "\u2044"  # what NFKC makes of one half; a separator as in 1/2
# Scripts that put no space between words: Thai and Lao, Tibetan, Myanmar, Khmer; Japanese; Chinese characters.
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\U00016fe0-\U00018fff\U0001b000-\U0001b2ff"
    "\U00020000-\U000323af]"
)
_TONE = re.compile(f"[{_TONES}]")

_Kind = Literal["letter", "single", "mark", "symbol", "joiner", "other"]


def words(caption: str) -> list[str]:
    """The tokens of a caption, in order; none where it holds nothing that can be seen."""
    text = unicodedata.normalize("NFKC", caption).lower()
    plain = _APOSTROPHES.sub("", text)
    found = _WORD.findall(plain) if plain.isascii() else _scanned(_KEY.sub(_key, plain))
    # An underscore cannot occur in a word: no sign is ever taken for one.
    return found or [f"_{c}" for c in text if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf")]


def first_words(caption: str) -> list[str]:
    """What the first version read: words of letters and digits, split at marks; everything else dropped."""
    return _WORD.findall(_APOSTROPHES.sub("", unicodedata.normalize("NFKC", caption).lower()))


def reading(captions: Iterable[str]) -> int:
    """The first version of `words` that reads all of these captions as this one does."""
    version = 1
    for caption in captions:
        if _SPELLED.search(caption) or _KEY.search(caption):
            return READING
        if version == 1 and first_words(caption) != words(caption):
            version = 2
    return version


def _key(match: re.Match[str]) -> str:
    """A sign of its own for a key, of those that no font shares."""
    return chr(0xF0000 + ord(match[1]))


def _scanned(text: str) -> list[str]:
    tokens: list[str] = []
    last: _Kind = "other"  # what a character may still be joined to
    joined = False
    for character in text:
        kind = _kind(character)
        if (kind == "mark" and last != "other") or (last == "symbol" and _SPELLED.fullmatch(character)):
            tokens[-1] += character
        elif kind == "joiner":
            joined = last == "symbol"
            last = last if joined else "other"
            continue
        elif (kind == "letter" and last == "letter") or (
            kind == "symbol" and last == "symbol" and (joined or _TONE.fullmatch(character))
        ):
            tokens[-1] += character
        elif kind in ("letter", "single", "symbol"):
            tokens.append(character)
            last = kind
        elif character not in _SELECTORS:
            last = "other"
        joined = False
    return tokens


@lru_cache(maxsize=65_536)
def _kind(character: str) -> _Kind:
    category = unicodedata.category(character)
    if character == _JOINER:
        return "joiner"
    if category.startswith("M"):
        return "other" if character in _SELECTORS else "mark"
    if character.isalnum():
        return "single" if _SPACELESS.match(character) else "letter"
    # Not assigned (Cn): an emoji of a later Unicode. For private use (Co): the sign of some font.
    visible = category.startswith("S") or category in ("Cn", "Co")
    return "symbol" if visible and not character.isascii() and character != _FRACTION_SLASH else "other"
