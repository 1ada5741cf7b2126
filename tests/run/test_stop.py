"""`rfscale stop`: what runs ends well, nothing else begins, and the next run goes on as if nothing had been asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_launch import SMALL, cluster, history, small, store
from typer.testing import CliRunner

from rfscale import names
from rfscale.cli import app
from rfscale.run.launch import StoppedError, launch
from rfscale.run.queue import Outcome
from rfscale.run.stop import FINISH, NOW, Requests, ask, launched, launching
from rfscale.spec.sweep import Samples
from rfscale.store import Store, TrialFolder
from rfscale.train.loop import train

__all__ = ["cluster", "store"]  # fixtures

LONG = {"steps": 300, "batch": 4}


def test_a_launcher_heeds_what_was_asked_after_it_began_and_no_other_sweep(store: Store) -> None:
    assert Requests(store, "small").heed() is None
    ask(store, "small")
    requests = Requests(store, "small")
    assert requests.heed() is None, "that was asked of an earlier launcher"
    ask(store, "other")
    assert requests.heed() is None
    for now, how in ((False, FINISH), (True, NOW), (True, NOW)):
        asked = ask(store, "small", now=now)
        assert asked.how == how
        assert requests.heed() == asked
        assert "@" in asked.sentence


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"how": "now"}', "\x00"])
def test_a_damaged_request_is_none(store: Store, text: str) -> None:
    requests = Requests(store, "small")
    ask(store, "small")
    (store.root / "sweeps" / "small.stop").write_text(text)
    assert requests.heed() is None


def test_who_launches_is_seen_until_the_last_one_has_left(store: Store) -> None:
    assert not launched(store, "small")
    with launching(store, "small"):
        with launching(store, "small"):
            assert launched(store, "small")
        assert launched(store, "small")
        assert not launched(store, "other")
    assert not launched(store, "small")


def test_finish_trains_what_runs_to_its_end_and_begins_nothing_else(store: Store, cluster: str) -> None:
    sweep = small(training=LONG, seeds=[0, 1])
    began: set[str] = set()

    def tick(outcome: Outcome, submitted: set[str]) -> None:
        running = {t for t in submitted if store.trial(t).state().step >= 20}
        if running and not began:
            ask(store, sweep.name)
            began.update(t for t in submitted if store.trial(t).state().status == names.RUNNING)

    with pytest.raises(StoppedError, match=r"stopped, as .+@.+ asked at .+; trials that ran are finished"):
        launch(sweep, store, address=cluster, tick=tick)
    states = {t.trial_id: store.trial(t.trial_id).state().status for t in sweep.trials}
    assert {states[t] for t in began} == {names.FINISHED}
    assert set(states.values()) <= {names.FINISHED, names.NEW, names.INTERRUPTED}
    assert names.NEW in states.values(), "what waited was not begun"
    assert not launched(store, sweep.name)
    one = [t for t in sweep.trials if states[t.trial_id] == names.NEW][:1]
    alone = sweep.model_copy(update={"trials": tuple(one)})
    assert launch(alone, store, address=cluster).finished == [one[0].trial_id], "the request is of the past"


def test_now_writes_a_checkpoint_and_the_next_run_goes_on_to_the_same_bits(
    store: Store, cluster: str, tmp_path: Path
) -> None:
    sweep = small(formulations=["rf"], model={"depths": [1], "width_per_depth": 16, "patch": 4},
                  training=LONG, resources={"checkpoint_seconds": 1e6})  # fmt: skip
    (trial,) = sweep.trials
    folder = store.trial(trial.trial_id)

    def tick(outcome: Outcome, submitted: set[str]) -> None:
        if folder.state().step >= 20:
            ask(store, sweep.name, now=True)

    with pytest.raises(StoppedError, match=r"trials that ran wrote a checkpoint"):
        launch(sweep, store, address=cluster, tick=tick)
    state = folder.state()
    assert state.status == names.INTERRUPTED
    assert folder.checkpoints() == [folder.checkpoint(state.step)]
    assert launch(sweep, store, address=cluster).finished == [trial.trial_id]
    alone = TrialFolder(tmp_path / "alone")
    train(trial, alone, samples=Samples(images=0))
    assert history(folder) == history(alone)
    assert folder.weights().read_bytes() == alone.weights().read_bytes()


def test_the_command_says_what_stands_where_nothing_runs(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(SMALL))
    done = CliRunner().invoke(app, ["stop", str(path), "--store", str(store.root)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing to stop: no `rfscale run` of small works on")
    assert "(0 of 4 trials are done)" in " ".join(done.stdout.split())
    assert not (store.root / "sweeps").exists(), "nothing is written"
    found = json.loads(CliRunner().invoke(app, ["stop", str(path), "--store", str(store.root), "--json"]).stdout)
    assert (found["was_running"], found["trials"], found["totals"][names.NEW]) == (False, 4, 4)
