"""The page while a sweep trains: renewed when more has finished, never in the way of the run, honest about the rest."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from test_effort import sweep_of

from analysis.report.page import incomplete_sentence
from rfscale import names
from rfscale.run import rolling
from rfscale.run.rolling import renewed, watched
from rfscale.store import Store, write_json


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Renewals, instead of processes that make them."""
    found: list[str] = []
    monkeypatch.setattr(rolling, "_renew_once", lambda name, store, stop: found.append(name))
    return found


def finish(store: Store, trial_id: str) -> None:
    folder = store.trial(trial_id)
    folder.path.mkdir(parents=True)
    write_json(folder.result, {"status": names.FINISHED})


def until(condition: Any, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def test_it_is_renewed_where_more_has_finished_and_only_there(calls: list[str], tmp_path: Path) -> None:
    sweep, store = sweep_of(), Store(tmp_path)
    with renewed(sweep, store, seconds=0.02):
        time.sleep(0.2)
        assert calls == []
        finish(store, sweep.trials[0].trial_id)
        assert until(lambda: len(calls) == 1)
        time.sleep(0.2)
        assert calls == [sweep.name]
        finish(store, sweep.trials[1].trial_id)
        assert until(lambda: len(calls) == 2)
    assert not [thread for thread in threading.enumerate() if thread.name == "rolling-report"]
    finish(store, sweep.trials[2].trial_id)
    time.sleep(0.1)
    assert len(calls) == 2


def test_a_renewal_that_fails_harms_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[int] = []

    def fail(name: str, store: Store, stop: threading.Event) -> None:
        tried.append(1)
        raise OSError("no process can be started")

    monkeypatch.setattr(rolling, "_renew_once", fail)
    sweep, store = sweep_of(), Store(tmp_path)
    finish(store, sweep.trials[0].trial_id)
    with renewed(sweep, store, seconds=0.02):
        assert until(lambda: len(tried) >= 2)  # and it is tried again


def test_the_process_ends_with_the_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rolling, "_CHILD", f"open({str(tmp_path / 'on')!r}, 'w').close(); import time; time.sleep(600)")
    sweep, store = sweep_of(), Store(tmp_path)
    finish(store, sweep.trials[0].trial_id)
    began = time.monotonic()
    with renewed(sweep, store, seconds=0.02):
        assert until((tmp_path / "on").exists)
    assert time.monotonic() - began < 60
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path / "on").encode() in _read(p)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_sweep_with_nothing_to_compare_has_no_page_and_no_error(tmp_path: Path) -> None:
    rolling.renew("nothing", str(tmp_path / "no store"))
    assert "matplotlib.pyplot" not in sys.modules or not (tmp_path / "no store").exists()
    assert not (tmp_path / "no store").exists()


@pytest.mark.parametrize(
    ("trials", "sentence"),
    [
        (None, ""),
        (["a", "b", "c", "d"], ""),
        (["a", "b", "c", "d", "e"], "Incomplete: 2 of 5 trials so far; 1 has still to finish."),
        (["a", "b", "c", "d", "e", "f", "g"], "Incomplete: 2 of 7 trials so far; 3 have still to finish."),
    ],
)
def test_the_page_says_how_much_of_the_sweep_is_in_it(trials: list[str] | None, sentence: str) -> None:
    """a and b are in it, c diverged, d was left out by hand, e runs and f failed."""
    left_out = {"c": names.DIVERGED, "d": names.FINISHED, "e": names.RUNNING, "f": names.FAILED}
    table: Any = SimpleNamespace(
        trials=pd.DataFrame({"trial_id": ["a", "b"]}),
        rejected=pd.DataFrame({"trial_id": list(left_out), "status": list(left_out.values())}),
    )
    assert incomplete_sentence(table, trials) == sentence


def test_watching_reports_what_has_ended_until_all_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, store = sweep_of(), Store(tmp_path)
    waiting, told, reports = list(sweep.trials), [], []

    def report() -> Path:
        ended = sum(store.trial(t.trial_id).result.exists() for t in sweep.trials)
        reports.append(ended)
        if not ended:
            raise names.RfscaleError("nothing can be compared yet")
        return tmp_path / "report.html"

    rests = iter(range(1000))

    def rest(seconds: float) -> None:
        if next(rests) % 2:  # in every other pause nothing happens
            finish(store, waiting.pop().trial_id)

    monkeypatch.setattr(rolling.time, "sleep", rest)
    watched(sweep, store, report, told.append, 5.0)
    every = len(sweep.trials)
    assert reports == list(range(every + 1)), "once for each that ended, and no other time"
    assert told[0] == "nothing can be compared yet; looking again every 5 s"
    assert [words.split(" ")[0] for words in told[1:]] == [str(n) for n in range(1, every + 1)]


def test_what_the_last_report_raises_is_raised(tmp_path: Path) -> None:
    sweep, store = sweep_of(), Store(tmp_path)
    for trial in sweep.trials:
        finish(store, trial.trial_id)

    def report() -> Path:
        raise names.RfscaleError("no trial can be used")

    with pytest.raises(names.RfscaleError, match="no trial can be used"):
        watched(sweep, store, report, str, 5.0)
