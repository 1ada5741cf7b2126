"""What was given, as a message quotes it: on one line, cut, in the words of the file it was written in."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import islice

LONGEST = 80
"""Characters of a quotation."""

_INNER = 4  # entries of a list, and keys of a mapping, that are looked at: the rest would be cut anyway


def quoted(value: object) -> str:
    """`value` as text of at most `LONGEST` characters on one line; what is longer ends in dots.

    Truth values and nothing are written as in YAML. A huge or deeply nested value is never printed whole first.
    """
    return cut(_written(value, depth=3))


def cut(text: str, longest: int = LONGEST) -> str:
    """`text` on one line, cut where it is longer than `longest`; half characters, which cannot be printed, escaped."""
    line = " ".join(text[: 4 * longest].split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= longest and len(text) <= 4 * longest else f"{line[: longest - 3]}..."


def wrapped(text: str, width: int) -> str:
    """Sentences on lines of at most `width` characters, broken between words alone; lines of a table stay as they are,
    which are those with two spaces inside."""
    return "\n".join(_lines(line, width) for line in text.split("\n"))


def _lines(line: str, width: int) -> str:
    inside = line.lstrip(" ")
    if len(line) <= width or "  " in inside:
        return line
    indent = " " * (len(line) - len(inside))
    found = textwrap.wrap(
        inside, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(found)


def _written(value: object, depth: int) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return repr(value[: 2 * LONGEST])
    if isinstance(value, int) and value.bit_length() > 8 * LONGEST:  # Python refuses to print the largest
        return f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    if isinstance(value, list | tuple):
        inner = [_written(item, depth - 1) for item in value[:_INNER]] if depth else ["..."]
        return f"[{', '.join(inner)}{', ...' if depth and len(value) > _INNER else ''}]"
    if isinstance(value, Mapping):
        pairs = [f"{_written(k, 0)}: {_written(v, depth - 1)}" for k, v in islice(value.items(), _INNER)]
        return f"{{{', '.join(pairs) if depth else '...'}{', ...' if depth and len(value) > _INNER else ''}}}"
    return repr(value)
