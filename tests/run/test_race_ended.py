"""A real race of small trainings, in this process: how it ended stands in the report, in `status` and in `plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_launch import SMALL
from typer.testing import CliRunner

import rfscale
from rfscale import names
from rfscale.cli import app
from rfscale.run import rolling
from rfscale.run import study as study_module
from rfscale.run.publish import read_published
from rfscale.run.queue import Outcome, Queue
from rfscale.run.race_record import ended, take_back
from rfscale.run.study import Study
from rfscale.run.work import Allowed, everybody, to_train, training
from rfscale.spec.sweep import Sweep
from rfscale.store import Store
from rfscale.train.loop import train

NEAR = ["rf", "rf/lognorm(0.00,1.00)"]


def launch(sweep: Sweep, store: Store, *, allowed: Allowed = everybody, **_: Any) -> Outcome:
    """In place of Ray: one trial after the other, here."""
    queue = Queue(training(sweep, store, allowed), to_train(sweep, store), 0)
    while queue.waiting:
        for trial in queue.next(1):
            train(trial, store.trial(trial.trial_id), samples=sweep.samples)
            queue.ended(trial, None)
    return queue.outcome


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "formulations": NEAR, "seeds": [0, 1]}))
    monkeypatch.setattr(study_module, "launch", launch)
    return rfscale.open(tmp_path / "store", file)


def told(study: Study, *command: str) -> str:
    done = CliRunner().invoke(app, [command[0], str(study.store.root.parent / "small.yaml"), *command[1:], "--store",
                                    str(study.store.root)])  # fmt: skip
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def test_a_race_that_ended_early_is_called_ended_and_not_incomplete(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = study.run(race=True, enough=0.9).report
    end = ended(study.sweep, study.store)
    assert end is not None
    assert (end.rule, end.blocks) == ("enough", 3), "before a second size was seen nothing is near enough"
    page = report.path.read_text()
    assert f"<strong>{end.sentence}.</strong>" in page
    assert "still to finish" not in page
    assert "This sweep was raced: 0 of 2 arms were dropped" in page
    assert page.count("compute multiplier") == 1, "said once, and not in every row"
    assert f"{end.sentence}." in report.text
    for command in ("status", "plan"):
        assert f"{end.sentence}; a race with other limits goes on, and a run without" in told(study, command)
    board = told(study, "status", "--watch")
    assert "6 of 8 trials done, 0 running, 0 left, 2 left out by a race" in board
    known = json.loads(told(study, "status", "--json"))
    assert known["ended"]["why"] == end.sentence
    assert known["ended"]["shortfall"] == pytest.approx(end.shortfall)
    assert known["totals"] == {**dict.fromkeys(names.STATUSES, 0), names.FINISHED: 6, names.LEFT_OUT: 2}
    assert known["trials"][-1]["reason"] == "the race ended after block 3 (depth 2, seed 0)"
    with monkeypatch.context() as waits:
        waits.setattr(rolling.time, "sleep", lambda seconds: pytest.fail("it waits for trials that nobody trains"))
        rolling.watched(study.sweep, study.store, lambda: report.path, lambda text: None, 60.0)
    published = study.publish(study.store.root.parent / "out", weights="none")
    assert end.sentence in (published.folder / "report" / "report.html").read_text()
    again = read_published(published.folder)
    assert again.compare().comparison.race == study.compare().comparison.race != ()
    assert end.sentence in again.report(study.store.root.parent / "again").path.read_text()

    take_back(study.sweep, study.store)
    assert "The race ended" not in told(study, "status")
    assert json.loads(told(study, "status", "--json"))["ended"] is None
