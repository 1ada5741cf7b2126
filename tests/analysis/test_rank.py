"""Non-dominated sorting against brute force, and the probabilities against cases known in advance."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws import FitError
from analysis.quality.rank import _deviations, dominance, fronts, rank, table_1


def peel(points: np.ndarray) -> list[int]:
    """Fronts by the definition, one point at a time."""
    out, left, front = [0] * len(points), set(range(len(points))), 0
    while left:
        front += 1
        now = {
            i for i in left
            if not any(np.all(points[j] <= points[i]) and np.any(points[j] < points[i]) for j in left if j != i)
        }  # fmt: skip
        for i in now:
            out[i] = front
        left -= now
    return out


@pytest.mark.parametrize("seed", range(5))
def test_fronts_are_those_of_the_definition(seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 6, size=(25, 2)).astype(float)  # with ties
    assert fronts(dominance(points)).tolist() == peel(points)


def test_batched_fronts_equal_single_ones() -> None:
    batch = np.random.default_rng(0).normal(size=(7, 12, 2))
    together = fronts(dominance(batch))
    assert [fronts(dominance(points)).tolist() for points in batch] == together.tolist()


def test_equal_points_share_a_front() -> None:
    assert fronts(dominance(np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0]]))).tolist() == [1, 1, 2]


def test_clip_is_better_high_and_fid_low() -> None:
    result = rank(["good", "trade", "bad"], [[0.26], [0.27], [0.25]], [[40.0], [45.0], [50.0]])
    assert result.rank.tolist() == [1, 1, 2]
    assert np.isnan(result.p_best).all()


def test_the_paper_s_table_2_at_25_steps() -> None:
    """ImageNet and CC12M columns of Table 2 (Esser et al. 2024): fronts worked out by hand."""
    names = ["rf", "edm(-1.20,1.20)", "eps/linear", "v/cos", "rf/lognorm(0.50,0.60)", "rf/mode(1.75)",
             "rf/lognorm(0.00,1.00)"]  # fmt: skip
    clip = [[0.247, 0.217], [0.236, 0.200], [0.245, 0.222], [0.244, 0.209], [0.256, 0.233], [0.253, 0.218],
            [0.250, 0.224]]  # fmt: skip
    fid = [[49.70, 94.90], [63.12, 116.60], [48.42, 90.34], [50.74, 97.87], [80.41, 120.84], [44.39, 94.06],
           [45.78, 89.91]]  # fmt: skip
    result = rank(names, clip, fid, settings=["ImageNet", "CC12M"])
    by_name = dict(zip(names, result.by_setting.tolist(), strict=True))
    assert by_name == {
        "rf/lognorm(0.50,0.60)": [1, 1],  # best CLIP of both
        "rf/mode(1.75)": [1, 3],  # best FID on ImageNet; behind eps/linear on CC12M
        "rf/lognorm(0.00,1.00)": [2, 1],
        "eps/linear": [3, 2],
        "rf": [3, 4],
        "v/cos": [4, 5],
        "edm(-1.20,1.20)": [5, 6],
    }
    assert result.order[0] == "rf/lognorm(0.50,0.60)"


def test_probabilities_without_doubt_are_zero_and_one() -> None:
    clip, fid = np.array([[0.3, 0.3], [0.2, 0.2]]), np.array([[10.0, 10.0], [20.0, 20.0]])
    tiny = np.full((2, 2), 1e-9)
    result = rank(["a", "b"], clip, fid, clip_se=tiny, fid_se=tiny)
    assert result.p_rank1.tolist() == result.p_best.tolist() == [1.0, 0.0]
    assert result.p_dominates[0, 1] == 1.0
    assert result.p_dominates[1, 0] == 0.0
    assert result.tied_with_best == ()


def test_probabilities_of_equals_are_even() -> None:
    same = np.full((2, 1), 1.0)
    result = rank(["a", "b"], same, same, clip_se=same, fid_se=same, draws=8000)
    assert result.p_dominates[0, 1] == pytest.approx(0.25, abs=0.02)  # better in both of two independent metrics
    assert result.p_best == pytest.approx([0.5, 0.5], abs=0.02)
    assert result.p_rank1 == pytest.approx([0.75, 0.75], abs=0.02)
    assert result.tied_with_best == ("b",)


def test_repeats_are_resampled_whole() -> None:
    """A repeat in which everything is better is better in all settings at once."""
    rng = np.random.default_rng(0)
    luck = rng.normal(size=(2, 1, 6))
    clip, fid = np.broadcast_to(luck, (2, 5, 6)), -np.broadcast_to(luck, (2, 5, 6))
    result = rank(["a", "b"], clip, fid)
    assert result.p_dominates[0, 1] + result.p_dominates[1, 0] == pytest.approx(1.0)
    assert result.p_best[0] == pytest.approx(result.p_dominates[0, 1], abs=1e-12)


def test_missing_scores_are_listed_not_ranked() -> None:
    clip = [[0.3, 0.3], [0.2, np.nan], [0.1, 0.1]]
    result = rank(["a", "b", "c"], clip, np.ones((3, 2)), settings=["5 steps", "50 steps"])
    assert result.names == ("a", "c")
    assert result.excluded == {"b": "no CLIP score or FID in 1 of 2 settings, first 50 steps"}
    with pytest.raises(FitError, match="ranking needs two"):
        rank(["a", "b"], [[np.nan], [1.0]], [[1.0], [1.0]])


def test_shapes_are_checked() -> None:
    with pytest.raises(FitError, match="one row per name"):
        rank(["a"], [[1.0], [2.0]], [[1.0], [2.0]])
    with pytest.raises(FitError, match="2 setting names for 1 columns"):
        rank(["a", "b"], [[1.0], [2.0]], [[1.0], [2.0]], settings=["x", "y"])
    with pytest.raises(FitError, match="both CLIP and FID"):
        rank(["a", "b"], [[1.0], [2.0]], [[1.0], [2.0]], clip_se=[[1.0], [1.0]])


def test_table_1_prints_subsets_and_the_best_two_of_a_family() -> None:
    names = ["rf/lognorm(0,1)", "rf/lognorm(1,1)", "rf/lognorm(2,1)", "edm(0,1)"]
    clip = np.array([[4.0, 1.0], [3.0, 2.0], [2.0, 0.5], [1.0, 3.0]])
    families = {name: name.split("(")[0] for name in names}
    result = rank(names, clip, -clip, settings=["5", "50"])
    text = table_1(result, {"5 steps": ["5"], "50 steps": ["50"]}, families=families)
    lines = text.splitlines()
    assert lines[0].split("|")[1:-1] == [" arm             ", "   all ", " 5 steps ", " 50 steps "]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["rf/lognorm(0,1)", "rf/lognorm(1,1)", "edm(0,1)"]
    assert lines[2].split("|")[2:5] == ["  2.00 ", "    1.00 ", "     3.00 "]
    with pytest.raises(FitError, match="no settings 7"):
        result.average(["7"])


def test_a_missing_repeat_is_not_in_the_mean() -> None:
    clip = np.array([[[0.30, np.nan], [0.30, 0.32]], [[0.29, 0.31], [0.29, 0.29]]])
    result = rank(["a", "b"], clip, -clip, settings=["5", "50"])
    assert result.by_setting.tolist() == [
        [1, 1],
        [1, 2],
    ]  # 0.30 and 0.30 in the first setting, 0.31 and 0.29 in the other
    assert not result.excluded


def test_draws_have_the_spread_between_repeats_pooled_over_formulations() -> None:
    rng = np.random.default_rng(3)
    sd, repeats = np.array([2.0, 0.5]), 3
    values = sd * rng.normal(size=(120, 1, repeats, 2))
    there = np.ones((120, 1, repeats), dtype=bool)
    there[:40, :, 2] = False
    mean = np.mean(values, axis=2, where=there[..., None])
    drawn = _deviations(np.where(there[..., None], values, np.nan), mean, there, 200, rng)
    assert drawn[:, 40:].std(axis=(0, 1, 2)) == pytest.approx(sd / np.sqrt(3), rel=0.15)
    assert drawn[:, :40].std(axis=(0, 1, 2)) == pytest.approx(sd / np.sqrt(2), rel=0.15)


def test_two_seeds_do_not_make_a_difference_of_chance_sure() -> None:
    """With equal means "better with probability 0.95" must stay near 5 %; a bootstrap of two seeds has twice that."""
    rng, sure, n = np.random.default_rng(0), 0, 0
    for _ in range(60):
        values = rng.normal(size=(1, 4, 1)) + 0.5 * rng.normal(size=(3, 4, 2))
        better = rank(["a", "b", "c"], values, -values, draws=300).p_better[~np.eye(3, dtype=bool)]
        sure, n = sure + int((better >= 0.95).sum()), n + better.size
    assert sure / n < 0.08


def test_what_all_formulations_share_in_a_seed_does_not_blur_their_order() -> None:
    luck = np.array([0.0, 5.0, -3.0])
    values = np.array([1.0, 0.0])[:, None, None] + luck + 0.01 * np.random.default_rng(0).normal(size=(2, 1, 3))
    assert rank(["a", "b"], values, -values).p_better[0, 1] > 0.99
