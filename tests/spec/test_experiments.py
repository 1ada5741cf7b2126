"""Every sweep in experiments/ can be planned, and the index there names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from two_aspects import draw_folder

from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import load_sweep

EXPERIMENTS = REPOSITORY / "experiments"
SWEEPS = sorted(path.relative_to(EXPERIMENTS).as_posix() for path in EXPERIMENTS.rglob("*.y*ml"))


def load(name: str, folder: Path) -> Sweep:
    """The sweep, from a copy beside an image folder where it asks for one that is not there."""
    path = EXPERIMENTS / name
    data = yaml.safe_load(path.read_text(encoding="utf-8")).get("data", {})
    if data.get("name") != "folder" or (path.parent / data["path"]).exists():
        return load_sweep(path)
    with pytest.raises(SweepError, match=r"the data folder .* does not exist: give `path` an existing folder"):
        load_sweep(path)
    draw_folder(folder / data["path"], 40)
    copy = folder / path.name
    copy.write_bytes(path.read_bytes())
    return load_sweep(copy)


def test_there_are_sweeps() -> None:
    assert {"quickstart.yaml", "digits.yaml", "folder.yaml", "smoke.yaml"} <= set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_can_be_planned(name: str, tmp_path: Path) -> None:
    sweep = load(name, tmp_path)
    assert sweep.trials
    assert len({trial.trial_id for trial in sweep.trials}) == len(sweep.trials)
    assert sweep.duplicates == 0, "a grid says the same trial twice"
    for trial in sweep.trials:
        assert trial.parameters()["train_flops"]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_named_after_its_file(name: str, tmp_path: Path) -> None:
    assert load(name, tmp_path).name == Path(name).stem


@pytest.mark.parametrize("name", SWEEPS)
def test_the_index_names_every_sweep(name: str) -> None:
    assert f"({name})" in (EXPERIMENTS / "README.md").read_text(encoding="utf-8")


def test_the_quickstart_asks_its_question_on_four_sizes_and_three_formulations(tmp_path: Path) -> None:
    trials = load("quickstart.yaml", tmp_path).trials
    assert len({trial.model.depth for trial in trials}) == 4
    assert {trial.formulation for trial in trials} == {"rf", "rf/lognorm(0.00,1.00)", "eps/linear"}


def test_the_papers_study_has_its_61_formulations_and_the_setting_that_it_prints(tmp_path: Path) -> None:
    """Section 5.1 and appendix B.3."""
    trials = load("paper/formulations.yaml", tmp_path).trials
    assert len({trial.formulation for trial in trials}) == len(trials) == 61
    (setting,) = {
        (t.batch, t.learning_rate, t.warmup_steps, t.ema_decay, t.ema_every, t.text_dropout)
        for t in (trial.training for trial in trials)
    }
    assert setting == (1024, 1e-4, 1000, 0.99, 100, pytest.approx(0.464**3, abs=2e-4))
    for trial in trials:
        assert trial.model.width == 64 * trial.model.depth
        assert trial.shape.image_tokens == (256 // 8 // 2) ** 2  # of 256 x 256 images: latents of 1/8, patches of 2
        assert (trial.training.precision, trial.seed) == ("bf16", 0)


def test_the_papers_study_marks_what_the_paper_does_not_print() -> None:
    text = (EXPERIMENTS / "paper" / "formulations.yaml").read_text(encoding="utf-8")
    chosen = [line for line in text.splitlines() if re.match(r"  (depths|steps|beta1|weight_decay|grad_clip):", line)]
    assert len(chosen) == 5
    assert [line for line in chosen if "# unknown in the paper:" not in line] == []
