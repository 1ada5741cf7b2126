"""`exclude`, `include` and `retry`: on record with who, when and why, and heeded by every table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from rfscale import names
from rfscale.cli import app
from rfscale.run.study import Study
from rfscale.run.work import to_train
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import DamagedError, Store, write_json
from rfscale.train.loop import train

Mapping = dict[str, Any]


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def study(tiny: Mapping, tmp_path: Path) -> Study:
    """Two trained and mirrored trials."""
    tiny["training"]["steps"] = 4
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**tiny, "formulations": ["rf", "eps/linear"]}))
    study = Study(load_sweep(path), Store(tmp_path / "store"))
    for trial in study.sweep.trials:
        train(trial, study.store.trial(trial.trial_id), samples=study.sweep.samples)
    study.run()
    return study


def test_an_excluded_trial_is_in_no_table_until_it_is_included_again(study: Study, tmp_path: Path) -> None:
    one, store = study.sweep.trials[0].trial_id, ("--store", study.store.root)
    done = invoke("exclude", one[:8], "--why", "the node had\n a bad GPU", *store)
    assert done.exit_code == 0, done.output
    (entry,) = study.store.ledger
    assert (entry.trial_id, entry.action, entry.why) == (one, "excluded", "the node had a bad GPU")
    assert "@" in entry.who
    assert done.stdout == f"trial {one} {entry.sentence}; `rfscale include` takes it back\n"
    assert study.excluded() == {one: f"excluded by {entry.who} on {entry.when[:10]}: the node had a bad GPU"}
    table = study.table()
    assert one not in set(table.trials["trial_id"])
    assert dict(zip(table.rejected["trial_id"], table.rejected["reason"], strict=True))[one] == entry.sentence
    assert entry.sentence in (study.report().path.parent / "rejected.csv").read_text()
    assert invoke("include", one, *store).exit_code == 0
    assert study.excluded() == {}
    assert len(study.table().trials) == 2
    assert [entry.action for entry in study.store.ledger] == ["excluded", "included"]


def test_a_retried_trial_is_trained_from_its_first_step_and_what_it_measured_is_kept(study: Study) -> None:
    trial = study.sweep.trials[0]
    folder = study.store.trial(trial.trial_id)
    write_json(folder.result, {"status": names.DIVERGED, "reason": "the training loss is nan", "step": 4})
    assert to_train(study.sweep, study.store) == []
    before = folder.journal.read_bytes()
    done = invoke("retry", trial.trial_id, "--store", study.store.root)
    assert done.exit_code == 0, done.output
    assert "trains it from step 0" in done.stdout
    assert to_train(study.sweep, study.store) == [trial]
    assert (folder.path / "journal.jsonl.before").read_bytes() == before
    assert folder.points() == ([], 0)
    assert folder.state().reason == "stopped before its end; it has no checkpoint"
    (reason,) = study.excluded().values()
    assert reason.startswith("retried by ")
    assert reason.endswith(", and not trained since"), "MLflow still has what it was before"
    assert len(study.table().trials) == 1
    train(trial, folder, samples=study.sweep.samples)
    assert folder.state().status == names.FINISHED
    assert study.excluded() == {}
    with folder.claim():
        held = invoke("retry", trial.trial_id, "--store", study.store.root)
    assert (held.exit_code, held.stderr.count("\n")) == (2, 1)
    assert "another process" in held.stderr
    assert [entry.action for entry in study.store.ledger] == ["retried"]


def test_bad_input_is_one_sentence_and_writes_nothing(study: Study) -> None:
    one, store = study.sweep.trials[0].trial_id, ("--store", study.store.root)
    for arguments in (
        ("exclude", "zzzz", "--why", "x"),
        ("exclude", one, "--why", "  "),
        ("exclude", one, "--why", "x" * 501),
        ("exclude", one),
        ("include", one),
        ("retry", "../" + one),
    ):
        done = invoke(*arguments, *store)
        assert done.exit_code == 2, arguments
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("rfscale: ")
    assert not study.store.ledger.path.exists()


def test_a_damaged_ledger_is_said_and_not_written_to(study: Study) -> None:
    study.store.ledger.path.write_text(json.dumps({"trial_id": "a"}) + "\n")
    with pytest.raises(DamagedError, match=r"ledger\.jsonl is damaged \(its line"):
        study.excluded()
    done = invoke("exclude", study.sweep.trials[0].trial_id, "--why", "x", "--store", study.store.root)
    assert done.exit_code == 2
    assert len(study.store.ledger.path.read_text().splitlines()) == 1
