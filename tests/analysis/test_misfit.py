"""A law that misses its own points by more than their noise is named, and one that does not is not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_sweep import FakeTrial, World, world_trials, write_sweep

import analysis.report.pictures
from analysis.laws.misfit import Miss, largest_miss
from analysis.laws.wording import misses_sentence
from analysis.report.page import write_report
from rfscale import names


def _trials(losses: dict[int, list[float]], se: float = 0.004) -> pd.DataFrame:
    rows = [(d, 1000 * d, 600, loss, se) for d, of in losses.items() for loss in of]
    return pd.DataFrame(rows, columns=["depth", "parameters", "steps", names.VAL_LOSS, names.VAL_LOSS_SE])


def test_the_miss_is_at_the_size_whose_mean_is_furthest_off_with_the_noise_between_seeds() -> None:
    trials = _trials({1: [0.40, 0.44], 2: [0.30, 0.30], 3: [0.25, 0.26]})
    found = largest_miss(trials, np.array([0.42, 0.42, 0.33, 0.33, 0.25, 0.25]))
    variance = (math.log(0.44 / 0.40) ** 2 / 2 + math.log(0.26 / 0.25) ** 2 / 2) / 3
    assert found == Miss("d = 2", pytest.approx(0.1), pytest.approx(math.sqrt(variance / 2)), "seeds")  # type: ignore[arg-type]


def test_with_one_seed_the_noise_is_that_of_the_validation_images() -> None:
    found = largest_miss(_trials({1: [0.4], 2: [0.2]}), np.array([0.41, 0.18]))
    assert found == Miss("d = 2", pytest.approx(-0.1), pytest.approx(0.004 / 0.2), "images")  # type: ignore[arg-type]
    unknown = largest_miss(_trials({1: [0.4], 2: [0.2]}, se=math.nan), np.array([0.41, 0.18]))
    assert not unknown.beyond_noise, "nothing is said of a noise that is not known"


@pytest.mark.parametrize(("share", "beyond"), [(0.10, True), (-0.10, True), (0.05, False), (-0.05, False)])
def test_beyond_noise_is_three_standard_errors_either_way(share: float, beyond: bool) -> None:
    assert Miss("d = 1", share, 0.02, "seeds").beyond_noise is beyond


def test_lengths_are_not_averaged_and_are_named() -> None:
    trials = _trials({1: [0.4], 2: [0.3]})
    both = pd.concat([trials, trials.assign(steps=300, **{names.VAL_LOSS: [0.8, 0.6]})])
    assert largest_miss(both, np.array([0.4, 0.3, 0.8, 0.66])).label == "d = 2, 300 steps"


@pytest.mark.parametrize(("bend", "told"), [(1.25, True), (1.0, False)])
def test_the_page_says_which_laws_miss_their_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bend: float, told: bool
) -> None:
    """A smooth law cannot pass a middle size whose losses are 25 % too high; that shows where seeds agree."""
    monkeypatch.setattr(analysis.report.pictures, "DPI", 30)

    def edit(trial: FakeTrial) -> FakeTrial:
        factor = bend if trial.params["depth"] == 3 else 1.0
        return replace(trial, metrics=[(key, step, factor * value) for key, step, value in trial.metrics])

    world = World({"rf": 1.0}, depths=(1, 2, 3, 4, 6), seeds=(0, 1, 2), noise=0.001)
    report = write_report(write_sweep(tmp_path, "misfit", world_trials(world), edit), "misfit", tmp_path / "out")
    law = report.laws.law("rf")
    assert law.miss is not None
    page = report.path.read_text()
    assert law.miss.beyond_noise is told
    assert ("misses losses at the end of training by much more than their noise: rf by" in page) is told
    cards = page.split('<div class="cards">')[1].split("<nav")[0]
    assert ("much more than their noise." in cards) is told, "beside what the next scale gives"
    assert bool(misses_sentence(report.laws)) is told
    assert (law.status == "doubtful") is told
