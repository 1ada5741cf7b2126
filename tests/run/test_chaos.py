"""The short form of `benchmarks/chaos.py`, and that its checks see what is wrong."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.chaos import SWEEP, Place, Tally, chaos, check
from rfscale.run.tracking.mirror import Mirror
from rfscale.spec.sweep import Samples
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import read_json, write_json
from rfscale.train.loop import train


@pytest.mark.slow
def test_a_sweep_whose_processes_are_killed_gives_the_same_bits() -> None:
    folder = Path(tempfile.mkdtemp(prefix="c-"))  # Ray's sockets have room for a short path
    tally = chaos(folder, kills=4, steps=400, patience=900.0)
    assert tally.wrong == [], f"kept in {folder}"
    assert sum(tally.kills.values()) >= 4
    assert tally.values > 0
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [0, 4])
def test_two_launchers_on_an_object_store_share_a_sweep(kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RFSCALE_CACHE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "")  # set by the benchmark, and put back after the test
    folder = Path(tempfile.mkdtemp(prefix="c-"))
    tally = chaos(folder, kills=kills, steps=300, patience=900.0, objects=True)
    assert tally.wrong == [], f"kept in {folder}"
    assert sum(tally.kills.values()) >= kills
    assert tally.values > 0
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Place, Path]:
    """The undisturbed run and another one, trained inline and mirrored."""
    folder = tmp_path_factory.mktemp("chaos")
    sweep = folder / "chaos.yaml"
    sweep.write_text(SWEEP.format(steps=2))
    alone, other = Place(folder / "alone"), Place(folder / "0")
    loaded = load_sweep(sweep)
    for trial in loaded.trials:
        train(trial, alone.store.trial(trial.trial_id), samples=Samples(images=0))
    shutil.copytree(alone.folder, other.folder)
    Mirror(loaded, other.store).finish()
    return other, alone, sweep


def _weights(place: Place, trial_id: str) -> None:
    folder = place.store.trial(trial_id)
    result = read_json(folder.result) or {}
    write_json(folder.result, {**result, "sha256": {}})


def _value(place: Place, trial_id: str) -> None:
    journal = place.store.trial(trial_id).journal
    journal.write_text(journal.read_text().replace('"train/loss": 1', '"train/loss": 2').replace("0.", "1.", 1))


def _twice(place: Place, trial_id: str) -> None:
    journal = place.store.trial(trial_id).journal
    journal.write_text(journal.read_text() + journal.read_text().splitlines()[0] + "\n")


def _lost(place: Place, trial_id: str) -> None:
    place.store.trial(trial_id).result.unlink()


def _point(place: Place, trial_id: str) -> None:
    with closing(sqlite3.connect(place.store.root / "mlflow.db")) as database, database:
        database.execute("DELETE FROM metrics WHERE rowid IN (SELECT rowid FROM metrics LIMIT 1)")


def _run(place: Place, trial_id: str) -> None:
    with closing(sqlite3.connect(place.store.root / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE rowid IN (SELECT rowid FROM runs LIMIT 1)")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (None, ""), (_weights, "other weights"), (_value, "other values"), (_twice, "twice in its journal"),
        (_lost, "is partial"), (_point, "points of trial"), (_run, "not one for each"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_seen(
    runs: tuple[Place, Place, Path], spoil: Callable[[Place, str], None] | None, said: str, tmp_path: Path
) -> None:
    good, alone, sweep = runs
    place = Place(tmp_path / "spoilt")
    shutil.copytree(good.folder, place.folder)
    if spoil is not None:
        spoil(place, load_sweep(sweep).trials[3].trial_id)
    tally = Tally()
    check(place, alone, sweep, tally)
    assert bool(tally.wrong) == (spoil is not None)
    assert said in "; ".join(tally.wrong)


def test_a_process_that_works_in_the_folder_belongs_to_the_run_until_it_ends(tmp_path: Path) -> None:
    place = Place(tmp_path / "0")
    place.folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=place.folder, stdin=subprocess.PIPE) as process:
        assert list(place.processes(0)) == [(process.pid, "")]
        assert list(place.processes(process.pid)) == [(process.pid, "launcher")]
    assert list(place.processes(0)) == []
