"""How well an autoencoder gives images back: the paper's Table 3, with PSNR and SSIM from torchmetrics, and LPIPS.

FID is between features of the images that were given back and of the same images as they were. The features are those
of the judge of the images' own world, as of `shapes`, else Inception's where its weights are given, else FID is not
known. The perceptual distance is LPIPS, where weights are given; the paper does not say which its own is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rfscale.data.base import FloatArray
from rfscale.data.spec import DataSource, ShapesData
from rfscale.judges.base import Progress
from rfscale.judges.metrics import FID, LPIPS
from rfscale.judges.published.lpips import Perceptual, load_lpips
from rfscale.judges.published.weights import checksum

_SMALLEST = 11  # pixels: the side of the window that SSIM compares
_BATCH = 16  # pairs of images in one forward pass of LPIPS


@dataclass(frozen=True)
class Features:
    """What FID is taken on. `name`: of whose features; `of`: images "n c h w" in [-1, 1] -> (n, d)."""

    name: str
    of: Callable[[FloatArray], npt.NDArray[Any]]


@dataclass(frozen=True)
class Distance:
    """LPIPS on a network with the weights of a file. `name`: of the network and the first digits of its SHA-256."""

    name: str
    network: Perceptual


@dataclass(frozen=True)
class Reconstruction:
    """Of `images` held-out images; NaN is not known. `features`: whose FID is on, "" where on none; `perceptual`: whose
    LPIPS is.

    PSNR in dB, SSIM and LPIPS are means over images, for values from -1 to 1.
    """

    images: int
    features: str
    fid: float
    fid_se: float
    psnr: float
    ssim: float
    perceptual: str = ""
    lpips: float = math.nan
    lpips_se: float = math.nan


def features_for(data: DataSource, inception: str | None, cache: Path, progress: Progress) -> Features | None:
    """The features that FID of this data is taken on, None where there are none. Raises JudgeError.

    `cache`: where the judge of the shapes world keeps what it trains once, a minute or two.
    """
    if isinstance(data, ShapesData):
        from rfscale.judges.shapes.encoder import load_encoder

        encoder = load_encoder(cache, data.resolution, data.max_objects, "cpu", progress)
        return Features("the judge `shapes`", encoder.features)
    if inception is not None:
        from rfscale.judges.published import inception as published

        network = published.load_network(Path(inception), "cpu")
        return Features("Inception-v3", lambda images: published.encode(network, images, "cpu"))
    return None


def distance_of(weights: str | None) -> Distance | None:
    """LPIPS with the weights of a file, None where none is given. Raises JudgeError."""
    if weights is None:
        return None
    network = load_lpips(Path(weights))
    return Distance(f"{network.trunk.name} ({checksum(Path(weights))[:8]})", network)


def compared(
    true: FloatArray, given_back: FloatArray, features: Features | None, distance: Distance | None = None
) -> Reconstruction:
    """Images "n c h w" in [-1, 1] against themselves as an autoencoder gives them back."""
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    x, y = torch.from_numpy(true), torch.from_numpy(given_back)
    psnr = PeakSignalNoiseRatio(data_range=(-1.0, 1.0), dim=(1, 2, 3), reduction="elementwise_mean")
    ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
    small = min(true.shape[2:]) < _SMALLEST
    fid = FID()
    if features is not None:
        fid.update(torch.from_numpy(np.asarray(features.of(true))), real=True)
        fid.update(torch.from_numpy(np.asarray(features.of(given_back))), real=False)
    value, se = map(float, fid.compute()) if features is not None else (math.nan, math.nan)
    return Reconstruction(
        images=len(true),
        features="" if features is None else features.name,
        fid=value,
        fid_se=se,
        psnr=float(psnr(y, x)),
        ssim=math.nan if small else float(ssim(y, x)),
        **_perceptual(x, y, distance),
    )


def _perceptual(x: torch.Tensor, y: torch.Tensor, distance: Distance | None) -> dict[str, Any]:
    """LPIPS; NaN of images that are smaller than its network reads."""
    if distance is None:
        return {}
    if min(x.shape[2:]) < distance.network.trunk.least:
        return {"perceptual": distance.name}
    metric = LPIPS(distance.network)
    for one, other in zip(x.split(_BATCH), y.split(_BATCH), strict=True):  # type: ignore[no-untyped-call]
        metric.update(one, other)
    value, se = map(float, metric.compute())
    return {"perceptual": distance.name, "lpips": value, "lpips_se": se}
