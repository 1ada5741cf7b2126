"""`--store s3://...` on the commands: trained on one machine, looked at and steered from another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks.object_server import ObjectServer
from rfscale.cli import app
from rfscale.spec.sweep_file import load_sweep


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def sweep(tiny: dict[str, Any], write_sweep: Callable[[dict[str, Any]], Path]) -> Path:
    tiny["training"]["steps"] = 4
    return write_sweep(tiny)


@pytest.fixture
def elsewhere(sweep: Path, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Trained on a machine with another cache; gives the id of the trial."""
    trial_id = load_sweep(sweep).trials[0].trial_id
    monkeypatch.setenv("RFSCALE_CACHE", str(tmp_path / "one"))
    done = invoke("train", sweep, trial_id, "--store", store_url)
    assert done.exit_code == 0, done.output
    monkeypatch.setenv("RFSCALE_CACHE", str(tmp_path / "two"))
    return trial_id


def test_another_machine_sees_and_steers(sweep: Path, elsewhere: str, store_url: str, tmp_path: Path) -> None:
    store = ("--store", store_url)
    seen = invoke("status", sweep, *store)
    assert "1 finished" in seen.output
    assert f"store: {store_url}" in seen.output
    assert invoke("exclude", elsewhere[:8], "--why", "a test", *store).exit_code == 0
    assert invoke("include", elsewhere[:8], *store).exit_code == 0
    drawn = invoke(
        "sample", elsewhere, "--prompt", "a red circle", "--steps", "1", "--out", tmp_path / "drawn.png", *store
    )
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "drawn.png").stat().st_size > 0
    stopped = invoke("stop", sweep, *store, "--json")
    assert json.loads(stopped.stdout)["was_running"] is False
    again = invoke("train", sweep, elsewhere, *store)
    assert "is finished already" in again.output
    assert invoke("retry", elsewhere, *store).exit_code == 0
    assert json.loads(invoke("status", sweep, *store, "--json").stdout)["totals"]["partial"] == 1


@pytest.mark.slow
def test_another_machine_reports_and_publishes(sweep: Path, elsewhere: str, store_url: str, tmp_path: Path) -> None:
    store = ("--store", store_url)
    assert invoke("run", sweep, *store).exit_code == 0  # nothing to train: the mirror and the report
    for command in ("report", "compare", "plan"):
        done = invoke(command, sweep, *store)
        assert done.exit_code == 0, done.output
    done = invoke("publish", sweep, tmp_path / "published", "--weights", elsewhere, *store)
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "published" / "models").iterdir())


def test_a_store_that_cannot_be_used_is_one_sentence(
    sweep: Path, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rfscale.store.remote.ANSWER_SECONDS", 0.2)
    for url, said in (
        ("ftp://a/b", "ftp://a/b is no store: give a folder, or s3://bucket/prefix"),
        ("s3://nowhere/b", "there is no store s3://nowhere/b"),
        ("S3://nowhere/b", "there is no store s3://nowhere/b"),
        ("s3://", "s3:// is no store: give a folder, or s3://bucket/prefix"),
        ("FILE:///tmp/a", "is no store: give a folder, or s3://bucket/prefix"),
    ):
        done = invoke("status", sweep, "--store", url)
        assert done.exit_code == 2
        assert said in done.output
        assert done.output.count("\n") == 1
    object_server.fault = "error"
    done = invoke("status", sweep, "--store", "s3://rfscale/b")
    assert done.exit_code == 2
    assert "the store s3://rfscale/b does not answer" in done.output
