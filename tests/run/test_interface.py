"""The Python interface: sweeps from anything, studies by name, and what a study shows."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from synthetic_sweep import World, world_trials, write_sweep
from typer.testing import CliRunner

import analysis
import rfscale
from analysis.compare.arms import compare
from analysis.table.read import read_sweep
from rfscale import names
from rfscale.cli import app
from rfscale.run import interface
from rfscale.run.figures import Drawing, Figures
from rfscale.run.images import Gallery, Images
from rfscale.run.origin import record
from rfscale.run.planned import Plan
from rfscale.run.results import Results
from rfscale.run.study import Compared, Ran, Study, open_store
from rfscale.spec.sweep import SweepError
from rfscale.store import Store, StoreError
from rfscale.train.loop import train

Mapping = dict[str, Any]
DOCS = Path(__file__).parents[2] / "docs"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A sweep of two arms at one seed, of which one is trained."""
    definition = {
        "name": "shown",
        "question": "What is <shown>?",
        "data": {"name": "shapes", "resolution": 8},
        "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
        "formulations": ["rf", "eps/linear"],
        "training": {"steps": 4, "batch": 8},
        "evaluation": {"images": 8, "points": 2},
        "samples": {"images": 2, "steps": 2},
    }
    store = Store(tmp_path_factory.mktemp("shown") / "store")
    study = rfscale.open(store, definition)
    first = study.sweep.trials[0]
    train(first, store.trial(first.trial_id), samples=study.sweep.samples)
    record(study.sweep, store)
    return study


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """A study whose comparison is that of a known world: four sizes, two formulations."""
    folder = tmp_path_factory.mktemp("world")
    trials = world_trials(World({"rf": 1.0, "eps/linear": 0.8}, noise=0.003))
    table = read_sweep(write_sweep(folder, "world", trials), "world")
    definition = {
        "name": "world",
        "question": "Which?",
        "model": {"depths": [1, 2, 3, 4], "width_per_depth": 24},
        "formulations": ["rf", "eps/linear"],
        "training": {"steps": 600, "batch": 64},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Study,
            "compare",
            lambda self, *, reference=None, by=(): Compared(compare(table, reference=reference), table),
        )
        yield rfscale.open(folder, definition)


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_sweep_is_given_as_a_file_a_mapping_or_loaded(tiny: Mapping, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(tiny))
    sweep = rfscale.load(path)
    assert rfscale.load(str(path)) == rfscale.load(tiny) == rfscale.load(sweep) == sweep
    changed = rfscale.load(tiny, seeds=(0, 1), **{"training.steps": 9})
    assert changed == rfscale.load(path, seeds=[0, 1], training={"steps": 9})
    assert [(trial.seed, trial.training.steps, trial.training.batch) for trial in changed.trials] == [
        (0, 9, 8),
        (1, 9, 8),
    ]
    with pytest.raises(SweepError, match="is loaded already; give the fields where it is loaded"):
        rfscale.load(sweep, seeds=[1])
    with pytest.raises(SweepError, match="unknown key 'sead'; did you mean 'seeds'"):
        rfscale.load(tiny, sead=[1])


def test_plan_and_run_are_calls(tiny: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = rfscale.plan(tiny, str(tmp_path / "none"), seeds=[0, 1])
    assert isinstance(plan, Plan)
    assert list(plan.frame()["status"]) == ["new", "new"]
    assert not (tmp_path / "none").exists()
    asked: list[Any] = []

    def run(self: Study, **given: Any) -> str:
        asked.append((self.sweep.name, self.store.root, given))
        return "ran"

    monkeypatch.setattr(Study, "run", run)
    assert rfscale.run(tiny, tmp_path, quiet=True, name="other") == "ran"
    assert asked == [("other", tmp_path, {"address": None, "race": False, "budget": math.inf, "enough": 0.0})]
    rfscale.run(tiny, address="auto")
    assert asked[1][1:2] == (Path("runs"),)
    assert asked[1][2]["address"] == "auto"
    assert type(asked[1][2]["watch"]).__name__ == "Terminal"


def test_a_study_opens_by_the_name_of_its_sweep(trained: Study, tmp_path: Path) -> None:
    root = str(trained.store.root)
    assert rfscale.open(root, "shown").sweep == trained.sweep
    assert rfscale.open(root, trained.sweep).ids == trained.ids
    with pytest.raises(StoreError, match="has no sweep other; it has shown"):
        rfscale.open(root, "other")
    with pytest.raises(SweepError, match=r"cannot read the sweep file other\.yaml"):
        rfscale.open(root, "other.yaml")
    assert "rfscale.open(" in rfscale.open(root, "shown").command


def test_the_program_of_a_sweep_without_a_file_opens_it(trained: Study) -> None:
    program = trained.command.removeprefix("python -c ").strip("'").replace(".run()", ".ids")
    done = subprocess.run([sys.executable, "-c", f"{program}; print(rfscale.__all__)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- what a study shows -----------------------------------------------------------------------------------------------


def test_tables_are_what_the_files_say(trained: Study) -> None:
    trials, curves = trained.trials, trained.curves
    assert list(trials["status"]) == [names.FINISHED, names.NEW]
    assert list(trials["arm"]) == ["rf", "eps/linear"]
    first = trained.sweep.trials[0]
    points, _ = trained.store.trial(first.trial_id).points()
    assert len(curves) == sum(len(point.metrics) for point in points)
    assert set(curves["trial_id"]) == {first.trial_id}
    (last,) = curves.loc[(curves["key"] == names.VAL_LOSS) & (curves["step"] == 4), "value"]
    assert last == trials["loss"][0] == trained.store.trial(first.trial_id).state().loss
    assert set(curves["flops"]) == {step * first.parameters()["train_flops_per_step"] for step in set(curves["step"])}
    nothing = rfscale.open(trained.store.root / "none", trained.sweep)
    assert (len(nothing.trials), len(nothing.curves)) == (2, 0)


def test_laws_and_predictions_are_those_of_the_joint_law(known: Study) -> None:
    law = known.law("rf")
    assert law.law is not None
    trial = next(t for t in known.sweep.trials if t.model.depth == 4)
    by_depth = known.predict("rf", depth=4, steps=1200)
    n = trial.shape.parameter_count()
    assert by_depth.value == law.law.predict("rf", n, 1200 * 64).value
    assert by_depth.value == known.predict("rf", parameters=n, samples=1200 * 64).value
    assert known.law("eps/linear").arm == "eps/linear"
    for wrong in ({}, {"depth": 4}, {"depth": 4, "parameters": 9, "steps": 9}, {"depth": 4, "steps": 1, "samples": 2}):
        with pytest.raises(SweepError, match="one of each"):
            known.predict("rf", **wrong)  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="has no arm 'rff'; it has rf, eps/linear"):
        known.law("rff")


def test_every_figure_is_drawn_and_saved(known: Study, tmp_path: Path) -> None:
    plot = known.plot
    for name in (name for name, _ in inspect.getmembers(Figures, inspect.isfunction) if not name.startswith("_")):
        if name == "tuned":  # this sweep tunes nothing
            with pytest.raises(SweepError, match="no axis with numbers is tuned"):
                plot.tuned()
            continue
        drawing = getattr(plot, name)()
        assert isinstance(drawing, Drawing)
        assert drawing.axes.has_data(), name
        assert drawing._repr_png_().startswith(PNG)
    assert plot.ranking().save(tmp_path / "r.png").read_bytes().startswith(PNG)
    with pytest.raises(SweepError, match="there is no rung 'd9'; choose one of"):
        plot.curves("d9")


def test_images_are_those_of_the_command(trained: Study, tmp_path: Path) -> None:
    trial, before = trained.sweep.trials[0], torch.get_num_threads()
    images = trained.sample(trial, ["a red circle", "two"], count=2, steps=2, seed=3)
    assert images.pixels.shape == (4, 8, 8, 3)
    assert images.prompts == ("a red circle",) * 2 + ("two",) * 2
    assert torch.get_num_threads() == before
    again = trained.sample(trial.trial_id[:6], ["a red circle", "two"], count=2, steps=2, seed=3)
    assert np.array_equal(again.pixels, images.pixels)
    assert not np.array_equal(trained.sample(trial, ["a red circle", "two"], count=2, steps=2).pixels, images.pixels)
    out = tmp_path / "sample.png"
    arguments = ["sample", trial.trial_id, "--prompt", "a red circle", "--prompt", "two", "--count", "2"]
    done = CliRunner().invoke(
        app, [*arguments, "--steps", "2", "--seed", "3", "--out", str(out), "--store", str(trained.store.root)]
    )
    assert done.exit_code == 0, done.stderr
    assert out.read_bytes() == images._repr_png_() == images.save(tmp_path / "mine.png").read_bytes()
    for wrong, said in (({"count": 0}, "count = 0 is not possible; give"), ({"steps": 0}, "steps = 0"),
                        ({"guidance": -1.0}, "guidance"), ({"seed": -1}, "seed")):  # fmt: skip
        with pytest.raises(SweepError, match=said):
            trained.sample(trial, "a", **wrong)  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="there is no prompt"):
        trained.sample(trial, [])
    with pytest.raises(StoreError, match=r"there is no trial|is not finished"):
        trained.sample(trained.sweep.trials[1], "a")


def test_threads_for_drawing_are_few_and_given_back(trained: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)))
    trained.sample(trained.sweep.trials[0], "a", count=1, steps=1)
    assert asked == [4, 64]


def test_a_model_is_the_trained_network(trained: Study) -> None:
    trial = trained.sweep.trials[0]
    for ema in (True, False):
        model = trained.model(trial, ema=ema)
        assert not model.training
        assert sum(p.numel() for p in model.parameters()) == trial.parameters()["parameters"]
    first, second = (trained.model(trial, ema=ema).state_dict() for ema in (True, False))
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_the_gallery_has_the_samples_of_finished_trials(trained: Study) -> None:
    gallery = trained.gallery()
    assert (gallery.seed, gallery.arms, gallery.rungs) == (0, ("rf",), ("one rung",))
    assert list(gallery.files.values()) == [trained.store.trial(trained.sweep.trials[0].trial_id).samples]
    assert "data:image/png;base64," in gallery._repr_html_()
    with pytest.raises(SweepError, match="has no seed 5; it has 0"):
        trained.gallery(5)
    with pytest.raises(StoreError, match="has sample images"):
        rfscale.open(trained.store.root / "none", trained.sweep).gallery()


def test_what_a_notebook_shows_is_escaped(trained: Study, known: Study) -> None:
    shown = trained._repr_html_()
    assert "What is &lt;shown&gt;?" in shown
    assert "1 finished, 1 new" in shown.replace("1 new, 1 finished", "1 finished, 1 new")
    assert trained.sweep.trials[0].trial_id in trained.plan()._repr_html_()
    assert "rf" in known.compare()._repr_html_()
    for result in (known.laws(), known.law("rf"), known.predict("rf", depth=8, steps=600), known.compare().table):
        assert result._repr_html_().startswith("<")


# --- analysis ---------------------------------------------------------------------------------------------------------


def test_analysis_has_the_same_kind_of_interface(tmp_path: Path) -> None:
    trials = world_trials(World({"rf": 1.0, "eps/linear": 0.8}, depths=(1, 2), noise=0.003))
    uri = write_sweep(tmp_path, "world", trials)
    table = analysis.read_table(tmp_path, "world")
    assert analysis.read_table(uri, "world").trials.equals(table.trials)
    assert analysis.compare_arms(table).best.arm == "rf"
    for name in analysis.__all__:
        assert callable(getattr(analysis, name))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = analysis.fitt  # type: ignore[attr-defined]


# --- documentation ----------------------------------------------------------------------------------------------------


def public(thing: type) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("_")]


def test_every_public_name_is_documented() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    for module in (rfscale, analysis):
        missing = [name for name in module.__all__ if f"`{module.__name__}.{name}" not in page]
        assert not missing, module.__name__
    for thing in (Study, Plan, Ran, Compared, Figures, Drawing, Images, Gallery, Results):
        missing = [name for name in public(thing) if f"`{name}" not in page and f"`.{name}" not in page]
        assert not missing, thing.__name__
    assert open_store(None).root == Path("runs")
    assert set(interface.run.__annotations__) >= {"sweep", "store", "address", "quiet"}
