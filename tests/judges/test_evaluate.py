"""Evaluation of trained trials: what is asked, what is drawn, that nothing is scored twice, whatever is killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import environment_in

from rfscale import names
from rfscale.data import load
from rfscale.judges import JudgeError, load_judge
from rfscale.judges.evaluate import Drawer, check_same_judge, evaluate, forget, missing
from rfscale.judges.units import Unit, units
from rfscale.spec.sweep import PAPER_SETTINGS, Quality, Setting, Sweep
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import ClaimedError, Store, StoreError, TrialFolder, read_json, write_json
from rfscale.train.loop import train
from rfscale.train.weights import load_model

Mapping = dict[str, Any]
Command = Callable[..., subprocess.CompletedProcess[str]]
WriteSweep = Callable[[Mapping | str], Path]
# The judge of the glyphs world needs no training of its own.
WORDS: Mapping = {
    "name": "words",
    "question": "Does it spell?",
    "data": {"name": "glyphs"},
    "text": {"length": 8},
    "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf"],
    "training": {"steps": 20, "batch": 4, "learning_rate": 2e-3},
    "evaluation": {"images": 8, "points": 3},
    "samples": {"images": 0},
    "quality": {
        "judges": [{"name": "glyphs", "images": 10}],
        "settings": [{"steps": 2, "guidance": 1}, {"steps": 3, "guidance": 2.5}],
        "checkpoints": "all",
    },
}


def words(**changes: Any) -> Sweep:
    return parse_sweep({**WORDS, **changes})


def quality_of(sweep: Sweep) -> Quality:
    assert sweep.quality is not None
    return sweep.quality


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Sweep, Trial, Store]:
    """A store with one finished trial that kept its weights along the way."""
    sweep, store = words(), Store(tmp_path / "store")
    (trial,) = sweep.trials
    train(trial, store.trial(trial.trial_id), sweep.resources, sweep.samples, keep_weights=True)
    return sweep, trial, store


def scores(folder: TrialFolder) -> list[tuple[int, str, float]]:
    """(step, key, value) of every score in the journal, in the order of writing."""
    points, _ = folder.points()
    return [(p.step, k, v) for p in points for k, v in p.metrics.items() if names.parse_quality(k)]


def test_the_paper_s_settings_are_the_default() -> None:
    assert [(s.steps, s.guidance) for s in PAPER_SETTINGS] == [(50, 1), (50, 2.5), (50, 5), (5, 5), (10, 5), (25, 5)]
    assert Quality().weights == ("ema", "raw")


def test_units_are_the_last_step_with_all_weights_and_earlier_ones_with_ema() -> None:
    (trial,) = words().trials
    asked = Counter((unit.step, unit.weights) for unit in units(trial, quality_of(words())))
    last, first, middle = 20, round(20 / 16), round((20 * 20 / 16) ** 0.5)
    assert asked == {(last, "ema"): 2, (last, "raw"): 2, (middle, "ema"): 2, (first, "ema"): 2}
    only_last = words(quality={**WORDS["quality"], "checkpoints": "last"})
    assert {unit.step for unit in units(trial, quality_of(only_last))} == {last}


def test_every_unit_is_scored_once_with_its_error_ceiling_and_path_length(trained: tuple[Sweep, Trial, Store]) -> None:
    sweep, trial, store = trained
    folder, quality, seen = store.trial(trial.trial_id), quality_of(sweep), list[Unit]()
    evaluate(trial, store, quality, progress=seen.append)
    assert seen == units(trial, quality)
    assert missing(trial, folder, quality) == []
    written = scores(folder)
    assert max(Counter((step, key) for step, key, _ in written).values()) == 1
    keys = {key for step, key, _ in written if step == trial.training.steps}
    for setting in ("s2-g1-ema", "s2-g1-raw", "s3-g2.5-ema", "s3-g2.5-raw"):
        for metric in ("spelling", "spelling_se", "letters", "letters_se"):
            assert names.quality_key(metric, "glyphs-10", setting) in keys
        assert names.quality_key("path_length", "glyphs-10", setting) in keys
        assert folder.sample_grid(trial.training.steps, "glyphs-10", setting).exists()
    assert names.quality_key("spelling_ceiling", "glyphs-10", "true") in keys
    assert {step for step, _, _ in written} == set(trial.evaluation.steps(trial.training.steps))
    length = {k: v for step, k, v in written if step == trial.training.steps and k.split("/")[1] == "path_length"}
    drawn_by = [length[names.quality_key("path_length", "glyphs-10", f"s2-g1-{kind}")] for kind in ("ema", "raw")]
    assert drawn_by[0] != drawn_by[1], "two sets of weights draw two sets of images"
    drawer = Drawer(trial, load_model(trial, folder), Setting(steps=2, guidance=1.0))
    drawer(load(trial.data).validation(10).captions)
    assert drawn_by[0] == pytest.approx(float(torch.cat(drawer.lengths).mean()))
    before = folder.journal.read_bytes()
    evaluate(trial, store, quality, progress=seen.append)
    assert (folder.journal.read_bytes(), len(seen)) == (before, len(units(trial, quality)))


def test_a_setting_added_later_is_all_that_is_scored(trained: tuple[Sweep, Trial, Store]) -> None:
    sweep, trial, store = trained
    evaluate(trial, store, quality_of(sweep))
    more = {**WORDS["quality"], "settings": [*WORDS["quality"]["settings"], {"steps": 4}]}
    seen: list[Unit] = []
    evaluate(trial, store, quality_of(words(quality=more)), progress=seen.append)
    assert {unit.setting for unit in seen} == {Setting(steps=4)}
    assert len(seen) == 4


def test_forgotten_scores_are_given_again_by_another_judge_and_the_later_count(
    trained: tuple[Sweep, Trial, Store],
) -> None:
    sweep, trial, store = trained
    folder, quality = store.trial(trial.trial_id), quality_of(sweep)
    evaluate(trial, store, quality)
    judge = load_judge(quality.judges[0], trial.data, store.judges)
    write_json(folder.judges, {judge.label: {**judge.identity, "judge": "another"}})
    before, first = folder.journal.read_bytes(), len(scores(folder))
    forget(trial, folder, quality)
    assert missing(trial, folder, quality) == units(trial, quality)
    check_same_judge(judge, [trial], store)

    kept = folder.kept_weights(trial.evaluation.steps(trial.training.steps)[1])
    kept.rename(kept.with_suffix(".away"))
    with pytest.raises(StoreError):  # stopped on its way: it goes on with what is left, and not from the start
        evaluate(trial, store, quality)
    kept.with_suffix(".away").rename(kept)
    seen: list[Unit] = []
    evaluate(trial, store, quality, progress=seen.append)
    assert {unit.step for unit in seen} == {trial.evaluation.steps(trial.training.steps)[1]}
    assert missing(trial, folder, quality) == []
    assert folder.journal.read_bytes().startswith(before), "the journal is never rewritten"
    assert len(scores(folder)) == 2 * first
    assert read_json(folder.judges) == {judge.label: judge.identity}


def test_images_depend_on_their_place_and_not_on_the_batch(trained: tuple[Sweep, Trial, Store]) -> None:
    _, trial, store = trained
    network = load_model(trial, store.trial(trial.trial_id))
    captions = [f"the word {letter} in red" for letter in "ABCDEFG"]
    whole, parts = (Drawer(trial, network, Setting(steps=3, guidance=2.0), batch=b) for b in (7, 3))
    drawn = whole(captions)
    assert drawn.shape == (7, 3, 16, 16)
    np.testing.assert_allclose(drawn, parts(captions), atol=1e-5)
    np.testing.assert_allclose(torch.cat(whole.lengths), torch.cat(parts.lengths), rtol=1e-5)
    other_seed = Drawer(trial.model_copy(update={"seed": 7}), network, Setting(steps=3, guidance=2.0), batch=7)
    np.testing.assert_array_equal(drawn, other_seed(captions), "all trials draw a prompt from the same noise")
    same = whole(["the word A in red"] * 2)
    assert np.abs(same[0] - same[1]).max() > 0.1, "two places must not share their noise"
    np.testing.assert_allclose(same[0], drawn[0], atol=1e-5)


def test_weights_along_the_way_are_those_of_a_shorter_training_and_keeping_them_changes_nothing(
    trained: tuple[Sweep, Trial, Store], tmp_path: Path
) -> None:
    _, trial, store = trained
    other = TrialFolder(tmp_path / "other")
    train(trial, other)
    assert other.weights().read_bytes() == store.trial(trial.trial_id).weights().read_bytes()
    middle = trial.evaluation.steps(trial.training.steps)[1]
    assert not other.kept_weights(middle).exists()
    short = trial.model_copy(update={"training": trial.training.model_copy(update={"steps": middle})})
    train(short, TrialFolder(tmp_path / "short"))
    folder = store.trial(trial.trial_id)
    kept = load_model(trial, folder, path=folder.kept_weights(middle)).state_dict()
    ended = load_model(short, TrialFolder(tmp_path / "short")).state_dict()
    assert all(torch.equal(kept[name], ended[name]) for name in kept)


def test_what_cannot_be_judged_is_told_in_one_sentence(trained: tuple[Sweep, Trial, Store], tmp_path: Path) -> None:
    sweep, trial, store = trained
    folder, quality = store.trial(trial.trial_id), quality_of(sweep)
    with pytest.raises(
        StoreError, match=r"is not finished \(new\), so .* a folder that every node of the cluster sees"
    ):
        evaluate(trial, Store(tmp_path / "empty"), quality)
    with folder.claim(), pytest.raises(ClaimedError, match="judged by another process"):
        evaluate(trial, store, quality)


def test_a_unit_that_fails_stops_no_other(trained: tuple[Sweep, Trial, Store]) -> None:
    sweep, trial, store = trained
    folder, quality = store.trial(trial.trial_id), quality_of(sweep)
    kept = folder.kept_weights(trial.evaluation.steps(trial.training.steps)[1])
    kept.rename(kept.with_suffix(".away"))
    earliest = folder.kept_weights(trial.evaluation.steps(trial.training.steps)[0])
    earliest.rename(earliest.with_suffix(".away"))
    with pytest.raises(StoreError, match=r"kept no weights of step 5: .*`checkpoints: all`"):  # the first problem met
        evaluate(trial, store, quality)
    early = trial.evaluation.steps(trial.training.steps)[:2]
    assert {unit.step for unit in missing(trial, folder, quality)} == set(early)
    for path in (kept, earliest):
        path.with_suffix(".away").rename(path)
    evaluate(trial, store, quality)
    assert missing(trial, folder, quality) == []


def test_scores_of_two_judges_do_not_meet_under_one_label(trained: tuple[Sweep, Trial, Store]) -> None:
    sweep, trial, store = trained
    folder, quality = store.trial(trial.trial_id), quality_of(sweep)
    judge = load_judge(quality.judges[0], trial.data, store.judges)
    another = {judge.label: {**judge.identity, "judge": "another"}}
    folder.quality.mkdir()
    write_json(folder.judges, another)  # left by an evaluation that was stopped before its first score: no matter
    check_same_judge(judge, [trial], store)
    evaluate(trial, store, quality)
    assert read_json(folder.judges) == {judge.label: judge.identity}
    write_json(folder.judges, another)
    with pytest.raises(JudgeError, match=r"scores of another judge glyphs-10 \(it differs in judge\)"):
        check_same_judge(judge, [trial], store)
    more = {**WORDS["quality"], "settings": [{"steps": 4}]}
    with pytest.raises(JudgeError, match="scores of another judge glyphs-10"):
        evaluate(trial, store, quality_of(words(quality=more)))
    assert read_json(folder.judges) == another


KILLED = """
import sys, time
from pathlib import Path
from rfscale.judges.evaluate import evaluate
from rfscale.store import Store
sys.path[:0] = [{tests!r}, {tests!r} + "/.."]
from test_evaluate import quality_of, words

def scored(unit):
    print("scored", flush=True)
    time.sleep(0.2)

evaluate(words().trials[0], Store(Path({store!r})), quality_of(words()), progress=scored)
"""


@pytest.mark.slow
def test_an_evaluation_killed_twice_ends_as_one_left_alone(trained: tuple[Sweep, Trial, Store], tmp_path: Path) -> None:
    sweep, trial, store = trained
    folder = store.trial(trial.trial_id)
    before = folder.journal.read_bytes()
    evaluate(trial, store, quality_of(sweep))
    alone = scores(folder)
    folder.journal.write_bytes(before)
    script = KILLED.format(tests=str(Path(__file__).parent), store=str(store.root))
    for scored in (1, 3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment_in(tmp_path))
        assert process.stdout is not None
        for _ in range(scored):
            assert process.stdout.readline() == b"scored\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if scored == 1:  # as if it had been cut off in the middle of a line, too
            with open(folder.journal, "ab") as file:
                file.write(b'{"time": 1, "step": 20, "metr')
    left = len(missing(trial, folder, quality_of(sweep)))
    assert 0 < left < len(units(trial, quality_of(sweep))) - 2
    seen: list[Unit] = []
    evaluate(trial, store, quality_of(sweep), progress=seen.append)
    assert len(seen) == left
    assert scores(folder) == alone


# --- the command, on real Ray and MLflow ------------------------------------------------------------------------------


def metrics_in_mlflow(store: Path) -> list[tuple[str, str, int, float]]:
    """Every logged point of a score: (run, key, step, value)."""
    with sqlite3.connect(store / "mlflow.db") as database:
        rows = database.execute("select run_uuid, key, step, value from metrics where key like 'quality/%'").fetchall()
    return [tuple(row) for row in rows]


@pytest.mark.slow
def test_a_sweep_with_quality_is_judged_resumed_and_logged_once(
    rfscale: Command,
    write_sweep: WriteSweep,
    tmp_path: Path,
) -> None:
    definition = {**WORDS, "formulations": ["rf", "eps/linear"], "quality": {**WORDS["quality"], "checkpoints": "last"}}
    path = write_sweep(definition)
    store = tmp_path / "runs"
    sweep = parse_sweep(definition)
    ran = rfscale("run", path, RAY_TMPDIR="/tmp")
    assert ran.returncode == 0, ran.stderr
    assert "2 trained, 8 of 8 evaluations to do" in ran.stdout
    logged = metrics_in_mlflow(store)
    counts = Counter((run, key, step) for run, key, step, _ in logged)
    assert set(counts.values()) == {1}
    for trial in sweep.trials:
        for step, key, value in scores(Store(store).trial(trial.trial_id)):
            assert any((k, s, v) == (key, step, value) for _, k, s, v in logged)
    grids = list((store / "artifacts").rglob("quality/*.png"))
    assert len(grids) == 8
    assert len(list((store / "artifacts").rglob("quality/judges.json"))) == 2

    again = rfscale("evaluate", path, RAY_TMPDIR="/tmp")
    assert again.returncode == 0, again.stderr
    assert "2 trained, 0 of 8 evaluations to do" in again.stdout
    assert metrics_in_mlflow(store) == logged

    definition["quality"] = {**definition["quality"], "settings": [{"steps": 5}], "weights": "ema"}
    with ThreadPoolExecutor(1) as pool:
        with Store(store).trial(sweep.trials[0].trial_id).claim():  # as a second launcher that judges it
            running = pool.submit(rfscale, "evaluate", write_sweep(definition), RAY_TMPDIR="/tmp")
            time.sleep(20)
            assert not running.done(), "it waits for the trial that another process holds"
        more = running.result()
    assert more.returncode == 0, more.stderr
    added = [row for row in metrics_in_mlflow(store) if "/s5-g1-ema" in row[1]]
    assert {row[1].split("/")[1] for row in added} >= {"spelling", "letters", "path_length"}
    assert len(metrics_in_mlflow(store)) == len(logged) + len(added)


def test_bad_requests_end_in_one_sentence_and_write_nothing(
    rfscale: Command,
    write_sweep: WriteSweep,
    tmp_path: Path,
) -> None:
    nobody = rfscale("evaluate", write_sweep(WORDS))
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert "no trial of sweep words in runs is finished; `rfscale run" in nobody.stderr
    digits = {**WORDS, "data": {"name": "digits"}, "quality": {}}
    for command in ("run", "evaluate"):
        refused = rfscale(command, write_sweep(digits))
        assert refused.returncode == 2
        assert refused.stderr == (
            "rfscale: data `digits` has no judge of its own; name one, such as `quality: {judges: [clip]}`\n"
        )
    mixed = {**WORDS, "grids": [{}, {"data": {"name": "glyphs", "max_letters": 2}}]}
    refused = rfscale("run", write_sweep(mixed))
    assert refused.returncode == 2
    assert "has 2 data sets, and scores of images are comparable within one alone" in refused.stderr
    missing_file = {**WORDS, "quality": {"judges": [{"name": "clip", "model": "./nowhere"}]}}
    refused = rfscale("run", write_sweep(missing_file))
    assert refused.returncode == 2
    assert "there is no folder" in refused.stderr
    assert "nowhere (model); correct the path" in refused.stderr
    assert not list((tmp_path / "runs" / "trials").glob("*")) if (tmp_path / "runs").exists() else True
