"""Arms in different latent spaces: no loss of one is set against one of another; the judges rank them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_sweep import FakeTrial, World, world_trials, write_sweep

from analysis.compare.arms import compare
from analysis.compare.wording import ranking_text
from analysis.quality.judged import judged, judged_text
from analysis.quality.summary import assess
from analysis.quality.wording import decimals
from analysis.quality.wording import mean as told_mean
from analysis.report.page import write_report
from analysis.table.read import SweepTable, read_sweep
from rfscale import names

CHANNELS = {"rf": "4 channels", "better": "8 channels", "worse": "16 channels"}


def encoded(trial: FakeTrial, spaces: Mapping[str, str], arm_keys: tuple[str, ...]) -> FakeTrial:
    """The formulation of the synthetic world stands for the data set; `spaces`: of each."""
    p = trial.params
    which = str(p["formulation"])
    identity = {"formulation": "rf", "model.depth": p["depth"], "seed": p["seed"], "data.content": which}
    identity |= {names.SPACE: spaces[which]} if which in spaces else {}
    roles = {"arm": list(arm_keys), "rung": ["model.depth"], "seed": ["seed"], "tuned": []}
    params = {**p, "formulation": "rf", **{f"{names.IDENTITY}{key}": value for key, value in identity.items()}}
    return replace(
        trial, params=params, tags={**trial.tags, names.TAG_ARM: CHANNELS[which], names.TAG_ROLES: json.dumps(roles)}
    )


def written(
    folder: Path,
    spaces: Mapping[str, str],
    quality: bool = False,
    arm_keys: tuple[str, ...] = ("data.content", names.SPACE),
) -> SweepTable:
    folder.mkdir(exist_ok=True)
    world = World(
        {"rf": 1.0, "better": 1.5, "worse": 0.6}, depths=(1, 2, 3), seeds=(0, 1), noise=0.003, quality=quality
    )
    uri = write_sweep(folder, "spaces", world_trials(world), lambda trial: encoded(trial, spaces, arm_keys))
    return read_sweep(uri, "spaces")


SPACES = {"rf": "aaa", "better": "bbb", "worse": "ccc"}


def test_losses_of_different_spaces_are_not_ranked(tmp_path: Path) -> None:
    found = compare(written(tmp_path, SPACES))
    assert [s.arm for s in found.standings] == ["16 channels", "4 channels", "8 channels"], "no order by the loss"
    assert {s.rank for s in found.standings} == {0}
    assert all(math.isnan(s.ratio.estimate) and math.isnan(s.compute_multiplier.estimate) for s in found.standings)
    assert all(math.isnan(s.p) and math.isnan(s.p_best) and s.tied_with == () for s in found.standings)
    assert (found.trends, found.tau, found.other) == ((), {}, None)
    text = ranking_text(found)
    assert text.startswith("No ranking of spaces by val/loss, 18 trials\nThe arms live in 3 different spaces, ")
    assert "not comparable and are not ranked: the judges rank them, by the decoded images." in text
    assert "times" not in text
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["apart"] == found.apart
    assert [standing["rank"] for standing in plain["standings"]] == [None] * 3
    assert [s["rank"] for s in compare(written(tmp_path / "one", {})).to_dict()["standings"]] == [1, 2, 3]  # type: ignore[attr-defined,index]


def test_pixels_are_a_space_too(tmp_path: Path) -> None:
    found = compare(written(tmp_path, {"rf": "aaa", "better": "aaa"}))
    assert "2 different spaces (pixels are one of them)" in found.apart


@pytest.mark.parametrize("spaces", [{}, dict.fromkeys(SPACES, "aaa")])
def test_one_space_is_ranked_as_ever(tmp_path: Path, spaces: Mapping[str, str]) -> None:
    found = compare(written(tmp_path, spaces))
    assert found.apart == ""
    assert [s.arm for s in found.standings] == ["8 channels", "4 channels", "16 channels"]


def test_the_judges_rank_them_and_no_loss_is_correlated_across_spaces(tmp_path: Path) -> None:
    table = written(tmp_path, SPACES, quality=True)
    quality = assess(table)
    assert quality is not None
    assert all(relation.ends is None for relation in quality.relations)
    assert all("not comparable" in relation.ends_reason for relation in quality.relations)
    assert quality.ranks is not None
    assert quality.ranks.result.order[0] == "8 channels"
    assert "8 channels" in judged_text(table)
    alone = written(tmp_path / "one", dict.fromkeys(SPACES, "aaa"), quality=True)
    same = assess(alone)
    assert same is not None
    assert any(relation.ends is not None for relation in same.relations)


def test_json_has_the_ranks_of_the_judges_and_the_text_says_the_same(tmp_path: Path) -> None:
    table = written(tmp_path, SPACES, quality=True)
    quality = assess(table)
    assert quality is not None
    assert quality.ranks is not None
    assert quality.at_steps is not None
    found = json.loads(json.dumps(judged(table), allow_nan=False))
    ranks, result = found["arms"], quality.ranks.result
    assert [arm["arm"] for arm in ranks] == list(result.order)
    assert [arm["rank"] for arm in ranks] == sorted(result.rank)
    assert [arm["p_best"] for arm in ranks] == [result.p_best[result.names.index(name)] for name in result.order]
    assert {arm["arm"] for arm in ranks if arm["tied_with_best"]} == set(result.tied_with_best)
    assert found["judges"].keys() == {"clip_score", "fid"}
    assert found["settings"] == list(result.settings)
    text = judged_text(table)
    for row in quality.at_steps.rows:
        (arm,) = (one for one in ranks if one["arm"] == row.arm)
        (score,) = (one for one in arm["scores"] if one["size"] == row.size)
        for metric, mean in zip(quality.at_steps.metrics, row.means, strict=True):
            assert score[metric] == {"value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
            assert mean.low < mean.value < mean.high
            assert told_mean(mean, decimals(metric)) in text
    without = written(tmp_path / "none", SPACES)
    assert judged(without) == {"arms": [], "reasons": {"judges": judged_text(without)}}


def test_the_page_says_so_and_sets_no_loss_against_another(tmp_path: Path) -> None:
    written(tmp_path, SPACES, quality=True)
    report = write_report(f"sqlite:///{tmp_path / 'mlflow.db'}", "spaces", tmp_path / "report")
    page = report.path.read_text()
    assert "val/loss cannot tell" in page
    assert "has the lowest average rank" in page
    assert 'id="trend"' not in page
    assert "P(best)</th><th class" not in page
    drawn = {path.stem for path in (tmp_path / "report").glob("*.png")}
    assert not drawn & {"ranking", "trend", "loss_per_level", "denoising_profile", "quality_against_loss"}
    assert {"learning_curves", "quality_against_compute"} <= drawn


def test_other_keys_compare_within_each_space(tmp_path: Path) -> None:
    """By the seed, say: every pair shares its space, so losses are ranked."""
    found = compare(written(tmp_path, SPACES), by=["seed"])
    assert found.apart == ""
    assert len(found.standings) == 2
