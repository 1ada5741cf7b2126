"""What the parts of a training take: a few steps of one trial, timed in this process. Needs torch.

Everything is what a training does (`rfscale.train.loop`), in a folder of its own that is thrown away.
"""

from __future__ import annotations

import math
import platform
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.trial import Trial
from rfscale.store import TrialFolder
from rfscale.train.loop import Training
from rfscale.train.memory import watching_memory
from rfscale.train.placement import placed
from rfscale.train.ranks import ALONE, Ranks
from rfscale.train.step import take_step
from rfscale.validation.attention import measure_attention
from rfscale.validation.profile import evaluate

LEAST_STEPS, MOST_STEPS = 4, 60
LEAST_SECONDS = 1.5
"""Steps are timed until there are enough of them and they took long enough, or until there are very many."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds and bytes of the parts of a training."""

    setup: float  # until the first step is done, less what a step takes
    step: float
    steps: int  # that were timed
    validation: float
    end: float
    checkpoint: float
    checkpoint_bytes: int
    weights_bytes: int
    memory_bytes: int
    share: float  # of the time in which a processor worked for it; far below 1, other work was in its way
    device: str


def first_step(trial: Trial, resources: Resources, ranks: Ranks = ALONE) -> None:
    """One step: afterwards this process has imported and prepared all that a training needs.

    `ranks`: the processes that train it together, each of which calls this.
    """
    with tempfile.TemporaryDirectory(prefix="rfscale-") as place:
        run = Training(trial, TrialFolder(Path(place)), placed(resources, trial.training.batch, ranks), math.inf)
        try:
            _steps(run, 1)
        finally:
            run.close()


def time_parts(trial: Trial, resources: Resources, samples: Samples, ranks: Ranks = ALONE) -> Parts:
    """Time a few steps of a trial and everything around them. Raises as `rfscale.train.loop.train` does.

    `ranks`: as of `first_step`. Each times itself; the first one alone validates and writes, unless weights are shared.
    """
    placement = placed(resources, trial.training.batch, ranks)
    on_gpu = placement.device.type == "cuda"
    with tempfile.TemporaryDirectory(prefix="rfscale-") as place, watching_memory(placement.device) as memory:
        folder = TrialFolder(Path(place))
        with _Clock() as setup:
            run = Training(trial, folder, placement, math.inf)
            _steps(run, 1)
        try:
            _steps(run, 1)
            with _Clock() as steps:
                count = _enough_steps(run, steps)
            with _Clock() as validation:
                _validate(run, wide=False)
            with _Clock() as checkpoint:
                run.state.save(folder)
            written = sum(_bytes(path) for path in folder.checkpoints())
            with _Clock() as end:
                _validate(run, wide=True)
                run.finish(samples)
        finally:
            run.close()
        step = steps.seconds / count
        return Parts(
            setup=max(0.0, setup.seconds - step),
            step=step,
            steps=count,
            validation=validation.seconds,
            end=end.seconds,
            checkpoint=checkpoint.seconds,
            checkpoint_bytes=written,
            weights_bytes=sum(path.stat().st_size for path in folder.path.glob("*.safetensors")),
            memory_bytes=memory(),
            share=1.0 if on_gpu else min(1.0, _share(steps, validation, end) / max(1, int(resources.cpus))),
            device=torch.cuda.get_device_name(placement.device) if on_gpu else _processor(),
        )


class _Clock:
    """The seconds of a block, work that a GPU has still to do included, and those of the processors."""

    def __enter__(self) -> _Clock:
        self._began, self._worked = time.monotonic(), time.process_time()
        self.seconds = self.worked = 0.0
        return self

    def so_far(self) -> float:
        return time.monotonic() - self._began

    def __exit__(self, *raised: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds, self.worked = self.so_far(), time.process_time() - self._worked


def _share(*clocks: _Clock) -> float:
    return sum(clock.worked for clock in clocks) / sum(clock.seconds for clock in clocks)


def _steps(run: Training, count: int) -> None:
    at = run.state.at.step
    for batch in run.batches.between(at, at + count):
        take_step(run.state, batch, run.recipe, run.sums)
    run.sums.take()  # waits for the device


def _enough_steps(run: Training, clock: _Clock) -> int:
    count = 0
    # All processes take the same steps: the first one has the clock.
    while run.ranks.told(count < LEAST_STEPS or (count < MOST_STEPS and clock.so_far() < LEAST_SECONDS)):
        _steps(run, LEAST_STEPS)
        count += LEAST_STEPS
    return count


def _validate(run: Training, wide: bool) -> None:
    if not run.measures:
        return
    state, recipe = run.state, run.recipe
    dict(evaluate(state.ema, state.model, recipe.formulation, run.validation, wide, recipe.training.timestep_shift))
    with recipe.precision():
        dict(measure_attention(state.model, recipe.formulation, run.validation))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


# --- the machine ------------------------------------------------------------------------------------------------------


def _processor() -> str:
    """The name of the processor, where the system says it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()
