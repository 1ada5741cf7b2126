"""A race trains block by block, writes every drop into the ledger, and goes on with the same drops after a stop."""

from __future__ import annotations

import json
import math
import os
import signal
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from test_launch import SMALL, marked, small, start_run, wait_until

from analysis.compare import race as judged
from analysis.compare.race import Verdict
from rfscale import names
from rfscale.run import race as module
from rfscale.run.queue import Outcome
from rfscale.run.race import Race, losses
from rfscale.run.race_blocks import Limits, blocks, log_sizes
from rfscale.run.race_cost import expected, simulated
from rfscale.run.race_record import drops, ended, left_out, raced, take_back
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import load_sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store, TrialFolder
from rfscale.store.ledger import DROPPED, INCLUDED, LEFT

ARMS = ["rf", "eps/linear", "v/cos"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


def sweep_of(**changes: Any) -> Sweep:
    return small(**{"formulations": ARMS, "seeds": [0, 1], **changes})


def verdict(*out: int) -> Verdict:
    """These arms are out."""
    known = np.full(3, 0.5)
    return Verdict(known, 0, known, known, known, 1.04 + 0 * known, np.isin(np.arange(3), out), 0.02, {})


def _status(folder: TrialFolder) -> str:
    """A trial of these tests is finished when it has a folder."""
    return names.FINISHED if folder.path.exists() else names.NEW


class Told:
    """In place of `judge`: a verdict for every number of losses that there are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store, **out: tuple[int, ...]) -> None:
        self.out, self.asked = out, list[int]()
        monkeypatch.setattr(module, "losses", lambda sweep, store, order, ended: (ended, ended))
        monkeypatch.setattr(module, "_judged", self._judged)
        monkeypatch.setattr(TrialFolder, "state", lambda folder: State(_status(folder)))

    def _judged(self, ended: int, x: int) -> Verdict:
        self.asked.append(ended)
        return verdict(*self.out.get(f"after_{ended}", ()))


def run(race: Race, trials: list[Trial], outcome: Outcome, most: int = 99) -> list[str]:
    """Train what is allowed, one by one, in words; as a launcher with one slot does."""
    waiting, done = list(trials), list[str]()
    while waiting and len(done) < most:
        now = race.allowed(waiting, outcome)
        if not now:
            break
        waiting.remove(now[0])
        outcome.finished.append(now[0].trial_id)
        race.store.trial(now[0].trial_id).path.mkdir(parents=True)
        place = race.sweep.placing(now[0])
        done.append(f"{place.arm} {now[0].model.depth} {place.seed}")
    return done


def begun(sweep: Sweep, store: Store, limits: Limits = Limits()) -> tuple[Race, list[Trial], list[str]]:
    """A race with what is not trained yet, its queue, and what it says."""
    waiting = [t for t in reversed(sweep.trials) if store.trial(t.trial_id).state().status != names.FINISHED]
    heard = list[str]()
    race = Race(sweep, store, frozenset(t.trial_id for t in waiting), heard.append, limits)
    return race, race.open(waiting), heard


def lines_of(store: Store, action: str) -> list[str]:
    """The trials of the ledger's lines."""
    return [line.trial_id for line in store.ledger if line.action == action]


def test_blocks_are_a_size_and_a_seed_the_cheapest_first() -> None:
    found = blocks(sweep_of())
    assert [block.label for block in found] == [
        "depth 1, seed 0", "depth 1, seed 1", "depth 2, seed 0", "depth 2, seed 1",
    ]  # fmt: skip
    assert all(len(block.trials) == 3 for block in found)
    assert found[0].flops < found[2].flops
    lengths = blocks(
        sweep_of(training={**SMALL["training"], "steps": [6, 30]}, model={**SMALL["model"], "depths": [1]})
    )
    assert [block.label for block in lengths][::2] == ["steps 6, seed 0", "steps 30, seed 0"]


def test_what_cannot_be_raced_is_refused_in_a_sentence() -> None:
    with pytest.raises(SweepError, match="a race needs two arms or more, and small has one"):
        blocks(sweep_of(formulations=["rf"]))
    uneven = sweep_of(formulations=["rf"], model={**SMALL["model"], "backbone": ["mmdit", "crossdit"], "depths": [2]})
    with pytest.raises(
        SweepError, match="a race compares the losses at the ends of trainings, and at the one size one"
    ):
        blocks(uneven)


def test_arms_that_are_out_are_trained_no_further_and_the_ledger_says_why(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of()
    told = Told(monkeypatch, store, after_1=(1,))
    race, waiting, _ = begun(sweep, store)
    done = run(race, waiting, Outcome())
    assert sorted(done[:3]) == ["eps/linear 1 0", "rf 1 0", "v/cos 1 0"]
    assert [word.split()[1:] for word in done[3:]] == [["1", "1"]] * 2 + [["2", "0"]] * 2 + [["2", "1"]] * 2
    assert not any("eps" in word for word in done[3:])
    assert told.asked == [1, 2, 3]
    lines = list(store.ledger)
    assert [line.action for line in lines] == [DROPPED] * 3
    assert {line.trial_id for line in lines} == set(left_out(sweep, store)) == {
        t.trial_id for block in blocks(sweep)[1:] for t in block.trials if sweep.placing(t).arm == "eps/linear"
    }  # fmt: skip
    said = lines[0].why
    assert said.startswith("After block 1 (depth 1, seed 0) eps/linear was dropped: at least 4.0 % worse than the best")
    assert said.endswith("rule: P(best at the largest size) <= 0.05 / arms, at any time")
    assert lines[0].who
    assert lines[0].when
    (drop,) = drops(sweep, store).values()
    assert (drop.arm, drop.blocks, drop.after, drop.best) == ("eps/linear", 1, "depth 1, seed 0", "rf")
    assert store.ledger.excluded() == {}, "what it had is compared"
    found = raced(sweep, store)
    assert found is not None
    assert (found.arms, list(found.dropped)) == (3, ["eps/linear"])
    assert found.flops == blocks(sweep)[-1].flops


@pytest.mark.parametrize("most", range(12))
def test_a_race_that_is_stopped_anywhere_goes_on_with_the_same_drops(
    store: Store, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store, after_1=(1,), after_3=())
    race, waiting, _ = begun(sweep, store)
    before = run(race, waiting, Outcome(), most)
    race, waiting, _ = begun(sweep, store)
    after = run(race, waiting, Outcome())
    assert len(before) + len(after) == 9
    assert sum("eps" in word for word in (*before, *after)) == 1
    assert list(drops(sweep, store)) == ["eps/linear"]
    assert sum(line.action == DROPPED for line in store.ledger) == 3, "no line twice"


def test_a_race_ends_when_one_arm_is_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store, after_2=(1, 2))
    race, waiting, heard = begun(sweep, store)
    assert len(run(race, waiting, Outcome())) == 6
    assert heard[-1] == "race: The race ended after block 2 (depth 1, seed 1): rf alone is left"
    rest = [t.trial_id for t in sweep.trials if t.model.depth == 2]
    assert set(rest) == set(left_out(sweep, store)), "also what is left of the best is not waited for"
    assert sorted(lines_of(store, LEFT)) == sorted(t for t in rest if sweep.placing(sweep.trial(t)).arm == "rf")
    assert begun(sweep, store)[1] == [], "the same command has nothing to train"
    assert begun(sweep, store, Limits(enough=0.5))[1] == []
    assert len(lines_of(store, LEFT)) == 2, "and says it once"


def test_a_budget_begins_no_block_that_does_not_fit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store, after_1=(1,))
    order = blocks(sweep)
    fits = 3 * order[0].flops + 2 * order[1].flops + 2 * order[2].flops
    for budget, trained in ((fits, 7), (fits * 0.999, 5), (math.inf, 9)):
        place = Store(store.root / f"{budget:g}")
        place.check_writable()
        race, waiting, heard = begun(sweep, place, Limits(budget))
        assert len(run(race, waiting, Outcome())) == trained
        end = ended(sweep, place)
        assert (end is None) == (budget == math.inf)
        if end is not None:
            number = 3 if trained == 7 else 2
            assert (end.rule, end.blocks, end.limit) == ("budget", number, budget)
            assert race.spent(number) == end.spent <= budget < end.then == race.spent(number + 1)
            assert end.sentence == (
                f"The race ended after block {number} ({order[number - 1].label}): {end.spent:.3g} FLOPs are spent, "
                f"and {order[number].label} would make it {end.then:.3g} of {budget:.3g} (--budget)"
            )
            assert heard[-1] == f"race: {end.sentence}"


def test_a_race_ends_when_the_leader_is_near_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store, after_2=(1,))
    for enough, trained in ((0.0203, 3), (0.0201, 10)):
        place = Store(store.root / f"{enough:g}")
        place.check_writable()
        race, waiting, heard = begun(sweep, place, Limits(enough=enough))
        assert len(run(race, waiting, Outcome())) == trained
        if trained == 3:
            assert heard[-1] == (
                "race: The race ended after block 1 (depth 1, seed 0): rf leads and is expected to be 2 % behind the "
                "best, which is enough (--enough 0.0203)"
            )


def test_the_end_of_a_race_is_a_line_of_the_ledger_for_each_trial_that_it_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store, after_1=(1,))
    near = Limits(enough=0.0203)
    race, waiting, _ = begun(sweep, store, near)
    assert len(run(race, waiting, Outcome())) == 3
    left = {t.trial_id for b in blocks(sweep)[1:] for t in b.trials if sweep.placing(t).arm != "eps/linear"}
    assert sorted(lines_of(store, LEFT)) == sorted(left), "those of the dropped arm have a line of their own"
    (line, *_) = (line for line in store.ledger if line.action == LEFT)
    assert line.why.endswith("which is enough (--enough 0.0203); rule: enough")
    assert line.who
    assert line.race is not None
    assert (line.race["rule"], line.race["limit"], line.race["blocks"]) == ("enough", 0.0203, 1)
    assert line.race["shortfall"] == pytest.approx(math.expm1(0.02))
    assert line.race["spent"] == pytest.approx(3 * blocks(sweep)[0].flops)
    end = ended(sweep, store)
    assert end is not None
    assert (end.who, end.when) == (line.who, line.when)
    assert {left_out(sweep, store)[trial_id] for trial_id in left} == {"the race ended after block 1 (depth 1, seed 0)"}
    assert len(left_out(sweep, store)) == 9
    assert store.ledger.excluded() == {}
    found = raced(sweep, store)
    assert found is not None
    assert found.ended == end.sentence
    again = begun(sweep, store, near)
    assert again[1] == [], "the same command has nothing to train"
    assert again[2][-1] == f"race: {end.sentence}"
    assert len(lines_of(store, LEFT)) == 6, "and says it once"


def test_a_race_without_a_drop_that_ended_early_is_compared_as_a_race(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store)
    race, waiting, _ = begun(sweep, store, Limits(enough=0.0203))
    run(race, waiting, Outcome())
    found = raced(sweep, store)
    assert found is not None
    assert found.dropped == {}
    assert take_back(sweep, store) == 9
    found = raced(sweep, store)
    assert found is not None, "until all is trained, what there is was chosen by a race"
    assert found.ended == "", "but it goes on"
    race, waiting, _ = begun(sweep, store)
    assert len(run(race, waiting, Outcome())) == 9
    assert raced(sweep, store) is None
    assert left_out(sweep, store) == {}


def test_the_same_race_with_other_limits_goes_on_and_the_ledger_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store, after_1=(1,))
    race, waiting, _ = begun(sweep, store, Limits(enough=0.0203))
    run(race, waiting, Outcome())
    budget = 3.0 * blocks(sweep)[0].flops + 2 * blocks(sweep)[1].flops
    race, waiting, heard = begun(sweep, store, Limits(budget, 0.0201))
    assert heard[-1] == "race: it had ended, and goes on; 6 trials that it had left wait again"
    assert len(lines_of(store, INCLUDED)) == 6
    assert list(store.ledger)[-1].why == f"the race goes on, with --enough 0.0201 --budget {budget:g}"
    assert ended(sweep, store) is None
    assert list(drops(sweep, store)) == ["eps/linear"], "a drop holds"
    assert set(left_out(sweep, store)) == {t.trial_id for b in blocks(sweep)[1:] for t in b.trials
                                           if sweep.placing(t).arm == "eps/linear"}  # fmt: skip
    assert len(run(race, waiting, Outcome())) == 2
    end = ended(sweep, store)
    assert end is not None
    assert (end.rule, end.blocks) == ("budget", 2)
    assert len(lines_of(store, LEFT)) == 6 + 4
    race, waiting, heard = begun(sweep, store, Limits(0.999 * budget))
    assert waiting == []
    assert heard[-1].endswith(f"of {0.999 * budget:.3g} (--budget)"), "over by another limit too: the last one holds"
    assert len(lines_of(store, LEFT)) == 6 + 4 + 4
    race, waiting, _ = begun(sweep, store)
    assert list(store.ledger)[-1].why == "the race goes on, without a limit"
    assert len(run(race, waiting, Outcome())) == 4
    assert ended(sweep, store) is None


def test_a_failed_trial_ends_its_place_in_the_block(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store)
    race, waiting, _ = begun(sweep, store)
    outcome = Outcome()
    (first, *_) = race.allowed(waiting, outcome)
    waiting.remove(first)
    outcome.unfinished[first.trial_id] = State(names.FAILED, 0, "no")
    assert len(run(race, waiting, outcome)) == 11


def test_a_run_without_a_race_takes_the_drops_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of()
    Told(monkeypatch, store, after_1=(1,))
    race, waiting, _ = begun(sweep, store)
    run(race, waiting, Outcome())
    assert take_back(sweep, store) == 3
    assert take_back(sweep, store) == 0
    assert left_out(sweep, store) == {}
    assert raced(sweep, store) is not None, "until they are trained, what is compared was chosen by a race"
    assert len(Race(sweep, store, frozenset()).open(list(sweep.trials))) == 12


def test_losses_are_those_of_ended_blocks_with_the_tuned_value_that_is_best(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_of(tune=["training.learning_rate"], training={"steps": 6, "batch": 4, "learning_rate": [1e-3, 2e-3]})

    def state(folder: Any) -> State:
        trial = next(t for t in sweep.trials if t.trial_id == folder.path.name)
        better = (trial.training.learning_rate == 1e-3) == (sweep.placing(trial).arm == "rf")
        return State(names.FINISHED, 6, "", 0.5 + 0.01 * trial.seed - 0.1 * better)

    monkeypatch.setattr(TrialFolder, "state", state)
    order = blocks(sweep)
    y, x = losses(sweep, store, order, 3)
    assert y.shape == (3, 2, 2)
    assert y[:, 0] == pytest.approx(np.log([[0.4, 0.41]] * 3))
    assert y[:, 1, 0] == pytest.approx(math.log(0.4))
    assert np.isnan(y[:, 1, 1]).all(), "its block has not ended"
    assert np.diff(x) == pytest.approx(math.log(order[-1].flops / order[0].flops))


def test_the_expected_cost_is_that_of_made_races() -> None:
    found = expected(sweep_of(), worlds=2)
    assert found.low <= found.flops <= found.high <= found.full
    assert found.full == pytest.approx(sum(t.train_flops for t in sweep_of().trials))
    assert found.arms[0] == 3
    assert sorted(found.arms, reverse=True) == list(found.arms)
    assert "4 blocks" in found.sentence
    assert replace(found, flops=found.full).sentence.count("100 %") >= 1


def test_the_expected_cost_with_limits_is_that_of_the_same_races_ended_there() -> None:
    sweep = sweep_of()
    order, whole = blocks(sweep), expected(sweep, worlds=4)
    assert expected(sweep, Limits(budget=whole.full), worlds=4).flops == whole.flops, "a limit that nothing reaches"
    budget = 3 * (order[0].flops + order[1].flops)
    tight = expected(sweep, Limits(budget=budget), worlds=4)
    assert tight.high <= budget
    assert tight.arms[0] == whole.arms[0]
    assert tight.arms[2:] == (0, 0)
    assert tight.left >= whole.left
    assert f"race with --budget {budget:g}: 4 blocks" in tight.sentence
    near = expected(sweep, Limits(enough=0.9), worlds=4)
    assert near.flops < whole.flops
    assert near.arms[-1] == 0, "before two sizes were seen nothing is near enough, after them all is"
    assert near.kept > 0.95
    assert expected(sweep, Limits(budget=order[0].flops)).flops == 0, "not one block fits"


def test_the_chance_that_the_best_is_left_is_the_share_of_worlds_in_which_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In worlds of the priors, with a rule that drops far more: told by the posterior, seen in the worlds."""
    monkeypatch.setattr(judged, "judge", partial(judged.judge, alpha=0.9))
    order, rng, seen, told = blocks(sweep_of()), np.random.default_rng(0), list[bool](), list[float]()
    x = log_sizes(order)
    for _ in range(100):
        seed, single, size, arm = np.exp(judged._MEDIAN + judged._SPREAD * rng.standard_normal(4))
        level = rng.normal(0, arm, 3)
        away = np.stack([rng.normal(0, size * np.sqrt(x[1] - x[0]), 3), np.zeros(3)], axis=1)
        own = rng.normal(0, seed, (3, 1, 2)) + rng.normal(0, single, (3, 2, 2))
        y = level[:, None, None] + away[:, :, None] + own
        found = simulated(y, x, order, Limits())
        seen.append(level.argmin() in found.left)
        told.append(found.kept)
    assert 0.6 < np.mean(seen) < 0.95
    assert np.mean(told) == pytest.approx(np.mean(seen), abs=0.1)


# --- with Ray ---------------------------------------------------------------------------------------------------------

RACED = {
    **SMALL,
    "model": {"depths": [1, 2], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf", "eps/linear", "rf/lognorm(0.00,1.00)"],
    "training": {"steps": 40, "batch": 8, "learning_rate": 3e-3},
    "seeds": [0, 1],
}


@pytest.mark.slow
def test_a_race_that_is_killed_goes_on_with_the_same_drops(tmp_path: Path) -> None:
    """The whole command, killed with all its processes in the middle and begun again, against one left in peace."""
    file, mark = tmp_path / "sweep.yaml", f"rfscale-{uuid.uuid4().hex}"
    file.write_text(yaml.safe_dump(RACED))
    sweep = load_sweep(file)
    peace, killed = Store(tmp_path / "peace"), Store(tmp_path / "killed")
    process = start_run(file, peace.root, mark, "--race")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    assert "race: " in output
    process = start_run(file, killed.root, mark, "--race")
    ended = [killed.trial(t.trial_id) for t in sweep.trials]
    wait_until(lambda: sum(f.result.exists() for f in ended) >= 4 or process.poll() is not None)
    process.kill()
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not marked(mark), 30)
    process = start_run(file, killed.root, mark, "--race")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors

    def of(store: Store) -> list[tuple[str, Any]]:
        return [(arm, (d.blocks, d.after, d.at_least, d.chance)) for arm, d in drops(sweep, store).items()]

    def trained(store: Store) -> dict[str, float]:
        states = {t.trial_id: store.trial(t.trial_id).state() for t in sweep.trials}
        return {key: state.loss for key, state in states.items() if state.status == names.FINISHED}

    assert of(peace) == of(killed)
    assert [arm for arm, _ in of(peace)] == ["eps/linear"], "its loss is many times that of the others"
    assert trained(peace) == trained(killed)
    assert len(trained(peace)) + len(left_out(sweep, peace)) == 12
    page = (peace.report(sweep.name) / "report.html").read_text()
    assert "This sweep was raced" in page
    assert "eps/linear was dropped" in page
    assert 'id="trend"' not in page, "a heading over nothing"
    line = json.loads((killed.root / "ledger.jsonl").read_text().splitlines()[0])
    assert line["action"] == "dropped"
    assert line["race"]["blocks"] >= 1
