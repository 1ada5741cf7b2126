"""The trials of a sweep as an array (formulation, size, seed): what may be compared with what."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.compare.paired import Array
from rfscale import names

CONDITION = tuple(
    key
    for key in names.PARAMS
    if key
    not in {
        "formulation", "seed", "parameters", "parameters_core", "forward_flops", "train_flops_per_step", "train_flops",
        "samples", "image_tokens", "tokens",
    }
)  # fmt: skip
"""What trials must share to be compared, beside the seed: every parameter that follows from no other one."""


@dataclass(frozen=True)
class Grid:
    """Log losses (formulation, size, seed), NaN where a trial is missing. A size is one set of `CONDITION` values."""

    formulations: tuple[str, ...]
    labels: tuple[str, ...]
    parameters: tuple[float, ...]
    seeds: tuple[int, ...]
    log_loss: Array
    trial_ids: dict[tuple[int, int, int], str]

    @staticmethod
    def of(trials: pd.DataFrame) -> Grid:
        label = size_labels(trials)
        sizes = trials.assign(_label=label).drop_duplicates("_label").sort_values(["parameters", "steps"])
        labels = tuple(sizes["_label"])
        formulations, seeds = tuple(sorted(set(trials["formulation"]))), tuple(sorted(set(trials["seed"])))
        log_loss = np.full((len(formulations), len(labels), len(seeds)), np.nan)
        trial_ids = {}
        for trial_id, name, size, seed, loss in zip(
            trials["trial_id"], trials["formulation"], label, trials["seed"], trials[names.VAL_LOSS], strict=True
        ):
            at = formulations.index(name), labels.index(size), seeds.index(seed)
            log_loss[at] = math.log(loss)
            trial_ids[at] = trial_id
        return Grid(formulations, labels, tuple(sizes["parameters"]), seeds, log_loss, trial_ids)


def size_labels(trials: pd.DataFrame) -> pd.Series:
    """A label for each trial's condition: its depth, and whatever else differs between trials of one depth."""
    varies = [key for key in CONDITION if key != "depth" and trials.groupby("depth")[key].nunique().max() > 1]
    label = "d = " + trials["depth"].astype(str)
    for key in varies:
        label = (
            label
            + f", {key.replace('_', ' ')} "
            + trials[key].map(lambda v: f"{v:g}" if v == v and not isinstance(v, str) else str(v))
        )
    return label
