"""What people read of a publication: the model card of a network, the page of the folder, and the entry of the log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale import names
from rfscale.flow.formulations import formulation
from rfscale.run.publish.models import OURS, Layout
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report.page import Report

Z95 = 1.959963984540054
DIFFUSERS = """```python
import torch
from diffusers import SD3Transformer2DModel

model = SD3Transformer2DModel.from_pretrained("{folder}")
# z (b, {channels}, {side}, {side}), tokens (b, {length}, {width}), pooled (b, {pooled}), t in [0, 1] with 1 = noise
output = model(z, tokens, pooled, 1000 * t, return_dict=False)[0]  # {target}
```"""
SCHEDULED = """```python
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained("{folder}", subfolder="scheduler")
scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / n, n))  # n Euler steps; shift {shift:g} included
```"""
OWN = """```python
import rfscale

model = rfscale.load_model("{folder}")  # model(z, t, condition) -> {target}
```"""


@dataclass(frozen=True)
class Measured:
    """What is known of a trial: its row of the table, and its scores as rows of `quality`."""

    row: Mapping[str, Any]
    scores: pd.DataFrame


def model_card(sweep: Sweep, trial: Trial, layout: Layout, measured: Measured, licence: str, folder: str) -> str:
    """README.md of one published network."""
    parts = [
        _front(trial, layout, licence),
        f"# {sweep.name}: {sweep.placing(trial).arm}, {trial.model.depth} blocks, seed {trial.seed}",
        f"Trial `{trial.trial_id}` of the sweep `{sweep.name}`. {sweep.question}",
        "The weights are the exponential moving average (EMA), as they were validated and judged.",
        "## What it is",
        _facts(trial),
        "## How good it is",
        _losses(measured),
        _scores(measured.scores),
        "## How to load it",
        _loading(trial, layout, folder),
        "## What it is not",
        "A small network of an experiment on scaling, trained to compare formulations, not to be used. It knows its "
        f"data set (`{trial.data.name}`) and nothing else; text is read by the encoder `{trial.text.encoder}`, which "
        "`rfscale.data.text.load_text_encoder` gives, and no published text encoder fits.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(trial: Trial, layout: Layout, licence: str) -> str:
    library = "diffusers" if layout.diffusers else "rfscale"
    tags = "".join(f"- {tag}\n" for tag in ("rectified-flow", "text-to-image", "scaling-laws", trial.model.backbone))
    return f"---\nlicense: {licence.lower()}\nlibrary_name: {library}\npipeline_tag: text-to-image\ntags:\n{tags}---"


def _facts(trial: Trial) -> str:
    parameters, training, model = trial.parameters(), trial.training, trial.model
    found = formulation(trial.formulation)
    held = f"held-out images of validation: {trial.evaluation.images}"
    rows = {
        "data": f"`{trial.data.name}` at {trial.data.resolution} pixels, {trial.data.channels} channels; {held}",
        "text": f"`{trial.text.encoder}`: {sum(trial.text.parts)} tokens of width {trial.text.width}, pooled "
        f"{trial.text.pooled_width}",
        "formulation": f"`{found.name}`: path {found.path.formula}, target {found.target.formula}",
        "network": f"`{model.backbone}`, depth {model.depth}, width {model.width}, {model.heads} heads, patch "
        f"{model.patch}",
        "parameters": f"{parameters['parameters']:,}, of these {parameters['parameters_core']:,} in attention and MLP",
        "training": f"{training.steps:,} steps of {training.batch} samples, AdamW, learning rate "
        f"{training.learning_rate:g} (schedule {training.schedule.name}, warm-up {training.warmup_steps} steps), EMA "
        f"{training.ema_decay:g} every {training.ema_every} steps, {training.precision}, text dropout "
        f"{training.text_dropout:g}, timestep shift {training.timestep_shift:g}, seed {trial.seed}",
        "compute": f"{parameters['train_flops']:.4g} FLOPs, counted exactly",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows.items())


def _losses(measured: Measured) -> str:
    loss, se = float(measured.row[names.VAL_LOSS]), float(measured.row[names.VAL_LOSS_SE])
    raw = float(measured.row[names.VAL_LOSS_RAW])
    lines = [f"`val/loss` {interval(loss, se)}: {names.METRICS[names.VAL_LOSS].meaning}. The interval is over the "
             "held-out images; another seed moves the loss further, which the report of the sweep tells."]  # fmt: skip
    if math.isfinite(raw):
        lines.append(f"Without EMA {raw:.5g}.")
    return " ".join(lines)


def _scores(scores: pd.DataFrame) -> str:
    if scores.empty:
        return "Its images were not judged."
    last = scores[(scores["weights"] == "ema") & (scores["step"] == scores["step"].max())]
    head = "| metric | judge | Euler steps | guidance | score, 95 % | better |\n|---|---|---|---|---|---|\n"
    rows = [
        f"| {row.metric} | `{row.judge}` | {row.solver_steps} | {row.guidance:g} | {interval(row.value, row.se)} | "
        f"{names.QUALITY[row.metric].better if row.metric in names.QUALITY else 'none'} |"
        for row in last.itertuples()
    ]
    return head + "\n".join(rows)


def interval(value: float, se: float) -> str:
    """'0.1627 [0.1527, 0.1727]', the ends where a standard error is known."""
    if not math.isfinite(se):
        return f"{value:.4g} (no interval is known)"
    return f"{value:.4g} [{value - Z95 * se:.4g}, {value + Z95 * se:.4g}]"


def _loading(trial: Trial, layout: Layout, folder: str) -> str:
    found, text = formulation(trial.formulation), trial.text
    given = {"folder": folder, "target": found.target.formula, "channels": trial.data.channels,
             "side": trial.data.resolution, "length": sum(text.parts), "width": text.width,
             "pooled": text.pooled_width, "shift": trial.training.timestep_shift}  # fmt: skip
    parts = []
    if layout.diffusers:
        parts.append(DIFFUSERS.format(**given))
        parts.append("It is the same function on images of the size it was trained on, to 1e-5; for other sizes "
                     "diffusers cuts positions out of a table, and rfscale stretches them.")  # fmt: skip
    else:
        parts.append(
            f"Not in the layout of diffusers: {layout.reason}. `{OURS}` has the weights under rfscale's names."
        )
    parts.append(OWN.format(**given))
    if not layout.no_scheduler:
        parts.append(SCHEDULED.format(**given))
    else:
        parts.append(f"There is no scheduler beside it: {layout.no_scheduler}.")
    return "\n\n".join(parts)


# --- the log ----------------------------------------------------------------------------------------------------------


def log_entry(sweep: Sweep, report: Report, command: str, unfinished: Mapping[str, str], date: str) -> str:
    """An entry as experiments/LOG.md has them, from the report."""
    table = report.table
    seconds, flops = table.trials[names.TRAIN_SECONDS].sum(), table.trials["train_flops"].sum()
    spent = f"    ({seconds / 3600:.2f} h in training steps, all trials together)" if seconds > 0 else ""
    ranking = report.comparison.frame()
    rows = [
        f"| {row.rank} | {row.arm} | {row.mean:.4g} [{row.low:.4g}, {row.high:.4g}] | "
        f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}] | {row.trials} |"
        for row in ranking.itertuples()
    ]
    parts = [
        f"## {date} · {sweep.name}: {sweep.question}",
        f"    {command}{spent}",
        f"{len(table.trials)} trainings used, {len(table.rejected)} left out; {flops:.3g} FLOPs. "
        f"{missing_sentence(unfinished, len(sweep.trials))}",
        "| rank | arm | val/loss, 95 % | times the reference's, 95 % | trials |\n|---|---|---|---|---|\n"
        + "\n".join(rows),
        f"Reference: {report.comparison.reference}.",
        *(f"Note: {note}." for note in table.notes),
    ]
    return "\n\n".join(parts) + "\n"


def missing_sentence(unfinished: Mapping[str, str], trials: int) -> str:
    """What of the sweep is not there."""
    if not unfinished:
        return f"All {trials} trials are finished."
    by_status: dict[str, list[str]] = {}
    for trial_id, status in unfinished.items():
        by_status.setdefault(status, []).append(trial_id)
    listed = "; ".join(f"{len(ids)} {status} ({', '.join(ids)})" for status, ids in by_status.items())
    return f"Not finished are {len(unfinished)} of {trials} trials: {listed}."


# --- the folder -------------------------------------------------------------------------------------------------------

FOLDER = Path(__file__).with_name("folder.md")
"""README.md of the folder, with gaps."""


def folder_page(sweep: Sweep, version: str, unfinished: Mapping[str, str], models: Sequence[str], licence: str) -> str:
    """README.md of the whole folder."""
    weights = ", ".join(f"`{trial_id}`" for trial_id in models)
    return FOLDER.read_text(encoding="utf-8").format(
        name=sweep.name,
        question=sweep.question,
        version=version,
        missing=missing_sentence(unfinished, len(sweep.trials)),
        command="rfscale run sweep.yaml",
        models=f"weights with a card each: {weights}" if models else "none: no weights were published",
        licence=licence,
    )
