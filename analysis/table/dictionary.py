"""What every column of every published table is: its unit and its meaning in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from rfscale import names
from rfscale.names import Key

_PROFILE = names.denoising_level(0.0).removesuffix("0.00")

MEANINGS: dict[str, tuple[str, str]] = {
    "trial_id": ("", "id of the trial: a hash of the fields that change its result"),
    "run_id": ("", "id of its run in the MLflow of those who trained it"),
    "status": ("", "how the trial ended; of an arm's law or standing: what its numbers are worth"),
    "failure": ("", "in which class it ended badly: one of a small closed set, such as out of GPU memory"),
    "device_share": (
        "1",
        "share of its GPU that the trial had; below 1 others trained there too, and its seconds say so",
    ),
    "reason": ("", "why the trial is in no other table, or why there is no number"),
    "arm": ("", "what is compared: the label of the trial's arm"),
    "step": ("steps", "training steps up to the point"),
    "flops": ("FLOP", "exact training FLOPs up to the point"),
    "key": ("", "what was measured; the meaning of each key stands in this dictionary"),
    "value": ("", "the number; its unit is that of its key or metric"),
    "logsnr": ("nat", "log signal-to-noise ratio log(a^2 / b^2)"),
    "metric": ("", "name of the metric"),
    "judge": ("", "who scored the images, with what makes its scores comparable"),
    "solver_steps": ("steps", "Euler steps of the generation"),
    "guidance": ("1", "classifier-free guidance scale"),
    "weights": ("", "ema: averaged weights; raw: weights as trained"),
    "se": ("", "standard error of the value, in its unit"),
    "block": ("", "attention block"),
    "size": ("", "label of the rung: model size and length of training"),
    "rank": ("", "place of the arm, 1 is best"),
    "mean": ("MSE", "geometric mean of val/loss over the sizes and seeds that all arms have"),
    "low": ("MSE", "lower end of the 95 % interval of the mean"),
    "high": ("MSE", "upper end of the 95 % interval of the mean"),
    "ratio": ("1", "loss relative to the reference arm's, paired within size and seed"),
    "p": ("1", "p value of the difference to the reference, corrected for the number of comparisons"),
    "p_best": ("1", "probability to be the best arm"),
    "tied_with": ("", "arms from which it cannot be told apart"),
    "compute_multiplier": ("1", "FLOPs to reach the reference's loss, as a share of the reference's"),
    "trials": ("", "trials of the arm that were compared"),
    "E": ("MSE", "floor of the law L = E + A / N^alpha + B / D^beta"),
    "A": ("", "numerator of the law's term in parameters N"),
    "alpha": ("1", "exponent of the law's term in parameters N"),
    "B": ("", "numerator of the law's term in training samples D"),
    "beta": ("1", "exponent of the law's term in training samples D"),
    "points": ("", "points on the curves of the arm that the law was fitted to"),
    "points_of_all_arms": ("", "points of all arms that the law was fitted to"),
    "p_alpha_shared": ("1", "p value of one alpha for all arms"),
    "p_beta_shared": ("1", "p value of one beta for all arms"),
    "reference": ("", "the arm in whose parameters, samples and FLOPs the efficiencies are counted"),
    "efficiency_n": ("1", "parameters that are worth one of the reference's, at the end of the ladder"),
    "efficiency_d": ("1", "samples that are worth one of the reference's, at the end of the ladder"),
    "efficiency_compute": ("1", "FLOPs that are worth one of the reference's, at the end of the ladder"),
    "held_out": ("", "the largest size, which the law of the smaller ones predicts"),
    "predicted": ("MSE", "loss of the largest size by the law of the smaller ones"),
    "measured": ("MSE", "loss of the largest size as measured"),
    "held_out_miss": ("1", "how far the prediction is from what was measured, as a share of it"),
    "held_out_width": ("1", "width of the prediction's interval, as a share of it"),
    "largest_miss": ("1", "where the law is furthest from the end of a training: by which share"),
    "largest_miss_at": ("", "where the law is furthest from the end of a training"),
    "noise_there": ("1", "noise of the loss there, as a share of it"),
}
"""Column -> unit, meaning; what `rfscale.names` has is not repeated."""

UNKNOWN = "not described: a metric of a plug-in, or of another version"


@dataclass(frozen=True)
class Entry:
    """One line of the dictionary."""

    table: str
    column: str
    type: str
    unit: str
    better: str
    meaning: str


def dictionary(frames: Mapping[str, pd.DataFrame]) -> list[Entry]:
    """A line for every column of these tables, and for every key and metric in their rows."""
    entries = [entry_of(name, column, frame[column]) for name, frame in frames.items() for column in frame.columns]
    for name, frame in frames.items():
        for column in ("key", "metric"):
            for value in sorted(set(map(str, frame[column]))) if column in frame else ():
                unit, better, meaning = described(value)
                entries.append(Entry(name, f"{column} = {value}", "number", unit, better, meaning))
    return entries


def entry_of(table: str, column: str, values: pd.Series) -> Entry:
    """The line of one column."""
    unit, better, meaning = described(column)
    return Entry(table, column, type_of(values), unit, better, meaning)


def type_of(values: pd.Series) -> str:
    """`integer`, `number`, `boolean` or `text`."""
    kind = values.dtype.kind if not str(values.dtype).startswith("Int") else "i"
    return {"i": "integer", "u": "integer", "f": "number", "b": "boolean"}.get(kind, "text")


def described(column: str) -> tuple[str, str, str]:
    """Unit, which direction is better, and meaning of a column, a key or a metric."""
    known: Mapping[str, Key] = {**names.PARAMS, **names.METRICS, **names.SYSTEM, **names.QUALITY, **names.ATTENTION}
    if column in known:
        return known[column].unit, known[column].better, known[column].meaning
    if column in MEANINGS:
        return (*MEANINGS[column][:1], "none", MEANINGS[column][1])
    if column.startswith(names.IDENTITY):
        key = column.removeprefix(names.IDENTITY)
        return _unit_of(key), "none", f"what the trial is: the field {key}, defaults included, as text"
    if column.startswith(_PROFILE):
        level = column.removeprefix(_PROFILE)
        return "MSE", "lower", f"mean squared error of the denoised image at log-SNR {level}, EMA weights, last step"
    place = names.parse_attention(column)
    if place is not None and place[0] in names.ATTENTION:
        known_key = names.ATTENTION[place[0]]
        return known_key.unit, known_key.better, f"{known_key.meaning}; {place[1].replace('_', ' ')}, last step"
    for suffix, end in (("_low", "lower"), ("_high", "upper")):
        if column.endswith(suffix) and column != suffix:
            unit, _, meaning = described(column.removesuffix(suffix))
            return unit, "none", f"{end} end of the 95 % interval of {column.removesuffix(suffix)}: {meaning}"
    base, _, scale = column.rpartition("_")
    if base and scale.endswith("x") and scale[:-1].isdigit():
        unit, _, meaning = described(base)
        return unit, "none", f"{meaning}, at {scale[:-1]} times that compute"
    return "", "none", UNKNOWN


def _unit_of(key: str) -> str:
    found = names.PARAMS.get(key.rpartition(".")[2])
    return found.unit if found is not None else ""
