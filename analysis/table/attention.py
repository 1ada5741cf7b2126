"""The logits and entropies of the attention along every training of a sweep, those that diverged among them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from analysis.table.read import Logged, SweepTable, logged_of, table_of
from analysis.table.rows import OTHER_TRIAL
from rfscale import names

COLUMNS = ("trial_id", "arm", "status", "parameters", "train_flops", "step", "metric", "block", "value")


def diverged(table: SweepTable) -> pd.DataFrame:
    """The rejected trials that the sweep still asks for and that diverged, each once."""
    rejected = table.rejected
    chosen = (rejected["status"] == names.DIVERGED) & (rejected["reason"] != OTHER_TRIAL)
    return rejected[chosen].drop_duplicates("trial_id")


def read_with_attention(
    tracking_uri: str, sweep: str, trials: Collection[str] | None = None, excluded: Mapping[str, str] | None = None
) -> tuple[SweepTable, pd.DataFrame]:
    """As `read_sweep` and `read_attention`, with one look at MLflow."""
    with logged_of(tracking_uri, sweep) as found:
        table = table_of(found, trials=trials, excluded=excluded)
        return table, attention_of(found, table)


def read_attention(tracking_uri: str, table: SweepTable) -> pd.DataFrame:
    """What was logged for the trials of the table and for every trial of its sweep that diverged, a row per number:
    `trial_id, arm, status, parameters, train_flops, step, metric, block, value`.

    `metric` is one of `names.ATTENTION`; a value may be NaN or infinite. Empty where nothing was logged. Raises
    TrackingError.
    """
    with logged_of(tracking_uri, table.name) as found:
        return attention_of(found, table)


def attention_of(found: Logged, table: SweepTable) -> pd.DataFrame:
    """As `read_attention`, of what was read already."""
    used = set(table.trials["run_id"])
    lost = set(diverged(table)["trial_id"])
    rows = []
    for run in found.runs:
        tags, params = run.data.tags, run.data.params
        trial_id, status = tags.get(names.TAG_TRIAL_ID, ""), tags.get(names.TAG_STATUS, "")
        if run.info.run_id not in used and not (status == names.DIVERGED and trial_id in lost):
            continue
        lost.discard(trial_id)  # of several runs of one trial the first counts
        arm = tags.get(names.TAG_ARM) or params.get("formulation", "")
        cost = float(params.get("parameters", "nan")), float(params.get("train_flops", "nan"))
        for key in sorted(run.data.metrics):
            place = names.parse_attention(key)
            if place is not None:
                curve = sorted(found.histories.of(run.info.run_id, key).items())
                rows += [(trial_id, arm, status, *cost, step, *place, value) for step, value in curve]
    return pd.DataFrame(rows, columns=list(COLUMNS))
