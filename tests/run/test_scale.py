"""What must not grow with the number of trials that rest: by counting files and calls, never by a clock."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from rich.console import Console
from test_tracking import assert_mirrored, begin, end, make_sweep, measure

from analysis.table.runs import runs_of_experiment
from rfscale import names
from rfscale.run import due as due_module
from rfscale.run import hung as hung_module
from rfscale.run import launch as launch_module
from rfscale.run import progress as progress_module
from rfscale.run import queue as queue_module
from rfscale.run.due import Due
from rfscale.run.progress import Display
from rfscale.run.queue import Outcome, Queue, next_to_train
from rfscale.run.stop import Requests
from rfscale.run.tracking.mirror import Mirror, tracking_uri
from rfscale.run.work import training
from rfscale.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store with a database of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs" / "trials").mkdir(parents=True)
    return Store(tmp_path / "runs")


# --- the launcher -----------------------------------------------------------------------------------------------------


class Looks:
    """Counts what is opened and looked at below a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.count = str(folder), 0
        for module, name in ((os, "stat"), (builtins, "open"), (io, "open"), (os, "scandir"), (os, "listdir")):
            monkeypatch.setattr(module, name, self._counting(getattr(module, name)))

    def _counting(self, call: Any) -> Any:
        def counted(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder):
                self.count += 1
            return call(path, *arguments, **options)

        return counted


class StandIn:
    """In place of Ray: what is given to it runs for ever, and after some turns somebody presses Ctrl-C."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Resources": {"CPU": 2.0}, "Alive": True, "NodeID": "0", "NodeManagerHostname": "here"}]

    def remote(self, *given: Any, **options: Any) -> Any:
        return (lambda task: self) if options else object()

    def cancel(self, *references: Any, **options: Any) -> None:
        pass

    def wait(self, references: Sequence[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        self.turns -= 1
        if not self.turns:
            raise KeyboardInterrupt
        return [], list(references)


def looks_in_a_turn(store: Store, trials: int, rest: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of a launcher with four trials in hand, its display and its mirror, in the third turn."""
    sweep = make_sweep(f"turns-{trials}-{rest}", seeds=trials)
    for trial in sweep.trials[:-4] if rest == "finished" else ():
        folder = begin(store, trial)
        measure(folder, range(1, 3))
        end(folder)
    waiting = sweep.trials[-4:] if rest == "finished" else sweep.trials
    queue = Queue(training(sweep, store), list(waiting), 0)
    mirror, counts = Mirror(sweep, store), list[int]()
    mirror.sync_all()
    with monkeypatch.context() as patch, open(os.devnull, "w") as nowhere:
        looks = Looks(store.root / "trials", patch)
        display = Display(sweep, store, Console(file=nowhere))

        def tick(outcome: Outcome, hand: set[str]) -> None:
            mirror.follow(hand)
            display.update(outcome, hand)
            assert mirror._try(mirror._due.take())
            counts.append(looks.count)
            looks.count = 0

        ray, requests = StandIn(6), Requests(store, sweep.name)
        tasks = launch_module._Tasks(ray, queue.work)
        needs = [sweep.resources.at(1)]
        with pytest.raises(KeyboardInterrupt):
            launch_module._keep_busy(ray, queue, needs, None, tasks, requests, tick)
    assert len(tasks.trials) == 4
    return counts[2]


@pytest.mark.parametrize("rest", ["finished", "new"])
def test_a_turn_of_the_launcher_looks_at_no_more_files_where_more_trials_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(due_module, "OTHERS", 3)
    monkeypatch.setattr(progress_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "LOOK_REST", 0.0)
    monkeypatch.setattr(hung_module, "LOOK_SECONDS", 0.0)
    found = []
    for trials in (14, 28):
        store = Store(tmp_path / str(trials))
        store.check_writable()
        found.append(looks_in_a_turn(store, trials, rest, monkeypatch))
    few, many = found
    assert few == many > 0


def test_what_is_in_hand_is_looked_at_each_time_and_all_others_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due_module, "OTHERS", 3)
    due = Due("abcdefgh")
    due.follow(["h"])
    assert due.take() == ["h", "a", "b", "c"]
    assert due.take() == ["h", "d", "e", "f"]
    due.follow([])
    assert due.take() == ["h", "g", "a"], "it has ended since: once more, and the turn goes round"
    assert due.take() == ["b", "c", "d"]
    due.again(["g"])
    assert due.take() == ["g", "e", "f"]
    assert Due("").take() == []
    assert Due("a").take() == ["a"]


def test_trials_in_other_hands_are_not_all_asked_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "PASSED", 3)
    sweep = make_sweep("hands", seeds=8)
    trials = list(sweep.trials)
    waiting, asked = list(trials), list[str]()

    class Asked(Store):
        def trial(self, trial_id: str) -> Any:
            asked.append(trial_id)
            return super().trial(trial_id)

    counted = Asked(store.root)
    with busy(store, [trial.trial_id for trial in trials[:5]]):
        assert next_to_train(waiting, counted, Outcome(), 1) == []
        assert len(asked) == 4
        assert waiting == [*trials[4:], *trials[:4]]
        assert next_to_train(waiting, counted, Outcome(), 1) == [trials[5]]
        assert waiting == [trials[4], *trials[6:], *trials[:4]]
    asked.clear()
    assert next_to_train(waiting, counted, Outcome(), 0) == []
    assert asked == []


@contextmanager
def busy(store: Store, trial_ids: list[str]) -> Iterator[None]:
    """Another process has these trials."""
    if not trial_ids:
        yield
        return
    folder = store.trial(trial_ids[0])
    folder.path.mkdir(exist_ok=True)
    with folder.claim(), busy(store, trial_ids[1:]):
        yield


# --- the mirror -------------------------------------------------------------------------------------------------------


def of_trials(store: Store, seeds: int, name: str = "many") -> Any:
    sweep = make_sweep(name, seeds=seeds)
    for trial in sweep.trials:
        folder = begin(store, trial)
        measure(folder, range(1, 5))
        end(folder)
    return sweep


def runs(store: Store, name: str) -> list[Any]:
    client = MlflowClient(tracking_uri(store))
    experiment = client.get_experiment_by_name(name)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_many_trials_are_written_in_one_transaction_and_a_refused_one_keeps_none_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = of_trials(store, seeds=6)
    mirror = Mirror(sweep, store)
    send, bad = mirror._client.log_batch, sweep.trials[2].trial_id
    refused: list[str] = []

    def refusing(run_id: str, *arguments: Any, **options: Any) -> None:
        if any(param.value == bad for param in options.get("params", ())) and len(refused) < 2:
            refused.append(run_id)
            raise MlflowException("no", error_code=INVALID_PARAMETER_VALUE)
        send(run_id, *arguments, **options)

    monkeypatch.setattr(mirror._client, "log_batch", refusing)
    assert mirror._together.possible
    assert not mirror._try()
    assert "no" in mirror.trouble
    assert len(refused) == 2, "once together, and once alone"
    assert len(runs(store, "many")) == len(sweep.trials)
    begun = [run for run in runs(store, "many") if run.data.tags[names.TAG_TRIAL_ID] == bad]
    assert not begun[0].data.params, "what was sent together with the refusal is not there"
    assert mirror._try()
    found = {run.data.tags[names.TAG_TRIAL_ID]: run for run in runs(store, "many")}
    assert len(found) == len(runs(store, "many")) == len(sweep.trials)
    for trial in sweep.trials:
        assert_mirrored(store, found[trial.trial_id], store.trial(trial.trial_id))
        assert found[trial.trial_id].data.tags[names.TAG_STATUS] == names.FINISHED


def test_what_another_process_began_is_found_in_the_store_and_nothing_is_searched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep("two", seeds=6)
    first, second = Mirror(sweep, store), Mirror(sweep, store)
    searched: list[str] = []
    created: list[str] = []
    create = second._runs.create

    def search(text: str = "") -> dict[str, list[Any]]:
        searched.append(text)
        return {}

    def noted(trial: Any, record: dict[str, Any]) -> Any:
        created.append(trial.trial_id)
        return create(trial, record)

    monkeypatch.setattr(second._runs, "_read", search)
    monkeypatch.setattr(second._runs, "create", noted)
    for trial in sweep.trials[:3]:
        measure(begin(store, trial), range(1, 3))
    first.sync_all()
    second.sync_all()
    assert created == [], "the second found those that the first made after it had looked"
    for trial in sweep.trials[3:]:
        measure(begin(store, trial), range(1, 3))
    second.sync_all()
    assert created == [trial.trial_id for trial in sweep.trials[3:]]
    assert searched == []
    first.sync_all()
    assert len(runs(store, "two")) == len(sweep.trials)


def test_rows_of_a_database_are_the_runs_that_the_client_gives(store: Store) -> None:
    sweep = of_trials(store, seeds=4, name="rows")
    nan = store.trial(sweep.trials[0].trial_id)
    measure(nan, range(5, 7), lambda step: {names.TRAIN_LOSS: float("nan"), names.GRAD_NORM: float("inf")})
    Mirror(sweep, store).finish()
    client = MlflowClient(tracking_uri(store))
    client.delete_run(runs(store, "rows")[0].info.run_id)
    experiment = client.get_experiment_by_name("rows")
    assert experiment is not None
    expected = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    found = {run.info.run_id: run for run in runs_of_experiment(client, experiment.experiment_id)}
    assert list(found) == list(expected)
    assert len(found) == len(sweep.trials) - 1
    for run_id, run in expected.items():
        other = found[run_id]
        assert dict(other.info) == dict(run.info)
        assert (other.data.params, other.data.tags) == (run.data.params, run.data.tags)
        steps = [{m.key: (repr(m.value), m.step, m.timestamp) for m in one.data._metric_objs} for one in (run, other)]
        assert steps[0] == steps[1]
