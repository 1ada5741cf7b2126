"""The places of arms in the palette, kept beside the reports of a store: an arm looks the same in all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from analysis.report.pictures import write_file
from analysis.style import places_of


def kept_places(file: Path, arms: Iterable[str]) -> dict[str, int]:
    """The places of all arms that the file knows and of these, which are added to it. A spoilt file is made anew."""
    known: dict[str, int] = {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = {str(arm): int(place) for arm, place in found.items() if int(place) >= 0}
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    if len(set(known.values())) < len(known):
        known = {}
    places = places_of(arms, known)
    if places != known:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(places, indent=1, ensure_ascii=False).encode())
    return places
