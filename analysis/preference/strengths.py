"""What people prefer: Bradley-Terry strengths with ties, Elo and win rates from votes between two images.

The model is that of `analysis.preference.davidson`: strengths pi, and a parameter nu of ties.

Elo = 1000 + 400 log10(pi), strengths with geometric mean 1: the mean of the models is 1000, and 400 points are odds of
ten to one. The paper (Esser et al. 2024, sec. 5.4) plots such a score against validation loss and gives no formula.

Regularisation: 1/K of a vote for either side of every pair of the K models, K - 1 votes in all. It is what Firth's
(1993) bias reduction adds for K - 1 strengths, spread evenly; a model that won every vote has a finite strength.

Intervals: the Bayesian bootstrap (Rubin 1981). Votes, and every added part of a vote with its own size, get
gamma-distributed weights; 95 % of the refitted strengths lie in the interval. Where every vote has its own weight it is
for two models Jeffreys' interval of a share, so it does not collapse where one model won every vote, as resampling the
votes would. Votes that share a prompt share its images, and votes of a person share a taste, so they are not
independent: a vote's weight is that of its prompt, times that of its rater where there are enough raters to speak for
others (Owen & Eckles 2012, product weights; they are on the wide side where votes differ by chance alone).
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.preference.davidson import Array, solve
from rfscale import names

OVERALL = "all questions"
MEAN_ELO = 1000.0
ELO_PER_LOG = 400.0 / math.log(10.0)
MIN_RATERS = 5
"""With fewer raters the spread between raters cannot be estimated: the interval is then about these raters only."""
MIN_PROMPTS = 5
"""With fewer prompts the spread between prompts cannot be estimated: the interval is then about these prompts only."""
LOCK_PATIENCE = 30.0  # seconds to wait for another process that holds the database
_COLUMNS = ("rater", "question", "left", "right", "choice")


class PreferenceError(names.RfscaleError, ValueError):
    """The votes cannot be read or fitted; the message is one sentence that says what to do."""


# --- what comes out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strengths:
    """Strengths of K models by one question. Vectors follow `models`, matrices are row against column.

    log_strength: log pi, mean 0, with low and high. win_rate: wins and half the ties, per vote; NaN where the two never
    met. p_better: probability that the row is the stronger, p_best that the model is the strongest of all. tie: nu.
    left_share: how often the left image was chosen by those who chose one; 0.5 where sides do not matter.
    """

    question: str
    models: tuple[str, ...]
    n_votes: int
    n_ties: int
    log_strength: Array
    low: Array
    high: Array
    tie: float
    win_rate: Array
    votes: Array
    p_better: Array
    p_best: Array
    left_share: float
    clusters: str  # what is weighted in the bootstrap: "people and prompts", "people", "prompts" or "image pairs"
    doubts: tuple[str, ...]

    @property
    def elo(self) -> Array:
        """Elo, mean 1000."""
        return to_elo(self.log_strength)

    @property
    def elo_interval(self) -> tuple[Array, Array]:
        """95 % interval of each model's Elo, against the mean of the models."""
        return to_elo(self.low), to_elo(self.high)

    @property
    def order(self) -> tuple[int, ...]:
        """Positions in `models`, strongest first."""
        return tuple(int(i) for i in np.argsort(-self.log_strength, kind="stable"))


@dataclass(frozen=True)
class Preference:
    """The fit of every question, and of all of them together where there are several (`overall`)."""

    by_question: Mapping[str, Strengths]
    overall: Strengths
    raters: tuple[str, ...]
    draws: int

    def fits(self) -> tuple[Strengths, ...]:
        """What is worth printing: each question, then all together if that is not the same."""
        each = tuple(self.by_question.values())
        return each if len(each) == 1 else (*each, self.overall)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: null where there is no number."""
        return {
            "votes": self.overall.n_votes,
            "raters": list(self.raters),
            "draws": self.draws,
            "fits": [_to_dict(fit) for fit in self.fits()],
        }


def to_elo(log_strength: Array) -> Array:
    """Elo = 1000 + 400 log10(strength)."""
    return MEAN_ELO + ELO_PER_LOG * log_strength


# --- reading ----------------------------------------------------------------------------------------------------------


def read_votes(path: Path) -> pd.DataFrame:
    """One row per vote, oldest first, from the database that `rfscale rate` writes.

    Columns: time (UTC), rater, prompt, question, left, right (trial ids), choice, setting, showing. Raises
    PreferenceError where there is no such database or no vote in it.
    """
    if not path.is_file():
        raise PreferenceError(f"there are no votes yet ({path} does not exist); collect some with `rfscale rate SWEEP`")
    query = (
        "SELECT time, rater, prompt, question, left_trial AS left, right_trial AS right, choice, setting, showing "
        "FROM votes ORDER BY id"
    )
    try:
        # Where nothing can be written nobody else writes either; sqlite must then be told not to try a lock.
        how = "mode=ro" if os.access(path.parent, os.W_OK) else "immutable=1"
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?{how}", timeout=LOCK_PATIENCE, uri=True)
        ) as connection:
            rows = connection.execute(query)
            votes = pd.DataFrame(rows.fetchall(), columns=[column[0] for column in rows.description])
    except sqlite3.Error as error:
        # Locked, no permission, a disk that fails: all operational, but so is a missing table (SQLITE_ERROR).
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
            raise PreferenceError(
                f"{path} cannot be read now ({error}); try again, or check its permissions"
            ) from error
        raise PreferenceError(f"{path} is not a database of votes ({error}); move it away and rate again") from error
    if votes.empty:
        raise PreferenceError(f"there are no votes in {path}; collect some with `rfscale rate SWEEP`")
    votes["time"] = pd.to_datetime(votes["time"], utc=True)
    return votes


# --- fitting ----------------------------------------------------------------------------------------------------------


def fit_preference(votes: pd.DataFrame, *, draws: int = 1000, seed: int = 42) -> Preference:
    """Strengths from votes: columns rater, question, left, right, choice (left, right or none); prompt and showing.

    Votes on one prompt have one weight, from MIN_RATERS raters on times that of their rater. Where there is no column
    `prompt`, or fewer than MIN_PROMPTS of them, it is one weight for each value of `showing`, the answers of one rater
    about one pair of images (without that column every vote stands alone), or for each of enough raters. Raises
    PreferenceError for a table that has no votes between two models, or values that cannot be.
    """
    _check(votes)
    models = tuple(sorted({*votes["left"], *votes["right"]}))
    raters = tuple(sorted(set(votes["rater"])))
    if "showing" not in votes:
        votes = votes.assign(showing=np.arange(len(votes)))
    by_question = {
        str(question): _fit(str(question), models, votes[votes["question"] == question], draws, seed)
        for question in dict.fromkeys(votes["question"])
    }
    if len(by_question) == 1:
        overall = replace(*by_question.values(), question=OVERALL)
    else:
        overall = _fit(OVERALL, models, votes, draws, seed)
    return Preference(by_question, overall, raters, draws)


def _check(votes: pd.DataFrame) -> None:
    missing = [column for column in _COLUMNS if column not in votes]
    if missing:
        raise PreferenceError(f"the votes have no column {', '.join(missing)}; they need {', '.join(_COLUMNS)}.")
    if votes.empty:
        raise PreferenceError("there are no votes; collect some with `rfscale rate SWEEP`")
    unknown = sorted({str(choice) for choice in votes["choice"]} - set(names.CHOICES))
    if unknown:
        raise PreferenceError(f"choice {unknown[0]!r} is not possible; it is one of {', '.join(names.CHOICES)}.")
    same = votes["left"] == votes["right"]
    if same.any():
        raise PreferenceError(f"{votes.loc[same, 'left'].iloc[0]} was compared with itself; remove such votes.")


def _fit(question: str, models: tuple[str, ...], votes: pd.DataFrame, draws: int, seed: int) -> Strengths:
    size = len(models)
    by = _clusters(votes)
    cells = np.asarray(votes.groupby(list(by) or ["showing"], sort=False).ngroup(), dtype=np.intp)
    wins, ties = _counts(models, votes, cells)  # (G, K, K)
    added = (1.0 - np.eye(size)) / size
    total_wins, total_ties = wins.sum(axis=0), ties.sum(axis=0)
    theta, tie = solve((total_wins + added)[None], total_ties[None])

    rng = np.random.default_rng(seed)
    weights = _weights(rng, draws, votes, cells, by)
    drawn_wins = np.tensordot(weights, wins, axes=1) + rng.gamma(added, size=(draws, size, size))
    drawn, _ = solve(drawn_wins, np.tensordot(weights, ties, axes=1))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0) - theta[0]
    if by:  # the spread between few raters or prompts is itself uncertain
        fewest = min(votes[column].nunique() for column in by)
        wider = stats.t.ppf(0.975, fewest - 1) / stats.norm.ppf(0.975)
        low, high = low * wider, high * wider

    decided = int((votes["choice"] != "none").sum())
    met = total_wins + total_wins.T + total_ties
    with np.errstate(invalid="ignore"):
        win_rate = (total_wins + total_ties / 2) / met
    left = int((votes["choice"] == "left").sum())
    return Strengths(
        question=question,
        models=models,
        n_votes=len(votes),
        n_ties=len(votes) - decided,
        log_strength=theta[0],
        low=theta[0] + np.minimum(low, 0.0),
        high=theta[0] + np.maximum(high, 0.0),
        tie=float(tie[0]),
        win_rate=win_rate,
        votes=met,
        p_better=np.asarray((drawn[:, :, None] > drawn[:, None, :]).mean(axis=0)),
        p_best=np.bincount(drawn.argmax(axis=1), minlength=size) / draws,
        left_share=left / decided if decided else math.nan,
        clusters=" and ".join(by.values()) or "image pairs",
        doubts=_doubts(models, met, votes),
    )


def _clusters(votes: pd.DataFrame) -> dict[str, str]:
    """The columns whose values get a weight each, with what they are called: enough raters, enough prompts."""
    enough = {}
    if votes["rater"].nunique() >= MIN_RATERS:
        enough["rater"] = "people"
    if "prompt" in votes and votes["prompt"].nunique() >= MIN_PROMPTS:
        enough["prompt"] = "prompts"
    return enough


def _counts(models: tuple[str, ...], votes: pd.DataFrame, clusters: NDArray[np.intp]) -> tuple[Array, Array]:
    """(G, K, K) wins of row over column and (G, K, K) ties, symmetric, of each cluster."""
    place = {model: i for i, model in enumerate(models)}
    left = votes["left"].map(place).to_numpy(dtype=np.intp)
    right = votes["right"].map(place).to_numpy(dtype=np.intp)
    choice = votes["choice"].to_numpy(dtype=object)
    wins, ties = np.zeros((2, int(clusters.max()) + 1, len(models), len(models)))
    for table, rows, row, column in (
        (wins, choice == "left", left, right),
        (wins, choice == "right", right, left),
        (ties, choice == "none", left, right),
        (ties, choice == "none", right, left),
    ):
        np.add.at(table, (clusters[rows], row[rows], column[rows]), 1.0)
    return wins, ties


def _weights(
    rng: np.random.Generator, draws: int, votes: pd.DataFrame, cells: NDArray[np.intp], by: Mapping[str, str]
) -> Array:
    """(draws, cells) with mean 1: of each showing, or else the product of its rater's and its prompt's.

    With few clusters the plain exponential weights vary too little.
    A mean weighted by G gamma(a) weights has the variance of the plain mean, with its divisor G - 1, for
    a = (G - 2) / G: raters or prompts, whose spread is estimated. Single showings have a = 1: together with the added
    votes that is Jeffreys' posterior. So have both factors of a product, which varies more than it must already.
    """
    weights = np.ones((draws, int(cells.max()) + 1))
    for column in by:
        member, values = pd.factorize(votes[column])
        shape = (len(values) - 2) / len(values) if len(by) == 1 else 1.0
        of_cell = np.empty(weights.shape[1], dtype=np.intp)
        of_cell[cells] = member
        weights *= rng.gamma(shape, 1.0 / shape, size=(draws, len(values)))[:, of_cell]
    return weights if by else rng.exponential(size=weights.shape)


def _doubts(models: tuple[str, ...], met: Array, votes: pd.DataFrame) -> tuple[str, ...]:
    found = []
    apart = _unconnected(met > 0)
    if apart:
        found.append(
            f"{', '.join(models[i] for i in apart)} met the others in no vote, directly or through a third: their "
            f"order against the others is not known."
        )
    # The answers about one pair of images depend on each other: they give one sign, the side of their majority.
    side = votes["choice"].map({"left": 1, "right": -1, "none": 0}).groupby(votes["showing"]).sum()
    left, decided = int((side > 0).sum()), int((side != 0).sum())
    if decided and stats.binomtest(left, decided).pvalue < 0.01:
        found.append(
            f"The left image was chosen in {left} of {decided} image pairs: somebody answers by side. Sides are "
            f"balanced, so this favours no model, but it blurs all of them."
        )
    return tuple(found)


def _unconnected(met: NDArray[np.bool_]) -> list[int]:
    """Models that no chain of votes joins to the model with the most partners."""
    reached = {int(met.sum(axis=1).argmax())}
    while True:
        more = {int(j) for i in reached for j in np.flatnonzero(met[i])} | reached
        if more == reached:
            return [i for i in range(len(met)) if i not in reached]
        reached = more


def _to_dict(fit: Strengths) -> dict[str, Any]:
    low, high = fit.elo_interval
    return {
        "question": fit.question,
        "votes": fit.n_votes,
        "ties": fit.n_ties,
        "tie_parameter": fit.tie,
        "left_share": _number(fit.left_share),
        "clusters": fit.clusters,
        "doubts": list(fit.doubts),
        "models": [
            {
                "model": fit.models[i],
                "log_strength": float(fit.log_strength[i]),
                "elo": float(fit.elo[i]),
                "elo_low": float(low[i]),
                "elo_high": float(high[i]),
                "p_best": float(fit.p_best[i]),
                "win_rate": {fit.models[j]: _number(fit.win_rate[i, j]) for j in fit.order if j != i},
                "votes": {fit.models[j]: int(fit.votes[i, j]) for j in fit.order if j != i},
                "p_better": {fit.models[j]: float(fit.p_better[i, j]) for j in fit.order if j != i},
            }
            for i in fit.order
        ],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
