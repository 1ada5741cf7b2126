"""Time left: exact where every size keeps its rate, near where sizes have still to run. And the board that says it."""

from __future__ import annotations

import fcntl
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_effort import BASE, known_of, sweep_of

from rfscale import names
from rfscale.run.board import Board
from rfscale.run.effort import REPORT_SECONDS, REPORT_SECONDS_A_TRIAL, TASK_SECONDS
from rfscale.run.pace import END_STEPS, POWER, Pace
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, write_json

NOW = 1_800_000_000.0


class Shop:
    """A store in which trials are made to run and to end, at any rate, without training."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.store.check_writable()
        self._locks = ExitStack()

    def close(self) -> None:
        self._locks.close()

    def run(
        self, trial: Trial, step: int, rate: float, *, began: float = NOW, setup: float = 2.0, host: str = "here"
    ) -> None:
        """It runs since `began`, with a point every 10 steps at `rate` seconds a step."""
        folder = self.store.trial(trial.trial_id)
        folder.path.mkdir(parents=True, exist_ok=True)
        before = json.loads(folder.record.read_text())["attempts"] if folder.record.exists() else []
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began))
        write_json(folder.record, {"attempts": [*before, {"started": started, "host": host}]})
        os.utime(folder.record, (began, began))
        with open(folder.journal, "a") as file:
            for s in [1, *range(10, step + 1, 10)]:
                when = int(1000 * (began + setup + (s - 1) * rate))
                file.write(json.dumps({"time": when, "step": s, "metrics": {names.TRAIN_LOSS: 0.5}}) + "\n")
        lock = self._locks.enter_context(open(folder.path / "lock", "a"))  # noqa: SIM115
        fcntl.flock(lock, fcntl.LOCK_EX)

    def end(self, trial: Trial, rate: float, end: float, *, began: float = NOW, status: str = names.FINISHED) -> None:
        """It ran to its end, which took `end` seconds after the last step."""
        self.run(trial, trial.training.steps, rate, began=began)
        folder = self.store.trial(trial.trial_id)
        steps = trial.training.steps
        metrics = {names.VAL_LOSS: 0.25} if status == names.FINISHED else {}
        reason = "" if status == names.FINISHED else "the training loss is nan by step 7"
        result = {"status": status, "step": steps, "reason": reason, "metrics": metrics, "files": {}}
        write_json(folder.result, result)
        ended = began + 2.0 + (steps - 1) * rate + end
        os.utime(folder.result, (ended, ended))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path / "store")
    yield made
    made.close()


def left_of(sweep: Sweep, shop: Shop, known: Any = None, slots: int = 2) -> float | None:
    pace = Pace(sweep, shop.store, known or {})
    states = {trial.trial_id: shop.store.trial(trial.trial_id).state() for trial in sweep.trials}
    pace.look(states)
    return pace.seconds_left(states, slots)


def of_depth(sweep: Sweep, depth: int) -> list[Trial]:
    return [trial for trial in sweep.trials if trial.model.depth == depth]


def test_nothing_is_said_before_anything_is_known(shop: Shop) -> None:
    sweep = sweep_of()
    assert left_of(sweep, shop) is None
    shop.run(sweep.trials[0], 1, 0.5)
    assert left_of(sweep, shop) is None
    shop.run(sweep.trials[1], 10, 0.05)  # half a second of steps is too little to go by
    assert left_of(sweep, shop) is None


def test_what_was_measured_is_said_from_the_first_moment(shop: Shop) -> None:
    sweep = sweep_of()
    one = BASE.cost.seconds(sweep.trials[0]) + TASK_SECONDS
    assert left_of(sweep, shop, known_of(sweep)) == pytest.approx(4 * one)


def test_every_size_has_its_own_rate(shop: Shop) -> None:
    """Depth 2 at 1 s a step, depth 1 at 0.25: one of each has ended, one of depth 2 is at step 50."""
    sweep = sweep_of()
    small, large = of_depth(sweep, 1), of_depth(sweep, 2)
    shop.end(large[0], 1.0, end=8.0)
    shop.end(small[0], 0.25, end=3.0)
    shop.run(large[1], 50, 1.0)
    rest = [50 * 1.0 + 8, *[100 * 1.0 + 8 + 2 + TASK_SECONDS] * 2, *[100 * 0.25 + 3 + 2 + TASK_SECONDS] * 3]
    assert left_of(sweep, shop, slots=1) == pytest.approx(sum(rest), rel=1e-3)
    # On two slots, in the order of launch: 58 + 110.1 + ... beside 110.1 + ...
    first, second = rest[0] + rest[2] + rest[5], rest[1] + rest[3] + rest[4]
    assert left_of(sweep, shop, slots=2) == pytest.approx(max(first, second), rel=1e-3)


def test_a_size_that_has_not_run_is_guessed_from_the_nearest(shop: Shop) -> None:
    sweep = sweep_of(formulations=["rf"], seeds=[0])
    small, large = of_depth(sweep, 1)[0], of_depth(sweep, 2)[0]
    shop.run(large, 100, 1.0)
    ratio = (small.train_flops / large.train_flops) ** POWER
    guess = END_STEPS * 1.0 + (100 + END_STEPS) * ratio + 2 + TASK_SECONDS
    assert ratio < 1
    assert left_of(sweep, shop, slots=1) == pytest.approx(guess, rel=1e-3)


def test_a_measurement_is_corrected_by_what_is_seen(shop: Shop) -> None:
    """Measured at 0.56 s a step all in, seen at twice that where it has run: the other size is twice as slow too."""
    sweep = sweep_of(formulations=["rf"], seeds=[0])
    small, large = of_depth(sweep, 1)[0], of_depth(sweep, 2)[0]
    known = known_of(sweep, d1=replace(BASE, cost=replace(BASE.cost, step=0.24, validation=0.5, end=0.0)))
    shop.run(large, 60, 2 * BASE.cost.all_in(large))
    of_small = next(m for m in known.values() if m.cost.end == 0).cost
    left = left_of(sweep, shop, known, slots=1)
    assert of_small.all_in(small) == pytest.approx(0.25)
    end = 4.0 / BASE.cost.all_in(large)  # in steps; half of that where the other's 0 is averaged in
    expected = (40 + end / 2) * 1.12 + (100 + end / 2) * 0.5 + 2 + TASK_SECONDS
    assert left == pytest.approx(expected, rel=1e-3)


def test_time_between_two_attempts_is_no_time_of_steps(shop: Shop) -> None:
    sweep = sweep_of(formulations=["rf"], seeds=[0], model={**sweep_model(), "depths": [1]})
    (trial,) = sweep.trials
    pace = Pace(sweep, shop.store, {})
    running = {trial.trial_id: State(names.RUNNING, 40, "", 0.5)}
    shop.run(trial, 40, 1.0, began=NOW - 86_400)
    pace.look(running)
    assert pace.seen[trial.trial_id].rate == pytest.approx(1.0)
    shop.close()
    folder = shop.store.trial(trial.trial_id)
    write_json(folder.record, {"attempts": [{"started": "2027-01-15T08:00:00Z", "host": "there"}]})
    os.utime(folder.record, (NOW, NOW))
    with open(folder.journal, "a") as file:
        for step in (50, 60, 70):
            when = int(1000 * (NOW + 5 + (step - 50) * 0.5))
            file.write(json.dumps({"time": when, "step": step, "metrics": {names.TRAIN_LOSS: 0.4}}) + "\n")
    pace.look(running)
    assert pace.seen[trial.trial_id].rate == pytest.approx(2.0)
    assert pace.seen[trial.trial_id].host == "there"
    assert pace.seen[trial.trial_id].first_step == 50


def sweep_model() -> dict[str, Any]:
    return {"width_per_depth": 16, "patch": 4}


# --- the board --------------------------------------------------------------------------------------------------------


def drawn(board: Board, width: int, height: int, more: tuple[str, ...] = ()) -> list[str]:
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(board.shown(width, height, more))
    return console.export_text().rstrip("\n").split("\n")


def board_of(sweep: Sweep, shop: Shop) -> Board:
    board = Board(sweep, shop.store, {})
    board.look()
    return board


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 12), (140, 50)])
def test_a_large_sweep_fits_any_terminal(width: int, height: int, shop: Shop) -> None:
    sweep = sweep_of(seeds=list(range(38)), model={**sweep_model(), "depths": [1, 2]})
    assert len(sweep.trials) == 152
    for trial in sweep.trials[:30]:
        shop.run(trial, 30, 0.5)
    for trial in sweep.trials[30:60]:
        shop.end(trial, 0.5, 1.0, status=names.DIVERGED)
    lines = drawn(board_of(sweep, shop), width, height, more=("MLflow does not answer: " + "x" * 200,))
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "0 of 152 trials done, 30 running" in text
    assert sweep.trials[0].trial_id in text
    assert "more that run" in text
    assert "diverged: the training loss is nan by step 7"[: width - 16] in text


def test_the_board_says_what_runs_how_fast_and_for_how_long(shop: Shop) -> None:
    sweep = sweep_of()
    shop.end(sweep.trials[0], 0.5, 1.0)
    shop.run(sweep.trials[1], 60, 0.5)
    shop.run(sweep.trials[2], 0, 0.5)
    board = board_of(sweep, shop)
    lines = drawn(board, 80, 24)
    row = next(line for line in lines if sweep.trials[1].trial_id in line).split()
    assert row[-4:-1] == ["60/100", "0.5000", "2"] or row[-5:] == ["60/100", "0.5000", "2", "20", "s"]
    assert "1 of 8 trials done, 2 running, 5 left, about" in "\n".join(lines)
    assert "depth 1 1 of 4, depth 2 0 of 4" in "\n".join(lines)
    assert board.seconds_left() == pytest.approx(
        (board.pace.seconds_left(board.states, 2) or math.nan) + REPORT_SECONDS + 8 * REPORT_SECONDS_A_TRIAL
    )
    assert not board.over


def test_hosts_are_shown_where_there_are_several(shop: Shop) -> None:
    sweep = sweep_of()
    shop.run(sweep.trials[0], 20, 0.5, host="alpha")
    shop.run(sweep.trials[1], 20, 0.5, host="alpha")
    assert "alpha" not in "\n".join(drawn(board_of(sweep, shop), 80, 24))
    shop.run(sweep.trials[2], 20, 0.5, host="beta")
    text = "\n".join(drawn(board_of(sweep, shop), 80, 24))
    assert "alpha" in text
    assert "beta" in text


def test_a_trial_without_a_step_for_long_is_in_trouble(shop: Shop) -> None:
    sweep = sweep_of()
    shop.run(sweep.trials[0], 50, 0.5, began=time.time() - 1000, host="alpha")
    shop.run(sweep.trials[1], 50, 0.5, began=time.time() - 90)
    lines = [line for line in drawn(board_of(sweep, shop), 120, 30) if "silent" in line]
    assert len(lines) == 1
    assert lines[0].startswith(sweep.trials[0].trial_id)
    assert "on alpha" in lines[0]


def test_a_sweep_is_over_when_no_trial_is_left(shop: Shop) -> None:
    sweep = sweep_of(formulations=["rf"], seeds=[0])
    first, second = sweep.trials
    shop.end(first, 0.5, 1.0)
    shop.close()
    assert not board_of(sweep, shop).over
    shop.end(second, 0.5, 1.0, status=names.DIVERGED)
    shop.close()
    board = board_of(sweep, shop)
    assert board.over
    assert board.summary() == "1 of 2 trials done, 0 running, 0 left, 1 diverged or failed"


def test_what_failed_before_is_still_to_be_trained_for_a_launcher(shop: Shop) -> None:
    sweep = sweep_of(formulations=["rf"], seeds=[0])
    first, _ = sweep.trials
    shop.end(first, 0.5, 1.0, status=names.FAILED)
    shop.close()
    board = Board(sweep, shop.store, {})
    board.look(ended={})
    assert board.states[first.trial_id].status == names.PARTIAL
    board.look(ended={first.trial_id: State(names.FAILED, 3, "it broke")})
    assert board.states[first.trial_id].reason == "it broke"
    assert board.summary() == "0 of 2 trials done, 0 running, 1 left, 1 diverged or failed"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--watch"], 0, "standard output is no terminal, so this is one look"),
        (["--watch", "--json"], 2, "--watch draws a table for people"),
    ],
)
def test_watching_without_a_terminal(
    options: list[str],
    code: int,
    said: str,
    rfscale: Callable[..., subprocess.CompletedProcess[str]],
    write_sweep: Callable[[Any], Path],
    tiny: dict[str, Any],
    tmp_path: Path,
) -> None:
    done = rfscale("status", write_sweep(tiny), *options)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()
