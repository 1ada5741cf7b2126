"""A study from Python: the calls behind the commands return values, tell a watch what is under way, print nothing."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import rfscale
from analysis.table.read import read_sweep
from rfscale import names
from rfscale.judges import JudgeError
from rfscale.run import study as study_module
from rfscale.run.queue import LaunchError, Outcome
from rfscale.run.study import Study
from rfscale.run.tracking import mirror as mirror_module
from rfscale.run.tracking import summary as summary_module
from rfscale.run.tracking.mirror import Mirror
from rfscale.run.work import to_train
from rfscale.spec.sweep import Sweep
from rfscale.store import Store, StoreError
from rfscale.train.loop import train
from rfscale.train.placement import PlacementError

Mapping = dict[str, Any]


def study_of(tiny: Mapping, tmp_path: Path, **changes: Any) -> Study:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**tiny, **changes}))
    return rfscale.open(tmp_path / "store", path)


class Remember:
    """A watch that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.finished: set[str] = set()
        self.reports: list[Path] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def training(self, sweep: Sweep, store: Store) -> Iterator[Callable[[Outcome, set[str], str], None]]:
        yield lambda outcome, submitted, trouble: self.finished.update(outcome.finished)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        yield

    @contextmanager
    def counting(self) -> Iterator[Callable[[str, int, int], None]]:
        yield lambda what, done, total: None

    def reported(self, report: Any) -> None:
        self.reports.append(report.path)


def test_importing_the_package_loads_nothing_of_it_and_knows_no_other_names() -> None:
    program = (
        "import sys, rfscale\n"
        "assert not [m for m in sys.modules if m.startswith(('rfscale.', 'torch', 'ray', 'pydantic'))]\n"
        "rfscale.open, rfscale.load, rfscale.Study\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'ray', 'mlflow', 'pandas', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = rfscale.trian  # type: ignore[attr-defined]


def test_a_plan_is_a_value_and_writes_nothing(tiny: Mapping, tmp_path: Path) -> None:
    study = study_of(tiny, tmp_path, seeds=[0, 1])
    plan = study.plan()
    assert [one.status for one in plan.trials] == [names.NEW, names.NEW]
    assert (plan.count(names.NEW), plan.evaluations) == (2, 0)
    assert plan.samples == 2 * 30 * 8
    assert plan.train_flops == sum(one.trial.parameters()["train_flops"] for one in plan.trials)  # type: ignore[misc]
    assert not study.store.root.exists()


def test_what_cannot_be_is_refused_by_plan_and_by_run_alike(tiny: Mapping, tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match=r"resources\.gpus = 2"):
        study_of(tiny, tmp_path, resources={"gpus": 2}).plan()
    with pytest.raises(PlacementError, match=r"resources\.gpus = 2"):
        study_of(tiny, tmp_path, resources={"gpus": 2}).run()
    with pytest.raises(JudgeError, match="cannot score data `shapes`"):
        study_of(tiny, tmp_path, quality={"judges": ["glyphs"]}).plan()
    with pytest.raises(StoreError, match="is finished"):
        study_of(tiny, tmp_path).evaluate()
    assert not (tmp_path / "store").exists()


def test_a_sweep_is_run_judged_reported_and_compared_without_a_word_on_the_screen(
    tiny: Mapping, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of(tiny, tmp_path, seeds=[0, 1], formulations=["rf", "eps/linear"])
    watch = Remember()
    ran = study.run(watch=watch)
    assert sorted(ran.outcome.finished) == sorted(study.ids)
    assert (ran.failed, ran.unjudged) == ({}, {})
    assert watch.said == ["tiny: 4 trials, 4 to train"]
    assert watch.finished == study.ids
    assert watch.reports == [ran.report.path]
    assert ran.report.path.exists()
    assert {one.status for one in study.plan().trials} == {names.FINISHED}
    found = study.compare(reference="eps/linear")
    assert found.comparison.reference == "eps/linear"
    assert {standing.arm for standing in found.comparison.standings} == {"rf", "eps/linear"}
    assert set(found.table.trials["trial_id"]) == study.ids
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


def finished_study(tiny: Mapping, tmp_path: Path) -> Study:
    """Four trials, all trained, not yet mirrored."""
    tiny["training"]["steps"] = 6
    study = study_of(tiny, tmp_path, seeds=[0, 1], formulations=["rf", "eps/linear"])
    for trial in study.sweep.trials:
        train(trial, study.store.trial(trial.trial_id), samples=study.sweep.samples)
    return study


@pytest.mark.parametrize("file", ["result", "weights"])
def test_what_is_damaged_is_left_out_and_is_to_be_trained_again(tiny: Mapping, tmp_path: Path, file: str) -> None:
    study = finished_study(tiny, tmp_path)
    folder = study.store.trial(study.sweep.trials[0].trial_id)
    path = folder.result if file == "result" else folder.weights(ema=False)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4 if file == "weights" else 128
    path.write_bytes(data)
    assert list(study.excluded()) == [folder.path.name]
    assert f"{path} is damaged (" in study.excluded()[folder.path.name]
    assert [trial.trial_id for trial in to_train(study.sweep, study.store)] == [folder.path.name]
    assert len(study.states()) == 4
    assert study.plan().count(names.PARTIAL) == (1 if file == "result" else 0)  # a plan reads no weights


def test_a_damaged_trial_is_said_in_the_report_and_trained_again_by_the_next_run(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished_study(tiny, tmp_path)
    folder = study.store.trial(study.sweep.trials[0].trial_id)
    Mirror(study.sweep, study.store).finish()
    folder.result.write_bytes(folder.result.read_bytes()[:50])
    watch = Remember()
    report = study.report(watch=watch)
    (said,) = (line for line in watch.said if line.startswith("left out: "))
    assert said.startswith(f"left out: {folder.path.name}, {folder.result} is damaged (")
    assert f"{folder.result} is damaged (" in html.unescape(report.path.read_text(encoding="utf-8"))
    table = study.table()
    assert len(table.trials) == 3
    assert folder.path.name in set(table.rejected["trial_id"])
    again: list[str] = []

    def trained(sweep: Sweep, store: Store, **options: Any) -> Outcome:
        for trial in to_train(sweep, store):
            again.append(trial.trial_id)
            train(trial, store.trial(trial.trial_id), samples=sweep.samples)
        return Outcome(finished=list(again))

    monkeypatch.setattr(study_module, "launch", trained)
    study.run()
    assert again == [folder.path.name]
    assert study.excluded() == {}
    assert len(study.table().trials) == 4


def test_without_mlflow_everything_is_trained_kept_and_reported_and_mirrored_by_the_next_run(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, watch = finished_study(tiny, tmp_path), Remember()
    monkeypatch.setattr(mirror_module, "LAST_PATIENCE_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    kept: list[Any] = []
    monkeypatch.setattr(summary_module, "publish", lambda *given: kept.append(given))
    ran = study.run(watch=watch)
    assert ran.report.path.exists()
    assert not kept, "a server that did not answer for the report is not waited for once more, to keep it"
    start, _, end, read = watch.said
    assert re.search(
        r"does not answer .*\. Training goes on: every point is kept in .*store, and MLflow is asked", start
    )
    assert end.endswith("store: the same command mirrors them when it is back")
    assert "did not take the last points" in end
    assert re.search(r"These numbers are read from .*store itself; `rfscale run` of the sweep mirrors to MLflow", read)
    watch = Remember()
    assert len(study.table(watch).trials) == 4
    assert len(watch.said) == 1
    there = f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", there)
    Mirror(study.sweep, study.store).finish()  # what the next run begins with
    assert len(read_sweep(there, "tiny").trials) == 4


def test_an_error_that_ends_a_launch_leaves_a_report_of_what_is_finished(
    tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, watch = finished_study(tiny, tmp_path), Remember()
    study.store.trial(study.sweep.trials[0].trial_id).result.unlink()

    def larger(*_: Any, **__: Any) -> Outcome:
        raise LaunchError("no node has that")

    monkeypatch.setattr(study_module, "launch", larger)
    with pytest.raises(LaunchError, match="no node has that"):
        study.run(watch=watch)
    (path,) = watch.reports
    assert path.exists()


def test_what_a_folder_does_silently_is_said_by_plan_and_by_the_report(tmp_path: Path) -> None:
    """Fewer held-out images than asked for, captions that are cut, and epochs over the data."""
    images = tmp_path / "images"
    images.mkdir()
    lines = []
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 255 - 20 * i, 0)).save(images / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"number {i} of twelve" if i < 3 else f"number {i}"}))
    (images / "metadata.jsonl").write_text("\n".join(lines))
    definition = {
        "name": "silent",
        "question": "Is it said?",
        "data": {"name": "folder", "path": "images", "resolution": 8},
        "text": {"length": 3},
        "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
        "formulations": ["rf", "eps/linear"],
        "training": {"steps": 6, "batch": 8},
        "evaluation": {"images": 8, "points": 2},
        "samples": {"images": 0},
    }
    study = study_of(definition, tmp_path)
    notes = study.plan().sweep.notes
    assert len(notes) == 3
    for note, said in zip(
        notes,
        (
            r"evaluation asks for 8 held-out images and data `folder` has \d: val/loss is measured on those",
            r"6 steps of 8 images go \d\.\d times over the \d+ training images of data `folder`",
            r"3 of 12 captions of data `folder` have more than text\.length = 3 tokens: their end is cut",
        ),
        strict=True,
    ):
        assert re.fullmatch(said, note)
    for trial in study.sweep.trials:
        train(trial, study.store.trial(trial.trial_id), samples=study.sweep.samples)
    watch = Remember()
    report = study.run(watch=watch).report
    page = html.unescape(report.path.read_text(encoding="utf-8"))
    assert all(f"note: {note}" in watch.said for note in notes)
    assert all(f"Note: {note}." in page and f"Note: {note}." in report.text for note in notes)
