"""The cards claim what the comparison claims and no more, and no number stands without its interval."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_sweep import World, world_trials, write_sweep

from analysis.compare.arms import Comparison, compare
from analysis.compare.estimate import UNKNOWN, Estimate
from analysis.compare.trend import ONE_SEED, Ahead, Trend
from analysis.compare.wording_cards import holds_card, winner_card
from analysis.table.read import read_sweep

THREE = {"rf": 1.0, "better": 1.5, "worse": 0.8}


def compared(folder: Path, world: World, reference: str | None = None) -> Comparison:
    return compare(read_sweep(write_sweep(folder, "cards", world_trials(world)), "cards"), reference=reference)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(tmp_path_factory.mktemp("seeds"), World(THREE, seeds=(0, 1, 2), noise=0.003))


def numbers_without_interval(text: str) -> list[str]:
    """Ratios and shares that no bracket follows, except those that say where they hold."""
    told = re.sub(r"\(p [^)]*\)|\(\d[^)]* (parameters|training FLOPs)\)|at 10 times", "", text)
    return re.findall(r"(?<![\d.\[+-])[+-]?\d+\.\d+(?: %)?(?! ?%? ?\[)(?![\d.,\]])", re.sub(r"\[[^\]]*\]", "[]", told))


def test_a_winner_is_named_with_its_interval_and_its_compute(seeds: Comparison) -> None:
    card = winner_card(seeds)
    assert (card.answer, card.arm, card.sure) == ("better", "better", True)
    low, high = seeds.best.ratio.interval
    assert f"[{100 * (1 - high):.1f}, {100 * (1 - low):.1f}] lower loss than rf" in card.text
    multiplier = seeds.best.compute_multiplier
    assert (
        f"{multiplier.estimate:.2f} [{multiplier.interval[0]:.2f}, {multiplier.interval[1]:.2f}] times rf's"
        in card.text
    )
    assert "3 seeds" in card.note
    assert not numbers_without_interval(card.text)


def test_one_that_is_tied_does_not_win(seeds: Comparison) -> None:
    tied = replace(seeds.best, tied_with=("rf", "worse"))
    card = winner_card(replace(seeds, standings=(tied, *seeds.standings[1:])))
    assert (card.answer, card.sure, card.arm) == ("No clear winner", False, "")
    assert "better has the lowest mean loss, but is not told apart from rf and worse." in card.text


def test_where_the_reference_wins_the_next_is_said_beside_it(tmp_path: Path) -> None:
    found = compared(tmp_path, World(THREE, seeds=(0, 1, 2), noise=0.003), reference="better")
    card = winner_card(found)
    assert card.answer == "better"
    assert "The next, rf, has a " in card.text
    assert "higher loss than better" in card.text
    assert holds_card(found).sure


def test_one_seed_wins_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, World(THREE, noise=0.003))
    card = winner_card(found)
    assert (card.answer, card.sure) == ("better is lowest, untested", False)
    assert "One seed gives no interval" in card.text
    assert f"{found.best.compute_multiplier.estimate:.2f}" not in card.text, "it has no interval"
    holds = holds_card(found)
    assert not holds.sure
    assert "A second seed would tell how it stands at 10 times the largest size" in holds.text


@pytest.mark.parametrize("world", [World({"rf": 1.0}), World(THREE, depths=(2,), seeds=(0, 1), noise=0.003)])
def test_what_cannot_be_asked_is_not_answered(tmp_path: Path, world: World) -> None:
    card = holds_card(compared(tmp_path, world))
    assert not card.sure
    assert card.answer in ("Nothing to compare", "Cannot be told")


def changed(comparison: Comparison, p: float, change: float, p_ahead: float, ahead: float, why: str = "") -> Comparison:
    """The trend of the best arm, whose loss is below the reference's, with these values."""
    trend = comparison.trend("better")
    assert trend is not None
    interval = UNKNOWN if why else (ahead * 0.99, ahead * 1.01)
    last = Ahead(10.0, 1e7, Estimate(math.nan if why else ahead, interval, 9, why), Estimate(1, UNKNOWN, 9), p_ahead)
    made = replace(trend, p=p, change=Estimate(change, (change - 0.01, change + 0.01), 9), ahead=(last,))
    return replace(comparison, trends=tuple(made if t.arm == "better" else t for t in comparison.trends))


@pytest.mark.parametrize(
    ("p", "change", "p_ahead", "ahead", "answer"),
    [
        (0.5, 1.0, 0.001, 0.95, "It holds"),
        (0.5, 1.0, 0.4, 0.995, "Cannot be told"),
        (0.5, 1.0, 0.06, 0.95, "Cannot be told"),  # its own interval leaves out 1, the corrected test does not tell
        (0.001, 0.98, 0.001, 0.9, "It grows"),
        (0.001, 1.02, 0.001, 0.98, "It shrinks"),
        (0.001, 1.02, 0.4, 1.005, "It shrinks"),
        (0.001, 1.05, 0.001, 1.05, "It turns around"),
    ],
)
def test_the_word_is_that_of_the_tests(
    seeds: Comparison, p: float, change: float, p_ahead: float, ahead: float, answer: str
) -> None:
    card = holds_card(changed(seeds, p, change, p_ahead, ahead))
    assert card.answer == answer
    assert card.sure == (answer != "Cannot be told")
    assert not numbers_without_interval(card.text)
    stays = p_ahead < 0.05 and ahead < 1
    assert ("so which is better there cannot be told" in card.text) == (p_ahead >= 0.05)
    assert stays or answer != "It holds"


def test_without_a_lead_there_is_none_to_hold(seeds: Comparison) -> None:
    best = replace(seeds.best, tied_with=("rf",))
    found = changed(replace(seeds, standings=(best, *seeds.standings[1:])), 0.5, 1.0, 0.001, 0.95)
    card = holds_card(found)
    assert (card.answer, card.sure) == ("No lead to hold", False)


def test_a_bent_trend_is_not_carried_on(seeds: Comparison) -> None:
    card = holds_card(changed(seeds, 0.5, 1.0, math.nan, 0.95, why="the ratio does not follow a straight line"))
    assert card.answer == "Cannot be told"
    assert "cannot be told: the ratio does not follow a straight line" in card.text
    assert "A second seed" in holds_card(changed(seeds, 0.5, 1.0, math.nan, 0.95, why=ONE_SEED)).text


def test_p_ahead_is_corrected_over_the_arms(seeds: Comparison) -> None:
    def smallest(trends: tuple[Trend, ...]) -> float:
        return min(trend.ahead[-1].p for trend in trends)

    assert all(0 <= trend.ahead[-1].p <= 1 for trend in seeds.trends)
    surely = [t for t in seeds.trends if t.ahead[-1].p < 0.05]
    assert surely
    for trend in surely:
        assert trend.ahead[-1].ratio.leaves_out(1.0), "a corrected test is not more sure than the interval"
    assert smallest(seeds.trends) < 0.01
