"""A store path is a path, whatever letters it has: database, files and report inside it, and nothing anywhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import console_script, environment_in, files_in
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from test_tracking import free_port
from typer.testing import CliRunner

from analysis.table.store import TrackingError, database_address, database_path
from rfscale import names
from rfscale.cli import app
from rfscale.run.tracking.mirror import Mirror, tracking_uri
from rfscale.spec.sweep import Samples, Sweep
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store
from rfscale.train.loop import train

NASTY = "%?#;&=+@:'\" \\~$!*()[]{}|^`,.ü名\n\t"
# "." and ".." are not names of folders of their own; a name may have 255 bytes
folder_names = st.text(
    st.one_of(st.sampled_from(NASTY), st.characters(exclude_categories=["Cs"], exclude_characters="/\0")),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", ".."))


@settings(deadline=None)
@given(st.lists(folder_names, min_size=1, max_size=3))
@example(["feature%2Flogin"])
@example(["v?2"])
@example(["q?uri=true"])
@example([":memory:"])
def test_an_address_gives_back_the_path_that_it_was_made_of(parts: list[str]) -> None:
    path = Path("/", *parts, "mlflow.db")
    assert database_path(database_address(path)) == path


def test_ordinary_paths_have_the_address_that_everybody_knows() -> None:
    assert database_address(Path("/home/me/my runs/mlflow.db")) == "sqlite:////home/me/my runs/mlflow.db"


def test_a_path_that_is_no_text_is_refused_in_one_sentence() -> None:
    with pytest.raises(TrackingError, match="letters that a database address cannot hold"):
        database_address(Path(os.fsdecode(b"/runs-\xff/mlflow.db")))


@pytest.mark.parametrize(
    "address", ["http://host/a", "sqlite://", "sqlite:///:memory:", "./mlruns", "postgresql://h/d"]
)
def test_what_is_no_file_of_sqlite_has_no_path(address: str) -> None:
    assert database_path(address) is None


# --- through the command ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Path, Path]:
    """A sweep, its file, and a store in which its one trial was trained; MLflow has not seen it yet."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "sweep.yaml"
    path.write_text(
        "{name: mini, question: Is it all in there?, data: {name: shapes, resolution: 8}, formulations: [rf],"
        " model: {depths: [1], width_per_depth: 16, patch: 4}, training: {steps: 6, batch: 8, learning_rate: 2e-3},"
        " evaluation: {images: 8, points: 2}, samples: {images: 2, steps: 2}}"
    )
    sweep, store = load_sweep(path), Store(folder / "store")
    train(sweep.trials[0], store.trial(sweep.trials[0].trial_id), samples=Samples(images=2, steps=2))
    return sweep, path, store.root


@pytest.mark.slow
@settings(max_examples=2, deadline=None)
@given(folder_names.filter(str.isprintable))  # the command refuses line breaks and control characters
@example("feature%2Flogin")
@example("exp #1")
@example("v?2")
def test_run_keeps_everything_in_a_store_of_any_name(trained: tuple[Sweep, Path, Path], name: str) -> None:
    sweep, path, store = trained
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / name
        shutil.copytree(store, place)
        done = CliRunner().invoke(app, ["run", str(path), "--store", str(place)])
        assert done.exit_code == 0, done.output
        assert os.listdir(folder) == [name]
        run = only_run(place, sweep)
        assert (place / "mlflow.db").is_file()
        assert (place / "artifacts" / run.info.run_id / "artifacts" / "trial.json").is_file()
        assert (place / "reports" / "mini" / "report.html").is_file()


def only_run(place: Path, sweep: Sweep) -> Any:
    client = MlflowClient(tracking_uri(Store(place)))
    experiment = client.get_experiment_by_name(sweep.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_stores_whose_names_are_alike_as_addresses_leave_each_other_alone(
    trained: tuple[Sweep, Path, Path], tmp_path: Path
) -> None:
    """A store `v?2` once wrote into the database of the store `v`, and deleted its run."""
    sweep, _, store = trained
    places = [tmp_path / name for name in ("v", "v?2", "v%3F2")]
    for place in places:
        shutil.copytree(store, place)
        Mirror(sweep, Store(place)).finish()
    assert len({only_run(place, sweep).info.run_id for place in places}) == len(places)


@pytest.mark.slow
def test_a_real_sweep_is_trained_reported_and_served_in_a_store_of_a_nasty_name(
    trained: tuple[Sweep, Path, Path], rfscale: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    sweep, path, _ = trained
    store = "exp #1?v%2F2;ü"
    done = rfscale("run", path, "--store", store, RAY_TMPDIR="/tmp")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"{sweep.trials[0].formulation}" in done.stdout
    assert {name for name in files_in(tmp_path) if "mlflow.db" in name} == {f"{store}/mlflow.db"}
    assert only_run(tmp_path / store, sweep).data.tags[names.TAG_STATUS] == names.FINISHED
    port = str(free_port())
    page = subprocess.Popen(
        console_script("ui", "--store", store, "--port", port),
        cwd=tmp_path,
        env=environment_in(tmp_path) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert sweep.name in served(port)
    finally:
        os.killpg(page.pid, 9)
        page.wait()


def served(port: str) -> set[str]:
    """The experiments that the page shows, once it answers."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return {e.name for e in MlflowClient(f"http://127.0.0.1:{port}").search_experiments()}
        except MlflowException:
            assert time.monotonic() < deadline
            time.sleep(0.5)
