"""GenEval in the shapes world: prompts in the words of its captions, true scenes for each, and what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import Final, TypeVar

import numpy as np

from rfscale.data.base import FloatArray
from rfscale.data.counter import hash64
from rfscale.data.endless import COLOURS
from rfscale.data.raster import SHAPES
from rfscale.data.shapes import RELATIONS, Scene, phrase, scenes
from rfscale.judges.base import JudgeError
from rfscale.judges.geneval.rule import Detected, Include, Metadata, evaluate
from rfscale.judges.shapes.reader import Reading, read_with_shares
from rfscale.names import GENEVAL_TASKS

T = TypeVar("T")

_FIRST_SCENE = 1 << 39  # held-out scenes that give true images their places: far from those of the validation
_SCENES_TRIED = 4096  # per prompt
_SHUFFLE = 43


def geneval_prompts(count: int, max_objects: int) -> list[Metadata]:
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
    return [_prompt("single_object", [_clause(a)], phrase(a)) for a in SHAPES]


def _two_object(max_objects: int) -> list[Metadata]:
    return [
        _prompt("two_object", [_clause(a), _clause(b)], f"{phrase(a)} and {phrase(b)}")
        for a, b in permutations(SHAPES, 2)
        if max_objects >= 2
    ]


def _counting(max_objects: int) -> list[Metadata]:
    return [
        {
            "tag": "counting",
            "include": [{"class": a, "count": n}],
            "exclude": [{"class": a, "count": n + 1}],
            "prompt": phrase(a, number=n),
        }
        for a, n in product(SHAPES, range(2, max_objects + 1))
    ]


def _colors(max_objects: int) -> list[Metadata]:
    return [_prompt("colors", [_clause(a, color)], phrase(a, color)) for a, color in product(SHAPES, COLOURS)]


def _position(max_objects: int) -> list[Metadata]:
    return [
        _prompt(
            "position",
            [_clause(b), {"class": a, "count": 1, "position": (relation, 0)}],
            f"{phrase(a)} {relation} {phrase(b)}",
        )
        for (a, b), relation in product(permutations(SHAPES, 2), RELATIONS)
        if max_objects >= 2
    ]


def _color_attr(max_objects: int) -> list[Metadata]:
    return [
        _prompt("color_attr", [_clause(a, c), _clause(b, d)], f"{phrase(a, c)} and {phrase(b, d)}")
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
