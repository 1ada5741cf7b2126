"""Figures of a second process: the same report, byte by byte, also where that process dies; and none is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_sweep import World, world_trials, write_sweep

from analysis.report import beside
from analysis.report.beside import Painter, painting
from analysis.report.page import write_report


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    world = World({"rf": 1.0, "eps/linear": 0.8}, (1, 2, 3), (0, 1), noise=0.003)
    return write_sweep(tmp_path_factory.mktemp("beside"), "seen", world_trials(world))


@pytest.fixture(scope="module")
def alone(uri: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a report that one process made."""
    return files(write_report(uri, "seen", tmp_path_factory.mktemp("alone")).path)


def files(page: Path) -> dict[str, bytes]:
    """Every file but the page, which says when it was written."""
    return {path.name: path.read_bytes() for path in page.parent.iterdir() if path != page}


def test_the_files_are_those_of_one_process(uri: str, alone: dict[str, bytes], tmp_path: Path) -> None:
    painter = Painter()
    try:
        made = files(write_report(uri, "seen", tmp_path, painter=painter).path)
        assert painter._process.wait(0) == 0, "it drew"
    finally:
        painter.stop()
    assert made == alone
    assert {"trend.svg", "learning_curves.pdf", "loss_against_compute.png"} <= made.keys()


def test_a_process_that_dies_costs_no_figure(
    uri: str, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "_CHILD", "import sys; sys.exit('no memory')")
    painter = Painter()
    try:
        assert files(write_report(uri, "seen", tmp_path, painter=painter).path) == alone
    finally:
        painter.stop()


def test_no_process_is_left_behind_and_one_core_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        with painting() as painter:
            assert painter is not None
            started.append(painter)
            raise RuntimeError("MLflow is away")

    started: list[Painter] = []
    monkeypatch.setattr(beside.os, "sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(RuntimeError):
        fails()
    assert started[0]._process.poll() is not None
    monkeypatch.setattr(beside.os, "sched_getaffinity", lambda pid: {0})
    with painting() as painter:
        assert painter is None
