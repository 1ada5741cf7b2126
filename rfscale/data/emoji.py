"""Real captioned pictures without a download: the colour bitmaps of an emoji font, with their Unicode names.

The font is Debian's fonts-noto-color-emoji, or any other with CBDT bitmaps. What shows one thing in several skin tones,
genders or hair colours has one base, and a base stands on one side of the split.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

from pydantic import Field

from rfscale.data.base import AbsentError, DataError
from rfscale.data.decoding import Stored
from rfscale.data.pairs import CAPTION, Entry, Listing, content_of, lines_of
from rfscale.data.spec import PairsData
from rfscale.paths import expanded
from rfscale.quoting import cut
from rfscale.registry import PathField

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
COLUMNS = (CAPTION, "cldr", "keywords")

Code = tuple[int, ...]
"""The characters of an emoji, without those that only ask for colour or join."""

_JOINERS = {0x200D, 0xFE0F}
_TONES = {
    0x1F3FB + i: f"{tone} skin tone"
    for i, tone in enumerate(("light", "medium-light", "medium", "medium-dark", "dark"))
}
_GENDERS = {0x2640, 0x2642}
_PEOPLE = {0x1F468, 0x1F469, 0x1F9D1}  # man, woman, person: with an object, that is what is shown
_FACING = 0x27A1  # the arrow of a person who faces right
_REGIONS = range(0x1F1E6, 0x1F200)
_TAGS = range(0xE0020, 0xE0080)


class EmojiData(PairsData):
    """The colour bitmaps of an emoji font with their Unicode names: a few thousand real pictures, no download."""

    name: Literal["emoji"]
    path: Annotated[str, PathField()] = Field(
        default=FONT, min_length=1, description="a font with CBDT bitmaps; the default is Debian's"
    )
    annotations: Annotated[str | None, PathField()] = Field(
        default=None,
        description="a CLDR file such as annotations/de.xml, with annotationsDerived/de.xml where it lies beside that "
        "folder: it adds the columns cldr and keywords",
    )

    def listing(self) -> Listing:
        font = expanded(self.path, "the emoji font")
        others = expanded(self.annotations, "the annotations of emoji") if self.annotations else None
        for column in self.columns:
            if column not in COLUMNS or (column != CAPTION and others is None):
                having = f"{CAPTION}, and with `annotations` {COLUMNS[1]} and {COLUMNS[2]}"
                raise DataError(f"data `emoji` has no caption column `{cut(column)}`: its columns are {having}.")
        files = _with_derived(others) if others else ()
        stamps = tuple(_stamp(file, NAMES_HINT) for file in files)
        return _listing(font, _stamp(font, FONT_HINT), files, stamps, self.columns)


def _with_derived(annotations: Path) -> tuple[Path, ...]:
    """CLDR has what is built by a rule (skin tones, families, flags) in a file of its own: more than half of all."""
    derived = annotations.parent.parent / "annotationsDerived" / annotations.name
    return (annotations, derived) if annotations.parent.name == "annotations" and derived.is_file() else (annotations,)


FONT_HINT = "apt-get install fonts-noto-color-emoji, or give the path of a font with colour bitmaps"
NAMES_HINT = "apt-get install unicode-cldr-core, or leave `annotations` out"


def _stamp(path: Path, hint: str) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        kind = AbsentError if isinstance(error, FileNotFoundError) else DataError
        raise kind(f"data `emoji` cannot read {path} ({error.strerror}): {hint}.") from error
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _listing(font: Path, stamp: Any, annotations: Sequence[Path], named_at: Any, columns: Sequence[str]) -> Listing:
    sha256, bitmaps = _bitmaps(font)
    names, keywords = _annotations(annotations)
    bases: dict[bytes, str] = {}  # one picture under two characters is one thing
    entries: list[Entry] = []
    pictures: list[Stored] = []
    nameless = unnamed = 0
    for code, image in bitmaps:
        own = unicode_name(code)
        if not own:
            nameless += 1
            continue
        known = {CAPTION: own, "cldr": names.get(code, own), "keywords": keywords.get(code, own)}
        unnamed += code not in names
        base = bases.setdefault(image, base_of(code))
        spelt = "-".join(f"{c:x}" for c in code)
        entries.append(Entry(base, tuple(known[column] for column in columns), len(pictures), spelt))
        pictures.append(Stored(f"of {spelt} in {font}", "take another font", (stamp, code), partial(bytes, image)))
    notes = []
    if nameless:
        unicode = unicodedata.unidata_version
        notes.append(
            f"{nameless:,} emoji of {font} are left out: Unicode {unicode} of this Python has no name for them"
        )
    if unnamed and set(columns) != {CAPTION}:
        notes.append(
            f"{unnamed:,} of {len(entries):,} emoji are not in {' or '.join(map(str, annotations))}: they have their "
            "Unicode name instead"
        )
    content = content_of([sha256, b"in the order of characters\n", *lines_of({"": entries})], entries)
    return Listing(str(font), entries, pictures, content, notes=tuple(notes))


def _bitmaps(font: Path) -> tuple[bytes, list[tuple[Code, bytes]]]:
    """SHA-256 of the font, and its emoji in the order of their characters with the PNG of each. Raises DataError."""
    try:
        from fontTools.ttLib import TTFont
    except ImportError as error:
        raise DataError("data `emoji` needs fontTools, which is not installed: pip install fonttools.") from error
    try:
        with font.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
        with TTFont(font, lazy=True) as opened:
            if "CBDT" not in opened:
                raise DataError(f"the font {font} has no colour bitmaps (table CBDT): {FONT_HINT}.")
            strike = max(opened["CBDT"].strikeData, key=len)
            codes: dict[str, list[Code]] = {}
            for code, glyph in _glyphs(opened):
                codes.setdefault(glyph, []).append(code)
            found = {
                min(spellings, key=_reading_order): bytes(strike[glyph].imageData)
                for glyph, spellings in codes.items()
                if glyph in strike and hasattr(strike[glyph], "imageData")
            }
    except DataError:
        raise
    except Exception as error:  # a damaged font makes fontTools raise nearly anything
        raise DataError(
            f"the font {font} cannot be read ({cut(str(error)) or type(error).__name__}): {FONT_HINT}."
        ) from error
    return sha256, sorted(found.items())


def _glyphs(font: Any) -> Iterator[tuple[Code, str]]:
    """The glyphs of single characters and of sequences (ligatures, one substitution deep)."""
    cmap: dict[int, str] = font.getBestCmap()
    characters: dict[str, int] = {}
    for character, glyph in sorted(cmap.items(), reverse=True):
        characters[glyph] = character
        if character > 0x7F and character not in _JOINERS and character not in _REGIONS and character not in _TAGS:
            yield (character,), glyph
    if "GSUB" not in font:
        return
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            inner = getattr(table, "ExtSubTable", table)
            for first, ligatures in getattr(inner, "ligatures", {}).items():
                for ligature in ligatures:
                    parts = [first, *ligature.Component]
                    if all(part in characters for part in parts):
                        yield plain(characters[part] for part in parts), ligature.LigGlyph


def _reading_order(code: Code) -> tuple[bool, bool, int]:
    """Fonts also have a sequence backwards, for text from right to left: a person, or what has a gender, is first."""
    return code[0] in _GENDERS, code[0] not in _PEOPLE, -code[0]


def plain(characters: Any) -> Code:
    """A sequence without what only asks for colour or joins."""
    return tuple(c for c in characters if c not in _JOINERS)


def base_of(code: Code) -> str:
    """What a sequence shows, without skin tone and gender, as hexadecimal digits."""
    bare = [c for c in code if c not in _TONES and c not in _GENDERS] or list(code)
    if bare[0] in _REGIONS or any(c in _TAGS for c in bare):
        return "-".join(f"{c:x}" for c in bare)  # a flag is its letters
    things = [f"{c:x}" for c in bare if c not in _PEOPLE and c != _FACING]
    people = "people" if sum(c in _PEOPLE for c in bare) > 1 else "person"
    return "-".join([people, *things[:1]]) if people == "people" or not things else things[0]


def unicode_name(code: Code) -> str:
    """`waving hand sign: light skin tone`; of joined signs `woman, fire engine`; of flags `flag: de`; "" for a sign
    that this Python's Unicode does not know yet."""
    letters = "".join(chr(c - 0x1F1E6 + ord("a")) for c in code if c in _REGIONS)
    letters += "".join(chr(c - 0xE0000) for c in code if c in _TAGS and c != _TAGS[-1])
    if letters:
        return f"flag: {letters}"
    things = [unicodedata.name(chr(c), "").lower() for c in code if c not in _TONES]
    if not all(things):
        return ""
    tones = list(dict.fromkeys(_TONES[c] for c in code if c in _TONES))
    return ": ".join(filter(None, (", ".join(things), ", ".join(tones))))


def _annotations(paths: Sequence[Path]) -> tuple[dict[Code, str], dict[Code, str]]:
    """Names and keywords of CLDR annotation files. Raises DataError."""
    names: dict[Code, str] = {}
    keywords: dict[Code, str] = {}
    for path in paths:
        try:
            for found in ElementTree.parse(path).iter("annotation"):
                code, text = plain(map(ord, found.get("cp", ""))), (found.text or "").strip()
                if text and found.get("type") == "tts":
                    names[code] = text
                elif text:
                    keywords[code] = ", ".join(word.strip() for word in text.split("|"))
        except (OSError, ElementTree.ParseError) as error:
            raise DataError(f"{path} cannot be read as CLDR annotations ({cut(str(error))}): {NAMES_HINT}.") from error
    if paths and not names:
        raise DataError(f"{paths[0]} holds no annotation of type tts: give a file such as common/annotations/de.xml.")
    return names, keywords
