"""The judge `geneval`: GenEval on its own metadata, with a detector and CLIP from `transformers`, not mmdetection.

The rule and the settings are GenEval's (Ghosh et al. 2023): objects above a confidence of 0.3, and of 0.9 where the
task is counting, at most 16 of a class, no suppression of overlaps; colours by CLIP, on the object cut out of the image
with a grey ground, among ten colours and with three wordings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue

from rfscale.data import DataSpec
from rfscale.data.base import FloatArray
from rfscale.judges.base import Generate, Judge, JudgeError, Score
from rfscale.judges.geneval.rule import Box, Detected, Metadata, evaluate, load_metadata, summary
from rfscale.judges.geneval.spec import GenEvalJudge
from rfscale.judges.published.clip import PACKAGES, Clip, load_clip_model
from rfscale.judges.published.weights import (
    checksum,
    checksums,
    load_model,
    load_processor,
    model_folder,
    read_config,
    require,
    rgb,
    versions,
)

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

CONFIDENCE: Final = 0.3
COUNTING_CONFIDENCE: Final = 0.9
MAX_OBJECTS: Final = 16  # of one class
COLORS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES: Final = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
GROUND: Final = 0x99

# What detectors call a class of COCO, and what GenEval calls it.
GENEVAL_NAMES: Final = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
_BATCH = 8  # images in one forward pass


@dataclass(frozen=True)
class Found:
    """A detected object with its mask "h w", which a detector of boxes does not have."""

    object: Detected
    mask: Mask | None


@dataclass(frozen=True)
class Detector:
    """A detector of `transformers`: Mask2Former and its like, or DETR and its like."""

    model: Any
    processor: Any
    folder: Path
    device: str
    has_masks: bool

    @property
    def classes(self) -> dict[int, str]:
        """Label number -> GenEval's name of the class."""
        names = self.model.config.id2label.items()
        return {int(number): GENEVAL_NAMES.get(name, name) for number, name in names}

    @torch.inference_mode()
    def detect(self, images: Pixels, thresholds: Sequence[float]) -> list[list[Found]]:
        """The objects above its threshold in each image of uint8 "n h w 3", the surest first."""
        found = []
        for first in range(0, len(images), _BATCH):
            part = images[first : first + _BATCH]
            inputs = self.processor(images=list(part), input_data_format="channels_last", return_tensors="pt")
            outputs = self.model(**{key: value.to(self.device) for key, value in inputs.items()})
            sizes = [image.shape[:2] for image in part]
            floor = min(thresholds[first : first + _BATCH])
            read = self._masks if self.has_masks else self._boxes
            for objects, threshold in zip(read(outputs, floor, sizes), thresholds[first:], strict=False):
                sure = sorted((o for o in objects if o.object.score > threshold), key=lambda o: -o.object.score)
                found.append(_at_most(sure, MAX_OBJECTS))
        return found

    def _masks(self, outputs: Any, floor: float, sizes: list[tuple[int, int]]) -> list[list[Found]]:
        results = self.processor.post_process_instance_segmentation(
            outputs, threshold=floor, target_sizes=sizes, return_binary_maps=True
        )
        found = []
        for result in results:
            segments = result["segments_info"]
            masks = result["segmentation"].cpu().numpy() > 0.5 if segments else ()
            objects = []
            for segment, mask in zip(segments, masks, strict=True):
                name = self.classes[int(segment["label_id"])]
                objects.append(Found(Detected(name, "", box_of(mask), float(segment["score"])), mask))
            found.append(objects)
        return found

    def _boxes(self, outputs: Any, floor: float, sizes: list[tuple[int, int]]) -> list[list[Found]]:
        results = self.processor.post_process_object_detection(outputs, threshold=floor, target_sizes=sizes)
        return [
            [
                Found(Detected(self.classes[int(label)], "", _box(box.tolist()), float(score)), None)
                for score, label, box in zip(result["scores"], result["labels"], result["boxes"], strict=True)
            ]
            for result in results
        ]


class Colors:
    """CLIP as a classifier of an object's colour (zero-shot, wordings averaged)."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._texts: dict[str, FloatArray] = {}

    def of(self, image: Pixels, objects: Sequence[Found]) -> list[str]:
        """The colour of each object; all are of one class, one or more."""
        features = self._clip.encode_images([cut_out(image, item) for item in objects])
        return [COLORS[i] for i in (features @ self._classifier(objects[0].object.class_).T).argmax(axis=1).tolist()]

    def _classifier(self, name: str) -> FloatArray:
        """One unit vector per colour, "colours d"."""
        if name not in self._texts:
            texts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
            features = _unit(self._clip.encode_texts(texts)).reshape(len(COLORS), len(TEMPLATES), -1)
            self._texts[name] = _unit(features.mean(axis=1))
        return self._texts[name]


def cut_out(image: Pixels, item: Found) -> Pixels:
    """The object's box of the image, grey outside its mask; at least one pixel."""
    height, width = image.shape[:2]
    left, top, right, bottom = item.object.box
    x0, y0 = min(max(int(left), 0), width - 1), min(max(int(top), 0), height - 1)
    x1, y1 = min(max(int(np.ceil(right)), x0 + 1), width), min(max(int(np.ceil(bottom)), y0 + 1), height)
    if item.mask is not None:
        image = np.where(item.mask[..., None], image, np.uint8(GROUND))
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def box_of(mask: Mask) -> Box:
    """The smallest box (x0, y0, x1, y1) that holds the mask, which is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


@dataclass(frozen=True)
class _GenEval:
    label: str
    identity: dict[str, JsonValue]
    metadata: tuple[Metadata, ...]  # a line for each image
    detector: Detector
    colors: Colors

    def score(self, generate: Generate) -> Iterator[Score]:
        """`geneval_<task>` and their mean `geneval`. The images of a prompt follow one another."""
        images = rgb(generate([line["prompt"] for line in self.metadata]))
        thresholds = [COUNTING_CONFIDENCE if line["tag"] == "counting" else CONFIDENCE for line in self.metadata]
        results = []
        for start in range(0, len(images), _BATCH):  # masks of all images at once would fill the memory
            part = slice(start, start + _BATCH)
            found = self.detector.detect(images[part], thresholds[part])
            for image, objects, line in zip(images[part], found, self.metadata[part], strict=True):
                coloured = color_objects(image, objects, line, self.colors.of)
                results.append((line["tag"], evaluate(coloured, line)[0]))
        yield from summary(results)


def color_objects(
    image: Pixels, objects: Sequence[Found], line: Metadata, colors: Callable[[Pixels, Sequence[Found]], list[str]]
) -> list[Detected]:
    """The objects; those whose colour the rule asks for (the surest `count` of a clause's class) get it."""
    named = {i: item.object for i, item in enumerate(objects)}
    for clause in line["include"]:
        asked = [i for i, item in enumerate(objects) if item.object.class_ == clause["class"]][: clause["count"]]
        if "color" in clause and asked:
            for i, color in zip(asked, colors(image, [objects[i] for i in asked]), strict=True):
                named[i] = replace(named[i], color=color)
    return list(named.values())


def load_detector(judge: str, key: str, model: str, device: str) -> Detector:
    """A detector from a local folder or the hub; what it is, its config.json says. Raises JudgeError."""
    transformers = require(judge, "transformers")
    folder = model_folder(judge, key, model)
    architecture = str((read_config(judge, key, folder).get("architectures") or ["none"])[0])
    kinds = {
        "ForUniversalSegmentation": transformers.AutoModelForUniversalSegmentation,
        "ForObjectDetection": transformers.AutoModelForObjectDetection,
    }
    kind = next((kind for end, kind in kinds.items() if architecture.endswith(end)), None)
    if kind is None:
        raise JudgeError(
            f"the judge `{judge}`: {folder} ({key}) holds the architecture {architecture}, not one "
            f"{' or '.join(kinds)}; give the folder of a detector"
        )
    network = load_model(judge, key, folder, kind)
    # Pillow's, whether torchvision is installed or not: the two resize otherwise.
    processor = load_processor(
        judge, key, folder, partial(transformers.AutoImageProcessor.from_pretrained, backend="pil")
    )
    return Detector(network.to(device), processor, folder, device, architecture.endswith("ForUniversalSegmentation"))


def load_geneval(spec: GenEvalJudge, data: DataSpec, cache: Path, device: str = "cpu") -> Judge:
    """The judge on every line of the metadata, `images_per_prompt` images each. It reads no image of `data`.

    Raises JudgeError, also for a class in the metadata that the detector does not know: all its images would be wrong.
    """
    spec.check(data)
    path = Path(spec.metadata).expanduser()
    metadata = load_metadata(path)
    detector = load_detector("geneval", "detector", spec.detector, device)
    classes = {clause["class"] for line in metadata for clause in [*line["include"], *line.get("exclude", [])]}
    if unknown := sorted(classes - set(detector.classes.values())):
        raise JudgeError(
            f"the judge `geneval`: the detector {detector.folder} knows no {', '.join(unknown[:5])}, "
            f"which {spec.metadata} asks for; give a detector of the classes of COCO"
        )
    clip = load_clip_model("geneval", "clip", spec.clip, device)
    identity: dict[str, JsonValue] = {
        "judge": spec.model_dump(mode="json", exclude={"metadata", "detector", "clip"}),  # content and no path
        "metadata": checksum(path),
        "detector": checksums(detector.folder),
        "clip": checksums(clip.folder),
        "versions": versions(*PACKAGES),
        "prompts": len(metadata),
    }
    lines = tuple(line for line in metadata for _ in range(spec.images_per_prompt))
    return _GenEval(spec.label, identity, lines, detector, Colors(clip))


def _at_most(objects: Sequence[Found], count: int) -> list[Found]:
    """The first `count` of each class."""
    kept: dict[str, int] = {}
    found = []
    for item in objects:
        name = item.object.class_
        kept[name] = kept.get(name, 0) + 1
        if kept[name] <= count:
            found.append(item)
    return found


def _box(corners: list[float]) -> Box:
    left, top, right, bottom = corners
    return left, top, right, bottom


def _unit(features: FloatArray) -> FloatArray:
    return np.asarray(features / np.linalg.norm(features, axis=-1, keepdims=True), dtype=np.float32)
