"""The ids of every trial of every sweep file are what they were: a trial that was trained is found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_experiments import SWEEPS, load

import rfscale.data.listing

GOLDEN = Path(__file__).with_name("golden_ids.json")
"""file -> ids in the order of the plan, written before the fields of a trial were nested."""


def ids_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of a sweep file; those on an image folder are for one made-up content, whatever Pillow writes."""
    monkeypatch.setattr(rfscale.data.listing, "fingerprint", lambda folder, columns: "0" * 64)
    return [trial.trial_id for trial in load(name, folder).trials]


def golden() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", golden())
def test_no_id_has_changed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids_of(name, tmp_path, monkeypatch) == golden()[name]


def test_every_kind_of_sweep_is_pinned() -> None:
    assert {"quickstart.yaml", "samplers.yaml", "glyphs.yaml", "folder.yaml"} <= set(SWEEPS) & golden().keys()
