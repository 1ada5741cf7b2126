"""A machine that fails everything is left out, and its failures are no trial's."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray_nodes import Node, beside, nodes
from test_launch import SMALL, small

from rfscale import names
from rfscale.failures import BAD_NODE, DIED, DIVERGED, ERROR, GPU_MEMORY
from rfscale.run.launch import launch
from rfscale.run.nodes import IN_A_ROW, Nodes
from rfscale.run.queue import LaunchError, Outcome, Queue
from rfscale.run.tasks import Problem
from rfscale.run.work import training
from rfscale.spec.sweep import Resources
from rfscale.store import Store

ONE = Resources()
WRONG = Problem(("ValueError",), "ValueError: no driver", failure=ERROR)
BLIND = Problem(("unseen store",), "b does not see the store", failure=BAD_NODE)


def two() -> Nodes:
    return Nodes({"a": "a (1)", "b": "b (2)"}, {"a": {"CPU": 1.0}, "b": {"CPU": 1.0, "GPU": 1.0}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


# --- no Ray -----------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_are_the_machines_and_a_good_end_between_forgives_them() -> None:
    nodes = two()
    assert nodes.blamed("b", "1", WRONG, ONE) == nodes.blamed("b", "2", WRONG, ONE) == []
    nodes.fine("b")
    assert nodes.blamed("b", "5", WRONG, ONE) == nodes.blamed("b", "6", WRONG, ONE) == []
    nodes.fine("a")
    assert nodes.blamed("b", "3", WRONG, ONE) == ["5", "6", "3"]
    assert nodes.drained["b"] == (
        "machine b (2) is left out for the rest of this run: 3 trials in a row failed there (ValueError: no driver); "
        "they are trained on the others, and nothing counts"
    )
    assert nodes.blamed("b", "4", WRONG, ONE) == ["4"], "it ran there when the machine was left out"
    assert nodes.blamed("a", "5", BLIND, ONE) == [], "the last machine is never left out"


def test_one_bad_trial_and_what_is_no_fault_of_a_machine_leave_none_out() -> None:
    nodes = two()
    for _ in range(2 * IN_A_ROW):
        assert nodes.blamed("b", "1", WRONG, ONE) == []
    for number in range(2 * IN_A_ROW):
        for failure in (DIVERGED, GPU_MEMORY):
            assert nodes.blamed("a", str(number), Problem(("x",), "x", failure=failure), ONE) == []
    assert not nodes.drained
    assert nodes.blamed("", "1", BLIND, ONE) == [], "nobody knows where"


def test_a_machine_that_does_not_see_the_store_is_left_out_at_once() -> None:
    assert two().blamed("b", "1", BLIND, ONE) == ["1"]


def test_where_no_other_machine_has_room_none_is_left_out_and_a_trial_stays_where_it_failed() -> None:
    """A head without a GPU, and one machine with: left out, nothing would ever run."""
    nodes, gpu = two(), Resources(gpus=1)
    for number in range(2 * IN_A_ROW):
        assert nodes.blamed("b", str(number), WRONG, gpu) == []
        assert nodes.not_for(str(number), gpu) == ()
    assert nodes.blamed("b", "1", BLIND, gpu) == []
    assert not nodes.drained


def test_a_trial_that_failed_on_a_machine_is_tried_on_another() -> None:
    nodes = two()
    assert nodes.blamed("b", "1", Problem(("x",), "x", died=True, failure=DIED), ONE) == []
    assert nodes.not_for("1", ONE) == ("b",)
    assert nodes.not_for("2", ONE) == ()
    nodes.alive = {"a": "a (1)"}
    assert nodes.not_for("1", ONE) == (), "that machine is gone"


def test_trials_of_a_bad_machine_wait_again_and_do_not_stop_the_sweep(store: Store) -> None:
    sweep = small(seeds=[0, 1])
    queue = Queue(training(sweep, store), list(sweep.trials), 0, nodes=two())
    taken = queue.next(IN_A_ROW)
    for trial in taken:
        assert not queue.ended(trial, WRONG, "b")
    assert queue.outcome == Outcome(drained=queue.nodes.drained)
    assert {trial.trial_id for trial in queue.waiting} == {trial.trial_id for trial in sweep.trials}
    queue = Queue(training(sweep, store), list(sweep.trials), 0, nodes=Nodes({"b": "b"}, {"b": {"CPU": 1.0}}))
    for trial in queue.next(IN_A_ROW):
        queue.ended(trial, WRONG, "b")
    assert len(queue.outcome.unfinished) == IN_A_ROW, "with one machine the failures are the trials'"


def test_a_trial_that_is_not_for_every_machine_does_not_wait_in_ray_beside_others(store: Store) -> None:
    """Ray sends no others to a free machine while it does (seen with 2.60: the machine idles)."""
    sweep = small(seeds=[0, 1])
    begun = set[str]()
    work = replace(training(sweep, store), begun=lambda trial: trial.trial_id in begun)
    queue = Queue(work, list(sweep.trials), 3, nodes=two())
    order = list(sweep.trials)
    assert queue.give(2, []) == order[:4], "twice what runs at once, all for any machine"
    begun.add(order[0].trial_id)
    died = Problem(("x",), "x", died=True, failure=DIED)
    queue.ended(order[1], died, "b")
    assert queue.give(2, [order[0], order[2], order[3]]) == [], "two wait for any machine"
    queue.ended(order[2], died, "b")
    assert queue.give(2, [order[0], order[3]]) == []
    begun.add(order[3].trial_id)
    assert queue.give(2, [order[0], order[3]]) == [order[2]], "nothing else waits"
    given = [order[0], order[3], order[2]]
    assert queue.give(2, given) == [], "one after the other, and no slot is free"
    given.remove(order[3])
    assert queue.give(2, given) == [order[4]], "a slot of the machine that it is not for is free"
    begun.add(order[2].trial_id)
    assert queue.give(2, [order[0], order[2]]) == [order[1]]
    begun.add(order[1].trial_id)
    assert queue.give(2, [order[1], order[2]]) == order[5:7]


def test_a_death_after_progress_says_nothing_against_the_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = small(seeds=[0, 1])
    queue = Queue(training(sweep, store), list(sweep.trials), 3, nodes=two())
    for trial in queue.next(IN_A_ROW):
        store.trial(trial.trial_id).checkpoint(5).mkdir(parents=True)
        queue.ended(trial, Problem(("WorkerCrashedError",), "died", died=True, failure=DIED), "b")
    assert not queue.nodes.drained


# --- two Ray nodes, one of which is bad -------------------------------------------------------------------------------

BAD: dict[str, str] = {
    "no rfscale": """
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name == "rfscale" or name.startswith("rfscale."):
                    raise ModuleNotFoundError("No module named 'rfscale'")
        sys.meta_path.insert(0, Refuse())
        """,
    "no store": """
        from pathlib import Path
        read = Path.read_text
        def blind(self, *given, **more):
            if self.name == "store.json":
                raise FileNotFoundError(2, "No such file or directory", str(self))
            return read(self, *given, **more)
        Path.read_text = blind
        """,
    "no driver": """
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name == "rfscale.train.loop":
                    raise OSError("libcuda.so.1: cannot open shared object file")
        sys.meta_path.insert(0, Refuse())
        """,
    "dies": """
        import os, sys
        class Die:
            def find_spec(self, name, path=None, target=None):
                if name == "rfscale.train.loop":
                    os._exit(139)
        sys.meta_path.insert(0, Die())
        """,
}
LONG = """
    import sys, time
    from pathlib import Path
    class Train:
        def find_spec(self, name, path=None, target=None):
            until = time.monotonic() + {most}
            while name == "rfscale.train.loop" and not Path({done!r}).exists() and time.monotonic() < until:
                time.sleep(0.1)
    sys.meta_path.insert(0, Train())
    """
"""Real trials take hours, and a bad machine fails meanwhile: here, the first trial of the good one lasts until then."""


@pytest.fixture
def bad_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A good node and a bad one, with one CPU each. The good one ends no trial before there is a file `left-out`."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder, text in ((good, LONG.format(most=300, done=str(tmp_path / "left-out"))), (bad, BAD[request.param])):
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(textwrap.dedent(text))
    with nodes(tmp_path, Node(environment=beside(good)), Node(environment=beside(bad))) as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("bad_cluster", list(BAD), indirect=True)
def test_a_bad_node_is_left_out_and_every_trial_is_trained_on_the_other(
    store: Store, bad_cluster: str, tmp_path: Path
) -> None:
    def tick(outcome: Outcome, submitted: set[str]) -> None:
        if outcome.drained:
            (tmp_path / "left-out").touch()

    sweep = small(model={**SMALL["model"], "depths": [1]}, seeds=[0, 1, 2, 3])
    outcome = launch(sweep, store, address=bad_cluster, tick=tick)
    assert sorted(outcome.finished) == sorted(trial.trial_id for trial in sweep.trials), outcome
    (sentence,) = outcome.drained.values()
    assert "is left out for the rest of this run" in sentence
    for trial in sweep.trials:
        assert store.trial(trial.trial_id).state().status == names.FINISHED
        assert json.loads(store.trial(trial.trial_id).record.read_text())["attempts"]


@pytest.mark.slow
def test_where_every_machine_is_bad_the_run_says_so_and_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.root / "store.json").write_text(json.dumps({"id": "mine"}))
    sweep = small()
    monkeypatch.setattr(Store, "identity", lambda self: "another")
    with pytest.raises(LaunchError, match="does not see the store"):
        launch(sweep, store)
