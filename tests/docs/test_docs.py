"""The documentation says what the code does: commands, keys, files and the sweep in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from rfscale.backbones.mmdit.spec import MMDiTSpec
from rfscale.cli import app
from rfscale.data import DigitsData, FolderData, GlyphsData, ShapesData
from rfscale.data.emoji import EmojiData
from rfscale.data.hf import HfData
from rfscale.data.parquet import ParquetData
from rfscale.data.text import TextSpec
from rfscale.data.webdataset import WebDatasetData
from rfscale.judges import ClipJudge, GenEvalJudge, GlyphsJudge, InceptionJudge, ShapesJudge
from rfscale.spec.sweep import Quality, Resources, Samples, Setting, Training
from rfscale.spec.trial import Evaluation

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SWEEPS = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    return sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", commands())
def test_every_command_stands_in_the_readme(command: str) -> None:
    assert f"`rfscale {command}" in README


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"`rfscale ([a-z]+)", README))
    assert named <= set(commands())


@pytest.mark.parametrize(
    "model",
    [
        MMDiTSpec.ladder(),
        Training,
        Evaluation,
        Samples,
        Resources,
        TextSpec,
        ShapesData,
        GlyphsData,
        DigitsData,
        FolderData,
        WebDatasetData,
        ParquetData,
        HfData,
        EmojiData,
    ],
)
def test_every_key_of_a_sweep_is_documented(model: type[BaseModel]) -> None:
    missing = [field for field in model.model_fields if f"`{field}`" not in SWEEPS]
    assert not missing


@pytest.mark.parametrize("model", [Quality, Setting, ShapesJudge, GlyphsJudge, ClipJudge, InceptionJudge, GenEvalJudge])
def test_every_key_of_the_quality_section_is_documented(model: type[BaseModel]) -> None:
    section = SWEEPS.split("## `quality`")[1].split("## `resources`")[0]
    missing = [field for field in model.model_fields if f"`{field}`" not in section and field != "plugins"]
    assert not missing


def test_the_sweep_of_the_readme_is_the_quickstart() -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert yaml.safe_load(block[1]) == yaml.safe_load((ROOT / "experiments" / "quickstart.yaml").read_text())


def test_every_file_named_in_the_readme_exists() -> None:
    named = re.findall(r"`((?:rfscale|analysis|benchmarks|cluster|experiments|docs|tests)/[\w./-]+)`", README)
    named += re.findall(r"\]\(([\w./-]+)\)", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
