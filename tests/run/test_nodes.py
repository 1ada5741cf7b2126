"""The short form of `benchmarks/nodes.py`, and that its measure of what is lost sees what is."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.chaos import SWEEP, Place
from benchmarks.nodes import KINDS, TERM, Event, Found, Loss, Nodes, how_far, lost, run, sentences
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import TrialFolder, write_json


@pytest.mark.slow
@pytest.mark.parametrize("objects", [False, True])
def test_a_lost_node_and_a_lost_head_cost_no_more_than_the_time_between_checkpoints(
    objects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RFSCALE_CACHE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "")  # set by the benchmark, and put back after the test
    folder = Path(tempfile.mkdtemp(prefix="n-"))  # Ray's sockets have room for a short path
    found = run(folder, KINDS, steps=1000, patience=900.0, objects=objects)
    assert found.tally.wrong == [], f"kept in {folder}"
    assert {event.kind for event in found.events} == set(KINDS)
    assert found.losses
    assert found.tally.values > 0
    shutil.rmtree(folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(steps=300))
    made = Place(tmp_path / "0")
    made.store.check_writable()
    return made


def folder_of(place: Place, number: int = 0) -> TrialFolder:
    trials = load_sweep(place.folder.parent / "sweep.yaml").trials
    folder = place.store.trial(trials[number].trial_id)
    folder.path.mkdir(exist_ok=True)
    return folder


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def test_how_far_a_trial_is_follows_from_its_last_points_and_the_time_since(place: Place, tmp_path: Path) -> None:
    folder, now = folder_of(place), time.time()
    points = [{"step": 3 * k, "time": int(1000 * (now - 61.5 + 6 * k)), "metrics": {"x": 1.0}} for k in range(1, 11)]
    folder.journal.write_text("".join(json.dumps(point) + "\n" for point in points))
    done, pace = how_far(Nodes(tmp_path, "", {}, []), place)
    trial = folder.path.name
    assert pace[trial] == pytest.approx(2.0, abs=0.01)
    assert done[trial] == pytest.approx(30.75, abs=0.3)  # 1.5 s after step 30


def test_what_an_attempt_did_again_is_charged_to_the_event_before_it(place: Place) -> None:
    at = float(int(time.time()) - 100)
    folder = folder_of(place)
    attempts = [
        {"started": stamp(at - 50)},
        {"started": stamp(at + 10), "step": 40},
        {"started": stamp(at + 90), "step": 90},
    ]
    write_json(folder.record, {"attempts": attempts})
    trial = folder.path.name
    events = [
        Event("node", at, 5, {trial: 50.0}, {trial: 0.1}),
        Event(TERM, at + 80, 5, {trial: 89.0}, {trial: 0.2}),
    ]
    losses = list(lost(events, place, place.folder.parent / "sweep.yaml"))
    assert losses == [Loss("node", 10.0, pytest.approx(1.0), 10.0), Loss(TERM, 0.0, 0.0, 10.0)]
    found = Found(events, losses)
    found.tally.kills.update(event.kind for event in events)
    said = list(sentences(found))
    assert said[0].startswith("node: 1 times, 1 trials went on 10 to 10 s later; work lost 1.00 s in the mean")
