"""Schedules by mathematics: known values, no jumps, the end, the shares; and what of them is on record."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from rfscale import names
from rfscale.spec.schedule import SCHEDULES, ScheduleSpec
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial

Mapping = dict[str, Any]
PEAK, WARMUP, STEPS = 2e-3, 100, 10_000
SHAPES = ("sqrt", "linear", "cosine")
DECAYING: tuple[Mapping, ...] = (
    {"name": "cosine"},
    {"name": "linear"},
    *({"name": "wsd", "cooldown": share, "shape": shape} for share in (0.1, 0.35) for shape in SHAPES),
)
EVERY = ({"name": "constant"}, *DECAYING)


def schedule(spec: Mapping) -> ScheduleSpec:
    found = SCHEDULES.get(spec["name"]).model_validate(spec)
    assert isinstance(found, ScheduleSpec)
    return found


def rates(spec: Mapping, steps: int = STEPS, warmup: int = WARMUP) -> list[float]:
    return [schedule(spec).rate(step, PEAK, warmup, steps) for step in range(steps)]


@pytest.mark.parametrize("spec", EVERY, ids=str)
def test_the_warm_up_is_a_straight_line_to_the_peak_which_nothing_exceeds(spec: Mapping) -> None:
    found = rates(spec)
    assert found[:WARMUP] == pytest.approx([PEAK * (i + 1) / WARMUP for i in range(WARMUP)])
    assert found[WARMUP] == PEAK == max(found)
    assert schedule(spec).rate(0, PEAK, 0, STEPS) == PEAK


@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("spec", DECAYING, ids=str)
def test_it_never_rises_after_the_warm_up_has_no_jump_and_comes_to_its_end(spec: Mapping, end: float) -> None:
    spec = {**spec, "end": end}
    found = [*rates(spec), schedule(spec).rate(STEPS, PEAK, WARMUP, STEPS)]
    falls = [a - b for a, b in itertools.pairwise(found[WARMUP:])]
    assert min(falls) >= 0
    assert max(falls) < 0.05 * PEAK  # the first step of sqrt, 1 / sqrt(1000)
    assert found[-1] == pytest.approx(end * PEAK, abs=1e-15)
    assert found[-2] > end * PEAK


def test_values_that_can_be_worked_out_by_hand() -> None:
    middle, quarter = WARMUP + (STEPS - WARMUP) // 2, WARMUP + (STEPS - WARMUP) // 4
    cosine, linear = rates({"name": "cosine", "end": 0.2}), rates({"name": "linear", "end": 0.2})
    assert cosine[middle] == pytest.approx(0.6 * PEAK)
    assert cosine[quarter] == pytest.approx((0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2) * PEAK)
    assert linear[middle] == pytest.approx(0.6 * PEAK)
    assert linear[quarter] == pytest.approx(0.8 * PEAK)
    wsd = {shape: rates({"name": "wsd", "shape": shape}) for shape in SHAPES}
    a_quarter_in = STEPS - 2000 + 500
    expected = {"sqrt": 0.5, "linear": 0.75, "cosine": (1 + math.sqrt(0.5)) / 2}
    for shape, left in expected.items():
        assert wsd[shape][a_quarter_in] == pytest.approx(left * PEAK), shape


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("shape", SHAPES)
def test_warm_up_stable_and_cooldown_are_all_of_the_steps(share: float, shape: str) -> None:
    found = rates({"name": "wsd", "cooldown": share, "shape": shape})
    cooling = round(share * STEPS)
    at_peak = sum(rate == PEAK for rate in found)
    # The last step of the warm-up, and the first of the cooldown, are at the peak too.
    assert at_peak == STEPS - WARMUP - cooling + 2
    assert found[STEPS - cooling] == PEAK > found[STEPS - cooling + 1]


@pytest.mark.parametrize("spec", EVERY, ids=str)
def test_shared_steps_have_the_same_rate_in_every_longer_training_and_the_next_has_not(spec: Mapping) -> None:
    one = schedule(spec)
    shared = one.shared_steps(1000)
    for longer in (1001, 1300, 5000):
        assert [one.rate(s, PEAK, 10, longer) for s in range(shared)] == rates(spec, 1000, 10)[:shared]
    if spec["name"] == "wsd":
        assert one.rate(shared + 1, PEAK, 10, 1000) < one.rate(shared + 1, PEAK, 10, 5000)
        assert shared + one.cooldown_steps(1000) == 1000  # type: ignore[attr-defined]
    assert shared == {"constant": 1000, "cosine": 0, "linear": 0}.get(spec["name"], shared)


# --- in a sweep -------------------------------------------------------------------------------------------------------


def trial_of(tiny: Mapping, **training: Any) -> Trial:
    (trial,) = parse_sweep({**tiny, "training": {**tiny["training"], **training}}).trials
    return trial


def test_the_default_is_constant_and_leaves_the_id_as_it_was(tiny: Mapping) -> None:
    plain = trial_of(tiny)
    assert plain.trial_id == trial_of(tiny, schedule="constant").trial_id
    assert "schedule" not in plain.identity()
    others = [trial_of(tiny, schedule=spec).trial_id for spec in DECAYING]
    assert len({plain.trial_id, *others}) == 1 + len(DECAYING)


@pytest.mark.parametrize(
    ("name", "ends"), [("constant", "all"), ("cosine", "last"), ("linear", "last"), ("wsd", "last")]
)
def test_a_run_has_on_record_which_points_of_its_curve_are_ends_of_trainings(
    tiny: Mapping, name: str, ends: str
) -> None:
    trial = trial_of(tiny, schedule=name)
    assert trial.parameters()["curve_ends"] == ends
    assert ends in (names.ALL_POINTS, names.LAST_POINT)
    assert trial.identity_record()["training.schedule.name"] == name


def test_a_cooldown_that_reaches_into_the_warm_up_is_refused(tiny: Mapping) -> None:
    with pytest.raises(SweepError, match="a warm-up of 10 steps and a cooldown of 21 are more than the 30 steps"):
        trial_of(tiny, warmup_steps=10, schedule={"name": "wsd", "cooldown": 0.7})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "wsd", "cooldown": 0}, "above 0 and at most 1"),
        ({"name": "wsd", "shape": "round"}, "'sqrt', 'linear' or 'cosine'"),
        ({"name": "cosine", "end": 1.5}, "from 0 to 1"),
        ({"name": "steps"}, "constant, cosine, linear"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_one_sentence(tiny: Mapping, spec: Mapping, said: str) -> None:
    with pytest.raises(SweepError, match=said) as error:
        trial_of(tiny, schedule=spec)
    assert "\n" not in str(error.value)
