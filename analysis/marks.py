"""What the marks of a figure are, for whoever points at them: the arm that drew them, and a title for each point.

A drawing says it with `tell`, and the report's page makes it seen; a figure that says nothing is drawn all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist

_TOLD = "told:"


@dataclass(frozen=True)
class Told:
    """`arm`: whose mark it is, if of one; `titles`: of its points in their order, or one of the whole."""

    arm: str = ""
    titles: tuple[str, ...] = ()

    @staticmethod
    def of(name: str) -> Told | None:
        """From the name of an artist; None for one that says nothing."""
        if not name.startswith(_TOLD):
            return None
        arm, *titles = json.loads(name.removeprefix(_TOLD))
        return Told(arm, tuple(titles))


def tell(artists: Artist | Iterable[Artist], arm: str = "", titles: Sequence[str] = ()) -> None:
    """Say it of an artist, or of several that are one mark; the titles stay with the first."""
    for i, artist in enumerate([artists] if isinstance(artists, Artist) else artists):
        artist.set_gid(_TOLD + json.dumps([arm, *(titles if not i else ())], ensure_ascii=False))
