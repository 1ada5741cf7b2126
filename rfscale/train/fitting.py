"""One trial in the memory that there is: `rfscale.train.loop.train`, with half the microbatch where that is too little.

The global batch stays what it is, and with it the result up to rounding. What fits is remembered for later trials of
the shape (`rfscale.train.fits`).
"""

from __future__ import annotations

import gc

import torch

from rfscale.failures import OUT_OF_MEMORY, failure_of
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import Trunk
from rfscale.store import TrialFolder
from rfscale.train.fits import Fits, halve, shape_of
from rfscale.train.loop import Progress, train
from rfscale.train.memory import predicted
from rfscale.train.placement import Placement, placed
from rfscale.train.ranks import ALONE, Ranks
from rfscale.train.record import Before
from rfscale.train.stopping import Stop


def train_fitting(
    trial: Trial,
    folder: TrialFolder,
    resources: Resources,
    samples: Samples,
    progress: Progress = lambda step, loss: None,
    *,
    keep_weights: bool = False,
    stop: Stop = Stop(),
    trunk: Trunk | None = None,
    ranks: Ranks = ALONE,
    before: Before = Before(),
) -> str:
    """Arguments, result and errors as of `train`.

    One of several processes cannot begin again by itself: there the first one remembers what would fit, and the error
    is raised: the next attempt begins with it.
    """
    placement = placed(resources, trial.training.batch, ranks)
    size, said = ranks.told(_remembered(trial, folder, placement) if ranks.first else (None, ""))
    settings = resources if size is None else resources.model_copy(update={"microbatch": size})
    found = Before(before.failure, before.reason, (*before.notes, said) if said else before.notes)
    while True:
        try:
            ended = train(
                trial, folder, settings, samples, progress, keep_weights=keep_weights, stop=stop, trunk=trunk,
                ranks=ranks, before=found,
            )  # fmt: skip
        except Exception as error:
            failure = failure_of(error)
            if failure not in OUT_OF_MEMORY or not ranks.first:
                raise
            half, size = halve(folder, failure), _size(trial, settings, ranks)
            if half is None or ranks.count > 1:
                raise
        else:
            if ranks.first:
                _remember(trial, folder, settings, placement)
            return ended
        settings = settings.model_copy(update={"microbatch": half})
        found = Before(notes=(f"{failure} with a microbatch of {size}: it went on with {half}",))
        gc.collect()  # what the failed step left in cycles
        torch.cuda.empty_cache()


def _size(trial: Trial, settings: Resources, ranks: Ranks) -> int:
    return settings.microbatch or len(ranks.rows(trial.training.batch))


def _remembered(trial: Trial, folder: TrialFolder, placement: Placement) -> tuple[int | None, str]:
    """The microbatch to begin with where an earlier trial of the shape had too large a one, and a note that says so."""
    fit = Fits.of(folder).get(shape_of(trial, placement.asked), placement.kind)
    size = placement.microbatch or len(placement.ranks.rows(trial.training.batch))
    return (fit.microbatch, fit.sentence) if fit.microbatch is not None and fit.microbatch < size else (None, "")


def _remember(trial: Trial, folder: TrialFolder, settings: Resources, placement: Placement) -> None:
    """What a trial that has ended took, for those that are to share a device."""
    taken = folder.memory_bytes()
    if taken is not None:
        size = _size(trial, settings, placement.ranks)
        expected = predicted(trial, placement.asked, size)
        Fits.of(folder).took(shape_of(trial, placement.asked), placement.kind, size, taken, expected)
