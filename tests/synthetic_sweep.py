"""Sweeps from a known law, written to a real MLflow on sqlite as `rfscale` writes them; for the tests of `analysis`."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from rfscale import names

E, A, ALPHA, B, BETA = 0.12, 3.0, 0.28, 6.0, 0.45
BATCH = 64


def true_loss(parameters: float, samples: float, efficiency: float = 1.0) -> float:
    """E + A / N^alpha + B / D^beta; a formulation of efficiency k is where another is after k times the samples."""
    return E + A / parameters**ALPHA + B / (samples * efficiency) ** BETA


JUDGE = "shapes-64-60"
GUIDANCE_50, STEPS_5 = (1.0, 2.5, 5.0), (5, 10, 25)
"""The paper's settings: 50 steps at these guidances, these steps at the last of them."""
CEILINGS = {"clip_score": 0.42, "fid": 3.0, "geneval": 0.97}


def true_clip(loss: float, parameters: float, steps: int = 50, guidance: float = 2.5, weights: str = "ema") -> float:
    """Straight in the loss; best at guidance 2.5; fewer steps cost a share that falls with the size."""
    share = {1.0: 0.9, 2.5: 1.0, 5.0: 0.97}[guidance] * (0.98 if weights == "raw" else 1.0)
    return (0.40 - 0.3 * loss) * share * (1 - true_drop(parameters, steps))


def true_drop(parameters: float, steps: int) -> float:
    """Share of the CLIP score that fewer than 50 steps cost."""
    return 0.0 if steps == 50 else 0.3 / steps * (1e5 / parameters) ** 0.3


def true_fid(loss: float, parameters: float, steps: int = 50, guidance: float = 2.5, weights: str = "ema") -> float:
    """Exponential in the loss; best at guidance 2.5."""
    share = {1.0: 1.3, 2.5: 1.0, 5.0: 1.1}[guidance] * (1.1 if weights == "raw" else 1.0)
    return math.exp(2 + 6 * loss) * share * (1 + 2 * true_drop(parameters, steps))


def true_geneval(loss: float, task: int, parameters: float, steps: int) -> float:
    """Straight in the loss, the later tasks harder."""
    return (0.95 - 0.08 * task - 1.0 * (loss - E)) * (1 - true_drop(parameters, steps))


def true_path(loss: float) -> float:
    return 50 + 30 * loss


@dataclass(frozen=True)
class World:
    """What to synthesise. `efficiency`: formulation -> k of `true_loss`. `noise`: sd of the log loss between trials.

    `quality`: with scores of sample quality, of sd `quality_noise` (of logarithms), at all of the paper's settings
    after the last step; with `along`, with EMA weights at one point on the way too.
    """

    efficiency: Mapping[str, float]
    depths: Sequence[int] = (1, 2, 3, 4)
    seeds: Sequence[int] = (0,)
    steps: Sequence[int] = (600,)
    noise: float = 0.0
    shared_noise: float = 0.0
    profile: bool = False
    draw: int = 11
    quality: bool = False
    quality_noise: float = 0.0
    along: bool = False


@dataclass(frozen=True)
class FakeTrial:
    """One trial as it would be logged; change a copy (`dataclasses.replace`) to make it a bad one."""

    trial_id: str
    params: dict[str, object]
    tags: dict[str, str]
    metrics: list[tuple[str, int, float]]


def parameters_of(depth: int) -> int:
    return 40_000 * depth**3 + 60_000


def world_trials(world: World) -> list[FakeTrial]:
    rng = np.random.default_rng(world.draw)
    shared = {(d, s, n): rng.standard_normal() for d in world.depths for s in world.seeds for n in world.steps}
    return [
        _trial(world, name, depth, seed, steps, world.noise * rng.standard_normal() + world.shared_noise * common)
        for name in world.efficiency
        for (depth, seed, steps), common in shared.items()
    ]


def _trial(world: World, name: str, depth: int, seed: int, steps: int, shift: float) -> FakeTrial:
    n = parameters_of(depth)
    per_step = 6.0 * n * 20 * BATCH
    points = sorted({round(max(1.0, steps / 100) * 100 ** (i / 9)) for i in range(10)} | {steps})

    def loss(step: int) -> float:
        return true_loss(n, step * BATCH, world.efficiency[name]) * math.exp(shift)

    metrics = [(names.VAL_LOSS, step, loss(step)) for step in points]
    metrics += [(names.VAL_LOSS_RAW, steps, loss(steps) * 1.02), (names.VAL_LOSS_SE, steps, 0.002)]
    metrics += [(names.TRAIN_LOSS, step, loss(step) * 1.3) for step in range(100, steps + 1, 100)]
    shape = {t: 1 + 2 * (t - 0.5) ** 2 for t in names.LOSS_LEVELS}
    metrics += [(names.val_level(t), step, loss(step) * s) for t, s in shape.items() for step in points[-1:]]
    if world.profile:
        tilt = 0.02 * math.log(world.efficiency[name])
        metrics += [
            (names.denoising_level(x), steps, (1 + tilt * x) * loss(steps) / (1 + math.exp(x)))
            for x in np.arange(-8, 8.25, 0.5)
        ]
    if world.quality:
        where = [points[6], steps] if world.along else [steps]
        rng = np.random.default_rng([world.draw, int(1e6 * abs(shift)), depth, seed, len(name)])
        metrics += [
            (key, step, value)
            for step in where
            for key, value in _scores(loss(step), n, world.quality_noise, rng, raw=step == steps)
        ]
        metrics += [(names.quality_key(f"{m}_ceiling", JUDGE, "true"), steps, value) for m, value in CEILINGS.items()]
    known: dict[str, object] = {
        "formulation": name, "data": "shapes", "resolution": 16, "depth": depth, "width": 32 * depth, "heads": depth,
        "patch": 4, "parameters": n, "parameters_core": n // 2, "forward_flops": per_step / BATCH / 3,
        "train_flops_per_step": per_step, "train_flops": per_step * steps, "steps": steps, "batch": BATCH,
        "samples": steps * BATCH, "image_tokens": 16, "tokens": 20, "learning_rate": 2e-3, "lr_rule": "constant",
        "warmup_steps": 30, "ema_decay": 0.99, "ema_every": 1, "precision": "fp32", "text_dropout": 0.1, "seed": seed,
        "curve_ends": names.ALL_POINTS,
    }  # fmt: skip
    trial_id = hashlib.sha256(repr((name, depth, seed, steps)).encode()).hexdigest()[:12]
    tags = {
        names.TAG_TRIAL_ID: trial_id,
        names.TAG_STATUS: names.FINISHED,
        names.TAG_QUESTION: "Which noise sampler reaches the lowest loss, and does the order hold as the model grows?",
        names.TAG_COMMIT: "0123456789abcdef0123456789abcdef01234567",
        names.TAG_VERSIONS: json.dumps({"rfscale": "0.1.0", "torch": "2.13.0"}),
        names.TAG_DEVICE: "cpu",
    }
    return FakeTrial(trial_id, {key: known.get(key, 1) for key in names.PARAMS}, tags, metrics)


def _scores(
    loss: float, parameters: float, noise: float, rng: np.random.Generator, raw: bool
) -> Iterator[tuple[str, float]]:
    """Key and value of every score at the paper's settings."""
    settings = [(50, g) for g in GUIDANCE_50] + [(s, GUIDANCE_50[-1]) for s in STEPS_5]
    for weights in ("ema", "raw") if raw else ("ema",):
        for steps, guidance in settings:
            tasks = [true_geneval(loss, i, parameters, steps) for i in range(len(names.GENEVAL_TASKS))]
            true = {
                "clip_score": (true_clip(loss, parameters, steps, guidance, weights), 0.002),
                "fid": (true_fid(loss, parameters, steps, guidance, weights), 1.0),
                "geneval": (float(np.mean(tasks)), 0.02),
                **{f"geneval_{t}": (v, 0.05) for t, v in zip(names.GENEVAL_TASKS, tasks, strict=True)},
            }
            label = names.setting_label(steps, guidance, weights)
            for metric, (value, se) in true.items():
                yield names.quality_key(metric, JUDGE, label), value * math.exp(noise * rng.standard_normal())
                yield names.quality_key(f"{metric}_se", JUDGE, label), se
            yield names.quality_key("path_length", JUDGE, label), true_path(loss)


@cache
def _empty_database() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """An MLflow database without a run, and its folder: making one takes MLflow seconds, copying it nothing."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path, folder


def write_sweep(
    folder: Path, sweep: str, trials: Sequence[FakeTrial], edit: Callable[[FakeTrial], FakeTrial] | None = None
) -> str:
    """Log the trials to folder/mlflow.db and return its tracking URI."""
    if not (folder / "mlflow.db").exists():
        shutil.copy(_empty_database()[0], folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(sweep)
    experiment_id = (
        experiment.experiment_id if experiment else client.create_experiment(sweep, str(folder / "artifacts"))
    )
    for i, trial in enumerate(trials):
        trial = edit(trial) if edit else trial
        run = client.create_run(experiment_id, start_time=i)
        client.log_batch(
            run.info.run_id,
            [Metric(key, value, 1000 + step, step) for key, step, value in trial.metrics],
            [Param(key, str(value)) for key, value in trial.params.items()],
            [RunTag(key, value) for key, value in trial.tags.items()],
        )
    return uri
