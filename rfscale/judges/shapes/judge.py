"""The judge of the shapes world, and the exam that it must pass itself before it may score.

    512 held-out captions -> images -> features of the encoder -> FID, KID, FID-infinity against 2,048 other true scenes
                                    -> embeddings              -> CLIP score
                                    -> objects as read         -> read_exactly
    240 GenEval prompts   -> images -> objects as read         -> geneval, and a score for each of its tasks

Beside each score stands its ceiling: what true images of the same scenes score, with the same number of images.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from rfscale.data import counter, endless, raster
from rfscale.data import shapes as world_module
from rfscale.data.base import FloatArray
from rfscale.data.counter import uniform
from rfscale.data.endless import COLOURS
from rfscale.data.shapes import Scene, SceneObject, relative_position, render, scenes
from rfscale.data.spec import DataSpec, ShapesData
from rfscale.data.words import words
from rfscale.judges import base as base_module
from rfscale.judges import distances as distances_module
from rfscale.judges.base import Generate, JudgeError, Progress, Score, share
from rfscale.judges.cache import code_hash, kept
from rfscale.judges.geneval import rule as geneval
from rfscale.judges.metrics import distance_scores as distances
from rfscale.judges.shapes import corruptions, reader
from rfscale.judges.shapes import encoder as encoder_module
from rfscale.judges.shapes import phrases as phrases_module
from rfscale.judges.shapes import prompts as shapes_prompts
from rfscale.judges.shapes.encoder import (
    Encoder,
    Recipe,
    load_encoder,
    silent,
)
from rfscale.judges.shapes.phrases import ROLE, foils, parse, reversed_relation
from rfscale.judges.shapes.spec import ShapesJudge

REFERENCE: Final = 2048  # true scenes that FID and KID compare with
CANDIDATES: Final = 64  # captions among which the right one must be retrieved

READER_BAR: Final = 0.995
RETRIEVAL_BAR: Final = 0.95
GENEVAL_BAR: Final = 0.98

QUICK: Final = 512  # scenes of the exam before the first use
FULL: Final = 2000  # scenes of the exam that the documentation quotes
PROMPTS: Final = 240  # GenEval prompts of either

# What an exam or a ceiling was computed by: it is computed again when the code of one of these files changes.
_CODE: Final[tuple[ModuleType, ...]] = (
    counter,
    raster,
    endless,
    world_module,
    base_module,
    reader,
    corruptions,
    geneval,
    shapes_prompts,
    distances_module,
    phrases_module,
    encoder_module,
    sys.modules[__name__],
)


def load_shapes(
    spec: ShapesJudge,
    data: DataSpec,
    cache: Path,
    device: str = "cpu",
    progress: Progress = silent,
    recipe: Recipe | None = None,
) -> ShapesWorldJudge:
    """The judge of the world that `data` describes, examined. `progress` hears how far a first training is.

    Raises JudgeError where the judge itself does not pass its exam, or the cache cannot be written. The exam is kept in
    the cache beside the weights, and repeated only when the weights, the size of the exam or the code change.
    """
    spec.check(data)
    if not isinstance(data, ShapesData):
        raise JudgeError(f"the judge `shapes` cannot score data `{data.name}`; choose another judge")
    recipe = recipe or Recipe(data.resolution, data.max_objects)
    if not (cache / recipe.folder).exists():
        check_reader(_read_exactly(data.resolution, data.max_objects, QUICK), data.resolution)  # before any training
    encoder = load_encoder(cache, recipe.resolution, recipe.max_objects, device, progress, recipe)
    found = _kept(encoder, f"exam-{QUICK}", {"prompts": PROMPTS}, lambda: examine(encoder, QUICK).to_dict())
    passed = Exam(**found)
    passed.check()
    return ShapesWorldJudge(spec, encoder, passed)


# --- scores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShapesWorldJudge:
    """A `Judge`. Scores are those of `rfscale.names.QUALITY`, each with its standard error and its ceiling."""

    spec: ShapesJudge
    encoder: Encoder
    exam: Exam

    @property
    def label(self) -> str:
        return self.spec.label

    @property
    def identity(self) -> dict[str, JsonValue]:
        return {
            "judge": self.label,
            "recipe": asdict(self.encoder.recipe),
            "encoder": f"sha256:{self.encoder.checksum}",
            "features": "image embedding of 64 numbers, scaled to unit mean square",
            "reference": REFERENCE,
            "code": _code(),
            "exam": self.exam.to_dict(),
        }

    def score(self, generate: Generate) -> Iterator[Score]:
        """Asks for the captions in one call and for the GenEval prompts in a second one.

        Raises JudgeError where the images have another shape than the world's or hold values that are not finite.
        """
        name = f"ceiling-{self.spec.images}-{self.spec.prompts}"
        ceiling = _kept(self.encoder, name, {}, self._true_scores)
        for score in self._scores(generate):
            yield replace(score, ceiling=ceiling[score.name])

    def _true_scores(self) -> dict[str, float]:
        recipe = self.encoder.recipe
        held_out = scenes(np.arange(self.spec.images, dtype=np.uint64), recipe.max_objects)
        prompted = shapes_prompts.true_scenes(
            shapes_prompts.geneval_prompts(self.spec.prompts, recipe.max_objects), recipe.max_objects
        )
        truth = iter([held_out, prompted])
        return {score.name: score.value for score in self._scores(lambda _: render(next(truth), recipe.resolution))}

    def _scores(self, generate: Generate) -> Iterator[Score]:
        recipe = self.encoder.recipe
        world = scenes(np.arange(self.spec.images, dtype=np.uint64), recipe.max_objects)
        captions = [scene.caption for scene in world]
        images = _drawn(generate, captions, recipe.resolution)
        yield from distances(self.encoder.features(images), _reference(self.encoder, self.spec.images))
        cosine = _cosines(self.encoder, images, captions)
        yield Score("clip_score", float(cosine.mean()), float(cosine.std(ddof=1) / len(cosine) ** 0.5))
        right = [agrees(scene, found) for scene, found in zip(world, reader.read(images), strict=True)]
        yield share("read_exactly", sum(right), len(right))

        metadata = shapes_prompts.geneval_prompts(self.spec.prompts, recipe.max_objects)
        images = _drawn(generate, [str(prompt["prompt"]) for prompt in metadata], recipe.resolution)
        yield from geneval.summary(shapes_prompts.judge_images(images, metadata))


def agrees(scene: Scene, found: Sequence[SceneObject]) -> bool:
    """Whether the objects found are those that the caption names: no more, no fewer, and in the relation it tells.

    A caption that names no colours asks for none.
    """
    named = any(word in COLOURS for word in words(scene.caption))

    def kind(item: SceneObject) -> tuple[str, str]:
        return (item.colour if named else "", item.shape)

    if Counter(map(kind, scene.objects)) != Counter(map(kind, found)):
        return False
    if scene.relation is None:
        return True
    subject, other = (kind(scene.objects[part[0]]) for part in (scene.relation.subject, scene.relation.reference))
    return all(
        scene.relation.word in relative_position(a, b)
        for a in found
        if kind(a) == subject
        for b in found
        if kind(b) == other
    )


def _drawn(generate: Generate, captions: Sequence[str], resolution: int) -> FloatArray:
    images = np.asarray(generate(captions), dtype=np.float32)
    wanted = (len(captions), 3, resolution, resolution)
    if images.shape != wanted:
        raise JudgeError(f"the judge `shapes` asked for images of shape {wanted} and got {images.shape}; correct that")
    if not np.isfinite(images).all():
        raise JudgeError("the judge `shapes` got images with NaN or infinite values; the network is not usable")
    return images.clip(-1.0, 1.0)  # as a file of the image would


def _reference(encoder: Encoder, first: int) -> npt.NDArray[np.float64]:
    """Features of the true scenes number first .. first + 2047 of the held-out split."""
    world = scenes(np.arange(first, first + REFERENCE, dtype=np.uint64), encoder.recipe.max_objects)
    return encoder.features(render(world, encoder.recipe.resolution))


def _cosines(encoder: Encoder, images: FloatArray, captions: Sequence[str]) -> npt.NDArray[np.float64]:
    cosines: npt.NDArray[np.float64] = np.sum(
        encoder.encode_images(images) * encoder.encode_texts(captions), axis=1, dtype=np.float64
    )
    return cosines


# --- the exam ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exam:
    """What the judge makes of true images, of spoilt ones, of garbage and of wrong captions. Shares lie in [0, 1]."""

    resolution: int
    max_objects: int
    scenes: int
    prompts: int
    reader: float  # renders whose objects are all read, and no other
    robustness: dict[str, float]  # the same for spoilt renders
    false_objects: dict[str, float]  # images of garbage in which any object is read
    retrieval: float  # renders whose own caption comes first among 64
    retrieval_true: float  # renders with a true caption first: "a ring" has no worse claim to a red ring than its own
    foils: float  # captions that come before one with a word changed or colours exchanged
    relations: float  # captions with a relation that come before their reverse
    clip_score: float
    clip_score_shuffled: float  # with the caption of the next scene
    fid: float  # of the renders against the reference: what no network can beat but by chance
    geneval: dict[str, float]  # of true scenes of the prompts
    geneval_shuffled: dict[str, float]  # with the next prompt of the same task

    def check(self) -> None:
        """Raises JudgeError for the first bar that is missed."""
        check_reader(self.reader, self.resolution)
        if not self.geneval["geneval"] >= GENEVAL_BAR:
            raise _refusal(
                f"finds only {self.geneval['geneval']:.2%} of the GenEval prompts in true images",
                GENEVAL_BAR,
                self.resolution,
            )
        if not self.retrieval_true >= RETRIEVAL_BAR:
            raise _refusal(
                f"retrieves a true caption among {CANDIDATES} for only {self.retrieval_true:.2%} of true images",
                RETRIEVAL_BAR,
                self.resolution,
            )

    def to_dict(self) -> dict[str, JsonValue]:
        return asdict(self)

    def text(self) -> str:
        """A table of every figure, with the bars, and whether the judge may score."""
        rows: list[tuple[str, float, float | None]] = [
            ("reader: clean renders read exactly", self.reader, READER_BAR),
            *((f"reader: {what}", share, None) for what, share in self.robustness.items()),
            *((f"reader: an object in {what}", share, None) for what, share in self.false_objects.items()),
            (f"encoder: its own caption first among {CANDIDATES}", self.retrieval, None),
            (f"encoder: a true caption first among {CANDIDATES}", self.retrieval_true, RETRIEVAL_BAR),
            ("encoder: caption before its foil", self.foils, None),
            ("encoder: relation before its reverse", self.relations, None),
            ("CLIP score, true pairs", self.clip_score, None),
            ("CLIP score, shuffled captions", self.clip_score_shuffled, None),
            (f"FID of {self.scenes} true renders", self.fid, None),
            *(
                (f"{name}, true scenes", share, GENEVAL_BAR if name == "geneval" else None)
                for name, share in self.geneval.items()
            ),
            *((f"{name}, shuffled prompts", share, None) for name, share in self.geneval_shuffled.items()),
        ]
        width = max(len(what) for what, _, _ in rows)
        lines = [f"{what:{width}}  {value:8.4f}" + (f"  >= {bar}" if bar else "") for what, value, bar in rows]
        head = (
            f"Exam of the judge `shapes`: {self.resolution} pixels, 1 to {self.max_objects} objects, "
            f"{self.scenes} held-out scenes, {self.prompts} GenEval prompts"
        )
        try:
            self.check()
            verdict = "It passes: it may score."
        except JudgeError as refusal:
            verdict = f"It does not pass: {refusal}."
        return "\n".join([head, *lines, verdict])


def check_reader(share: float, resolution: int) -> None:
    """Raises JudgeError where the reader is below its bar."""
    if not share >= READER_BAR:
        raise _refusal(f"reads only {share:.2%} of true images exactly", READER_BAR, resolution)


def _refusal(what: str, bar: float, resolution: int) -> JudgeError:
    return JudgeError(
        f"the judge `shapes` {what} at {resolution} pixels, and its bar is {bar:.1%}; "
        "set another `resolution`, such as 16 or 32, or choose another judge"
    )


def exam(
    resolution: int,
    max_objects: int,
    cache: Path,
    count: int = FULL,
    prompts: int = PROMPTS,
    device: str = "cpu",
    progress: Progress = silent,
) -> Exam:
    """Examine the judge on `count` held-out scenes; trains the encoder where the cache has none. Not kept."""
    return examine(load_encoder(cache, resolution, max_objects, device, progress), count, prompts)


def examine(encoder: Encoder, count: int, prompts: int = PROMPTS) -> Exam:
    """The exam of a judge with this encoder."""
    resolution, max_objects = encoder.recipe.resolution, encoder.recipe.max_objects
    world = scenes(np.arange(count, dtype=np.uint64), max_objects)
    images, captions = render(world, resolution), [scene.caption for scene in world]
    phrases = parse(captions)
    pictures = encoder.encode_images(images)
    own = _cosines(encoder, images, captions)
    metadata = shapes_prompts.geneval_prompts(prompts, max_objects)
    true_images = render(shapes_prompts.true_scenes(metadata, max_objects), resolution)
    (fid,) = (s.value for s in distances(encoder.features(images), _reference(encoder, count)) if s.name == "fid")
    changed = foils(phrases, uniform(count, np.arange(count)[:, None], np.arange(4)))
    related = phrases[..., ROLE].any(axis=1)
    first = first_captions(pictures, encoder.encode_texts(captions)).tolist()
    before = own > np.sum(pictures * encoder.encode_phrases(reversed_relation(phrases)), axis=1)
    return Exam(
        resolution,
        max_objects,
        count,
        prompts,
        reader=_read_exactly(resolution, max_objects, count),
        robustness={k: v for k, v in corruptions.robustness(resolution, count, max_objects).items() if k != "clean"},
        false_objects=corruptions.false_objects(resolution, count),
        retrieval=float(np.mean([captions[i] == captions[j] for i, j in enumerate(first)])),
        retrieval_true=float(np.mean([agrees(world[j], world[i].objects) for i, j in enumerate(first)])),
        foils=float(np.mean(own > np.sum(pictures * encoder.encode_phrases(changed), axis=1))),
        relations=float(np.mean(before[related])) if related.any() else float("nan"),
        clip_score=float(own.mean()),
        clip_score_shuffled=float(_cosines(encoder, images, captions[1:] + captions[:1]).mean()),
        fid=fid,
        geneval=_geneval(true_images, metadata),
        geneval_shuffled=_geneval(true_images[_next_of_the_task(metadata)], metadata),
    )


def first_captions(images: FloatArray, texts: FloatArray, candidates: int = CANDIDATES) -> npt.NDArray[np.int64]:
    """For each image the place of the caption with the largest cosine among its own and those of the next scenes."""
    number = np.arange(len(images))
    among = (number[:, None] + np.arange(min(candidates, len(images)))) % len(images)
    best = np.einsum("nd,ncd->nc", images, texts[among]).argmax(axis=1)
    return np.asarray(among[number, best], dtype=np.int64)


def _read_exactly(resolution: int, max_objects: int, count: int) -> float:
    world = scenes(np.arange(count, dtype=np.uint64), max_objects)
    found = reader.read(render(world, resolution))
    return float(np.mean([reader.read_exactly(a.objects, b) for a, b in zip(world, found, strict=True)]))


def _geneval(images: FloatArray, metadata: Sequence[geneval.Metadata]) -> dict[str, float]:
    return {score.name: score.value for score in geneval.summary(shapes_prompts.judge_images(images, metadata))}


def _next_of_the_task(metadata: Sequence[geneval.Metadata]) -> npt.NDArray[np.int64]:
    """For each prompt the place of the next one with the same tag, cyclically."""
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(metadata):
        places.setdefault(prompt["tag"], []).append(place)
    following = np.empty(len(metadata), dtype=np.int64)
    for group in places.values():
        following[group] = np.roll(group, -1)
    return following


# --- what is computed once --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _code() -> str:
    """Hash of the code of every file that an exam or a ceiling depends on. Read once: every unit asks for it."""
    return code_hash(*(Path(str(module.__file__)) for module in _CODE))


def _kept(
    encoder: Encoder, name: str, depends: dict[str, JsonValue], compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The result of `compute`, from <name>.json beside the weights where that was made by the same code and weights."""
    depends = {**depends, "encoder": encoder.checksum, "code": _code(), "reference": REFERENCE}
    return kept(encoder.folder / f"{name}.json", depends, compute)
