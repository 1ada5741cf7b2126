"""What a sweep will take, from what its sizes were measured to take: arithmetic, the schedule, and what is kept."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfscale.run import measure as measuring
from rfscale.run.effort import (
    RAY_SECONDS,
    REPORT_SECONDS,
    REPORT_SECONDS_A_TRIAL,
    TASK_SECONDS,
    duration,
    forecast,
    makespan,
    sentences,
    size,
)
from rfscale.run.measure import MeasureError, measure, slots_here
from rfscale.run.rates import Cost, Measured, keep, kept, one_of_each
from rfscale.spec.sweep import Resources, Sweep
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import Store

DEFINITION: dict[str, Any] = {
    "name": "forecast",
    "question": "How long?",
    "data": {"name": "shapes", "resolution": 8},
    "model": {"depths": [1, 2], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf", "eps/linear"],
    "training": {"steps": 100, "batch": 4, "learning_rate": 2e-3},
    "evaluation": {"images": 8, "points": 3},
    "samples": {"images": 0},
    "seeds": [0, 1],
}
BASE = Measured(
    cost=Cost(setup=2.0, step=0.5, validation=3.0, end=4.0), steps=8, slots=2, start=5.0, checkpoint=0.0,
    checkpoint_bytes=1000, weights_bytes=600, memory_bytes=10**9, share=1.0, device="a processor", host="here",
    when="2026-01-31T12:00:00Z",
)  # fmt: skip


def sweep_of(**changes: Any) -> Sweep:
    return parse_sweep({**DEFINITION, **changes})


def known_of(sweep: Sweep, **by_depth: Measured) -> dict[str, Measured]:
    sizes = one_of_each(sweep.trials, sweep.resources, sweep.samples)
    return {size: by_depth.get(f"d{trial.model.depth}", BASE) for size, trial in sizes.items()}


def test_the_wall_clock_is_that_of_the_schedule() -> None:
    """8 trials of 2 s + 100 steps of 0.5 s + 2 validations along the way + 4 s, on two slots: 4 in a row."""
    sweep = sweep_of()
    found = forecast(sweep, known_of(sweep), sweep.trials)
    assert found is not None
    one = 2 + 100 * 0.5 + 2 * 3 + 4 + TASK_SECONDS
    around = RAY_SECONDS + 5 + REPORT_SECONDS + 8 * REPORT_SECONDS_A_TRIAL
    assert found.wall_seconds == pytest.approx(around + 4 * one)
    assert found.slot_hours == pytest.approx(8 * one / 3600)
    assert (found.kept_bytes, found.disk_bytes) == (8 * 600, 8 * 600 + 2 * 2 * 1000)
    assert [rung.trials for rung in found.rungs] == [4, 4]
    assert found.money is None


def test_what_is_left_slots_machines_and_money() -> None:
    sweep = sweep_of()
    known = known_of(sweep, d2=replace(BASE, cost=replace(BASE.cost, step=1.0)))
    whole = forecast(sweep, known, sweep.trials)
    found = forecast(sweep, known, sweep.trials[:1], slots=5, price_per_hour=3.0)
    nothing = forecast(sweep, known, [])
    assert whole is not None
    assert found is not None
    assert nothing is not None
    assert found.machines == 3
    assert found.money == pytest.approx(3.0 * 3 * found.wall_seconds / 3600)
    assert found.left_seconds < found.wall_seconds < whole.wall_seconds
    assert nothing.left_seconds == pytest.approx(REPORT_SECONDS + 8 * REPORT_SECONDS_A_TRIAL)
    assert whole.rungs[1].seconds - whole.rungs[0].seconds == pytest.approx(100 * 0.5)


def test_checkpoints_take_their_time() -> None:
    sweep = sweep_of(resources={"checkpoint_seconds": 10})
    (trial, *_) = sweep.trials
    whole = BASE.cost.seconds(trial)
    assert replace(BASE, checkpoint=2.0).seconds(trial, sweep.resources) == pytest.approx(whole + 2 * int(whole / 10))


def test_a_size_that_was_not_measured_gives_no_forecast() -> None:
    sweep = sweep_of()
    known = known_of(sweep)
    assert forecast(sweep, dict(list(known.items())[1:]), sweep.trials) is None


def test_a_busy_machine_is_said_to_be_busy() -> None:
    sweep = sweep_of()
    for share, said in ((0.4, True), (0.95, False)):
        busy = replace(BASE, share=share)
        found = forecast(sweep, known_of(sweep, d1=busy, d2=busy), sweep.trials)
        assert found is not None
        assert found.share == pytest.approx(share)
        assert any("other work had" in sentence for sentence in sentences(found)) is said


def test_a_size_is_all_that_the_seconds_of_a_step_depend_on() -> None:
    def sizes(**changes: Any) -> set[str]:
        sweep = sweep_of(**changes)
        return set(one_of_each(sweep.trials, sweep.resources, sweep.samples))

    same = sizes()
    assert len(same) == 2  # neither the formulation nor the seed
    assert sizes(training={**DEFINITION["training"], "steps": 900, "learning_rate": 1e-4}) == same
    assert not sizes(training={**DEFINITION["training"], "batch": 8}) & same
    assert not sizes(training={**DEFINITION["training"], "precision": "bf16"}) & same
    assert not sizes(resources={"microbatch": 2}) & same
    assert not sizes(data={"name": "shapes", "resolution": 16}) & same
    assert not sizes(evaluation={"images": 16, "points": 3}) & same


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 100), max_size=20), st.integers(1, 6))
def test_a_schedule_is_no_shorter_than_it_can_be_and_within_grahams_bound(lengths: list[float], slots: int) -> None:
    """Graham (1969): a list schedule is at most 2 - 1/m times the best, which is at least both bounds below."""
    found = makespan(lengths, slots)
    least = max(sum(lengths) / slots, max(lengths, default=0.0))
    assert least - 1e-9 <= found <= (2 - 1 / slots) * least + 1e-9


def test_what_was_measured_is_kept_and_replaced_by_size(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert kept(store) == {}
    keep(store, {"a": BASE, "b": BASE})
    later = replace(BASE, steps=99)
    keep(store, {"b": later})
    assert kept(store) == {"a": BASE, "b": later}
    (store.root / "measured.json").write_text("{", encoding="utf-8")
    assert kept(store) == {}


def test_words() -> None:
    assert [duration(s) for s in (40, 150, 700, 9000, 200_000)] == ["40 s", "2.5 min", "12 min", "2.5 h", "2.3 days"]
    found = [size(n) for n in (0, 999, 1_000, 12_345_678, 3.2e9, 4e12)]
    assert found == ["0 B", "999 B", "1.0 kB", "12 MB", "3.2 GB", "4.0 TB"]


# --- measuring --------------------------------------------------------------------------------------------------------


def test_sizes_are_timed_in_processes_of_their_own(tmp_path: Path) -> None:
    sweep = sweep_of(formulations=["rf"], seeds=[0])
    told: list[tuple[str, int, int]] = []
    found = measure(sweep, slots=1, progress=lambda *one: told.append(one))
    small, large = (found[size] for size in one_of_each(sweep.trials, sweep.resources, sweep.samples))
    assert told == [("sizes timed", done, 2) for done in range(3)]
    assert min(*(vars_of(small.cost)), small.start) > 0
    assert 0 < small.share <= 1
    assert small.weights_bytes < small.checkpoint_bytes < large.checkpoint_bytes
    # Two sets of weights in float32 and two of moments: 16 bytes a parameter, and what the files say of themselves.
    parameters = sum(sweep.trials[-1].shape.parameters().values())
    assert 16 * parameters < large.checkpoint_bytes < 16 * parameters + 60_000
    assert small.memory_bytes > 50 * 2**20
    assert forecast(sweep, found, sweep.trials) is not None


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["replicate", "shard"])
def test_trials_of_two_processes_are_timed_in_two(sharding: str) -> None:
    sweep = sweep_of(
        formulations=["rf"], seeds=[0], model={"depths": [2], "width_per_depth": 16, "patch": 4},
        resources={"cpus": 0.5, "processes": 2, "sharding": sharding},
    )  # fmt: skip
    found = measure(sweep)
    (only,) = found.values()
    assert only.slots == slots_here(sweep.resources) == slots_here(Resources(cpus=0.5)) // 2
    assert min(*vars_of(only.cost), only.start) > 0
    parameters = sum(sweep.trials[0].shape.parameters().values())
    assert 16 * parameters < only.checkpoint_bytes < 16 * parameters + 60_000, "the whole state, whoever has it"
    assert forecast(sweep, found, sweep.trials) is not None


def vars_of(cost: Cost) -> tuple[float, ...]:
    return cost.setup, cost.step, cost.validation, cost.end


def test_a_machine_without_room_for_a_trial_times_none() -> None:
    with pytest.raises(MeasureError, match="100000 CPUs"):
        measure(sweep_of(resources={"cpus": 100_000}))
    assert slots_here(Resources(cpus=0.5)) == 2 * slots_here(Resources(cpus=1))


@pytest.mark.parametrize(
    ("child", "sentence"),
    [
        ('input(); print(\'{"error": "ValueError: no"}\')', "cannot be timed here: ValueError: no"),
        ("import os; os.kill(os.getpid(), 9)", "was killed, perhaps because memory ran out"),
    ],
)
def test_a_process_that_cannot_time_a_trial_says_why(
    child: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_CHILD", child)
    with pytest.raises(MeasureError, match=sentence):
        measure(sweep_of(), slots=1)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", "2"], "--workers has no effect without --measure"),
        (["--price-per-hour", "2"], "--price-per-hour has no effect without --measure"),
        (["--measure", "--budget", "1e12"], "--budget and --measure ask for two different things"),
        (["--measure", "--workers", "0"], "--workers 0 is not possible"),
        (["--measure", "--price-per-hour", "-1"], "--price-per-hour -1 is not possible"),
    ],
)
def test_options_of_a_forecast(
    options: list[str],
    sentence: str,
    rfscale: Callable[..., subprocess.CompletedProcess[str]],
    write_sweep: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
) -> None:
    done = rfscale("plan", write_sweep(DEFINITION), *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sentence in done.stderr
    assert not (tmp_path / "runs").exists()
