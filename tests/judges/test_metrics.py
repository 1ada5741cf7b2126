"""Our metrics as torchmetrics' own: values, halves that are merged, processes that are joined, and the example."""

from __future__ import annotations

import doctest
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from test_distances import Same, gaussian
from torchmetrics import Metric, MetricCollection
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from rfscale.judges import JudgeError, metrics
from rfscale.judges.distances import distances
from rfscale.judges.metrics import FID, KID, CLIPScore, FIDInfinity

SETS = ["fid", "kid", "fid_infinity"]


def features(n: int, shift: float, seed: int) -> torch.Tensor:
    return torch.from_numpy(gaussian(np.random.default_rng(seed), n, 8, shift=shift))


REAL, DRAWN = features(90, 0.0, 1), features(60, 0.4, 2)


def made(name: str, **options: Any) -> Metric:
    return {"fid": FID, "kid": KID, "fid_infinity": FIDInfinity}[name](**options)


def fed(metric: Metric, real: torch.Tensor = REAL, drawn: torch.Tensor = DRAWN, batch: int = 25) -> Metric:
    for part in real.split(batch):
        metric.update(part, real=True)
    for part in drawn.split(batch):
        metric.update(part, real=False)
    return metric


def test_the_example_runs() -> None:
    assert doctest.testmod(metrics) == (0, 7)


def test_values_and_errors_are_those_of_the_judges() -> None:
    expected = {score.name: (score.value, score.se) for score in distances(DRAWN.numpy(), REAL.numpy())}
    assert {name: tuple(map(float, fed(made(name)).compute())) for name in SETS} == expected
    found = list(metrics.distance_scores(DRAWN.numpy(), REAL.numpy()))
    assert {score.name: (score.value, score.se) for score in found} == expected
    assert [score.name for score in metrics.distance_scores(DRAWN.numpy()[:5], REAL.numpy())] == ["fid", "kid"]


def test_values_are_those_of_torchmetrics() -> None:
    theirs = [
        FrechetInceptionDistance(feature=Same(8)).set_dtype(torch.float64),
        KernelInceptionDistance(feature=Same(8), subsets=1, subset_size=60).set_dtype(torch.float64),
    ]
    fid, kid = (fed(metric, REAL[:60]).compute() for metric in theirs)
    assert float(fed(FID(), REAL[:60]).compute().value) == pytest.approx(float(fid), rel=1e-4)
    assert float(fed(KID(), REAL[:60]).compute().value) == pytest.approx(float(kid[0]), rel=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_merged_halves_are_the_whole(name: str) -> None:
    first, second = fed(made(name), REAL[:40], DRAWN[:20]), fed(made(name), REAL[40:], DRAWN[20:])
    second.merge_state(first)  # what is merged goes before what is there
    assert second.compute() == fed(made(name)).compute()


def test_the_seed_of_the_parts() -> None:
    assert fed(FIDInfinity(seed=1)).compute() != fed(FIDInfinity(seed=2)).compute()


def test_a_network_makes_the_features() -> None:
    assert fed(FID(lambda images: images * 2)).compute() == fed(FID(), REAL * 2, DRAWN * 2).compute()


def test_one_pass_feeds_several() -> None:
    several = MetricCollection({name: made(name) for name in SETS})
    fed(several)  # type: ignore[arg-type]
    found = several.compute()
    for name in SETS:
        assert found[name] == fed(made(name)).compute()


def test_reset_keeps_the_real_features_on_request() -> None:
    metric = fed(FID(reset_real_features=False))
    whole = metric.compute()
    metric.reset()
    with pytest.raises(JudgeError, match="no generated images yet; call update"):
        metric.compute()
    metric.update(DRAWN, real=False)
    assert metric.compute() == whole
    other = fed(FID())
    other.reset()
    other.update(DRAWN, real=False)
    with pytest.raises(JudgeError, match="no real images yet"):
        other.compute()


def test_clip_score() -> None:
    rng = np.random.default_rng(0)
    images, texts = (torch.from_numpy(rng.standard_normal((30, 6))) for _ in range(2))
    cosine = torch.nn.functional.cosine_similarity(images, texts)
    whole, half = CLIPScore(), CLIPScore()
    whole.update(images, 3 * texts)
    assert float(whole.compute().value) == pytest.approx(float(cosine.mean()))
    assert float(whole.compute().se) == pytest.approx(float(cosine.std()) / math.sqrt(30))
    half.update(images[:11], texts[:11])
    other = CLIPScore()
    other.update(images[11:], texts[11:])
    other.merge_state(half)
    assert [float(x) for x in other.compute()] == pytest.approx([float(x) for x in whole.compute()], rel=1e-12)


def test_one_sentence_where_it_cannot_be_used() -> None:
    with pytest.raises(JudgeError, match=r"shapes \(3, 2\) and \(4, 2\); give one caption for each image"):
        CLIPScore().update(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(JudgeError, match=r"shape \(2, 3, 4, 4\); give them as \(images, d\)"):
        FID().update(torch.ones(2, 3, 4, 4), real=True)
    with pytest.raises(ValueError, match="sed"):  # of torchmetrics: no option is swallowed
        FID(sed=1)


def joined(rank: int, folder: str) -> None:
    """One of two processes with half of each set."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    real, drawn = ((REAL[:40], DRAWN[:20]), (REAL[40:], DRAWN[20:]))[rank]
    found = {name: fed(made(name), real, drawn).compute() for name in SETS}
    clip = CLIPScore()
    clip.update(drawn[:20], drawn[:20].flip(1))
    torch.save({**found, "clip_score": clip.compute()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(joined, (str(tmp_path),), nprocs=2)
    clip = CLIPScore()
    clip.update(DRAWN[:40], DRAWN[:40].flip(1))
    expected = {**{name: fed(made(name)).compute() for name in SETS}, "clip_score": clip.compute()}
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert found == expected
