"""FID, KID, FID-infinity, CLIP score and LPIPS with their standard errors, as `torchmetrics.Metric`s for any loop.

    >>> import torch
    >>> from rfscale.judges.metrics import FID
    >>> generator = torch.Generator().manual_seed(0)
    >>> fid = FID()                                       # of features; FID(network) takes what `network` reads
    >>> for _ in range(4):
    ...     fid.update(torch.randn(64, 8, generator=generator), real=True)
    ...     fid.update(torch.randn(64, 8, generator=generator) + 1, real=False)
    >>> value, se = fid.compute()
    >>> bool(abs(value - 8) < 3 * se)                     # the squared distance of the means is 8
    True

They keep the features themselves, since a standard error needs each image: n d numbers a set. Halves that were updated
apart are joined by `merge_state`, and under torch.distributed `compute` joins the processes, as of any metric there.
torchmetrics has FID and KID too; its values agree with these on the same features (KID where one subset is all of them)
and have no standard error. PSNR, SSIM and the like are torchmetrics' own: `torchmetrics.image`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from rfscale.judges import distances
from rfscale.judges.base import JudgeError, Score

Array = npt.NDArray[Any]
Network = Callable[[Tensor], Tensor]
PairNetwork = Callable[[Tensor, Tensor], Tensor]


class Estimate(NamedTuple):
    """A value and its standard error over images, as float64 scalars."""

    value: Tensor
    se: Tensor


class _FeatureDistance(Metric):
    """A distance between the features of real and of generated images.

    `network` takes what `update` is given to features (n, d); None: `update` is given features. `reset` forgets the
    real ones too unless `reset_real_features` is False. `options` are those of `torchmetrics.Metric`, which refuses
    any other.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real: list[Tensor]
    generated: list[Tensor]

    def __init__(self, network: Network | None = None, reset_real_features: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.network, self.reset_real_features = network, reset_real_features
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("generated", default=[], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(self, images: Tensor, real: bool) -> None:
        """Add a batch to the real or to the generated set. Raises JudgeError where its features are not (n, d)."""
        features = images if self.network is None else self.network(images)
        if features.ndim != 2:
            raise JudgeError(f"features have the shape {tuple(features.shape)}; give them as (images, d)")
        (self.real if real else self.generated).append(features.detach())

    def compute(self) -> Estimate:
        """The distance and its standard error. Raises JudgeError for features that cannot be compared."""
        value, se = self.distance(_array(self.generated, "generated"), _array(self.real, "real"))
        return Estimate(*torch.tensor([value, se], dtype=torch.float64))

    def distance(self, generated: Array, real: Array) -> tuple[float, float]:
        raise NotImplementedError

    def reset(self) -> None:
        real = list(self.real)  # torchmetrics empties the list itself
        super().reset()
        if not self.reset_real_features:
            self.real = real


class FID(_FeatureDistance):
    """Frechet distance (Heusel et al. 2017, eq. 6): |mu_x - mu_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^1/2."""

    def distance(self, generated: Array, real: Array) -> tuple[float, float]:
        first = next(distances.distances(generated, real))
        return first.value, first.se


class KID(_FeatureDistance):
    """Kernel distance (Binkowski et al. 2018): the unbiased MMD^2 of k(a, b) = (a.b / d + 1)^3 over all pairs."""

    def distance(self, generated: Array, real: Array) -> tuple[float, float]:
        return distances.kid(generated, real)


class FIDInfinity(_FeatureDistance):
    """FID extrapolated in 1/n to n = infinity (Chong and Forsyth 2020); needs 6 images of each or more.

    `seed` decides which images stand together in its halves and thirds.
    """

    def __init__(
        self, network: Network | None = None, reset_real_features: bool = True, seed: int = 0, **options: Any
    ) -> None:
        super().__init__(network, reset_real_features, **options)
        self.seed = seed

    def distance(self, generated: Array, real: Array) -> tuple[float, float]:
        return distances.fid_infinity(generated, real, self.seed)


class CLIPScore(Metric):
    """Mean cosine of the embeddings of images and of their captions (not times 100), and its standard error.

    `update` takes both embeddings (n, d), of any CLIP, normalised or not.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    cosines: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("cosines", default=[], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(self, images: Tensor, texts: Tensor) -> None:
        """Add pairs. Raises JudgeError where the two are not of one shape (n, d)."""
        if images.ndim != 2 or images.shape != texts.shape:
            raise JudgeError(
                f"embeddings of images and of captions have the shapes {tuple(images.shape)} and {tuple(texts.shape)}; "
                "give one caption for each image, both as (n, d)"
            )
        found = cosines(images.detach().cpu().numpy(), texts.detach().cpu().numpy())
        self.cosines.append(torch.from_numpy(found).to(self.device))

    def compute(self) -> Estimate:
        """Mean and standard error; NaN for the error of one pair. Raises JudgeError without any."""
        return _mean(_array(self.cosines, "embedded"))


class LPIPS(Metric):
    """Mean perceptual distance of pairs of images, and its standard error.

    `network` gives the distances (n,) of images "n c h w" in [-1, 1] and their counterparts, as
    `rfscale.judges.published.lpips.load_lpips` reads it from published weights.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    found: list[Tensor]

    def __init__(self, network: PairNetwork, **options: Any) -> None:
        super().__init__(**options)
        self.network = network
        self.add_state("found", default=[], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(self, images: Tensor, others: Tensor) -> None:
        """Add pairs. Raises JudgeError where the two are not of one shape "n c h w"."""
        if images.ndim != 4 or images.shape != others.shape:
            raise JudgeError(
                f"images and their counterparts have the shapes {tuple(images.shape)} and {tuple(others.shape)}; give "
                'one for each image, both as "n c h w"'
            )
        self.found.append(self.network(images, others))

    def compute(self) -> Estimate:
        """Mean and standard error; NaN for the error of one pair. Raises JudgeError without any."""
        return _mean(_array(self.found, "compared"))


def cosines(images: Array, texts: Array) -> Array:
    """Cosine of each row of `images` "n d" with the same row of `texts`."""
    dot = (images * texts).sum(axis=1)
    return np.asarray(dot / (np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)))


def distance_scores(generated: Array, reference: Array) -> Iterator[Score]:
    """`fid`, `kid` and `fid_infinity` of two sets of features, as judges report them; the last needs 6 images or more.

    Raises JudgeError for features that cannot be compared.
    """
    metrics: dict[str, _FeatureDistance] = {"fid": FID(), "kid": KID()}
    # The name stays private: the code of that file is in the identity of judges that have scored already.
    if min(len(generated), len(reference)) >= distances._FEWEST:
        metrics["fid_infinity"] = FIDInfinity()
    for name, metric in metrics.items():
        metric.update(torch.from_numpy(reference), real=True)
        metric.update(torch.from_numpy(generated), real=False)
        yield _score(name, metric.compute())


def clip_score(images: Array, texts: Array) -> Score:
    """`clip_score` of embeddings "n d", as judges report it."""
    metric = CLIPScore()
    metric.update(torch.from_numpy(images), torch.from_numpy(texts))
    return _score("clip_score", metric.compute())


def _score(name: str, found: Estimate) -> Score:
    return Score(name, float(found.value), float(found.se))


def _mean(values: Array) -> Estimate:
    """Of (n,), with sd / sqrt(n)."""
    se = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(*torch.tensor([float(values.mean()), se], dtype=torch.float64))


def _array(state: list[Tensor] | Tensor, what: str) -> Array:
    if isinstance(state, list) and not state:
        raise JudgeError(f"no {what} images yet; call update before compute")
    found: Array = dim_zero_cat(state).cpu().numpy()
    return found
