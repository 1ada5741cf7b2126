"""`rfscale plan --next`: lists of tuned axes go on where a best value is at their end, and nowhere else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from analysis.table.identity import Roles, column
from analysis.table.read import SweepTable
from analysis.table.rows import REJECTED_COLUMNS
from rfscale import names
from rfscale.cli import app
from rfscale.run.extend import extend
from rfscale.run.study import Study
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import load_sweep
from rfscale.spec.trial import Trial

Mapping = dict[str, Any]
RATES = [1e-3, 2e-3, 4e-3]
LADDER: Mapping = {
    "name": "ladder",
    "question": "Which rate?",
    "data": {"name": "shapes", "resolution": 8},
    "model": {"depths": [1, 2], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf", "eps/linear"],
    "tune": ["training.learning_rate"],
    "training": {"steps": [20, 40], "warmup_steps": 1, "batch": 8, "learning_rate": RATES},
}


def table_of(raw: Mapping, best: Callable[[Trial], float], key: Callable[[Trial], float]) -> SweepTable:
    """Every trial of the sweep trained: its loss is lowest where `key` of it is `best` of it."""
    sweep = load_sweep(raw)
    rows = []
    for trial in sweep.trials:
        loss = math.exp(0.1 * math.log(key(trial) / best(trial)) ** 2) / trial.model.depth
        rows.append({
            "trial_id": trial.trial_id, "arm": sweep.placing(trial).arm, **trial.parameters(), names.VAL_LOSS: loss,
            **{column(k): v for k, v in trial.identity_record().items()},
        })  # fmt: skip
    frame, roles = pd.DataFrame(rows), sweep.roles
    curves = frame.assign(
        step=frame["steps"], flops=frame["train_flops"], key=names.VAL_LOSS, value=frame[names.VAL_LOSS]
    )
    return SweepTable(
        name="ladder", tracking_uri="", question="",
        roles=Roles(*(tuple(roles[role]) for role in ("arm", "rung", "tuned", "seed"))), trials=frame,
        curves=curves[["trial_id", "step", "samples", "flops", "key", "value"]],
        profile=pd.DataFrame(columns=["trial_id", "logsnr", "value"]),
        rejected=pd.DataFrame(columns=list(REJECTED_COLUMNS)), quality=pd.DataFrame(columns=["trial_id"]),
        ceilings=pd.DataFrame(), commits=(), versions={}, devices=(),
    )  # fmt: skip


def rate(trial: Trial) -> float:
    return trial.training.learning_rate


def test_lists_go_on_at_their_ends_at_that_rung_and_arm_alone() -> None:
    """rf at depth 1 is best above its list, at every length; all others inside it."""
    table = table_of(LADDER, lambda t: 6e-3 if (t.model.depth, t.formulation) == (1, "rf") else 2e-3, rate)
    found = extend(load_sweep(LADDER), LADDER, table)
    assert {(e.arm, e.edge, e.value) for e in found.extensions} == {("rf", "highest", 8e-3)}
    assert len(found.extensions) == len(found.new) == 2
    assert {(t.model.depth, t.formulation, rate(t)) for t in found.new} == {(1, "rf", 8e-3)}
    again = load_sweep(yaml.safe_load(found.to_yaml()))
    before = {t.trial_id for t in load_sweep(LADDER).trials}
    assert before < {t.trial_id for t in again.trials}
    assert again.roles["tuned"] == ["training.learning_rate"]
    assert again.name == "ladder-next"
    assert "learning_rate 0.004 is the highest tried; next 0.008" in found.text()


def test_below_and_for_decays_it_goes_on_by_the_same_factor() -> None:
    training = {"steps": 20, "batch": 8, "ema_decay": [0.9, 0.99]}
    raw = {**LADDER, "formulations": ["rf"], "tune": ["training.ema_decay"], "training": training}
    table = table_of(raw, lambda t: 1e-4, lambda t: 1 - t.training.ema_decay)
    assert {e.value for e in extend(load_sweep(raw), raw, table).extensions} == {0.999}
    low = extend(load_sweep(LADDER), LADDER, table_of(LADDER, lambda t: 1e-4, rate))
    assert {(e.edge, e.value) for e in low.extensions} == {("lowest", 5e-4)}
    assert len(low.new) == 8


def test_with_named_arms_and_a_rate_that_follows_the_width_it_is_what_the_file_says() -> None:
    arms = {"a": {"formulations": "rf"}, "b": {"formulations": "rf", "training": {"weight_decay": 0.1}}}
    rule = {**LADDER["training"], "steps": 20, "lr_rule": "inverse_width", "lr_base_width": 16}
    raw = {k: v for k, v in LADDER.items() if k != "formulations"} | {"arms": arms, "training": rule}
    table = table_of(raw, lambda t: 1.0 if t.model.depth == 2 else 2e-3, rate)
    found = extend(load_sweep(raw), raw, table)
    assert {(e.arm, e.best, e.value) for e in found.extensions} == {("a", 4e-3, 8e-3), ("b", 4e-3, 8e-3)}
    assert {(t.model.depth, rate(t)) for t in found.new} == {(2, 4e-3)}, "8e-3 at the base width is half at twice it"
    assert len(found.new) == 2


def test_what_is_not_to_be_extended_is_said() -> None:
    with pytest.raises(SweepError, match="no best value of sweep ladder is at the end of its list"):
        extend(load_sweep(LADDER), LADDER, table_of(LADDER, lambda t: 2e-3, rate))
    plain = {**LADDER, "tune": [], "training": {**LADDER["training"], "learning_rate": 1e-3}}
    del plain["tune"]
    with pytest.raises(SweepError, match="tunes nothing"):
        extend(load_sweep(plain), plain, table_of(plain, lambda t: 2e-3, rate))


def test_the_command_writes_the_file_and_never_over_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ladder.yaml"
    file.write_text(yaml.safe_dump(LADDER))
    table = table_of(LADDER, lambda t: 1.0, rate)
    monkeypatch.setattr(Study, "table", lambda self, watch=None: table)
    given = ["plan", str(file), "--store", str(tmp_path / "none")]
    done = CliRunner().invoke(app, [*given, "--next", "--json"])
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["sweep"], said["new_trials"], said["file"]) == ("ladder-next", 8, str(tmp_path / "ladder-next.yaml"))
    assert len(load_sweep(said["file"]).trials) == 32
    done = CliRunner().invoke(app, [*given, "--next"])
    assert (done.exit_code, "exists already" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, [*given, "--next", "--budget", "1e12"])
    assert "--budget and --next ask for two different things" in done.stderr
