"""Untrained, half-trained and trained networks, and true images, come out in that order on every metric."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rfscale import names
from rfscale.backbones.mmdit.network import MMDiT
from rfscale.judges import ShapesJudge, load_judge
from rfscale.judges.evaluate import Drawer
from rfscale.spec.sweep import Setting
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import Store
from rfscale.train.loop import train
from rfscale.train.weights import load_model

SWEEP = {
    "name": "order",
    "question": "Do the metrics see training?",
    "data": {"name": "shapes", "resolution": 16},
    "model": {"depths": [2], "width_per_depth": 32, "patch": 2},
    "formulations": ["rf/lognorm(0.00,1.00)"],
    "training": {"steps": 1600, "batch": 32, "learning_rate": 2e-3},
    "evaluation": {"images": 16, "points": 5},
    "samples": {"images": 0},
}
ALWAYS_APART = ("fid", "kid", "fid_infinity", "clip_score")
MAY_START_AT_ZERO = ("read_exactly", "geneval")


@pytest.mark.slow
def test_more_training_is_better_and_true_images_are_best_on_every_metric(tmp_path: Path) -> None:
    sweep, store = parse_sweep(SWEEP), Store(tmp_path)
    (trial,) = sweep.trials
    folder = store.trial(trial.trial_id)
    assert train(trial, folder, keep_weights=True) == names.FINISHED
    half = trial.evaluation.steps(trial.training.steps)[1]
    networks = {
        "untrained": MMDiT(trial.shape, torch.Generator().manual_seed(0)).eval(),
        "half": load_model(trial, folder, path=folder.kept_weights(half)),
        "trained": load_model(trial, folder),
    }
    judge = load_judge(ShapesJudge(images=256, prompts=240), trial.data, store.judges)
    setting = Setting(steps=20, guidance=5.0)
    found = {
        name: {score.name: score for score in judge.score(Drawer(trial, network, setting))}
        for name, network in networks.items()
    }
    for metric in (*ALWAYS_APART, *MAY_START_AT_ZERO):
        sign = 1.0 if names.QUALITY[metric].better == "higher" else -1.0
        untrained, half_way, trained = (sign * found[name][metric].value for name in networks)
        ceiling = sign * found["trained"][metric].ceiling
        print(metric, untrained, half_way, trained, ceiling)
        assert half_way < trained < ceiling, metric
        if metric in ALWAYS_APART:
            assert untrained < half_way, metric
        else:
            assert untrained <= half_way, metric
