"""The judge `inception`: FID and KID on the 2048 pooled features of the Inception-v3 that FID was defined with.

That network (TensorFlow, 2015-12-05) is not torchvision's: its average pools leave out the padding, its last block has
a maximum pool, and its images are resized by TensorFlow 1's bilinear rule. It is written out here because the library
that has it, torch-fidelity, needs torchvision, whose wheel on the package index loads only beside a CUDA build of
torch, and opens weights with a full unpickler. The tests hold it to figures of torch-fidelity 0.4.0.

torchmetrics (1.9) resizes by another rule, antialiased and with half-pixel centres, so that its numbers differ.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor, nn

from rfscale.data import DataSpec
from rfscale.data.base import FloatArray
from rfscale.judges.base import Generate, Judge, JudgeError, Score
from rfscale.judges.published.spec import InceptionJudge
from rfscale.judges.published.weights import (
    Reference,
    cannot_load,
    checksum,
    first_line,
    held_out,
    make_reference,
    rgb,
    versions,
)
from rfscale.store.files import replacing

SIDE = 299  # pixels that the network takes
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # the name ends with the start of the file's SHA-256
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
_BATCH = 16  # images in one forward pass
_TIMEOUT = 10.0  # seconds without an answer


class Conv(nn.Module):
    """Convolution, batch norm, ReLU; padded to keep the size unless `stride` is 2 or `valid`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, stride: int = 1, valid: bool = False
    ) -> None:
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if stride == 2 or valid else (size[0] // 2, size[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side, concatenated over channels.

    A branch is a sequence of names of convolutions; one that ends in a pair of names ends in both, side by side. The
    pool, where it is given, comes last, with the convolution `branch_pool` behind it if there is one.
    """

    def __init__(
        self, convolutions: dict[str, Conv], branches: tuple[tuple[str | tuple[str, str], ...], ...], pool: str
    ) -> None:
        super().__init__()
        for name, convolution in convolutions.items():
            self.add_module(name, convolution)
        self._branches = branches
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        outputs = [out for branch in self._branches for out in self._branch(x, branch)]
        pooled = _POOLS[self._pool](x)
        last = self._modules.get("branch_pool")
        return torch.cat([*outputs, pooled if last is None else last(pooled)], dim=1)

    def _branch(self, x: Tensor, branch: tuple[str | tuple[str, str], ...]) -> list[Tensor]:
        for name in branch:
            if isinstance(name, tuple):
                return [self.get_submodule(f"branch{end}")(x) for end in name]
            x = self.get_submodule(f"branch{name}")(x)
        return [x]


_POOLS = {
    "mean": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "max": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "halve": lambda x: F.max_pool2d(x, 3, stride=2),
}


def _block_5(inputs: int, pooled: int) -> Block:
    """Mixed_5b to 5d, 35 x 35."""
    convolutions = {
        "branch1x1": Conv(inputs, 64),
        "branch5x5_1": Conv(inputs, 48),
        "branch5x5_2": Conv(48, 64, 5),
        "branch3x3dbl_1": Conv(inputs, 64),
        "branch3x3dbl_2": Conv(64, 96, 3),
        "branch3x3dbl_3": Conv(96, 96, 3),
        "branch_pool": Conv(inputs, pooled),
    }
    return Block(convolutions, (("1x1",), ("5x5_1", "5x5_2"), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3")), "mean")


def _block_6a(inputs: int) -> Block:
    """35 x 35 to 17 x 17."""
    convolutions = {
        "branch3x3": Conv(inputs, 384, 3, stride=2),
        "branch3x3dbl_1": Conv(inputs, 64),
        "branch3x3dbl_2": Conv(64, 96, 3),
        "branch3x3dbl_3": Conv(96, 96, 3, stride=2),
    }
    return Block(convolutions, (("3x3",), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3")), "halve")


def _block_6(inputs: int, inner: int) -> Block:
    """Mixed_6b to 6e, 17 x 17."""
    wide, tall = (1, 7), (7, 1)
    convolutions = {
        "branch1x1": Conv(inputs, 192),
        "branch7x7_1": Conv(inputs, inner),
        "branch7x7_2": Conv(inner, inner, wide),
        "branch7x7_3": Conv(inner, 192, tall),
        "branch7x7dbl_1": Conv(inputs, inner),
        "branch7x7dbl_2": Conv(inner, inner, tall),
        "branch7x7dbl_3": Conv(inner, inner, wide),
        "branch7x7dbl_4": Conv(inner, inner, tall),
        "branch7x7dbl_5": Conv(inner, 192, wide),
        "branch_pool": Conv(inputs, 192),
    }
    single = tuple(f"7x7_{i}" for i in (1, 2, 3))
    double = tuple(f"7x7dbl_{i}" for i in (1, 2, 3, 4, 5))
    return Block(convolutions, (("1x1",), single, double), "mean")


def _block_7a(inputs: int) -> Block:
    """17 x 17 to 8 x 8."""
    convolutions = {
        "branch3x3_1": Conv(inputs, 192),
        "branch3x3_2": Conv(192, 320, 3, stride=2),
        "branch7x7x3_1": Conv(inputs, 192),
        "branch7x7x3_2": Conv(192, 192, (1, 7)),
        "branch7x7x3_3": Conv(192, 192, (7, 1)),
        "branch7x7x3_4": Conv(192, 192, 3, stride=2),
    }
    return Block(convolutions, (("3x3_1", "3x3_2"), tuple(f"7x7x3_{i}" for i in (1, 2, 3, 4))), "halve")


def _block_7(inputs: int, pool: str) -> Block:
    """Mixed_7b and 7c, 8 x 8."""
    wide, tall = (1, 3), (3, 1)
    convolutions = {
        "branch1x1": Conv(inputs, 320),
        "branch3x3_1": Conv(inputs, 384),
        "branch3x3_2a": Conv(384, 384, wide),
        "branch3x3_2b": Conv(384, 384, tall),
        "branch3x3dbl_1": Conv(inputs, 448),
        "branch3x3dbl_2": Conv(448, 384, 3),
        "branch3x3dbl_3a": Conv(384, 384, wide),
        "branch3x3dbl_3b": Conv(384, 384, tall),
        "branch_pool": Conv(inputs, 192),
    }
    double = ("3x3dbl_1", "3x3dbl_2", ("3x3dbl_3a", "3x3dbl_3b"))
    return Block(convolutions, (("1x1",), ("3x3_1", ("3x3_2a", "3x3_2b")), double), pool)


class Inception(nn.Module):
    """uint8 images "n h w 3" of any size -> features "n 2048". The names of its weights are torch-fidelity's."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, valid=True)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, valid=True)
        self.Mixed_5b = _block_5(192, 32)
        self.Mixed_5c = _block_5(256, 64)
        self.Mixed_5d = _block_5(288, 64)
        self.Mixed_6a = _block_6a(288)
        self.Mixed_6b = _block_6(768, 128)
        self.Mixed_6c = _block_6(768, 160)
        self.Mixed_6d = _block_6(768, 160)
        self.Mixed_6e = _block_6(768, 192)
        self.Mixed_7a = _block_7a(768)
        self.Mixed_7b = _block_7(1280, "mean")
        self.Mixed_7c = _block_7(2048, "max")
        self.fc = nn.Linear(2048, 1008)  # in the file, and in no feature

    def forward(self, images: Tensor) -> Tensor:
        x = resize(images.permute(0, 3, 1, 2).float()) / 128.0 - 1.0
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        features: Tensor = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))
        return features


def resize(images: Tensor, side: int = SIDE) -> Tensor:
    """Bilinear as in TensorFlow 1, of "n c h w": output pixel i lies at i h / side, without half-pixel centres."""
    rows, columns = (_bilinear(length, side).to(images) for length in images.shape[2:])
    return torch.einsum("ih,nchw,jw->ncij", rows, images, columns)


def _bilinear(length: int, side: int) -> Tensor:
    """Weight of each input pixel in each output pixel, "side length"."""
    place = torch.arange(side, dtype=torch.float64) * (length / side)
    low = place.long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    part = (place - low).unsqueeze(1)
    one_hot = torch.eye(length, dtype=torch.float64)
    return (1.0 - part) * one_hot[low] + part * one_hot[high]


def load_network(path: Path, device: str) -> Inception:
    """Inception with the weights of a .pth file. Raises JudgeError."""
    try:
        weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        network = Inception()
        network.load_state_dict(weights)
    except Exception as error:  # the zip reader, the unpickler, a list instead of a dict, other shapes
        refused: type[Exception] = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
        if isinstance(error, refused):  # its own words advise to open the file without the safeguard
            raise JudgeError(
                f"the judge `inception`: {path} (weights) holds something other than weights, and is not opened; "
                f"give torch-fidelity's file {WEIGHTS}"
            ) from error
        raise cannot_load("inception", "weights", path, error) from error
    return network.eval().requires_grad_(False).to(device)


def weights_file(weights: str | None, cache: Path) -> Path:
    """The given file, or the published one, downloaded into `cache` once and checked. Raises JudgeError."""
    if weights is not None:
        return Path(weights).expanduser()
    path = cache / WEIGHTS
    try:
        if path.is_file() and _is_published(checksum(path)):  # a damaged one is fetched again
            return path
        cache.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(WEIGHTS_URL, timeout=_TIMEOUT) as answer:
            content = answer.read()
        if not _is_published(hashlib.sha256(content).hexdigest()):
            raise JudgeError(f"the judge `inception`: what came from {WEIGHTS_URL} is not that file; give `weights`")
        with replacing(path) as temporary:  # also where several processes fetch it at once
            temporary.write_bytes(content)
    except (OSError, http.client.HTTPException) as error:
        raise JudgeError(
            f"the judge `inception`: {WEIGHTS_URL} did not come to {path} "
            f"({type(error).__name__}: {first_line(error)}); "
            "download it where there is a network, and put it there or give its path as `weights`"
        ) from error
    return path


def _is_published(sha256: str) -> bool:
    return sha256.startswith(WEIGHTS.rpartition("-")[2].removesuffix(".pth"))


@dataclass(frozen=True)
class _InceptionJudge:
    label: str
    identity: dict[str, JsonValue]
    network: Inception
    device: str
    captions: tuple[str, ...]
    reference: Reference

    def score(self, generate: Generate) -> Iterator[Score]:
        """`fid`, `kid` and `fid_infinity`."""
        yield from self.reference.scores(encode(self.network, generate(self.captions), self.device))


@torch.inference_mode()
def encode(network: Inception, images: FloatArray, device: str) -> FloatArray:
    """Features "n 2048" of images "n c h w" in [-1, 1]."""
    found = []
    for first in range(0, len(images), _BATCH):
        pixels = torch.from_numpy(rgb(images[first : first + _BATCH]))
        found.append(network(pixels.to(device)).cpu().numpy())
    return np.concatenate(found)


def load_inception(spec: InceptionJudge, data: DataSpec, cache: Path, device: str = "cpu") -> Judge:
    """The judge on the first `images` held-out captions, against other held-out images (see `HeldOut`).

    Raises JudgeError.
    """
    spec.check(data)
    path = weights_file(spec.weights, cache)
    network = load_network(path, device)
    held = held_out("inception", data, spec.images)
    network_identity: dict[str, JsonValue] = {"weights": checksum(path), "versions": versions("torch")}
    depends: dict[str, JsonValue] = {"data": data.identity(), "features": "inception", **network_identity}
    reference = make_reference(held, lambda images: encode(network, images, device), cache, depends)
    identity: dict[str, JsonValue] = {
        "judge": spec.model_dump(mode="json", exclude={"weights"}),  # content and no path
        **network_identity,
        "reference": len(held.reference),
    }
    return _InceptionJudge(spec.label, identity, network, device, held.captions, reference)
