"""Paths that people give: expanded, and checked to be paths at all, before anything is read or written there."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from rfscale.names import RfscaleError
from rfscale.quoting import cut, quoted

_BREAKING = ("Cc", "Zl", "Zp")  # categories of Unicode: control characters, line and paragraph separators


class PathError(RfscaleError, ValueError):
    """What was given can be no path on this machine; the message is one sentence that says why and what to do."""


def expanded(given: str | Path, what: str) -> Path:
    """`given` with `~` expanded. Nothing need be there, but something could be; `what` names it in a message.

    Raises PathError for an unknown user after `~`, a null character, bytes that are no UTF-8 (they cannot be printed or
    written to a record), line breaks and control characters, a name longer than the file system takes, and a folder on
    the way that cannot be entered.
    """
    text = str(given)
    if "\0" in text:
        raise PathError(f"{what} {quoted(text)} holds a null character, which no path can; remove it")
    if any(unicodedata.category(character) == "Cs" for character in text):  # how Python keeps bytes that are no UTF-8
        raise PathError(f"{what} {quoted(text)} is not UTF-8; rename the file or folder")
    if any(unicodedata.category(character) in _BREAKING for character in text):
        raise PathError(f"{what} {quoted(text)} holds a line break or control character; rename the file or folder")
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # pathlib's own word for a user without a home
        user = Path(text).parts[0]
        raise PathError(
            f"{what} {quoted(text)}: there is no user {quoted(user.removeprefix('~'))} here; write the whole path, or "
            f"./{cut(text)} for a name that begins with ~"
        ) from None
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # said by whoever opens it, with what should be there
    except OSError as error:
        raise PathError(f"{what} {quoted(text)} cannot be used ({error.strerror}); give another path") from error
    return path
