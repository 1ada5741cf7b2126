"""GenEval (Ghosh, Hajishirzi and Schmidt 2023): six tasks, metadata that say what an image must show, and one rule.

The rule knows no world: it takes objects with a class, a colour, a box and a score, whoever detected them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NotRequired, TypeVar

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from rfscale.data.shapes import RELATIONS
from rfscale.judges.base import JudgeError, Score, share
from rfscale.names import GENEVAL_TASKS

POSITION_THRESHOLD: Final = 0.1  # GenEval's: the share of the sizes by which an offset shrinks

T = TypeVar("T")
Box = tuple[float, float, float, float]

Include = TypedDict(
    "Include", {"class": str, "count": int, "color": NotRequired[str], "position": NotRequired[tuple[str, int]]}
)
"""At least `count` objects of `class`; `position` is (relation, number of the clause that it relates to)."""

Exclude = TypedDict("Exclude", {"class": str, "count": int})
"""Fewer than `count` objects of `class`."""


class Metadata(TypedDict):
    """One line of GenEval's evaluation_metadata.jsonl."""

    tag: str
    include: list[Include]
    exclude: NotRequired[list[Exclude]]
    prompt: str


@dataclass(frozen=True, slots=True)
class Detected:
    """An object in an image: `box` is (x0, y0, x1, y1), y downwards, in any unit; `score` says how sure it is."""

    class_: str
    color: str
    box: Box
    score: float = 1.0


# --- GenEval's rule ---------------------------------------------------------------------------------------------------


def evaluate(objects: Sequence[Detected], metadata: Metadata) -> tuple[bool, str]:
    """Whether an image with these objects shows what the metadata ask for, and if not, why, one reason per line.

    Every `include` clause looks at the `count` surest objects of its class and at no others: there must be so many, all
    of the clause's colour, each in the relation to each object of the clause referred to (which must hold itself). No
    class may have as many objects as its `exclude` clause says. Objects that no clause names do no harm.
    """
    of_class: dict[str, list[Detected]] = {}
    for item in sorted(objects, key=lambda item: -item.score):
        of_class.setdefault(item.class_, []).append(item)
    matched: list[list[Detected] | None] = []
    reasons = []
    for clause in metadata["include"]:
        found = of_class.get(clause["class"], [])[: clause["count"]]
        reason = _unmet(clause, found, matched)
        matched.append(None if reason else found)
        reasons.append(reason)
    for limit in metadata.get("exclude", []):
        number = len(of_class.get(limit["class"], []))
        if number >= limit["count"]:
            reasons.append(f"expected {limit['class']}<{limit['count']}, found {number}")
    reasons = [reason for reason in reasons if reason]
    return not reasons, "\n".join(reasons)


def _unmet(clause: Include, found: Sequence[Detected], matched: Sequence[Sequence[Detected] | None]) -> str:
    """Why the clause does not hold; empty where it does. `matched` has the objects of the clauses before it."""
    name, count = clause["class"], clause["count"]
    if len(found) < count:
        return f"expected {name}>={count}, found {len(found)}"
    if "color" in clause:
        colors = [item.color for item in found]
        if colors.count(clause["color"]) < count:
            return f"expected {clause['color']} {name}>={count}, found {', '.join(colors)}"
    if "position" in clause:
        relation, number = clause["position"]
        targets = matched[number]
        if targets is None:
            return f"no target for {name} to be {relation}"
        for item in found:
            for target in targets:
                true = relative_position(item.box, target.box)
                if relation not in true:
                    return f"expected {name} {relation} target, found {' and '.join(sorted(true)) or 'neither'}"
    return ""


def relative_position(a: Box, b: Box) -> frozenset[str]:
    """Where box `a` is, seen from `b`: none, one or two of RELATIONS.

    The offsets of the centres are shrunk by POSITION_THRESHOLD times the sum of the sizes along each axis; a direction
    counts when what is left makes up more than half of the distance of the centres.
    """
    offset = [(a[k] + a[k + 2] - b[k] - b[k + 2]) / 2 for k in (0, 1)]
    margin = [POSITION_THRESHOLD * (abs(a[k + 2] - a[k]) + abs(b[k + 2] - b[k])) for k in (0, 1)]
    half = 0.5 * (offset[0] ** 2 + offset[1] ** 2) ** 0.5
    far = [max(abs(o) - m, 0.0) > half for o, m in zip(offset, margin, strict=True)]
    across, down = "left of" if offset[0] < 0 else "right of", "above" if offset[1] < 0 else "below"
    return frozenset(word for word, holds in zip((across, down), far, strict=True) if holds)


def summary(results: Sequence[tuple[str, bool]]) -> list[Score]:
    """The share of correct images of each task (tag, correct), and `geneval`: their mean over tasks, not over images.

    The standard error of the mean takes the tasks as independent. Tasks without an image are left out. Raises
    JudgeError.
    """
    unknown = {tag for tag, _ in results} - set(GENEVAL_TASKS)
    if unknown or not results:
        given = f"the tags {', '.join(sorted(unknown))}" if unknown else "no image"
        raise JudgeError(
            f"GenEval has {given} to sum up; its tags are {', '.join(GENEVAL_TASKS)}, so correct the metadata"
        )
    scores = []
    for task in GENEVAL_TASKS:
        correct = [right for tag, right in results if tag == task]
        if correct:
            scores.append(share(f"geneval_{task}", sum(correct), len(correct)))
    mean = sum(score.value for score in scores) / len(scores)
    return [*scores, Score("geneval", mean, sum(score.se**2 for score in scores) ** 0.5 / len(scores))]


def load_metadata(path: Path) -> list[Metadata]:
    """The lines of a file like GenEval's evaluation_metadata.jsonl. Raises JudgeError with the path and the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise JudgeError(f"cannot read the GenEval metadata {path} ({error.strerror}); correct the path") from error
    except UnicodeDecodeError as error:
        raise JudgeError(
            f"the GenEval metadata {path} are not UTF-8 text (byte {error.start}); save them so"
        ) from error
    found = [_metadata(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise JudgeError(f"the GenEval metadata {path} hold no prompt; write one JSON object per line")
    return found


_SCHEMA: Final = TypeAdapter(Metadata)


def _metadata(line: str, where: str) -> Metadata:
    try:
        metadata = _SCHEMA.validate_python(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise JudgeError(f"{where}: {place}: {first['msg']}; write it as in GenEval's metadata file") from error
    except json.JSONDecodeError as error:
        raise JudgeError(f"{where} is no JSON ({error}); write one JSON object per line") from error
    if metadata["tag"] not in GENEVAL_TASKS:
        raise JudgeError(f"{where}: there is no task {metadata['tag']!r}; use one of {', '.join(GENEVAL_TASKS)}")
    for number, clause in enumerate(metadata["include"]):
        relation, target = clause.get("position", (RELATIONS[0], -1))
        if relation not in RELATIONS or target >= number or (target < 0 and "position" in clause):
            raise JudgeError(
                f"{where}: position {[relation, target]} of clause {number} cannot be used; "
                f"give one of {', '.join(RELATIONS)} and the number of an earlier clause"
            )
    return metadata
