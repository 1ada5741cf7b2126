"""An endless captioned world of coloured shapes: 1 to 4 objects on a dark grey ground.

    index -> scene (objects, caption, relation) -> image

Everything is a pure function of the index, by counter-based random numbers, so the data set needs no file and is never
used up. The caption accounts for every object of the scene and for nothing else, in the spirit of ShapeWorld's grammar
(Kuhnle and Copestake 2017): existence, number, and spatial relations, true by the scene graph.

Coordinates are fractions of the image side, x to the right and y downwards; an object is given by the centre and the
side of its bounding square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rfscale.data.base import FloatArray
from rfscale.data.counter import UIntArray, uniform
from rfscale.data.endless import BACKGROUND, COLOURS, PALETTE, signed_unit
from rfscale.data.raster import SHAPES, draw

RELATIONS: Final = ("left of", "right of", "above", "below")
MAX_OBJECTS: Final = 4

GAP = 0.09  # clear space between neighbours: at 16 px, always a pixel that is mostly ground
_SPLIT_RANGE = (0.42, 0.58)  # where a cell is cut in two
_SIZE_RANGE = (0.75, 1.0)  # of the largest size that fits the cell, so that size >= 0.24
_MAX_SIZE = 0.6
_NAME_COLOURS = 0.75  # probability that the caption names the colours
_TELL_RELATION = 0.75  # probability that the caption tells a relation that holds
_ARRANGE = 0.6  # probability that objects of one kind are neighbours

# Which objects are of one kind, for 1 to 4 objects; each pattern of a row is equally likely.
_PATTERNS: Final = (
    ((0, 0, 0, 0),),
    ((0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0)),
    ((0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 1, 0), (0, 1, 2, 0)),
    ((0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 0, 1), (0, 1, 1, 1), (0, 0, 1, 2), (0, 1, 2, 3)),
)
# The cell of each object as (half of the square, part of that half): 0 the whole, 1 the first, 2 the second.
# Rows: one object; one in each half; three as 1 + 2; three as 2 + 1; four.
_CELLS: Final = np.array(
    [
        [(0, 0), (0, 0), (0, 0), (0, 0)],
        [(1, 0), (2, 0), (0, 0), (0, 0)],
        [(1, 0), (2, 1), (2, 2), (0, 0)],
        [(1, 1), (1, 2), (2, 0), (0, 0)],
        [(1, 1), (1, 2), (2, 1), (2, 2)],
    ]
)
_NUMBERS = ("", "a", "two", "three", "four")
_PLURALS = {"cross": "crosses"}

# The random numbers of a scene, by place. New ones are added at the end: the scenes of old indices stay as they are.
_COUNT, _PATTERN, _AXIS, _SPLIT, _FLIP_P, _FLIP_Q, _ARRANGED, _NAMED, _RELATED, _SUBJECT = range(10)
_CUT, _KIND, _ORDER, _SIZE, _X, _Y = 10, 12, 16, 20, 24, 28  # first of 2, then of 4 each
_DRAWS = 32


@dataclass(frozen=True)
class SceneObject:
    shape: str
    colour: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Relation:
    """Every object of `subject` is `word` every object of `reference`; both hold indices into Scene.objects."""

    word: str
    subject: tuple[int, ...]
    reference: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """`relation` is the one that the caption tells, or None."""

    objects: tuple[SceneObject, ...]
    caption: str
    relation: Relation | None = None


def scenes(indices: Sequence[int] | UIntArray, max_objects: int = MAX_OBJECTS) -> list[Scene]:
    """The scene graphs of `indices` (0 .. 2^64 - 1), each a pure function of (index, max_objects)."""
    u = uniform(np.asarray(indices, dtype=np.uint64)[:, None], np.arange(_DRAWS))
    count, kinds = _contents(u, max_objects)
    x, y, size = (array.tolist() for array in _layout(u, count, kinds))
    codes = _distinct_codes(u[:, _KIND : _KIND + MAX_OBJECTS], len(SHAPES) * len(COLOURS))
    codes = np.take_along_axis(codes, kinds, axis=1).tolist()
    tell = u[:, [_NAMED, _RELATED, _SUBJECT]].tolist()
    return [
        _describe(
            tuple(
                SceneObject(SHAPES[codes[i][k] // len(COLOURS)], COLOURS[codes[i][k] % len(COLOURS)], *place)
                for k, place in enumerate(zip(x[i][:n], y[i][:n], size[i][:n], strict=True))
            ),
            *tell[i],
        )
        for i, n in enumerate(count.tolist())
    ]


def render(world: Sequence[Scene], resolution: int) -> FloatArray:
    """Images of scenes: float32 "b 3 resolution resolution" in [-1, 1], anti-aliased."""
    ground = signed_unit(BACKGROUND)
    scene_of, slot_of, shape_of, places, paints = [], [], [], [], []
    for number, scene in enumerate(world):
        for slot, item in enumerate(scene.objects):
            scene_of.append(number)
            slot_of.append(slot)
            shape_of.append(SHAPES.index(item.shape))
            places.append((item.x, item.y, item.size))
            paints.append(COLOURS.index(item.colour))
    covers = draw(np.array(shape_of, dtype=np.int64), np.array(places).reshape(-1, 3), resolution)
    tints = np.stack([signed_unit(rgb) for rgb in PALETTE.values()]) - ground

    # Objects never share a pixel by more than a trace, so the image is the ground plus each object's tint times cover.
    images = np.broadcast_to(ground[:, None, None], (len(world), 3, resolution, resolution)).copy()
    owners, slots = np.array(scene_of, dtype=np.int64), np.array(slot_of, dtype=np.int64)
    for slot in range(MAX_OBJECTS):  # within one slot, no scene occurs twice
        chosen = np.flatnonzero(slots == slot)
        tint = tints[np.array(paints, dtype=np.int64)[chosen]]
        images[owners[chosen]] += covers[chosen, None] * tint[:, :, None, None]
    return images.clip(-1.0, 1.0)


def relative_position(a: SceneObject, b: SceneObject) -> frozenset[str]:
    """Where `a` is, seen from `b`, by GenEval's rule (Ghosh et al. 2023): none, one or two of RELATIONS.

    Offsets of the centres are shrunk by a tenth of the sizes; a direction counts when it makes up more than half of the
    distance of the centres.
    """
    dx, dy = a.x - b.x, a.y - b.y
    distance = (dx * dx + dy * dy) ** 0.5
    margin = 0.1 * (a.size + b.size)
    right = max(abs(dx) - margin, 0.0) > 0.5 * distance
    down = max(abs(dy) - margin, 0.0) > 0.5 * distance
    found = [("left of" if dx < 0 else "right of")] * right + [("above" if dy < 0 else "below")] * down
    return frozenset(found)


def _contents(u: npt.NDArray[np.float64], max_objects: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Number of objects "b" (uniform over 1 .. max_objects) and the kind of each object "b 4"."""
    count = 1 + (u[:, _COUNT] * max_objects).astype(np.int64)
    kinds = np.zeros((len(u), MAX_OBJECTS), dtype=np.int64)
    for n, patterns in enumerate(_PATTERNS, start=1):
        rows = count == n
        kinds[rows] = np.array(patterns)[(u[rows, _PATTERN] * len(patterns)).astype(np.int64)]
    return count, kinds


def _distinct_codes(u: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.int64]:
    """Uniform draws without replacement from range(size), one per column of `u`."""
    codes = np.zeros(u.shape, dtype=np.int64)
    for column in range(u.shape[1]):
        code = (u[:, column] * (size - column)).astype(np.int64)
        for taken in np.sort(codes[:, :column], axis=1).T:
            code += code >= taken  # step over the values already drawn, from the smallest up
        codes[:, column] = code
    return codes


def _layout(
    u: npt.NDArray[np.float64], count: npt.NDArray[np.int64], kinds: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centres x, y and sizes, each "b 4", of objects that do not overlap.

    The square is cut in two along p, halves that hold two objects are cut again along q, and each object is placed
    anywhere in its own cell. p is x or y by chance. Cells are filled kind by kind, or in random order.
    """
    low, high = _SPLIT_RANGE
    two_first = (count == 3) & (kinds[:, 0] == kinds[:, 1])
    half, part = _CELLS[count - 1 + two_first + (count == 4)].transpose(2, 0, 1)
    cut_p = low + (high - low) * u[:, _SPLIT, None]
    cut_q = low + (high - low) * np.where(half == 2, u[:, _CUT + 1, None], u[:, _CUT, None])
    p = np.stack([np.where(half == 2, cut_p, 0.0), np.where(half == 1, cut_p, 1.0)], axis=-1)
    q = np.stack([np.where(part == 2, cut_q, 0.0), np.where(part == 1, cut_q, 1.0)], axis=-1)
    p = np.where(u[:, _FLIP_P, None, None] < 0.5, 1.0 - p[..., ::-1], p)
    q = np.where(u[:, _FLIP_Q, None, None] < 0.5, 1.0 - q[..., ::-1], q)

    cell = np.arange(MAX_OBJECTS)
    order = np.argsort(np.where(cell < count[:, None], u[:, _ORDER : _ORDER + MAX_OBJECTS], 2.0), axis=1, kind="stable")
    order = np.where((u[:, _ARRANGED] < _ARRANGE)[:, None], cell, order)[..., None]
    p, q = np.take_along_axis(p, order, axis=1), np.take_along_axis(q, order, axis=1)

    room = np.minimum(p[..., 1] - p[..., 0], q[..., 1] - q[..., 0]) - GAP
    small, large = _SIZE_RANGE
    size = np.minimum(room, _MAX_SIZE) * (small + (large - small) * u[:, _SIZE : _SIZE + MAX_OBJECTS])
    along = [
        cells[..., 0]
        + (size + GAP) / 2
        + (cells[..., 1] - cells[..., 0] - size - GAP) * u[:, place : place + MAX_OBJECTS]
        for cells, place in ((p, _X), (q, _Y))
    ]
    p_is_x = (u[:, _AXIS] < 0.5)[:, None]
    return np.where(p_is_x, along[0], along[1]), np.where(p_is_x, along[1], along[0]), size


def _describe(objects: tuple[SceneObject, ...], named: float, related: float, subject: float) -> Scene:
    """Put the objects into words; the three numbers in [0, 1) decide what is told."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, item in enumerate(objects):
        groups.setdefault((item.shape, item.colour if named < _NAME_COLOURS else ""), []).append(number)
    if len(groups) == 2 and related < _TELL_RELATION:
        pairs = list(groups.items())
        (kind_a, a), (kind_b, b) = pairs if subject < 0.5 else pairs[::-1]
        holding = frozenset(RELATIONS).intersection(*(relative_position(objects[i], objects[j]) for i in a for j in b))
        if holding:
            words = sorted(holding)
            word = words[int(subject * 4) % len(words)]
            caption = f"{phrase(*kind_a, len(a))} {word} {phrase(*kind_b, len(b))}"
            return Scene(objects, caption, Relation(word, tuple(a), tuple(b)))
    phrases = [phrase(*kind, len(members)) for kind, members in groups.items()]
    caption = " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]
    return Scene(objects, caption)


def phrase(shape: str, colour: str = "", number: int = 1) -> str:
    """As captions have it: `an orange ring`, `three crosses`."""
    noun = shape if number == 1 else _PLURALS.get(shape, f"{shape}s")
    article = "an" if number == 1 and colour.startswith("o") else _NUMBERS[number]
    return f"{article} {colour} {noun}" if colour else f"{article} {noun}"
