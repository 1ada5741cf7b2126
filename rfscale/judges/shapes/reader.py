"""Reads an image of the shapes world into objects, by drawing what it could be and comparing (analysis by synthesis).

    image -> cover of each pixel -> blobs -> of each blob the best drawing: shape, place, size -> its colour

The world paints v(p) = c(p) tint, where v is a pixel's difference to the ground, c the cover in [0, 1] of
`rfscale.data.raster.draw`, and there is one tint per object. For a drawing c the best tint is t = sum(c v) / sum(c c),
and the drawing explains the share

    |sum(c v)|^2 / sum(c c) / (sum(|v|^2) - noise),     sums over the pixels of the blob and its surroundings,

of the blob's energy, whatever its colour; `noise` is what the pixels of the ground lead to expect. The best drawing is
the one that explains most, and its tint names the colour. A blob that is too small, or that no drawing explains, is no
object. A blob that is not explained well is compared with blurred drawings too, and is cut in two along a line, as the
world parts its objects, where that explains much more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rfscale.data.base import FloatArray, IndexArray
from rfscale.data.endless import BACKGROUND, COLOURS, PALETTE, signed_unit
from rfscale.data.raster import SHAPES, draw
from rfscale.data.shapes import SceneObject
from rfscale.judges.base import JudgeError

POSITION_TOLERANCE: Final = 1 / 32  # of the image side: half a pixel at 16 pixels
ENOUGH: Final = (
    32  # pixels: an image is averaged down, by a whole factor, to no smaller side than this before it is read
)

# Thresholds, chosen on corrupted renders, on garbage and on images of half-trained networks.
LEAST_EXPLAINED = 0.87  # below this a blob is no object
SURE = 0.95  # above this no second thought is given to a blob
HOPELESS = 0.25  # below this neither: one drawing can explain a quarter of four objects that run together
LEAST_SIZE = 0.2  # of the image side, and no drawing is tried below; the world's smallest object has 0.247
MOST_SIZE = 0.75  # the world's largest object has 0.6
LEAST_AREA = 0.012  # of the image, in solid pixels: 3 at 16 pixels; the world's smallest object covers 0.03
LEAST_VALLEY = 0.25  # a blob is cut where its profile falls by this part, ...
CUT_GAIN = 0.6  # ... and where that leaves less than this part of the unexplained energy
SOFTNESS = 1 / 24  # standard deviation of the blur of soft drawings, of the image side
MOST_NOISE = 0.2  # standard deviation, in units of [-1, 1]: what deviates more is no noise

_SOLID = 0.5  # cover of a pixel inside a blob
_MARGIN = 2  # pixels around a blob on which its drawing is compared too; no pixel beyond is touched by the blob
_PIXELS_AT_ONCE = 1 << 16  # of windows; the drawings of one search are 20 times as many
_CUTS = 2  # one after the other: four objects that run together are two cuts away from being apart
_LEAST_PAIRS = 8  # neighbouring pixels of ground that tell the noise
_MEDIAN_CHI2_3 = 2.366  # median of the sum of three squared standard normal numbers
_ROUNDS = 6  # of the search for place and size
_PROBE = 0.2  # pixels: difference quotient of a drawing
_DAMPING = 0.05  # of the search, in squared cover per squared pixel
_FARTHEST = 1.0  # pixels: longest step of the search

_GROUND: Final = signed_unit(BACKGROUND)[:, None, None]
_TINTS: Final = np.stack([signed_unit(rgb) for rgb in PALETTE.values()]) - _GROUND[:, 0, 0]
_PROBES: Final = np.concatenate([np.zeros((1, 3)), _PROBE * np.eye(3)])
_IN_PLANE: Final = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])  # neighbours within one image
_APART = 1e6  # distance of two images of a batch

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Reading:
    """An object as read, and the share of its blob's energy that its drawing explains: LEAST_EXPLAINED .. 1."""

    item: SceneObject
    explained: float


def read(images: FloatArray) -> list[tuple[SceneObject, ...]]:
    """The objects of each image "n 3 h h" in [-1, 1], best explained first. Raises JudgeError."""
    return [tuple(reading.item for reading in readings) for readings in read_with_shares(images)]


def read_with_shares(images: FloatArray) -> list[tuple[Reading, ...]]:
    """As `read`, with the share of the energy that each object explains. Raises JudgeError."""
    view = _View(_averaged(_checked(images)))
    found: list[list[Reading]] = [[] for _ in images]
    for fit in (fit for fits in view.explain(view.regions(), _CUTS) for fit in fits):
        x, y, size = (value / view.side for value in fit.place)
        if fit.share >= LEAST_EXPLAINED and LEAST_SIZE + 1e-6 < size < MOST_SIZE:
            colour = int(((_TINTS - np.array(fit.tint)) ** 2).sum(axis=1).argmin())
            found[fit.region.image].append(
                Reading(SceneObject(SHAPES[fit.shape], COLOURS[colour], x, y, size), fit.share)
            )
    return [tuple(sorted(readings, key=lambda reading: -reading.explained)) for readings in found]


def read_exactly(scene_objects: Sequence[SceneObject], read_objects: Sequence[SceneObject]) -> bool:
    """Whether the same kinds (shape, colour) were read as often as they are there, each within POSITION_TOLERANCE."""

    def kinds(objects: Sequence[SceneObject]) -> Counter[tuple[str, str]]:
        return Counter((item.shape, item.colour) for item in objects)

    def found(item: SceneObject) -> bool:
        return any(
            (other.shape, other.colour) == (item.shape, item.colour)
            and max(abs(other.x - item.x), abs(other.y - item.y)) <= POSITION_TOLERANCE
            for other in read_objects
        )

    # True objects are farther apart than two tolerances, so one object read cannot stand for two.
    return kinds(scene_objects) == kinds(read_objects) and all(found(item) for item in scene_objects)


# --- from pixels to blobs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Region:
    """A part of an image that one drawing is to explain: the pixels that `_View.owner` gives to `number`.

    `box` holds its solid pixels: first and last + 1 of y, then of x.
    """

    image: int
    number: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Fit:
    """The best drawing of a region: index into SHAPES, (x, y, size) in pixels, tint; its energy and the region's."""

    region: _Region
    shape: int
    place: tuple[float, float, float]
    tint: tuple[float, float, float]
    explained: float
    energy: float

    @property
    def share(self) -> float:
        return self.explained / max(self.energy, self.explained, 1e-9)

    @property
    def unexplained(self) -> float:
        return max(self.energy - self.explained, 0.0)


def _checked(images: FloatArray) -> FloatArray:
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise JudgeError(
            f"the reader takes square RGB images, n x 3 x h x h, not {images.shape}; judge the shapes world"
        )
    if not np.isfinite(images).all():
        raise JudgeError("the images hold values that are not finite, so the network has diverged; train it again")
    return images.clip(-1.0, 1.0).astype(np.float32)


def _averaged(images: FloatArray) -> FloatArray:
    count, channels, side, _ = images.shape
    factor = max(k for k in range(1, max(side // ENOUGH, 1) + 1) if side % k == 0)
    blocks = images.reshape(count, channels, side // factor, factor, side // factor, factor)
    averages: FloatArray = blocks.mean(axis=(3, 5))
    return averages


class _View:
    """A batch as the reader sees it: difference to the ground, cover, and the region that owns each pixel.

    A pixel belongs to the nearest blob. Cutting a region gives some of its pixels to a new one.
    """

    def __init__(self, images: FloatArray) -> None:
        self.side = images.shape[-1]
        self.difference: FloatArray = images - _GROUND
        self.cover = _covers(self.difference)
        self.solid: Mask = self.cover > _SOLID
        labels, self.count = ndimage.label(self.solid, structure=_IN_PLANE)
        areas = np.bincount(labels.ravel(), minlength=1)
        labels[areas[labels] < LEAST_AREA * self.side**2] = 0
        self.labels: IndexArray = labels
        self.owner: IndexArray = labels
        self.noise: FloatArray = np.zeros(len(images), dtype=np.float32)
        if labels.any():
            apart = (_APART, 1.0, 1.0)
            distance, nearest = ndimage.distance_transform_edt(labels == 0, sampling=apart, return_indices=True)
            self.owner = labels[tuple(nearest)]
            self.noise = _noise(self.difference, distance >= _MARGIN)

    def regions(self) -> list[_Region]:
        boxes = ndimage.find_objects(self.labels, self.count) if self.count else []
        return [
            _Region(box[0].start, number, (box[1].start, box[1].stop, box[2].start, box[2].stop))
            for number, box in enumerate(boxes, start=1)
            if box is not None
        ]

    def explain(self, regions: Sequence[_Region], cuts: int) -> list[list[_Fit]]:
        """Of each region the best drawing; of a doubtful one those of its parts, where they explain much more.

        A region is cut in two, and its parts again, `cuts` times.
        """
        if not regions:
            return []
        fits = self._fit(regions)
        doubtful = (i for i, fit in enumerate(fits) if cuts and HOPELESS < fit.share < SURE)
        pairs = {i: pair for i in doubtful if (pair := self._cut(regions[i]))}
        below = iter(self.explain([part for pair in pairs.values() for part in pair], cuts - 1))
        result = []
        for i, fit in enumerate(fits):
            parts = [*next(below), *next(below)] if i in pairs else []
            better = parts and sum(part.unexplained for part in parts) < CUT_GAIN * fit.unexplained
            result.append(parts if better else [fit])
        return result

    def _fit(self, regions: Sequence[_Region]) -> list[_Fit]:
        """The best drawing of each region."""
        windows = [_window(region) for region in regions]
        found: dict[int, _Fit] = {}
        for window in sorted(set(windows)):
            same = [i for i, other in enumerate(windows) if other == window]
            at_once = max(1, _PIXELS_AT_ONCE // window**2)
            for first in range(0, len(same), at_once):
                chosen = same[first : first + at_once]
                found |= zip(chosen, _Crops(self, [regions[i] for i in chosen], window).fit(), strict=True)
        return [found[i] for i in range(len(regions))]

    def _cut(self, region: _Region) -> tuple[_Region, ...]:
        """The two parts of a region on either side of its deepest valley along x or y; nothing where there is none."""
        y0, y1, x0, x1 = region.box
        owner = self.owner[region.image]
        cover = self.cover[region.image, y0:y1, x0:x1] * (owner[y0:y1, x0:x1] == region.number)
        (depth_x, x), (depth_y, y) = _valley(cover.sum(axis=0)), _valley(cover.sum(axis=1))
        if max(depth_x, depth_y) < LEAST_VALLEY:
            return ()
        self.count += 1
        beyond = owner[:, x0 + x :] if depth_x >= depth_y else owner[y0 + y :]
        beyond[beyond == region.number] = self.count
        first, second = self._part(region, region.number), self._part(region, self.count)
        return (first, second) if first and second else ()

    def _part(self, region: _Region, number: int) -> _Region | None:
        """What of a region's box belongs to `number`; None where it is a speck."""
        y0, y1, x0, x1 = region.box
        mask = self.solid[region.image, y0:y1, x0:x1] & (self.owner[region.image, y0:y1, x0:x1] == number)
        if mask.sum() < LEAST_AREA * self.side**2:
            return None
        ys, xs = np.flatnonzero(mask.any(axis=1)).tolist(), np.flatnonzero(mask.any(axis=0)).tolist()
        return _Region(region.image, number, (y0 + ys[0], y0 + ys[-1] + 1, x0 + xs[0], x0 + xs[-1] + 1))


def _covers(difference: FloatArray) -> FloatArray:
    """How much of each pixel "n h w" is covered, if painted in the palette's colour that fits it best."""
    power = (_TINTS**2).sum(axis=1)[:, None, None, None]
    dots = np.einsum("nchw,kc->knhw", difference, _TINTS)
    covers = (dots / power).clip(0.0, 1.0)
    left = (covers * power - 2 * dots) * covers
    best: FloatArray = np.take_along_axis(covers, left.argmin(axis=0)[None], axis=0)[0]
    return best


def _noise(difference: FloatArray, ground: Mask) -> FloatArray:
    """Variance of a value "n" on the ground; 0 where there is too little of it.

    From neighbouring pixels and by the median: neither a slope nor a stray mark is noise.
    """
    squares = []
    for one, other in ((np.s_[..., 1:, :], np.s_[..., :-1, :]), (np.s_[..., 1:], np.s_[..., :-1])):
        square = ((difference[one] - difference[other]) ** 2).sum(axis=1)
        squares.append(np.where(ground[one] & ground[other], square, np.nan).reshape(len(ground), -1))
    pairs = np.concatenate(squares, axis=1)
    enough = np.isfinite(pairs).sum(axis=1) >= _LEAST_PAIRS
    variance = np.zeros(len(ground), dtype=np.float32)
    if enough.any():
        variance[enough] = np.nanmedian(pairs[enough], axis=1) / (2 * _MEDIAN_CHI2_3)
    return variance.clip(0.0, MOST_NOISE**2)


def _valley(profile: FloatArray) -> tuple[float, int]:
    """Depth and place of the deepest valley, two pixels or more from the ends: how far below the lower of its sides."""
    if len(profile) < 5:
        return 0.0, 0
    inner = np.arange(2, len(profile) - 2)
    before = np.maximum.accumulate(profile)[inner - 1]
    after = np.maximum.accumulate(profile[::-1])[::-1][inner + 1]
    depth = 1.0 - profile[inner] / np.minimum(before, after).clip(1e-6)
    return float(depth.max()), int(inner[depth.argmax()])


def _window(region: _Region) -> int:
    """Side of the square window around a region; few different ones, since those of one side are done at once."""
    y0, y1, x0, x1 = region.box
    return -(-(max(y1 - y0, x1 - x0) + 2 * _MARGIN) // 4) * 4


# --- from blobs to drawings -------------------------------------------------------------------------------------------


class _Crops:
    """Square windows of one side around regions, and the search for the drawing that explains each best."""

    def __init__(self, view: _View, regions: Sequence[_Region], window: int) -> None:
        self.regions, self.window = regions, window
        image, number = (np.array([[(r.image, r.number)] for r in regions]).transpose(2, 0, 1))[:, :, :, None]
        y0, y1, x0, x1 = np.array([region.box for region in regions]).T
        top, left = (y0 + y1 - window) // 2, (x0 + x1 - window) // 2
        y, x = top[:, None, None] + np.arange(window)[:, None], left[:, None, None] + np.arange(window)
        inside = (y >= 0) & (y < view.side) & (x >= 0) & (x < view.side)
        y, x = y.clip(0, view.side - 1), x.clip(0, view.side - 1)
        mask = inside & (view.owner[image, y, x] == number)
        self.mask: FloatArray = mask.reshape(len(regions), 1, -1).astype(np.float32)
        pixels = view.difference.transpose(0, 2, 3, 1)[image, y, x].reshape(len(regions), -1, 3)
        self.pixels: FloatArray = pixels * self.mask.transpose(0, 2, 1)
        noise = 3 * view.noise[image[:, 0, 0]] * self.mask.sum(axis=(1, 2))
        self.energy: FloatArray = (self.pixels**2).sum(axis=(1, 2)) - noise
        self.blur = _blur_matrix(window, SOFTNESS * view.side)
        self.corner = np.stack([left, top, np.zeros_like(top)], axis=1)
        self.least_size = LEAST_SIZE * view.side
        size = np.maximum(np.maximum(y1 - y0, x1 - x0), self.least_size)
        self.start: Floats = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, size], axis=1) - self.corner

    def fit(self) -> list[_Fit]:
        """Every shape is tried on every region, sharp and, where that leaves doubts, soft."""
        kinds = len(SHAPES)
        rows, shapes = np.divmod(np.arange(len(self.regions) * kinds), kinds)
        places, explained, tints = self._search(rows, shapes, self.start[rows], soft=False)
        best = explained.reshape(-1, kinds).max(axis=1)
        doubtful = np.flatnonzero(((HOPELESS * self.energy < best) & (best < SURE * self.energy))[rows])
        if len(doubtful):
            soft = self._search(rows[doubtful], shapes[doubtful], places[doubtful], soft=True)
            better = soft[1] > explained[doubtful]
            chosen = doubtful[better]
            places[chosen], explained[chosen], tints[chosen] = (part[better] for part in soft)
        winner = explained.reshape(-1, kinds).argmax(axis=1) + kinds * np.arange(len(self.regions))
        places = places[winner] + self.corner
        return [
            _Fit(region, int(shapes[k]), tuple(place), tuple(tints[k].tolist()), float(explained[k]), float(energy))
            for region, k, place, energy in zip(self.regions, winner, places.tolist(), self.energy, strict=True)
        ]

    def _search(
        self, rows: IndexArray, shapes: IndexArray, places: Floats, soft: bool
    ) -> tuple[Floats, FloatArray, FloatArray]:
        """Gauss-Newton over (x, y, size) "r 3" in pixels, from `places`: the best place met, its energy, its tint."""
        best = np.full(len(rows), -1.0, dtype=np.float32)
        best_places, best_tints = places.copy(), np.zeros((len(rows), 3), dtype=np.float32)
        for _ in range(_ROUNDS):
            drawn = self._draw(rows, shapes, places[:, None] + _PROBES, soft)
            along = (drawn[:, :1] @ self.pixels[rows])[:, 0]
            power = (drawn[:, 0] ** 2).sum(axis=1).clip(1e-6)
            explained, tints = (along**2).sum(axis=1) / power, along / power[:, None]
            better = explained > best
            best[better], best_places[better], best_tints[better] = explained[better], places[better], tints[better]
            places = places + self._step(rows, drawn, tints)
            places[:, 2] = places[:, 2].clip(self.least_size, 2 * self.window)
        return best_places, best, best_tints

    def _step(self, rows: IndexArray, drawn: FloatArray, tints: FloatArray) -> Floats:
        """The step "r 3" that brings the cover nearest to the one seen, u = (v . t) / |t|^2, to first order.

        Variable projection (Golub and Pereyra 1973): what the tint can make up for does not count.
        """
        seen = (self.pixels[rows] @ (tints / (tints**2).sum(axis=1).clip(1e-6)[:, None])[:, :, None])[:, :, 0]
        cover = drawn[:, 0]
        slopes = (drawn[:, 1:] - drawn[:, :1]) / np.float32(_PROBE)
        shared = (slopes @ cover[:, :, None]) / (cover**2).sum(axis=1).clip(1e-6)[:, None, None]
        slopes -= shared * cover[:, None]
        normal = slopes @ slopes.transpose(0, 2, 1) + _DAMPING * np.eye(3)
        step: Floats = np.linalg.solve(normal, slopes @ (seen - cover)[:, :, None])[:, :, 0]
        return step.clip(-_FARTHEST, _FARTHEST)

    def _draw(self, rows: IndexArray, shapes: IndexArray, places: Floats, soft: bool) -> FloatArray:
        """Covers "r k pixels" of shapes at places "r k 3", within their regions."""
        count = places.shape[1]
        drawn = draw(np.repeat(shapes, count), places.reshape(-1, 3) / self.window, self.window)
        if soft:
            drawn = np.matmul(self.blur @ drawn, self.blur.T)
        within: FloatArray = drawn.reshape(len(rows), count, -1) * self.mask[rows]
        return within


def _blur_matrix(side: int, sd: float) -> FloatArray:
    """Gaussian blur of a row of pixels with nothing around it, as a matrix."""
    offsets = np.arange(side)[:, None] - np.arange(side)
    far = np.arange(-side, side + 1)
    weights: Floats = np.exp(-(offsets**2) / (2 * sd**2)) / np.exp(-(far**2) / (2 * sd**2)).sum()
    return weights.astype(np.float32)
