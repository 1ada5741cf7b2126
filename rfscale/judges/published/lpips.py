"""LPIPS 0.1, a perceptual distance of two images (Zhang et al. 2018, eq. 1), with published weights from a file.

    d(x, y) = sum_l mean_hw  w_l . (f_l(x) - f_l(y))^2,

f_l the features behind the l-th of five ReLUs of VGG16 or of AlexNet, each of length 1 over its channels, and w_l >= 0
learnt from people. The networks are written out here for the reason that Inception's is (`published.inception`):
torchmetrics' own class takes them from torchvision, whose wheel on the package index (0.28.0 for torch 2.13) does not
load beside a CPU build of torch, and takes no file. The weights w_l, a few kilobytes, come with torchmetrics. The tests
hold it to figures of lpips 0.1.4 and to torchmetrics 1.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from rfscale.judges.base import JudgeError
from rfscale.judges.published.weights import first_line

_EPS = 1e-10
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, for images in [-1, 1]
_SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class Trunk:
    """A classifier's convolutions. `taps`: layers before which features are taken; `least`: the smallest side read."""

    name: str
    heads: str
    file: str
    taps: tuple[int, ...]
    least: int

    def layers(self) -> list[nn.Module]:
        """As torchvision numbers them, up to the last tap."""
        return (_vgg16() if self is VGG16 else _alexnet())[: self.taps[-1]]


VGG16 = Trunk("VGG16", "vgg.pth", "vgg16-397923af.pth", (4, 9, 16, 23, 30), 16)
ALEXNET = Trunk("AlexNet", "alex.pth", "alexnet-owt-7be5be79.pth", (2, 5, 8, 10, 12), 31)


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = 3
    for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    return layers


def _alexnet() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    ]


class Perceptual(nn.Module):
    """Pairs of images "n c h w" in [-1, 1], of 1 or 3 channels -> their distances (n,). Its weights are named as
    torchvision and lpips name them."""

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.features = nn.Sequential(*trunk.layers())
        widths = [layer.out_channels for layer in self.features if isinstance(layer, nn.Conv2d)]
        convolutions = [isinstance(layer, nn.Conv2d) for layer in self.features]
        for number, tap in enumerate(trunk.taps):
            width = widths[sum(convolutions[:tap]) - 1]
            # Two layers deep, as the published weights are named: `lin0.model.1.weight`; the first was a dropout.
            self.add_module(f"lin{number}", _Head(width))
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for number, (one, other) in enumerate(zip(self._features(x), self._features(y), strict=True)):
            total = total + self.get_submodule(f"lin{number}")((one - other) ** 2).mean(dim=(1, 2, 3))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        x = (images - self.shift) / self.scale  # one channel becomes three
        found = []
        for number, layer in enumerate(self.features, start=1):
            x = layer(x)
            if number in self.trunk.taps:
                found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + _EPS))
        return found


class _Head(nn.Module):
    """w_l as a convolution of 1 x 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x)
        return found


def load_lpips(path: str | Path, device: str = "cpu") -> Perceptual:
    """LPIPS on VGG16 or on AlexNet, whichever the file holds, .pth or .safetensors. Raises JudgeError."""
    path = Path(path)
    given = _read(path)
    stem = given.get("features.0.weight")
    trunk = ALEXNET if stem is not None and stem.shape[-1:] == (11,) else VGG16
    network = Perceptual(trunk)
    wanted = network.state_dict()
    heads = _read(_heads() / trunk.heads)
    found = {
        name: tensor
        for name, tensor in {**given, **heads}.items()
        if name in wanted and tensor.shape == wanted[name].shape and tensor.isfinite().all()
    }
    if lacking := [name for name in wanted if name not in found]:
        raise JudgeError(
            f"the perceptual distance: {path} (lpips) lacks {len(lacking)} of the weights of {trunk.name}, such as "
            f"{lacking[0]}; give torchvision's file {VGG16.file} or {ALEXNET.file}, as it was downloaded"
        )
    network.load_state_dict(found)
    return network.eval().requires_grad_(False).to(device)


def _heads() -> Path:
    """The folder of torchmetrics with the learnt weights w_l, which are those of lpips 0.1.4, byte by byte."""
    from torchmetrics.functional.image import lpips

    return Path(lpips.__file__).parent / "lpips_models"


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, none unpickled but tensors. Raises JudgeError."""
    try:
        if path.suffix == _SAFETENSORS:
            return safetensors.torch.load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}
    except Exception as error:  # the zip reader, the unpickler, safetensors, a list instead of a dict
        refused: type[Exception] = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
        why = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, refused):  # its own words advise to open it without the safeguard
            why = "it holds something other than weights"
        raise JudgeError(
            f"the perceptual distance: {path} (lpips) cannot be loaded ({why}); give torchvision's file {VGG16.file} "
            f"or {ALEXNET.file}"
        ) from error
