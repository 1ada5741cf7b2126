"""The sample quality of one trained trial, top to bottom. Needs torch, and neither Ray nor MLflow.

    what is not scored yet -> weights -> [ draw -> judge -> grid of samples -> journal ]

The scores of a unit (`rfscale.judges.units`) reach the journal as one line, so a unit is there or it is not: an
evaluation that was killed goes on with the next one, and nothing is scored twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from rfscale import names
from rfscale.data.base import FloatArray
from rfscale.data.batch import encode
from rfscale.data.spec import DataSpec
from rfscale.data.text import load_text_encoder
from rfscale.flow.formulations import Network
from rfscale.judges import Judge, JudgeError, JudgeSpec, Score, load_judge
from rfscale.judges.units import Unit, units
from rfscale.spec.sweep import Quality, Resources, Setting
from rfscale.spec.trial import Trial
from rfscale.store import Store, StoreError, TrialFolder, read_json, write_json
from rfscale.train.weights import load_model
from rfscale.validation.samples import COLUMNS, generate_images, save_grid

GRID_IMAGES = 4 * COLUMNS
NOISE_SEED = 0  # of every trial: all draw the same prompt from the same noise


def missing(trial: Trial, folder: TrialFolder, quality: Quality) -> list[Unit]:
    """The units that the trial's journal has no scores of."""
    scored = _scored(folder)
    return [unit for unit in units(trial, quality) if (unit.step, unit.judge.label, unit.label) not in scored]


def forget(trial: Trial, folder: TrialFolder, quality: Quality) -> None:
    """What these judges have scored so far counts for nothing: `evaluate` scores it anew, and the later score counts.

    The journal keeps the earlier scores; what it held when they were forgotten, in bytes, is noted by judge.
    """
    with folder.claim():
        folder.quality.mkdir(exist_ok=True)
        _, size = folder.points()
        labels = (judge.label for judge in quality.judges_of(trial.data))
        write_json(folder.forgotten, {**(read_json(folder.forgotten) or {}), **dict.fromkeys(labels, size)})


def _scored(folder: TrialFolder) -> set[tuple[int, str, str]]:
    """(step, judge label, setting) of every score in the journal that is not forgotten."""
    keys = ((step, names.parse_quality(key)) for step, key in folder.logged())
    return {(step, found[1], found[2]) for step, found in keys if found}


def evaluate(
    trial: Trial,
    store: Store,
    quality: Quality,
    resources: Resources = Resources(),
    progress: Callable[[Unit], None] = lambda unit: None,
) -> None:
    """Score what is missing of a finished trial; calls progress(unit) after each.

    A unit that fails stops no other; the first error is raised at the end. Raises JudgeError where a judge cannot
    score or another one has scored under its label, StoreError where the trial has not finished, lacks its weights or
    is in the hands of another process.
    """
    folder = store.trial(trial.trial_id)
    state = folder.state()
    if state.status != names.FINISHED:
        hint = "; the store must be a folder that every node of the cluster sees" if state.status == names.NEW else ""
        raise StoreError(f"trial {trial.trial_id} is not finished ({state.status}), so it has nothing to judge{hint}")
    device = "cuda" if resources.gpus and torch.cuda.is_available() else "cpu"
    with folder.claim():
        journal = folder.open_journal()
        problem: JudgeError | StoreError | None = None
        try:
            for unit in missing(trial, folder, quality):
                try:
                    judge = _judge(unit.judge, trial, folder, store, device)
                    drawer = Drawer(trial, _weights(trial, folder, unit, device), unit.setting, device, quality.batch)
                    scores = list(judge.score(drawer))
                except (JudgeError, StoreError) as error:  # of this one: the others are still scored
                    problem = problem or error
                    continue
                drawer.save(folder.sample_grid(unit.step, unit.judge.label, unit.label))
                journal.log(unit.step, dict(_metrics(unit, scores, drawer)))
                journal.sync()
                progress(unit)
        finally:
            journal.close()
    if problem is not None:
        raise problem


def check_same_judge(judge: Judge, trials: Sequence[Trial], store: Store) -> None:
    """Raises JudgeError where one of the trials has scores of another judge under this one's label.

    Scores of one label are compared over all trials of a sweep, so they must be of one judge.
    """
    for trial in trials:
        _known_judges(judge, trial, store.trial(trial.trial_id))


class Drawer:
    """A network as judges see it: captions in, images out. Keeps the first images for the grid, and path lengths."""

    def __init__(
        self, trial: Trial, network: Network, setting: Setting, device: str = "cpu", batch: int | None = None
    ) -> None:
        self.trial, self.network, self.setting, self.device = trial, network, setting, device
        self.batch = batch or (32 if device == "cpu" else 256)
        self.encoder = load_text_encoder(trial.text)
        self.lengths: list[torch.Tensor] = []
        self._shown: tuple[torch.Tensor, tuple[str, ...]] | None = None

    def __call__(self, captions: Sequence[str]) -> FloatArray:
        """float32 "n c h w" in [-1, 1]; image i is drawn from noise number i, whatever the batch."""
        parts = []
        for first in range(0, len(captions), self.batch):
            texts = captions[first : first + self.batch]
            condition = encode(self.encoder, texts, self.device)
            lengths = torch.zeros(len(texts), device=self.device)
            images = generate_images(
                self.network, self.trial, condition, self.setting.steps, self.setting.guidance, NOISE_SEED,
                first=first, path_length=lengths,
            )  # fmt: skip
            parts.append(images.float().cpu())
            self.lengths.append(lengths.double().cpu())
        drawn = torch.cat(parts)
        if self._shown is None:
            self._shown = drawn[:GRID_IMAGES], tuple(captions[:GRID_IMAGES])
        result: FloatArray = drawn.numpy()
        return result

    def save(self, path: Path) -> None:
        """The first images with their captions as a PNG."""
        if self._shown is not None:
            path.parent.mkdir(exist_ok=True)
            save_grid(*self._shown, path)


@lru_cache(maxsize=4)
def _loaded(spec: JudgeSpec, data: DataSpec, cache: Path, device: str) -> Judge:
    """Once per process: a worker judges one trial after the other, and a judge knows no trial."""
    return load_judge(spec, data, cache, device)


def _judge(spec: JudgeSpec, trial: Trial, folder: TrialFolder, store: Store, device: str) -> Judge:
    """The judge, its identity recorded beside the scores. Another judge under the same label is an error."""
    judge = _loaded(spec, trial.data.pictures, store.judges, device)
    folder.quality.mkdir(exist_ok=True)
    write_json(folder.judges, _known_judges(judge, trial, folder))
    return judge


def _known_judges(judge: Judge, trial: Trial, folder: TrialFolder) -> dict[str, JsonValue]:
    """The identities of all who scored the trial, this judge among them. JudgeError where another used its label."""
    known, identity = read_json(folder.judges) or {}, judge.identity
    before = known.get(judge.label, identity)
    # As JSON, where a figure that is not a number equals itself.
    differs = sorted(k for k in {*identity, *before} if json.dumps(identity.get(k)) != json.dumps(before.get(k)))
    if differs and judge.label in {label for _, label, _ in _scored(folder)}:
        raise JudgeError(
            f"trial {trial.trial_id} has scores of another judge {judge.label} (it differs in {', '.join(differs)}); "
            f"judge with that one, or score the whole sweep again with `rfscale evaluate SWEEP --again`"
        )
    return {**known, judge.label: identity}


def _weights(trial: Trial, folder: TrialFolder, unit: Unit, device: str) -> nn.Module:
    """The network of a unit. Raises StoreError where its weights were not kept."""
    if unit.step == trial.training.steps:
        return load_model(trial, folder, ema=unit.weights == "ema", device=device)
    path = folder.bring(folder.kept_weights(unit.step).name)
    if not path.exists():
        raise StoreError(
            f"trial {trial.trial_id} kept no weights of step {unit.step}: it was trained without `checkpoints: all`; "
            "train into a new store with --store, or set `quality: {checkpoints: last}`"
        )
    return load_model(trial, folder, device=device, path=path)


def _metrics(unit: Unit, scores: Sequence[Score], drawer: Drawer) -> Iterator[tuple[str, float]]:
    """Journal keys of a unit's scores. What was not measured has no key."""
    judge = unit.judge.label
    for score in scores:
        if score.name not in names.QUALITY:
            raise JudgeError(f"the judge {judge} gives {score.name!r}, which is no key of names.QUALITY; add it there")
        yield names.quality_key(score.name, judge, unit.label), score.value
        if np.isfinite(score.se):
            yield names.quality_key(f"{score.name}_se", judge, unit.label), score.se
        if np.isfinite(score.ceiling):
            yield names.quality_key(f"{score.name}_ceiling", judge, names.TRUE_IMAGES), score.ceiling
    lengths = torch.cat(drawer.lengths)
    yield names.quality_key("path_length", judge, unit.label), float(lengths.mean())
    if len(lengths) > 1:
        yield names.quality_key("path_length_se", judge, unit.label), float(lengths.std() / len(lengths) ** 0.5)
