"""Faults put into trials of one sweep, all at once and for real: each is in its class, and the others finish."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_nodes import Node, beside, nodes
from test_launch import SMALL, history, small
from test_state import cut, flip

from rfscale import names
from rfscale.failures import (
    DAMAGED_CHECKPOINT,
    DAMAGED_JOURNAL,
    DIVERGED,
    FULL_DISK,
    HOST_MEMORY,
    READ_ONLY_DISK,
)
from rfscale.run.launch import launch
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.trial import Trial
from rfscale.store import Store, TrialFolder, read_json
from rfscale.train import loop as loop_module
from rfscale.train.loop import train

pytestmark = pytest.mark.slow
WIDE = {**SMALL["model"], "depths": [1], "width_per_depth": 64}  # a megabyte of weights
TMPFS_KB = 256


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    place.check_writable()
    return place


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system of its own, in memory."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def half(trial: Trial, folder: TrialFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a part of it, with a checkpoint of every step."""
    step = loop_module.take_step

    def dying(state: Any, *rest: Any) -> None:
        if state.at.step == 4:
            raise KeyboardInterrupt
        step(state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "take_step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(trial, folder, Resources(checkpoint_seconds=1e-9), Samples(images=0))


def test_each_fault_is_in_its_class_and_the_others_finish(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = small(
        model=WIDE, formulations=["rf"], seeds=list(range(7)),
        grids=[{}, {"seeds": [0], "training": {"learning_rate": 1000}}],
    )  # fmt: skip
    *trials, diverging = sweep.trials
    full, read_only, truncated, flipped, journal, *healthy = trials
    folders = {trial.trial_id: store.trial(trial.trial_id) for trial in sweep.trials}
    for trial in (truncated, flipped, journal):
        half(trial, folders[trial.trial_id], monkeypatch)
    newest = {trial.trial_id: folders[trial.trial_id].checkpoints()[0] for trial in (truncated, flipped)}
    cut(newest[truncated.trial_id] / "model.safetensors")
    flip(newest[flipped.trial_id] / "ema.safetensors")
    lines = folders[journal.trial_id].journal
    lines.write_text("?" + lines.read_text()[1:])
    with ExitStack() as stack:
        stack.enter_context(mounted(folders[full.trial_id].path, f"size={TMPFS_KB}k"))
        stack.enter_context(mounted(folders[read_only.trial_id].path, "ro"))
        outcome = launch(sweep, store)
        states = outcome.unfinished
    mended = (truncated, flipped, journal)
    assert set(outcome.finished) == {trial.trial_id for trial in (*mended, *healthy)}
    assert {trial_id: state.failure for trial_id, state in states.items()} == {
        full.trial_id: FULL_DISK, read_only.trial_id: READ_ONLY_DISK, diverging.trial_id: DIVERGED,
    }  # fmt: skip
    assert "nothing can be written at" in states[full.trial_id].reason
    assert "No space left on device" in states[full.trial_id].reason
    assert "Read-only file system" in states[read_only.trial_id].reason
    assert states[diverging.trial_id].reason.startswith("the training loss is")
    for trial, failure in zip(mended, (DAMAGED_CHECKPOINT, DAMAGED_CHECKPOINT, DAMAGED_JOURNAL), strict=True):
        folder, alone = folders[trial.trial_id], TrialFolder(tmp_path / "alone" / trial.trial_id)
        assert (read_json(folder.record) or {})["attempts"][-1]["mended"] == [failure]
        train(trial, alone, samples=Samples(images=0))
        assert history(folder) == history(alone)
    assert sorted(launch(sweep, store).finished) == sorted((full.trial_id, read_only.trial_id)), "with room again"


HUNGRY = """
    import importlib.util, sys, time
    class Hungry:
        # Takes memory until it is ended, at any step with more than two samples at once.
        def find_spec(self, name, path=None, target=None):
            if name != "rfscale.train.loop":
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                step = module.take_step
                def taking(state, batch, recipe, sums):
                    held = []
                    while (recipe.placement.microbatch or len(batch)) > 2:
                        held.append(bytearray(b"1") * (20 << 20))
                        time.sleep(0.01)
                    step(state, batch, recipe, sums)
                module.take_step = taking
            spec.loader.exec_module = exec_module
            return spec
    sys.meta_path.insert(0, Hungry())
    """


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[str]:
    """A cluster whose memory monitor ends a process when the machine takes 4 GB more than now: more than a test beside
    this one takes meanwhile, for which an innocent process would be ended."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(HUNGRY))
    memory = psutil.virtual_memory()
    threshold = 1 - (memory.available - min(4e9, memory.available / 2)) / memory.total
    monitor = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "50"}
    with nodes(tmp_path, Node(environment={**beside(tmp_path / "site"), **monitor})) as address:
        yield address


def test_a_worker_that_ray_ends_for_memory_is_tried_with_half_the_microbatch(
    store: Store, narrow: str, tmp_path: Path
) -> None:
    sweep = small(model={**SMALL["model"], "depths": [1]}, resources={"retries": 0})
    outcome = launch(sweep, store, address=narrow)
    assert sorted(outcome.finished) == sorted(trial.trial_id for trial in sweep.trials), outcome
    attempts = [(read_json(store.trial(t.trial_id).record) or {})["attempts"] for t in sweep.trials]
    by_sizes = sorted([attempt["microbatch"] for attempt in of] for of in attempts)
    assert by_sizes == [[2], [4, 2]], "the second trial of the shape begins with what fits"
    (first,) = [of for of in attempts if len(of) == 2]
    assert first[0]["failure"] == HOST_MEMORY
    assert "its machine ran out of memory" in first[0]["reason"]
    for trial in sweep.trials:
        alone = TrialFolder(tmp_path / "alone" / trial.trial_id)
        assert train(trial, alone, samples=Samples(images=0)) == names.FINISHED
        both = zip(history(store.trial(trial.trial_id)), history(alone), strict=True)
        assert all(a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=1e-3, abs=1e-5) for a, b in both)
