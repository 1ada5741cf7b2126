"""`rfscale export`: the numbers of a sweep as other tools read them, all of them and no others."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_study import small_study
from typer.testing import CliRunner

from rfscale import names
from rfscale.cli import app
from rfscale.run.export import FORMATS
from rfscale.run.study import Study
from rfscale.spec.sweep import SweepError
from rfscale.store import StoreError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two arms at one size and one seed, and one of another seed that is not trained."""
    one_size = {"depths": [1], "width_per_depth": 16, "patch": 4}
    return small_study(tmp_path_factory.mktemp("export"), untrained=2, model=one_size)


def logged(study: Study) -> dict[tuple[str, int, str], float]:
    rows = study.curves[["trial_id", "step", "key", "value"]].itertuples(index=False)
    return {(row.trial_id, row.step, row.key): row.value for row in rows}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_come_back_as_they_were(study: Study, tmp_path: Path, kind: str) -> None:
    done = study.export(kind, str(tmp_path / "out"))
    assert (done.trials, done.files) == (2, 2)
    assert set(done.unfinished.values()) == {names.NEW}
    if kind == "csv":
        trials, curves = (pd.read_csv(tmp_path / "out" / f"{n}.csv") for n in ("trials", "curves"))  # fmt: skip
    else:
        trials, curves = (pd.read_parquet(tmp_path / "out" / f"{n}.parquet") for n in ("trials", "curves"))
    assert list(trials["trial_id"]) == [trial.trial_id for trial in study.sweep.trials]
    assert list(trials["loss"].dropna()) == list(study.trials["loss"].dropna())
    pd.testing.assert_frame_equal(curves, study.curves, check_dtype=False, check_exact=True)


def test_tensorboard_reads_every_scalar(study: Study, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study.export("tensorboard", tmp_path / "out")
    found: dict[tuple[str, int, str], float] = {}
    for folder in (tmp_path / "out").iterdir():
        events = EventAccumulator(str(folder)).Reload()  # type: ignore[no-untyped-call]
        trial_id = folder.name[-12:]
        points = {p.step: p.time for p in study.store.trial(trial_id).points()[0]}
        for key in events.Tags()["scalars"]:  # type: ignore[no-untyped-call]
            for event in events.Scalars(key):  # type: ignore[no-untyped-call]
                found[trial_id, event.step, key] = event.value
                if event.step in points and key == names.VAL_LOSS:
                    assert event.wall_time == pytest.approx(points[event.step] / 1000, abs=1e-3)
    known = logged(study)
    assert {key for key in known if np.isfinite(known[key])} <= found.keys()
    assert all(found[key] == pytest.approx(value, rel=1e-6) for key, value in known.items() if np.isfinite(value))


def test_without_tensorboard_one_sentence_says_what_to_install(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    with pytest.raises(StoreError, match=r"tensorboard is not installed, .*pip install tensorboard"):
        study.export("tensorboard", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wandb_csv_has_the_columns_of_its_own_exports(study: Study, tmp_path: Path) -> None:
    study.export("wandb-csv", tmp_path / "out")
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert list(runs.columns[:8]) == ["Name", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep"]
    assert list(runs["State"]) == ["finished"] * 2
    chart = pd.read_csv(tmp_path / "out" / "charts" / "val-loss.csv")
    known = logged(study)
    for name, trial_id, last in zip(runs["Name"], runs["ID"], runs[names.VAL_LOSS], strict=True):
        column = f"{name} - {names.VAL_LOSS}"
        curve = dict(zip(chart["Step"], chart[column], strict=True))
        assert curve == {step: v for (t, step, key), v in known.items() if (t, key) == (trial_id, names.VAL_LOSS)}
        assert last == curve[max(curve)]
        for suffix in ("__MIN", "__MAX"):
            assert list(chart[column + suffix]) == list(chart[column])


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_that_fails_leaves_nothing_and_replaces_nothing(
    study: Study, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    with pytest.raises(StoreError, match="is not empty, and nothing is overwritten; name a new folder"):
        study.export(kind, full)
    assert [path.name for path in full.iterdir()] == ["mine"]

    def fails(*given: Any) -> None:
        (given[1] / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, kind, fails)
    with pytest.raises(StoreError, match=r"cannot write .*No space left on device; nothing of it remains"):
        study.export(kind, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


def test_what_cannot_be_exported_is_said(study: Study, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="--to 'xls' is no format; choose one of tensorboard, wandb-csv, csv, parquet"):
        study.export("xls", tmp_path / "out")
    with pytest.raises(StoreError, match="has no results of sweep small; `rfscale run` makes them"):
        Study(study.sweep, type(study.store)(tmp_path / "none")).export("csv", tmp_path / "out")
    with pytest.raises(StoreError, match="there is no folder"):
        study.export("csv", tmp_path / "none" / "out")


def test_the_command_says_what_it_wrote_and_what_is_not_finished(study: Study, tmp_path: Path) -> None:
    file, store = str(study.sweep.origin.file), str(study.store.root)

    def called(*more: str) -> Any:
        return CliRunner().invoke(app, ["export", file, *more, "--store", store])

    done = called(str(tmp_path / "out"), "--to", "csv")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == f"2 trials, 2 files: {tmp_path / 'out'}"
    assert "note: 2 of 4 trials are not finished: 2 new (" in done.stdout
    told = json.loads(called(str(tmp_path / "j"), "--to", "csv", "--json").stdout)
    assert (told["format"], told["trials"], len(told["unfinished"])) == ("csv", 2, 2)
    wrong = called("seeds=[0]", "--to", "csv")
    assert wrong.exit_code == 2
    assert "is no folder; write the folder to make before the fields" in " ".join(wrong.stderr.split())
