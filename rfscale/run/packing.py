"""Several trials on one GPU, by the memory that each takes: `resources.pack_gpu_gb`. No Ray, and no torch.

A trial takes 1/k of a GPU, where k is the largest number of trials like it that fit together:

    k = floor(GB of the GPU / (1.15 x bytes of the trial)), 1 to 8

Its bytes are those that a trial of its shape was measured to take, else the prediction of `rfscale.train.memory` times
the median of measured / predicted over the shapes that ended here: so the first trials of a sweep correct the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rfscale.spec.sweep import Resources, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.train.fits import Fit, Fits, expected_bytes

MARGIN = 1.15
"""For fragments of the allocator, and for what a validation takes beside a step. A round figure."""
MOST = 8
"""Each trial has a context of its own on the GPU, and they take turns."""
LOOK_SECONDS = 10.0


def share_of(taken: float, gpu_gb: float) -> float:
    """Of a GPU with so many GB, for a trial that takes so many bytes; to four digits, which is what Ray counts."""
    count = max(1, min(MOST, int(gpu_gb * 1e9 / (MARGIN * taken))))
    return math.floor(1e4 / count) / 1e4


def packed(sweep: Sweep, store: Store) -> Callable[[Trial], Resources]:
    """What each trial takes: as the sweep says, with a part of its GPU where that is asked for."""
    known: list[Fit] = []
    looked = -math.inf

    def taken(trial: Trial) -> Resources:
        nonlocal known, looked
        asked = sweep.resources.at(trial.model.depth)
        if asked.pack_gpu_gb is None:
            return asked
        if time.monotonic() > looked + LOOK_SECONDS:
            known, looked = Fits(store).all(), time.monotonic()
        share = share_of(expected_bytes(trial, asked, known), asked.pack_gpu_gb)
        return asked.model_copy(update={"gpus": share, "pack_gpu_gb": None})

    return taken
