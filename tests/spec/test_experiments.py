"""Every sweep in experiments/ can be planned, and the index there names it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from two_aspects import draw_folder
from typer.testing import CliRunner

import rfscale
from rfscale.cli import app
from rfscale.run.encoding.spec import read_encoding
from rfscale.spec.autoencoder import load_autoencoders
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import allowing_absent_data, load_sweep, parse_sweep, read_mapping

EXPERIMENTS = REPOSITORY / "experiments"
ENCODINGS = ("paper/encode.yaml",)
LATENTS = sorted((EXPERIMENTS / "latents").glob("*.yaml"))
"""What makes the data of autoencoders.yaml: no sweeps."""
_OTHER = {*LATENTS, *(EXPERIMENTS / name for name in ENCODINGS)}
SWEEPS = sorted(path.relative_to(EXPERIMENTS).as_posix() for path in {*EXPERIMENTS.rglob("*.y*ml")} - _OTHER)


def load(name: str, folder: Path) -> Sweep:
    """The sweep, from a copy beside an image folder where it asks for one that is not there."""
    path = EXPERIMENTS / name
    data = yaml.safe_load(path.read_text(encoding="utf-8")).get("data", {})
    if data.get("name") == "encoded" and "path" in data:  # millions of images: planned without them
        with pytest.raises(
            SweepError, match=r"holds no dataset\.json: give `path` a folder that `rfscale encode` wrote"
        ):
            load_sweep(path)
        with allowing_absent_data():
            return load_sweep(path)
    if data.get("name") in ("emoji", "encoded"):  # a font that may not be installed, latents that are made first
        with allowing_absent_data():
            return load_sweep(path)
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


def test_what_makes_the_latents_can_be_read() -> None:
    (training,) = (path for path in LATENTS if path.stem == "autoencoder")
    made = load_autoencoders(training)
    encodings = {path.stem: read_encoding(path) for path in LATENTS if path != training}
    assert encodings.keys() == {f"c{channels}" for channels in made.channels}
    for name, encoding in encodings.items():
        assert encoding.source == made.data
        assert Path(encoding.autoencoder.path).name == name
    planned = yaml.safe_load((EXPERIMENTS / "autoencoders.yaml").read_text(encoding="utf-8"))
    assert planned["data"]["resolution"] * made.factor == made.data.resolution
    arms = [arm["data"] for arm in planned["arms"].values()]
    assert [(Path(arm["path"]).name, arm["latent_channels"]) for arm in arms] == [(f"c{n}", n) for n in made.channels]


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
    again = load("paper/formulations-cc12m.yaml", tmp_path).trials
    assert [trial.model_copy(update={"data": trials[0].data}) for trial in again] == list(trials)
    (setting,) = {
        (t.batch, t.learning_rate, t.warmup_steps, t.ema_decay, t.ema_every, t.text_dropout)
        for t in (trial.training for trial in trials)
    }
    assert setting == (1024, 1e-4, 1000, 0.99, 100, pytest.approx(0.464**3, abs=2e-4))
    for trial in trials:
        assert trial.model.width == 64 * trial.model.depth
        assert trial.shape.image_tokens == (256 // 8 // 2) ** 2  # of 256 x 256 images: latents of 1/8, patches of 2
        assert (trial.training.precision, trial.seed) == ("bf16", 0)
        assert (trial.text.parts, trial.text.width, trial.text.pooled_width) == ((77, 77), 4096, 2048)  # section 4.2


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_can_be_read(name: str) -> None:
    encoding = read_encoding(EXPERIMENTS / name)
    assert [one.encoder for one in encoding.text] == ["clip", "clip", "t5"]
    assert encoding.source.resolution == 256


# What the paper prints of each study; of the rest every line is marked.
PRINTED = {
    "formulations.yaml": {"batch", "learning_rate", "warmup_steps", "ema_decay", "ema_every", "adam_eps", "precision"},
    "scaling.yaml": {"steps", "batch", "adam_eps", "precision"},
    "captions.yaml": {"depths", "steps", "precision"},
    "autoencoders.yaml": {"precision"},
    "backbones.yaml": {"batch", "learning_rate", "warmup_steps", "ema_decay", "ema_every", "precision"},
}
FOLLOWING = {"beta2", "ema_every"}  # marked with the line before


@pytest.mark.parametrize("name", PRINTED)
def test_the_papers_studies_mark_what_the_paper_does_not_print(name: str, tmp_path: Path) -> None:
    text = (EXPERIMENTS / "paper" / name).read_text(encoding="utf-8")
    sections = yaml.safe_load(text)
    keys = {"depths", "formulations"} | set(sections["training"])
    if name == "formulations.yaml":
        keys -= {"formulations", "text_dropout"}  # all of its 61; what is printed is said beside it
    for key in keys - PRINTED[name] - FOLLOWING:
        (line,) = [line for line in text.splitlines() if re.match(rf" *{key}:", line)]
        assert "unknown in the paper:" in line, key
    for trial in load(f"paper/{name}", tmp_path).trials:  # section 4.2
        assert (trial.text.parts, trial.text.width, trial.text.pooled_width) == ((77, 77), 4096, 2048)
        assert trial.text_dropout == pytest.approx(0.1, abs=1e-3)


def test_the_scaling_study_has_the_papers_sizes(tmp_path: Path) -> None:
    """Parameters of MM-DiT with 16-channel latents and the paper's text, counted by its published code."""
    trials = load("paper/scaling.yaml", tmp_path).trials
    known = {15: 0.496e9, 18: 0.856e9, 21: 1.359e9, 30: 3.962e9, 38: 8.057e9}
    assert {trial.model.depth for trial in trials} == set(known)
    for trial in trials:
        assert trial.parameters()["parameters"] == pytest.approx(known[trial.model.depth], rel=0.002)
        assert (trial.training.steps, trial.training.batch) == (500_000, 4096)
        assert trial.text_dropout == pytest.approx(0.1, abs=1e-3)
        assert not trial.data.known


def test_a_plan_of_absent_data_says_that_ids_are_open(tmp_path: Path) -> None:
    source = str(EXPERIMENTS / "paper" / "formulations.yaml")
    planned = rfscale.plan(source, tmp_path / "runs")
    assert len(planned.trials) == 61
    assert planned.train_flops > 0
    assert planned.state_bytes == 16 * max(one.trial.parameters()["parameters"] for one in planned.trials)
    assert any("are not on this machine" in note and "are open" in note for note in planned.sweep.notes)
    with pytest.raises(SweepError, match=r"holds no dataset\.json"):
        rfscale.run(source, tmp_path / "runs")
    found = CliRunner().invoke(app, ["plan", source, "--store", str(tmp_path / "runs"), "--json"])
    rows = json.loads(found.stdout)["trials"]
    assert {row["trial_id"] for row in rows} == {"open"}
    assert {row["status"] for row in rows} == {"new"}
    found = CliRunner().invoke(app, ["run", source, "--store", str(tmp_path / "runs")])
    assert found.exit_code == 2
    assert not (tmp_path / "runs").exists()


def test_two_absent_data_sets_are_two(tmp_path: Path) -> None:
    raw = read_mapping(EXPERIMENTS / "folder.yaml")
    raw["data"] = [{**raw["data"], "path": name, "buckets": [[24, 40], [40, 24]]} for name in ("one", "two")]
    with allowing_absent_data():
        sweep = parse_sweep(raw, "two.yaml", tmp_path)
    assert len({trial.trial_id for trial in sweep.trials}) == len(sweep.trials) == 24
    assert sweep.duplicates == 0
    first = sweep.trials[0]
    assert sum(first.bucket_steps) == first.training.steps
    assert "equal share of the images" in first.data.check()[0]
