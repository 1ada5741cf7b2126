"""Preference by mathematics: closed forms, the gradient, recovery of known strengths, and intervals that cover."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.preference import strengths as preference
from analysis.preference.davidson import solve
from analysis.preference.plot import plot_preference
from analysis.preference.strengths import (
    OVERALL,
    PreferenceError,
    fit_preference,
    read_votes,
    to_elo,
)
from analysis.preference.wording import text
from rfscale.rating.votes import Showing, Vote, Votes

QUESTION = "prompt following"


def table(*rows: tuple[str, str, str], rater: str = "r", question: str = QUESTION) -> pd.DataFrame:
    """Votes (left, right, choice) of one rater."""
    return pd.DataFrame(rows, columns=["left", "right", "choice"]).assign(rater=rater, question=question)


def simulate(theta: np.ndarray, nu: float, n: int, seed: int, raters: int = 1, spread: float = 0.0) -> pd.DataFrame:
    """Votes of Davidson's model. Each rater has strengths of their own, normal around `theta`."""
    rng = np.random.default_rng(seed)
    size = len(theta)
    own = theta + rng.normal(0, spread, (raters, size))
    i, rater = rng.integers(size, size=n), np.arange(n) % raters
    j = (i + rng.integers(1, size, size=n)) % size
    p = np.stack([np.exp(own[rater, i]), np.exp(own[rater, j]), nu * np.exp((own[rater, i] + own[rater, j]) / 2)])
    below = (p / p.sum(axis=0)).cumsum(axis=0)
    choice = np.array(["left", "right", "none"])[(rng.random(n) > below[:2]).sum(axis=0)]
    return pd.DataFrame(
        {
            "rater": rater.astype(str),
            "question": QUESTION,
            "left": i.astype(str),
            "right": j.astype(str),
            "choice": choice,
        }
    )


def log_likelihood(x: np.ndarray, wins: np.ndarray, ties: np.ndarray) -> float:
    """Davidson's, written out from the three probabilities, pair by pair."""
    pi, nu, value = np.exp(x[:-1]), math.exp(x[-1]), 0.0
    for i in range(len(pi)):
        for j in range(i):
            middle = nu * math.sqrt(pi[i] * pi[j])
            total = pi[i] + pi[j] + middle
            value += wins[i, j] * math.log(pi[i] / total) + wins[j, i] * math.log(pi[j] / total)
            value += ties[i, j] * math.log(middle / total)
    return value


# --- the estimate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("won", "lost", "tied"), [(7, 3, 0), (7, 3, 5), (4, 4, 1), (9, 0, 0), (0, 0, 6), (0, 5, 5)])
def test_two_models_have_a_closed_form(won: int, lost: int, tied: int) -> None:
    votes = table(*[("a", "b", "left")] * won, *[("a", "b", "right")] * lost, *[("a", "b", "none")] * tied)
    fit = fit_preference(votes, draws=10).by_question[QUESTION]
    # Half a vote is added to either side; three answers and two parameters: the model reproduces the shares exactly.
    w, v = won + 0.5, lost + 0.5
    assert fit.log_strength[0] - fit.log_strength[1] == pytest.approx(math.log(w / v), abs=1e-7)
    assert fit.tie == pytest.approx(tied / math.sqrt(w * v), abs=1e-7)
    assert fit.log_strength.sum() == pytest.approx(0, abs=1e-9)


def test_the_optimum_is_where_the_gradient_is_zero_and_where_another_optimiser_ends() -> None:
    rng = np.random.default_rng(0)
    wins = rng.gamma(1.0, size=(1, 5, 5)) * (1 - np.eye(5))
    upper = np.triu(rng.gamma(0.5, size=(5, 5)), 1)
    ties = (upper + upper.T)[None]
    theta, nu = solve(wins, ties)
    x = np.append(theta[0], math.log(nu[0]))
    gradient = optimize.approx_fprime(x, log_likelihood, 1e-6, wins[0], ties[0])
    assert np.abs(gradient).max() < 1e-4
    found = optimize.minimize(lambda y: -log_likelihood(y, wins[0], ties[0]), np.zeros(6))
    np.testing.assert_allclose(x[:-1], found.x[:-1] - found.x[:-1].mean(), atol=1e-4)
    assert x[-1] == pytest.approx(found.x[-1], abs=1e-4)


def test_many_tables_at_once_are_solved_as_one_by_one() -> None:
    rng = np.random.default_rng(1)
    wins = rng.gamma(0.2, size=(20, 4, 4)) * (1 - np.eye(4)) + 1e-8 * (1 - np.eye(4))  # some far from the centre
    upper = np.triu(rng.gamma(0.3, size=(20, 4, 4)), 1)
    ties = upper + np.swapaxes(upper, 1, 2)
    ties[::3] = 0
    theta, nu = solve(wins, ties)
    for b in range(20):
        one, its_nu = solve(wins[b : b + 1], ties[b : b + 1])
        np.testing.assert_allclose(theta[b], one[0], atol=1e-4)
        assert nu[b] == pytest.approx(its_nu[0], rel=1e-4)
    assert (nu[::3] == 0).all()


def test_known_strengths_are_recovered() -> None:
    truth = np.array([-1.0, -0.2, 0.4, 0.8])
    fit = fit_preference(simulate(truth, 0.6, 20_000, seed=0), draws=100).overall
    np.testing.assert_allclose(fit.log_strength, truth, atol=0.08)
    assert fit.tie == pytest.approx(0.6, abs=0.04)
    assert fit.order == (3, 2, 1, 0)
    assert fit.models == ("0", "1", "2", "3")
    assert fit.p_best[3] > 0.99
    assert fit.p_best.sum() == pytest.approx(1)


def test_elo_is_400_points_for_odds_of_ten_to_one_and_its_mean_is_1000() -> None:
    assert to_elo(np.array([math.log(10), 0.0])).tolist() == pytest.approx([1400, 1000])
    fit = fit_preference(simulate(np.array([-2.0, 0.0, 1.0]), 0.3, 500, seed=1), draws=50).overall
    assert fit.elo.mean() == pytest.approx(1000)
    low, high = fit.elo_interval
    assert (low < fit.elo).all()
    assert (fit.elo < high).all()


def test_left_and_right_do_not_matter() -> None:
    votes = simulate(np.array([-1.0, 0.0, 1.0]), 0.5, 120, seed=2)
    turned = votes.assign(
        left=votes["right"],
        right=votes["left"],
        choice=votes["choice"].map({"left": "right", "right": "left", "none": "none"}),
    )
    some = votes.copy()
    some.iloc[::2] = turned.iloc[::2]
    expected = fit_preference(votes, draws=100).overall
    for other in (turned, some):
        fit = fit_preference(other, draws=100).overall
        for field in ("log_strength", "low", "high", "win_rate", "votes", "p_better", "p_best"):
            np.testing.assert_allclose(getattr(fit, field), getattr(expected, field), atol=1e-9, err_msg=field)
    assert fit_preference(turned, draws=2).overall.left_share == pytest.approx(1 - expected.left_share)


def test_win_rates_by_hand() -> None:
    fit = fit_preference(
        table(("a", "b", "left"), ("b", "a", "left"), ("b", "a", "right"), ("a", "b", "none"), ("c", "a", "left")),
        draws=10,
    ).overall
    assert fit.win_rate[0, 1] == pytest.approx(2.5 / 4)
    assert fit.win_rate[1, 0] == pytest.approx(1.5 / 4)
    assert fit.win_rate[2, 0] == 1
    assert math.isnan(fit.win_rate[1, 2])
    assert fit.votes.tolist() == [[0, 4, 1], [4, 0, 0], [1, 0, 0]]
    assert (fit.n_votes, fit.n_ties) == (5, 1)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_a_model_that_won_every_vote_has_a_finite_strength_and_jeffreys_interval() -> None:
    fit = fit_preference(table(*[("a", "b", "left"), ("b", "a", "right")] * 10), draws=20_000).overall
    assert fit.elo[0] - fit.elo[1] == pytest.approx(400 * math.log10(20.5 / 0.5))
    share = stats.beta(20.5, 0.5).ppf([0.025, 0.975])
    odds = np.log(share / (1 - share))
    assert 2 * fit.low[0] == pytest.approx(odds[0], rel=0.05)
    assert 2 * fit.high[0] == pytest.approx(odds[1], rel=0.1)
    assert fit.p_best[0] > 0.99


def coverage(truth: np.ndarray, nu: float, n: int, repeats: int) -> float:
    inside = []
    for seed in range(repeats):
        fit = fit_preference(simulate(truth, nu, n, seed), draws=200).overall
        assert len(fit.models) == len(truth)
        inside.append((fit.low <= truth) & (truth <= fit.high))
    return float(np.mean(inside))


@pytest.mark.parametrize(
    "truth", [[-0.4, 0.4], [-1.0, 0.0, 1.0], pytest.param([-2.5, 0.0, 2.5], marks=pytest.mark.slow)], ids=str
)
def test_intervals_over_votes_cover(truth: list[float]) -> None:
    assert 0.91 <= coverage(np.array(truth), 0.5, 50, repeats=150) <= 0.99


def test_intervals_over_raters_cover_what_raters_in_general_prefer() -> None:
    theta, raters = np.array([-0.8, 0.0, 0.8]), 6
    many = simulate(theta, 0.5, 100_000, seed=10**6, raters=50_000, spread=0.8).assign(rater="all")
    truth = fit_preference(many.assign(showing=0), draws=2).overall.log_strength
    inside = {"raters": [], "votes": []}
    for seed in range(120):
        votes = simulate(theta, 0.5, 40 * raters, seed, raters=raters, spread=0.8)
        for name, given in (("raters", votes), ("votes", votes.assign(rater="one"))):
            fit = fit_preference(given, draws=200).overall
            assert fit.clusters == ("people" if name == "raters" else "image pairs")
            inside[name].append((fit.low <= truth) & (truth <= fit.high))
    assert 0.90 <= np.mean(inside["raters"]) <= 0.99
    assert np.mean(inside["votes"]) < 0.80, "raters differ: their votes are not independent"


def test_votes_about_one_pair_of_images_count_as_one_for_the_interval() -> None:
    votes = simulate(np.array([-0.5, 0.0, 0.5]), 0.5, 200, seed=3).assign(showing=range(200))
    alone = fit_preference(votes, draws=1000).overall
    twice = pd.concat([votes, votes.assign(question="visual quality")])
    together = fit_preference(twice, draws=1000)
    np.testing.assert_allclose(together.overall.high - together.overall.low, alone.high - alone.low, rtol=0.12)
    apart = fit_preference(twice.drop(columns="showing"), draws=1000).overall
    np.testing.assert_allclose(apart.high - apart.low, (alone.high - alone.low) / math.sqrt(2), rtol=0.12)
    assert list(together.by_question) == [QUESTION, "visual quality"]
    assert [fit.question for fit in together.fits()] == [QUESTION, "visual quality", OVERALL]


def test_with_few_raters_the_interval_is_about_these_raters_question_by_question() -> None:
    five = simulate(np.array([-0.5, 0.5]), 0.5, 100, seed=4, raters=5)
    two = simulate(np.array([-0.5, 0.5]), 0.5, 40, seed=5, raters=2).assign(question="visual quality")
    fit = fit_preference(pd.concat([five, two]), draws=50)
    assert fit.by_question[QUESTION].clusters == "people"
    assert fit.by_question["visual quality"].clusters == "image pairs"
    said = text(fit)
    assert "which weighs people at random. They hold for people like the raters." in said
    assert "They hold for these prompts alone; from 5 prompts on, for prompts like them." in said
    assert "which weighs image pairs at random. They hold for these raters alone" in text(fit_preference(two, draws=50))
    said = text(fit_preference(two.assign(prompt=np.arange(40) % 5), draws=50))
    assert (
        "They hold for these raters alone; from 5 raters on, for people like them. They hold for prompts like" in said
    )
    both = fit_preference(five.assign(prompt=np.arange(100) % 7), draws=50)
    assert both.overall.clusters == "people and prompts"
    assert "They hold for people like the raters. They hold for prompts like these.\n" in text(both)
    assert fit_preference(two.assign(prompt=np.arange(40) % 4), draws=50).overall.clusters == "image pairs"


def on_prompts(raters: int, prompts: int, seed: int) -> pd.DataFrame:
    """Every rater answers about the images of two models for every prompt; the better one depends on the prompt."""
    rng = np.random.default_rng(seed)
    odds = np.repeat(rng.normal(0, 2, prompts)[None], raters, axis=0)
    rater, prompt = np.indices(odds.shape)
    return pd.DataFrame(
        {
            "rater": rater.ravel().astype(str),
            "question": QUESTION,
            "left": "a",
            "right": "b",
            "choice": np.where(rng.random(odds.shape) < 1 / (1 + np.exp(-odds)), "left", "right").ravel(),
            "prompt": prompt.ravel().astype(str),
            "showing": np.arange(odds.size),
        }
    )


@pytest.mark.parametrize(("raters", "clusters"), [(4, "prompts"), (8, "people and prompts")])
def test_intervals_cover_where_raters_judge_the_same_images(raters: int, clusters: str) -> None:
    inside: dict[str, list[bool]] = {"prompts": [], "without": []}
    for seed in range(120):
        votes = on_prompts(raters, 15, seed)
        for name, given in (("prompts", votes), ("without", votes.drop(columns="prompt"))):
            fit = fit_preference(given, draws=200).overall
            inside[name].append(bool(fit.low[0] <= 0 <= fit.high[0]))  # the models are equal over all prompts
            assert fit.clusters == clusters or name == "without"
    assert np.mean(inside["prompts"]) >= 0.91
    assert np.mean(inside["without"]) < 0.85, "raters judge the same images: their votes are not independent"


def test_the_interval_over_raters_and_prompts_holds_either_spread() -> None:
    """Raters who agree and prompts that differ, or the other way round: the interval is as wide."""
    votes = on_prompts(8, 8, seed=1)
    places = np.indices((8, 8)).reshape(2, -1)
    for of_vote in places:  # the winner is decided by the rater alone, or by the prompt alone
        decided = votes.assign(choice=np.where(of_vote % 2 == 0, "left", "right"))
        fit = fit_preference(decided, draws=1000).overall
        # Eight clusters that win or lose whole: log odds have the standard deviation 2 / sqrt(7) at least.
        assert fit.high[0] - fit.low[0] > 2 * 1.96 / math.sqrt(7)


# --- the figure -------------------------------------------------------------------------------------------------------


def test_the_figure_shows_what_was_fitted() -> None:
    votes = simulate(np.array([-0.5, 0.0, 0.5]), 0.5, 200, seed=3)
    fit = fit_preference(pd.concat([votes, votes.iloc[::2].assign(question="visual quality")]), draws=100)
    ax = plot_preference(fit)
    models = [label.get_text() for label in ax.get_yticklabels()]
    assert models == [fit.overall.models[i] for i in fit.overall.order]
    for marks, shown in zip(ax.containers, fit.fits(), strict=True):
        assert marks.get_label() == shown.question
        points, _, (bars,) = marks
        low, high = shown.elo_interval
        for y, (x, bar) in enumerate(zip(points.get_xdata(), bars.get_segments(), strict=True)):
            i = shown.models.index(models[y])
            assert x == pytest.approx(shown.elo[i])
            assert bar[:, 0].tolist() == pytest.approx([low[i], high[i]])


# --- what is said -----------------------------------------------------------------------------------------------------


def test_doubts() -> None:
    apart = fit_preference(table(("a", "b", "left"), ("b", "c", "left"), ("d", "e", "left")), draws=10).overall
    assert len(apart.doubts) == 1
    assert apart.doubts[0].startswith("d, e met the others in no vote")
    always_left = fit_preference(table(*[("a", "b", "left"), ("b", "a", "left")] * 10), draws=10).overall
    assert "left image was chosen in 20 of 20 image pairs" in always_left.doubts[0]
    assert always_left.elo.tolist() == pytest.approx([1000, 1000])
    assert fit_preference(simulate(np.zeros(3), 0.5, 100, seed=0), draws=10).overall.doubts == ()


def test_the_answers_about_one_pair_of_images_are_one_sign_of_side() -> None:
    votes = table(*[("a", "b", "left"), ("b", "a", "left")] * 6)  # 12 of 12 by chance: p = 0.0005
    assert "in 12 of 12 image pairs" in fit_preference(votes.assign(showing=range(12)), draws=10).overall.doubts[0]
    assert fit_preference(votes.assign(showing=np.arange(12) // 3), draws=10).overall.doubts == ()  # 4 of 4: p = 0.13


def test_the_report_and_the_json() -> None:
    fit = fit_preference(
        table(*[("a", "b", "left")] * 6, ("b", "a", "left"), ("a", "b", "none"), ("b", "c", "left")), draws=100
    )
    said = text(fit)
    assert said.startswith("9 votes by 1 rater\n\nprompt following: 9 votes, 1 without preference")
    best = said.splitlines()[4]
    assert best.split()[:2] == ["a", f"{fit.overall.elo[0]:.0f}"]
    assert best.split()[-3:] == ["–", "81", "–"]
    assert "mean 1000" in said
    assert "They hold for these raters alone; from 5 raters on, for people like them." in said
    assert "or more:" not in said
    given = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    assert (given["votes"], given["raters"]) == (9, ["r"])
    (only,) = given["fits"]
    assert [row["model"] for row in only["models"]] == ["a", "b", "c"]
    assert only["models"][0]["win_rate"] == {"b": 6.5 / 8, "c": None}
    assert only["models"][0]["votes"] == {"b": 8, "c": 0}


@pytest.mark.parametrize(
    ("votes", "sentence"),
    [
        (table().iloc[:0], "there are no votes"),
        (table(("a", "b", "both")), "choice 'both' is not possible; it is one of left, right, none"),
        (table(("a", "a", "left")), "a was compared with itself"),
        (table(("a", "b", "left")).drop(columns="rater"), "the votes have no column rater"),
    ],
)
def test_votes_that_cannot_be_are_refused(votes: pd.DataFrame, sentence: str) -> None:
    with pytest.raises(PreferenceError, match=sentence):
        fit_preference(votes)


def test_a_database_that_is_locked_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "votes.sqlite"
    assert preference.LOCK_PATIENCE >= 30
    monkeypatch.setattr(preference, "LOCK_PATIENCE", 0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE other (x)")
        with pytest.raises(PreferenceError, match=r"is not a database of votes .*no such table"):
            read_votes(path)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(PreferenceError, match=r"cannot be read now \(database is locked\); try again"):
            read_votes(path)


def test_votes_are_read_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = Votes(tmp_path / "votes.sqlite")
    votes.add(Vote(Showing("token", "ada", "s2-g1-ema", 0, "a ring", "a", "b"), QUESTION, "left"))
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert list(read_votes(votes.path)["choice"]) == ["left"]
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_database_of_votes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreferenceError, match="there are no votes yet"):
        read_votes(tmp_path / "votes.sqlite")
    (tmp_path / "text").write_text("this is text and longer than the header of a database would be, by far " * 3)
    with pytest.raises(PreferenceError, match="is not a database of votes"):
        read_votes(tmp_path / "text")
