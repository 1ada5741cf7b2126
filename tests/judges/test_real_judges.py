"""The judges with published weights, on tiny models saved in the real formats: real loading and real scoring code."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from huggingface_hub import constants
from mlflow.utils.validation import _validate_metric_name
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    ResNetConfig,
    SwinConfig,
)
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from rfscale import names
from rfscale.data import DataSpec, DigitsData, ShapesData, hub, load
from rfscale.judges import (
    ClipJudge,
    Generate,
    GenEvalJudge,
    GlyphsJudge,
    InceptionJudge,
    Judge,
    JudgeError,
    Score,
    ShapesJudge,
    load_judge,
)
from rfscale.judges.base import FloatArray
from rfscale.judges.distances import fid, kid
from rfscale.judges.geneval import detector as detector_module
from rfscale.judges.geneval.detector import Colors, Found, color_objects, cut_out, load_detector
from rfscale.judges.geneval.rule import Detected, Metadata
from rfscale.judges.published import clip as clip_module
from rfscale.judges.published import inception as inception_module
from rfscale.judges.published import weights as published

SHAPES = ShapesData(name="shapes", resolution=16)
CLASSES = {0: "person", 1: "dog", 2: "mouse"}
START, END = "<|startoftext|>", "<|endoftext|>"


# --- tiny models in the real formats ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip`, `mask2former`, `detr`, `bert` and `inception.pth`, all with random weights."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    save_clip(root / "clip")
    labels = {"id2label": CLASSES, "label2id": {name: number for number, name in CLASSES.items()}}
    swin = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    small = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 32}
    mask2former = Mask2FormerConfig(backbone_config=swin, num_queries=6, **small, **layers, **labels)
    Mask2FormerForUniversalSegmentation(mask2former).save_pretrained(root / "mask2former")
    Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(root / "mask2former")
    resnet = ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    small = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 6}
    detr = DetrConfig(use_timm_backbone=False, backbone_config=resnet, **layers, **small, **labels)
    DetrForObjectDetection(detr).save_pretrained(root / "detr")
    DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 64}).save_pretrained(root / "detr")
    bert = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**bert, intermediate_size=16)).save_pretrained(root / "bert")
    torch.save(inception_weights(), root / "inception.pth")
    return root


def save_clip(folder: Path) -> None:
    folder.mkdir()
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": vocabulary[START], "eos_token_id": vocabulary[END], "pad_token_id": vocabulary[END]}
    text = {**small, **special, "vocab_size": len(vocabulary), "max_position_embeddings": 77}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def inception_weights() -> dict[str, torch.Tensor]:
    """Weights of Inception by a formula, so that figures of another library with the same weights can be kept here."""
    weights = inception_module.Inception().state_dict()
    for place, (name, old) in enumerate(weights.items()):
        if old.dtype.is_floating_point:
            wave = torch.sin(torch.arange(old.numel(), dtype=torch.float64) * 12.9898 + place * 1.7)
            if name.endswith("running_var"):
                wave = 1 + 0.5 * wave
            elif name.endswith("bn.weight"):
                wave = 1 + 0.3 * wave
            else:
                wave = wave * ((4.0 / old[0].numel()) ** 0.5 if old.ndim > 1 else 0.2)
            weights[name] = wave.reshape(old.shape).float()
    return weights


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests go over the border of a batch."""
    monkeypatch.setattr(clip_module, "BATCH", 8)
    monkeypatch.setattr(inception_module, "_BATCH", 3)
    monkeypatch.setattr(detector_module, "_BATCH", 4)


def true_images(data: DataSpec, captions: Sequence[str]) -> FloatArray:
    """A perfect network for the held-out captions."""
    return load(data).validation(len(captions)).images


def noise(captions: Sequence[str], channels: int = 3) -> FloatArray:
    shape = (len(captions), channels, 16, 16)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def scores(judge: Judge, generate: Generate) -> dict[str, Score]:
    found = list(judge.score(generate))
    by_name = {score.name: score for score in found}
    assert len(by_name) == len(found)
    assert by_name.keys() <= names.QUALITY.keys()
    return by_name


# --- CLIP -------------------------------------------------------------------------------------------------------------


def clip_spec(models: Path, **changes: object) -> ClipJudge:
    return ClipJudge.model_validate({"model": str(models / "clip"), "images": 20, **changes})


def test_clip_scores(models: Path, tmp_path: Path) -> None:
    judge = load_judge(clip_spec(models), SHAPES, tmp_path)
    asked: list[Sequence[str]] = []

    def generate(captions: Sequence[str]) -> FloatArray:
        asked.append(captions)
        return true_images(SHAPES, captions)

    found = scores(judge, generate)
    assert asked == [load(SHAPES).validation(20).captions]
    assert found.keys() == {"clip_score", "fid", "kid", "fid_infinity"}
    for score in found.values():  # true images score what true images score
        assert score.value == pytest.approx(score.ceiling, rel=1e-6)
        assert score.se > 0
    worse = scores(judge, noise)
    assert worse["fid"].value > 2 * found["fid"].value
    assert worse["fid"].ceiling == found["fid"].ceiling
    assert judge.label == "clip-20"


def test_clip_features_are_those_of_the_whole_model(models: Path, tmp_path: Path) -> None:
    """The mean cosine is that of CLIPModel's own forward pass, and FID that of its features before normalisation."""
    judge = load_judge(clip_spec(models), SHAPES, tmp_path)
    found = scores(judge, noise)
    captions = load(SHAPES).validation(20).captions
    model = CLIPModel.from_pretrained(models / "clip").eval()
    tokens = CLIPTokenizer.from_pretrained(models / "clip")(list(captions), padding=True, return_tensors="pt")
    images = CLIPImageProcessorPil.from_pretrained(models / "clip")

    def pixels(array: FloatArray) -> torch.Tensor:
        bytes_ = list(((array + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1))
        return images(images=bytes_, input_data_format="channels_last", return_tensors="pt")["pixel_values"]

    with torch.inference_mode():
        out = model(**tokens, pixel_values=pixels(noise(captions)))
        drawn = model.get_image_features(pixels(noise(captions))).pooler_output
        reference = model.get_image_features(pixels(load(SHAPES).validation(60).images[20:])).pooler_output
    cosine = functional.cosine_similarity(out.image_embeds, out.text_embeds)
    assert found["clip_score"].value == pytest.approx(cosine.mean().item(), abs=1e-5)
    assert found["clip_score"].se == pytest.approx(cosine.std().item() / math.sqrt(20), rel=1e-3)
    assert found["fid"].value == pytest.approx(fid(drawn.numpy(), reference.numpy()), rel=1e-3)
    assert found["kid"].value == pytest.approx(kid(drawn.numpy(), reference.numpy())[0], rel=1e-3)


def test_clip_judges_grey_images(models: Path, tmp_path: Path) -> None:
    data = DigitsData(name="digits")
    found = scores(load_judge(clip_spec(models), data, tmp_path), partial(true_images, data))
    assert found["fid"].value == pytest.approx(found["fid"].ceiling, rel=1e-6)


def test_clip_with_a_prompt_file_has_no_fid(models: Path, tmp_path: Path) -> None:
    (tmp_path / "colors.txt").write_text("a red book\n\n a green cup \n", encoding="utf-8")
    judge = load_judge(clip_spec(models, prompts=str(tmp_path / "colors.txt"), images=5), SHAPES, tmp_path)
    asked: list[Sequence[str]] = []

    def generate(captions: Sequence[str]) -> FloatArray:
        asked.append(captions)
        return noise(captions)

    found = scores(judge, generate)
    assert found.keys() == {"clip_score"}
    assert math.isnan(found["clip_score"].ceiling)
    assert asked == [("a red book", "a green cup", "a red book", "a green cup", "a red book")]
    assert judge.label == "clip-colors-5"
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(JudgeError, match="holds no prompt"):
        load_judge(clip_spec(models, prompts=str(tmp_path / "empty.txt")), SHAPES, tmp_path)


def test_a_long_caption_is_cut(models: Path) -> None:
    clip = clip_module.load_clip_model("clip", "model", str(models / "clip"), "cpu")
    assert clip.encode_texts(["red " * 200]).shape == (1, 16)


def test_reference_features_are_computed_once(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = clip_spec(models)
    first = scores(load_judge(spec, SHAPES, tmp_path), noise)
    (kept,) = tmp_path.glob("features-*.safetensors")
    before = kept.read_bytes()
    encode = clip_module.Clip.encode_images
    batches: list[int] = []

    def counted(self: clip_module.Clip, images: Sequence[npt.NDArray[np.uint8]]) -> FloatArray:
        batches.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(clip_module.Clip, "encode_images", counted)
    assert scores(load_judge(spec, SHAPES, tmp_path), noise) == first
    assert batches == [20], "only the generated images were encoded"
    kept.write_bytes(before[:100])  # damaged: computed again
    assert scores(load_judge(spec, SHAPES, tmp_path), noise) == first
    assert kept.read_bytes() == before
    load_judge(clip_spec(models, images=21), SHAPES, tmp_path)
    load_judge(spec, ShapesData(name="shapes", resolution=32), tmp_path)
    assert len(list(tmp_path.glob("features-*"))) == 3


def edit(path: Path, **changes: object) -> None:
    """Changes fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_reference_features_depend_on_the_processor_and_the_versions(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(models / "clip", tmp_path / "clip")
    spec = clip_spec(models, model=str(folder))
    before = scores(load_judge(spec, SHAPES, tmp_path), noise)["fid"]
    edit(folder / "preprocessor_config.json", image_mean=[0.1, 0.5, 0.9])
    after = scores(load_judge(spec, SHAPES, tmp_path), noise)["fid"]
    fresh = scores(load_judge(spec, SHAPES, tmp_path / "fresh"), noise)["fid"]
    assert after == fresh != before
    assert len(list(tmp_path.glob("features-*"))) == 2
    for number, package in enumerate(("torch", "transformers", "pillow"), start=3):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, other=package: str(name == other))
        load_judge(spec, SHAPES, tmp_path)
        assert len(list(tmp_path.glob("features-*"))) == number, package


def test_identity_holds_the_checksum_of_every_file(models: Path, tmp_path: Path) -> None:
    identity = load_judge(clip_spec(models), SHAPES, tmp_path).identity
    weights = identity["weights"]
    assert isinstance(weights, dict)
    assert weights["model.safetensors"] == published.checksum(models / "clip" / "model.safetensors")
    assert weights.keys() == {path.name for path in (models / "clip").iterdir()}
    assert weights.keys() >= {"config.json", "preprocessor_config.json", "vocab.json", "merges.txt"}
    assert identity["reference"] == 40


@pytest.mark.parametrize("name", ["clip", "clip with prompts", "geneval", "inception"])
def test_identity_is_of_the_content_and_not_of_the_place(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "inception":
        monkeypatch.setattr(inception_module, "encode", lambda network, images, device: images.reshape(len(images), -1))

    def identity(root: Path, prompts: str) -> dict[str, object]:
        if name == "clip":
            spec = clip_spec(models, model=str(root / "a"))
        elif name == "clip with prompts":
            spec = clip_spec(models, model=str(root / "a"), prompts=str(root / prompts))
        elif name == "geneval":
            spec = GenEvalJudge(metadata=str(root / prompts), detector=str(root / "b"), clip=str(root / "a"))
        else:
            spec = InceptionJudge(weights=str(root / "c.pth"), images=4)
        return load_judge(spec, SHAPES, tmp_path).identity

    here = tmp_path / "here"
    copy_of(models / "clip", here / "a")
    copy_of(models / "mask2former", here / "b")
    shutil.copy(models / "inception.pth", here / "c.pth")
    (here / "prompts").write_text(json.dumps(METADATA[0]), encoding="utf-8")
    first = identity(here, "prompts")
    for place in ("here", "prompts", "c.pth"):
        assert place not in json.dumps(first).replace('"prompts": ', "")
    there = here.rename(tmp_path / "there")
    shutil.copy(there / "prompts", there / "same")
    assert identity(there, "same") == first
    different = []
    if name in ("clip", "geneval"):
        edit(there / "a" / "preprocessor_config.json", image_mean=[0.1, 0.5, 0.9])
        different.append(identity(there, "prompts"))
    if name == "geneval":
        edit(there / "b" / "preprocessor_config.json", image_mean=[0.1, 0.5, 0.9])
        different.append(identity(there, "prompts"))
    if name in ("clip with prompts", "geneval"):
        (there / "prompts").write_text(json.dumps({**METADATA[0], "prompt": "a picture of a dog"}), encoding="utf-8")
        different.append(identity(there, "prompts"))
    kept = [first, *different]
    assert all(a != b for i, a in enumerate(kept) for b in kept[:i])


def test_labels_are_names_that_mlflow_takes(tmp_path: Path) -> None:
    odd = str(tmp_path / "my prompts (v2)\\größe+.txt")
    labels = {
        ClipJudge(model="/models/vit+l", prompts=odd).label: "vit_l-my_prompts__v2__gr__e_-1000",
        GenEvalJudge(metadata=odd, detector="owner/detr: 50").label: "geneval-my_prompts__v2__gr__e_-detr__50-4",
        ClipJudge().label: "clip-vit-large-patch14-1000",
        ShapesJudge().label: "shapes-512-240",
        GlyphsJudge().label: "glyphs-512",
    }
    for label, expected in labels.items():
        assert label == expected
        key = names.quality_key("fid", label, "s50-g2.5-ema")
        _validate_metric_name(key)
        assert names.parse_quality(key) == ("fid", label, "s50-g2.5-ema")


# --- held-out images --------------------------------------------------------------------------------------------------


def test_the_reference_is_other_images_where_there_are_enough() -> None:
    held = published.held_out("clip", SHAPES, 10)
    batch = load(SHAPES).validation(30)
    assert held.disjoint
    assert held.captions == batch.captions[:10]
    np.testing.assert_array_equal(held.true, batch.images[:10])
    np.testing.assert_array_equal(held.reference, batch.images[10:])


def test_a_short_split_is_its_own_reference_and_has_no_ceiling() -> None:
    data = DigitsData(name="digits")
    available = len(load(data).validation(10**6).captions)
    held = published.held_out("clip", data, available - 3)
    assert not held.disjoint
    assert len(held.reference) == available
    features = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    found = list(published.Reference(features[:20], features, disjoint=False).scores(features[:10]))
    assert len(found) == 3
    assert all(math.isnan(score.ceiling) for score in found)
    with pytest.raises(JudgeError, match=f"set `images: {available}`"):
        published.held_out("clip", data, available + 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_rounded(channels: int) -> None:
    values = np.array([-2.0, -1.0, 0.0, 1.0 / 127.5, 1.0, 3.0], dtype=np.float32)
    images = np.repeat(values.reshape(1, 1, 1, 6), channels, axis=1)
    pixels = published.rgb(images)
    assert pixels.shape == (1, 1, 6, 3)
    np.testing.assert_array_equal(pixels[0, 0, :, 0], [0, 0, 128, 128, 255, 255])  # 127.5 to the even number
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_images_of_a_diverged_network(models: Path, tmp_path: Path) -> None:
    judge = load_judge(clip_spec(models), SHAPES, tmp_path)
    with pytest.raises(JudgeError, match="NaN or infinity; the network has diverged"):
        list(judge.score(lambda captions: np.full((len(captions), 3, 16, 16), np.nan, dtype=np.float32)))
    with pytest.raises(JudgeError, match=r"shape \(20, 4, 16, 16\)"):
        list(judge.score(partial(noise, channels=4)))


# --- Inception --------------------------------------------------------------------------------------------------------

# torch-fidelity 0.4.0, FeatureExtractorInceptionV3, feature 2048, float32, of `wavy_image` with `inception_weights`:
# (height, width) -> mean, standard deviation (n - 1), and the first two features.
TORCH_FIDELITY = {
    (16, 16): (2.0443716, 4.6934671, 3.7115316, 1.1445189),
    (300, 300): (2.0672693, 4.7469006, 3.7429633, 1.1495094),
    (20, 40): (2.0520291, 4.7115064, 3.7226353, 1.1468812),
}


def wavy_image(height: int, width: int) -> torch.Tensor:
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return torch.from_numpy(((y * 37 + x * 91 + c * 53 + (x * y) % 17 * 11) % 256).astype(np.uint8))[None]


def test_inception_agrees_with_torch_fidelity(models: Path) -> None:
    network = inception_module.load_network(models / "inception.pth", "cpu")
    for (height, width), (mean, deviation, *first) in TORCH_FIDELITY.items():
        features = network(wavy_image(height, width))
        assert features.shape == (1, 2048)
        assert features.mean().item() == pytest.approx(mean, rel=1e-5)
        assert features.std().item() == pytest.approx(deviation, rel=1e-5)
        assert features[0, :2].tolist() == pytest.approx(first, rel=1e-5)


def test_resize_is_that_of_tensorflow_1() -> None:
    """Output pixel i lies at i h / side: doubling keeps every pixel, and repeats the last one at the border."""
    row = torch.tensor([1.0, 3.0, 7.0])
    resized = inception_module.resize(row.reshape(1, 1, 1, 3).repeat(1, 1, 3, 1), side=6)
    torch.testing.assert_close(resized[0, 0], torch.tensor([1.0, 2.0, 3.0, 5.0, 7.0, 7.0]).repeat(6, 1))


def test_inception_scores(models: Path, tmp_path: Path) -> None:
    spec = InceptionJudge(weights=str(models / "inception.pth"), images=4)
    judge = load_judge(spec, SHAPES, tmp_path)
    found = scores(judge, partial(true_images, SHAPES))
    assert found.keys() == {"fid", "kid"}
    for score in found.values():
        assert score.value == pytest.approx(score.ceiling, rel=1e-5, abs=1e-9)
    assert scores(judge, noise)["fid"].value > 2 * found["fid"].value
    assert judge.label == "inception-4"
    assert judge.identity["weights"] == published.checksum(models / "inception.pth")


def test_inception_features_depend_on_the_version_of_torch(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception_module, "encode", lambda network, images, device: images.reshape(len(images), -1))
    spec = InceptionJudge(weights=str(models / "inception.pth"), images=4)
    for number, version in enumerate(("2.13.0", "2.13.0", "2.14.0")):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        load_judge(spec, SHAPES, tmp_path)
        assert len(list(tmp_path.glob("features-*"))) == max(number, 1)


class NotWeights:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("it-ran"),))  # type: ignore[return-value]


def test_inception_weights_that_are_none(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = (models / "inception.pth").read_bytes()
    (tmp_path / "text.pth").write_text("these are no weights", encoding="utf-8")
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(NotWeights(), tmp_path / "code.pth")
    for name in ("text.pth", "cut.pth", "other.pth", "list.pth", "code.pth"):
        spec = InceptionJudge(weights=str(tmp_path / name), images=2)
        message = one_sentence(lambda spec=spec: load_judge(spec, SHAPES, tmp_path))
        assert str(tmp_path / name) in message
        assert ("is not opened" if name == "code.pth" else "cannot be loaded") in message
        assert "weights_only" not in message, "torch's advice to open it all the same"
        assert ("give torch-fidelity's file" if name == "code.pth" else "check that the download is comp") in message
    assert not (tmp_path / "it-ran").exists()


def test_inception_download(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked by the hash in its name, kept in the cache, not asked for again."""
    source = tmp_path / "weights-00000000.pth"
    shutil.copy(models / "inception.pth", source)
    monkeypatch.setattr(inception_module, "WEIGHTS_URL", source.as_uri())
    with pytest.raises(JudgeError, match="is not that file"):
        inception_module.weights_file(None, tmp_path / "cache")
    name = f"weights-{published.checksum(source)[:8]}.pth"
    monkeypatch.setattr(inception_module, "WEIGHTS", name)
    assert inception_module.weights_file(None, tmp_path / "cache") == tmp_path / "cache" / name
    source.unlink()
    assert (
        inception_module.weights_file(None, tmp_path / "cache").read_bytes() == (models / "inception.pth").read_bytes()
    )


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in place of the published weights, which `weights_file` fetches; it is not loaded."""
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    monkeypatch.setattr(inception_module, "WEIGHTS_URL", source.as_uri())
    monkeypatch.setattr(inception_module, "WEIGHTS", f"weights-{published.checksum(source)[:8]}.pth")
    return source


def test_inception_weights_that_were_damaged_in_the_cache(served: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = inception_module.weights_file(None, cache)
    path.write_bytes(b"weig")
    assert inception_module.weights_file(None, cache).read_bytes() == b"weights"
    path.write_bytes(b"weig")
    served.unlink()
    message = one_sentence(lambda: inception_module.weights_file(None, cache))
    assert str(path) in message
    assert "give its path as `weights`" in message


def test_two_processes_fetch_the_inception_weights(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes, and finishes, when the first has written its file and not yet put it in place."""
    cache = tmp_path / "cache"
    write = Path.write_bytes
    paths = []

    def interrupted(self: Path, content: bytes) -> int:
        written = write(self, content)
        monkeypatch.setattr(Path, "write_bytes", write)
        with monkeypatch.context() as second:
            second.setattr(os, "getpid", lambda: -1)
            paths.append(inception_module.weights_file(None, cache))
        return written

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    paths.append(inception_module.weights_file(None, cache))
    assert paths == [cache / inception_module.WEIGHTS] * 2
    assert list(cache.iterdir()) == paths[:1]
    assert paths[0].read_bytes() == b"weights"


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\nshort", b"no HTTP\r\n\r\n"])
def test_an_inception_download_that_breaks_off(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        threads.submit(reply)
        monkeypatch.setattr(inception_module, "WEIGHTS_URL", f"http://127.0.0.1:{server.getsockname()[1]}/weights.pth")
        message = one_sentence(lambda: inception_module.weights_file(None, tmp_path / "cache"))
    assert "/weights.pth did not come to" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_inception_weights_that_cannot_be_written(served: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / inception_module.WEIGHTS / "a folder where the file should be").mkdir(parents=True)
    message = one_sentence(lambda: inception_module.weights_file(None, cache))
    assert str(cache / inception_module.WEIGHTS) in message
    assert [path.name for path in cache.iterdir()] == [inception_module.WEIGHTS], "no part is left behind"


# --- GenEval ----------------------------------------------------------------------------------------------------------

METADATA: list[Metadata] = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {
        "tag": "counting",
        "include": [{"class": "person", "count": 2}],
        "exclude": [{"class": "person", "count": 3}],
        "prompt": "a photo of two persons",
    },
    {
        "tag": "colors",
        "include": [{"class": "computer mouse", "count": 1, "color": "red"}],
        "prompt": "a photo of a red computer mouse",
    },
]


def geneval_spec(models: Path, folder: Path, detector: str = "mask2former", **changes: object) -> GenEvalJudge:
    path = folder / "metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in METADATA), encoding="utf-8")
    fields = {"metadata": str(path), "detector": str(models / detector), "clip": str(models / "clip")}
    return GenEvalJudge.model_validate({**fields, "images_per_prompt": 2, **changes})


@pytest.mark.parametrize("detector", ["mask2former", "detr"])
def test_geneval_runs_on_real_formats(
    models: Path, tmp_path: Path, detector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector_module, "CONFIDENCE", 0.05)  # random weights are never sure
    judge = load_judge(geneval_spec(models, tmp_path, detector), SHAPES, tmp_path)
    asked: list[str] = []

    def generate(captions: Sequence[str]) -> FloatArray:
        asked.extend(captions)
        return noise(captions)

    found = scores(judge, generate)
    assert asked == [line["prompt"] for line in METADATA for _ in range(2)]
    assert found.keys() == {"geneval", "geneval_single_object", "geneval_counting", "geneval_colors"}
    assert found["geneval_counting"].value == 0.0  # nothing is above 0.9
    assert all(0.0 <= score.value <= 1.0 and score.se > 0 and math.isnan(score.ceiling) for score in found.values())
    assert judge.label == f"geneval-metadata-{detector}-2"
    json.dumps(judge.identity)


@pytest.mark.parametrize("name", ["mask2former", "detr"])
def test_detections(models: Path, name: str) -> None:
    """Threshold per image, the surest first, at most 16 of a class, and only names that GenEval knows."""
    detector = load_detector("geneval", "detector", str(models / name), "cpu")
    images = published.rgb(noise(["x"] * 6))
    found = detector.detect(images, [0.0] * 6)
    assert all(len(objects) == 6 for objects in found)
    for objects in found:
        sure = [item.object.score for item in objects]
        assert sure == sorted(sure, reverse=True)
        assert {item.object.class_ for item in objects} <= {"person", "dog", "computer mouse"}
        for item in objects:
            left, top, right, bottom = item.object.box
            assert -1 <= left < right <= 17
            assert -1 <= top < bottom <= 17
            if name == "mask2former":
                assert item.mask is not None
                assert item.mask.shape == (16, 16)
                assert item.mask.any()
                assert item.object.box == detector_module.box_of(item.mask)
            else:
                assert item.mask is None
    thresholds = [objects[2].object.score for objects in found]
    above = [[o for o in objects if o.object.score > t] for objects, t in zip(found, thresholds, strict=True)]
    again = detector.detect(images, thresholds)
    assert [[o.object.box for o in objects] for objects in again] == [[o.object.box for o in ob] for ob in above]
    assert detector.detect(images, [1.0] * 6) == [[]] * 6


def test_at_most_16_of_a_class() -> None:
    many = [Found(Detected(name, "", (0, 0, 1, 1), 0.5), None) for name in ["dog"] * 20 + ["cat"] * 3]
    kept = detector_module._at_most(many, detector_module.MAX_OBJECTS)
    assert [item.object.class_ for item in kept] == ["dog"] * 16 + ["cat"] * 3


def test_the_object_is_cut_out_on_grey() -> None:
    image = np.full((10, 12, 3), 200, dtype=np.uint8)
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:6, 3:9] = True
    mask[2, 3] = False
    box = detector_module.box_of(mask)
    assert box == (3, 2, 9, 6)
    crop = cut_out(image, Found(Detected("dog", "", box), mask))
    assert crop.shape == (4, 6, 3)
    assert crop[0, 0].tolist() == [0x99] * 3
    assert crop[1, 1].tolist() == [200] * 3
    assert cut_out(image, Found(Detected("dog", "", (-3.0, 8.2, 1.5, 30.0)), None)).shape == (2, 2, 3)
    assert cut_out(image, Found(Detected("dog", "", (11.9, 9.9, 11.95, 9.95)), None)).shape == (1, 1, 3)


def test_only_the_objects_that_the_rule_looks_at_get_a_colour() -> None:
    objects = [
        Found(Detected(name, "", (0, 0, 1, 1), s), None) for name, s in [("dog", 0.9), ("cat", 0.8), ("dog", 0.4)]
    ]
    line: Metadata = {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a red dog"}
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    coloured = color_objects(image, objects, line, lambda _, items: ["red" for _ in items])
    assert [(item.class_, item.color) for item in coloured] == [("dog", "red"), ("cat", ""), ("dog", "")]


class FakeClip:
    """Texts and images that mention or show a colour point in that colour's direction."""

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        assert any("-colored dog" in text for text in texts)
        place = [next(i for i, color in enumerate(detector_module.COLORS) if f" {color}" in text) for text in texts]
        return np.eye(10, dtype=np.float32)[place] * np.float32(3.0)

    def encode_images(self, images: Sequence[npt.NDArray[np.uint8]]) -> FloatArray:
        return np.eye(10, dtype=np.float32)[[int(image[0, 0, 0]) for image in images]]


def test_colours_are_those_of_the_nearest_text() -> None:
    image = np.array([[[4, 4, 4], [7, 7, 7]]], dtype=np.uint8)
    objects = [Found(Detected("dog", "", (x, 0, x + 1, 1)), None) for x in (0, 1)]
    assert Colors(FakeClip()).of(image, objects) == ["blue", "brown"]  # type: ignore[arg-type]


# --- what can be wrong ------------------------------------------------------------------------------------------------


def one_sentence(load_it: Callable[[], object], what: str = "") -> str:
    """The message of the JudgeError, which is one line and says what to do; `what` names the case that raised none."""
    try:
        load_it()
    except JudgeError as error:
        message = str(error)
    else:
        pytest.fail(f"{what} was loaded")
    assert "\n" not in message
    assert ";" in message, "what is wrong; what to do"
    return message


def copy_of(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def wrong_folders(models: Path, folder: Path) -> Iterator[tuple[str, Path, str]]:
    """(what is loaded, the folder, what the message says)."""
    yield "clip", models / "bert", "holds a model of type bert, not clip"
    yield "clip", models / "detr", "holds a model of type detr, not clip"
    yield "detector", models / "clip", "holds the architecture CLIPModel"
    yield "detector", models / "bert", "holds the architecture BertModel"
    (folder / "empty").mkdir()
    yield "clip", folder / "empty", "config.json"
    yield "detector", folder / "empty", "config.json"
    for kind, name in (("clip", "clip"), ("detector", "mask2former"), ("detector", "detr")):
        cut = copy_of(models / name, folder / f"cut-{name}") / "model.safetensors"
        cut.write_bytes(cut.read_bytes()[:5000])
        yield kind, cut.parent, "cannot be loaded"
        none = copy_of(models / name, folder / f"none-{name}")
        (none / "model.safetensors").unlink()
        yield kind, none, "cannot be loaded"
        unprepared = copy_of(models / name, folder / f"unprepared-{name}")
        (unprepared / "preprocessor_config.json").unlink()
        yield kind, unprepared, "cannot be loaded"
    lacking = copy_of(models / "clip", folder / "lacking")
    shutil.copy(models / "bert" / "model.safetensors", lacking / "model.safetensors")
    yield "clip", lacking, "weights of a CLIPModel, such as"
    text = copy_of(models / "clip", folder / "text")
    (text / "config.json").write_text("no JSON", encoding="utf-8")
    yield "clip", text, "cannot be loaded"
    wordless = copy_of(models / "clip", folder / "wordless")
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        (wordless / name).unlink()
    yield "clip", wordless, "check that vocab.json"


def test_wrong_folders(models: Path, tmp_path: Path) -> None:
    loaders = {"clip": clip_module.load_clip_model, "detector": load_detector}
    for kind, folder, says in wrong_folders(models, tmp_path):
        message = one_sentence(partial(loaders[kind], "geneval", kind, str(folder), "cpu"), str(folder))
        assert message.startswith("the judge `geneval`"), message
        assert str(folder) in message
        assert says in message, message


def test_missing_paths(models: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    for spec in (
        clip_spec(models, model=gone),
        clip_spec(models, prompts=gone),
        InceptionJudge(weights=gone),
        geneval_spec(models, tmp_path, metadata=gone),
        geneval_spec(models, tmp_path, detector=gone),
        geneval_spec(models, tmp_path, clip=gone),
    ):
        message = one_sentence(partial(load_judge, spec, SHAPES, tmp_path))
        assert gone in message
        assert "correct the path" in message


def test_a_class_that_the_detector_does_not_know(models: Path, tmp_path: Path) -> None:
    spec = geneval_spec(models, tmp_path)
    line = {"tag": "single_object", "include": [{"class": "unicorn", "count": 1}], "prompt": "a unicorn"}
    Path(spec.metadata).write_text(json.dumps(line), encoding="utf-8")
    message = one_sentence(partial(load_judge, spec, SHAPES, tmp_path))
    assert "knows no unicorn" in message
    assert spec.detector in message


@pytest.mark.parametrize("network", ["offline", "refused", "silent"])
def test_a_network_that_is_down(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if network == "refused":
            server.close()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", network == "offline")
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(hub, "TIMEOUT", 0.3)
        monkeypatch.setattr(inception_module, "_TIMEOUT", 0.3)
        monkeypatch.setattr(inception_module, "WEIGHTS_URL", f"{address}/weights.pth")
        for spec in (
            clip_spec(models, model="owner/clip"),
            geneval_spec(models, tmp_path).model_copy(update={"detector": "owner/clip"}),
            geneval_spec(models, tmp_path, clip="owner/clip"),
        ):
            message = one_sentence(partial(load_judge, spec, SHAPES, tmp_path))
            assert "owner/clip" in message
            assert "did not come from the hub" in message
            assert "give the folder" in message
        if network != "offline":
            message = one_sentence(partial(load_judge, InceptionJudge(images=2), SHAPES, tmp_path))
            assert f"{address}/weights.pth did not come" in message
            assert str(tmp_path / inception_module.WEIGHTS) in message


@pytest.mark.parametrize("package", ["transformers", "huggingface_hub"])
def test_a_package_that_is_not_installed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = one_sentence(partial(load_judge, clip_spec(models, model="owner/clip"), SHAPES, tmp_path))
    assert f"needs the package {package}" in message
    assert "pip install 'rfscale[metrics]'" in message
