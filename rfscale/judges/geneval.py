"""GenEval (Ghosh, Hajishirzi and Schmidt 2023): six tasks, metadata that say what an image must show, and one rule.

The rule, the metadata and the summary are GenEval's own and know no world: they take objects with a class, a colour, a
box and a score, whoever detected them. Below them stand the prompts of the shapes world, true scenes for each, and the
judge that reads images with `rfscale.judges.reader`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path
from typing import Final, NotRequired, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from rfscale.data.base import FloatArray
from rfscale.data.counter import hash64
from rfscale.data.raster import SHAPES
from rfscale.data.shapes import COLOURS, RELATIONS, Scene, scenes
from rfscale.judges.base import JudgeError, Score
from rfscale.judges.reader import Reading, read_with_shares
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

    The standard error of a share x / n is that of Agresti and Coull (1998), sqrt(p (1 - p) / m) with m = n + z^2,
    p = (x + z^2 / 2) / m and z = 1.96: not 0 where all images are right, or none. That of the mean takes the tasks as
    independent. Tasks without an image are left out. Raises JudgeError.
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
            scores.append(
                Score(f"geneval_{task}", sum(correct) / len(correct), agresti_coull(sum(correct), len(correct)))
            )
    mean = sum(score.value for score in scores) / len(scores)
    return [*scores, Score("geneval", mean, sum(score.se**2 for score in scores) ** 0.5 / len(scores))]


def agresti_coull(hits: int, trials: int) -> float:
    z2 = 1.96**2
    share = (hits + z2 / 2) / (trials + z2)
    return float((share * (1 - share) / (trials + z2)) ** 0.5)


def load_metadata(path: Path) -> list[Metadata]:
    """The lines of a file like GenEval's evaluation_metadata.jsonl. Raises JudgeError with the path and the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"cannot read the GenEval metadata {path} ({error}); correct the path") from error
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
                f"{where}: position {[relation, target]} of clause {number} is none; "
                f"give one of {', '.join(RELATIONS)} and the number of an earlier clause"
            )
    return metadata


# --- the shapes world -------------------------------------------------------------------------------------------------

_NUMBERS: Final = ("no", "a", "two", "three", "four")
_FIRST_SCENE = 1 << 39  # held-out scenes that give true images their places: far from those of the validation
_SCENES_TRIED = 4096  # per prompt
_SHUFFLE = 43


def shapes_prompts(count: int, max_objects: int) -> list[Metadata]:
    """`count` prompts that go round the tasks in turn, in the words of the shapes world's captions; always the same.

    Classes are shapes, colours the palette. Each task takes all of its prompts in a shuffled order before it takes one
    again: there are 5, 20, 15, 40, 80 and 1,120 of them at 4 objects. A world of fewer objects counts less far; in one
    of single objects only `single_object` and `colors` are left.
    """
    tasks = [task for task in (_shuffled(_TASKS[tag](max_objects)) for tag in GENEVAL_TASKS) if task]
    return [tasks[i % len(tasks)][i // len(tasks) % len(tasks[i % len(tasks)])] for i in range(count)]


def true_scenes(metadata: Sequence[Metadata], max_objects: int) -> list[Scene]:
    """A scene for each prompt that shows what it asks for and nothing else; `rfscale.data.shapes.render` draws them.

    Places and sizes are those of a held-out scene of the world with as many objects, and so are colours that the prompt
    leaves open. Raises JudgeError for a prompt that no scene of the world can show.
    """
    return [_true_scene(line, _FIRST_SCENE + i * _SCENES_TRIED, max_objects) for i, line in enumerate(metadata)]


def judge_images(images: FloatArray, metadata: Sequence[Metadata]) -> list[tuple[str, bool]]:
    """(task, correct) of each image "n 3 h h" in [-1, 1] of the shapes world. Raises JudgeError."""
    found = [[detected(reading) for reading in readings] for readings in read_with_shares(images)]
    return [(line["tag"], evaluate(objects, line)[0]) for objects, line in zip(found, metadata, strict=True)]


def detected(reading: Reading) -> Detected:
    """What the reader read, as GenEval's rule takes it; coordinates are fractions of the image side."""
    item, half = reading.item, reading.item.size / 2
    box = (item.x - half, item.y - half, item.x + half, item.y + half)
    return Detected(item.shape, item.colour, box, reading.explained)


def _single_object(max_objects: int) -> list[Metadata]:
    return [_prompt("single_object", [_clause(a)], _phrase(a)) for a in SHAPES]


def _two_object(max_objects: int) -> list[Metadata]:
    return [
        _prompt("two_object", [_clause(a), _clause(b)], f"{_phrase(a)} and {_phrase(b)}")
        for a, b in permutations(SHAPES, 2)
        if max_objects >= 2
    ]


def _counting(max_objects: int) -> list[Metadata]:
    return [
        {
            "tag": "counting",
            "include": [{"class": a, "count": n}],
            "exclude": [{"class": a, "count": n + 1}],
            "prompt": _phrase(a, number=n),
        }
        for a, n in product(SHAPES, range(2, max_objects + 1))
    ]


def _colors(max_objects: int) -> list[Metadata]:
    return [_prompt("colors", [_clause(a, color)], _phrase(a, color)) for a, color in product(SHAPES, COLOURS)]


def _position(max_objects: int) -> list[Metadata]:
    return [
        _prompt(
            "position",
            [_clause(b), {"class": a, "count": 1, "position": (relation, 0)}],
            f"{_phrase(a)} {relation} {_phrase(b)}",
        )
        for (a, b), relation in product(permutations(SHAPES, 2), RELATIONS)
        if max_objects >= 2
    ]


def _color_attr(max_objects: int) -> list[Metadata]:
    return [
        _prompt("color_attr", [_clause(a, c), _clause(b, d)], f"{_phrase(a, c)} and {_phrase(b, d)}")
        for (a, b), (c, d) in product(permutations(SHAPES, 2), permutations(COLOURS, 2))
        if max_objects >= 2
    ]


_TASKS: Final[dict[str, Callable[[int], list[Metadata]]]] = {
    "single_object": _single_object,
    "two_object": _two_object,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attr": _color_attr,
}


def _prompt(tag: str, include: list[Include], prompt: str) -> Metadata:
    return {"tag": tag, "include": include, "prompt": prompt}


def _clause(shape: str, color: str | None = None) -> Include:
    return {"class": shape, "count": 1} if color is None else {"class": shape, "count": 1, "color": color}


def _phrase(shape: str, color: str = "", number: int = 1) -> str:
    """As the captions have it: `an orange ring`, `three crosses`."""
    noun = shape if number == 1 else f"{shape}es" if shape.endswith("s") else f"{shape}s"
    article = "an" if number == 1 and color.startswith("o") else _NUMBERS[number]
    return " ".join(word for word in (article, color, noun) if word)


def _shuffled(items: Sequence[T]) -> list[T]:
    """Always the same order."""
    order = np.argsort(hash64(_SHUFFLE, np.arange(len(items))), kind="stable").tolist() if items else []
    return [items[i] for i in order]


def _true_scene(line: Metadata, first: int, max_objects: int) -> Scene:
    wanted = [(clause["class"], clause.get("color")) for clause in line["include"] for _ in range(clause["count"])]
    candidates = (scene for scene in _world(first, max_objects) if len(scene.objects) == len(wanted))
    for scene in candidates if len(wanted) <= max_objects else ():
        objects = tuple(
            replace(item, shape=shape, colour=color or item.colour)
            for item, (shape, color) in zip(scene.objects, wanted, strict=True)
        )
        if evaluate([detected(Reading(item, 1.0)) for item in objects], line)[0]:
            return Scene(objects, line["prompt"])
    raise JudgeError(f"no scene with up to {max_objects} objects shows {line['prompt']!r}; take another prompt")


def _world(first: int, max_objects: int) -> Iterator[Scene]:
    """Scenes first .. first + _SCENES_TRIED - 1, a few at a time."""
    block = 32
    for start in range(first, first + _SCENES_TRIED, block):
        yield from scenes(list(range(start, start + block)), max_objects)
