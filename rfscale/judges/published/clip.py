"""The judge `clip`: CLIP score, and FID and KID on CLIP image features, as in the paper (ViT-L/14; section 5.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue
from torch import Tensor

from rfscale.data import DataSpec
from rfscale.data.base import FloatArray
from rfscale.judges.base import Generate, Judge, JudgeError, Score
from rfscale.judges.metrics import clip_score
from rfscale.judges.published.spec import ClipJudge
from rfscale.judges.published.weights import (
    BATCH,
    Reference,
    checksum,
    checksums,
    held_out,
    load_model,
    load_processor,
    make_reference,
    model_folder,
    require,
    rgb,
    versions,
)

PACKAGES = ("torch", "transformers", "tokenizers", "pillow")  # whose versions the features depend on


@dataclass(frozen=True)
class Clip:
    """A CLIP model of `transformers`, with its tokenizer and image processor.

    torchmetrics' CLIPScore is not used: 1.9.0 takes the norm of what `get_image_features` returns, which has been an
    output object and no tensor since transformers 5, and it accepts no local folder. The scores are those of
    `rfscale.judges.metrics`, which the tests hold to torchmetrics on the same features.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    folder: Path
    device: str

    @torch.inference_mode()
    def encode_images(self, images: Sequence[npt.NDArray[np.uint8]]) -> FloatArray:
        """Projected image features "n d", not normalised, of uint8 images "h w 3" of any sizes."""
        found = []
        for first in range(0, len(images), BATCH):
            pixels = self.image_processor(
                images=list(images[first : first + BATCH]), input_data_format="channels_last", return_tensors="pt"
            )
            out = self.model.vision_model(pixel_values=pixels["pixel_values"].to(self.device)).pooler_output
            found.append(_array(self.model.visual_projection(out)))
        return np.concatenate(found)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Projected text features "n d", not normalised; a text is cut at the model's longest."""
        longest = self.model.config.text_config.max_position_embeddings
        found = []
        for first in range(0, len(texts), BATCH):
            tokens = self.tokenizer(
                list(texts[first : first + BATCH]),
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            )
            out = self.model.text_model(
                input_ids=tokens["input_ids"].to(self.device), attention_mask=tokens["attention_mask"].to(self.device)
            ).pooler_output
            found.append(_array(self.model.text_projection(out)))
        return np.concatenate(found)


def load_clip_model(judge: str, key: str, model: str, device: str) -> Clip:
    """CLIP from a local folder or the hub. Raises JudgeError."""
    transformers = require(judge, "transformers")
    folder = model_folder(judge, key, model)
    network = load_model(judge, key, folder, transformers.CLIPModel, "clip")
    tokenizer = load_processor(judge, key, folder, transformers.CLIPTokenizer.from_pretrained)
    words, expected = len(tokenizer), network.config.text_config.vocab_size
    if words != expected:  # without its files transformers gives an empty tokenizer, and no error
        raise JudgeError(
            f"the judge `{judge}`: the tokenizer in {folder} ({key}) has {words} tokens and the model {expected}; "
            "check that vocab.json and merges.txt, or tokenizer.json, are complete"
        )
    # The processor of Pillow, by name: the default one is torchvision's where that is installed, and resizes otherwise.
    images = load_processor(judge, key, folder, transformers.CLIPImageProcessorPil.from_pretrained)
    return Clip(network.to(device), tokenizer, images, folder, device)


@dataclass(frozen=True)
class _ClipJudge:
    label: str
    identity: dict[str, JsonValue]
    clip: Clip
    captions: tuple[str, ...]
    reference: Reference | None

    def score(self, generate: Generate) -> Iterator[Score]:
        """`clip_score`, the mean cosine (not times 100), and the distances where there are true images."""
        features = self.clip.encode_images(list(rgb(generate(self.captions))))
        texts = self.clip.encode_texts(self.captions)
        true = math.nan if self.reference is None else clip_score(self.reference.true, texts).value
        yield replace(clip_score(features, texts), ceiling=true)
        if self.reference is not None:
            yield from self.reference.scores(features)


def load_clip(spec: ClipJudge, data: DataSpec, cache: Path, device: str = "cpu") -> Judge:
    """The judge on the first `images` held-out captions; FID and KID against other held-out images (see `HeldOut`).

    With a prompt file, its lines are the prompts, over and over until there are `images` of them, and there is neither
    FID nor a ceiling, since there are no true images. Raises JudgeError.
    """
    spec.check(data)
    prompts = None if spec.prompts is None else read_prompts(Path(spec.prompts).expanduser())
    clip = load_clip_model("clip", "model", spec.model, device)
    network: dict[str, JsonValue] = {"weights": checksums(clip.folder), "versions": versions(*PACKAGES)}
    # Content and no path: a folder may be moved, and a prompt may not be changed.
    identity: dict[str, JsonValue] = {"judge": spec.model_dump(mode="json", exclude={"model", "prompts"}), **network}
    if spec.prompts is not None and prompts is not None:
        identity["prompts"] = checksum(Path(spec.prompts).expanduser())
        return _ClipJudge(spec.label, identity, clip, tuple(islice(cycle(prompts), spec.images)), None)
    held = held_out("clip", data, spec.images)
    depends: dict[str, JsonValue] = {"data": data.identity(), "features": "clip", **network}
    reference = make_reference(held, lambda images: clip.encode_images(list(rgb(images))), cache, depends)
    identity["reference"] = len(held.reference)
    return _ClipJudge(spec.label, identity, clip, held.captions, reference)


def read_prompts(path: Path) -> tuple[str, ...]:
    """The lines of a prompt file without the empty ones. Raises JudgeError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"the judge `clip`: {path} (prompts) cannot be read as text: {error}; correct it") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise JudgeError(f"the judge `clip`: {path} (prompts) holds no prompt; write one to a line")
    return found


def _array(features: Tensor) -> FloatArray:
    return features.float().cpu().numpy()
