"""One trial, top to bottom. Needs torch, and neither Ray nor MLflow.

    set up -> resume -> [ batch -> step -> log, validate, checkpoint ] -> weights, samples, result

A training is segments of one state (`rfscale.train.state`): what a step does is `rfscale.train.step`, and here is when
something is measured, written and saved. A checkpoint holds the open running means of the log too, and falls after
everything measured at its step is in the journal: so a trial that was killed and resumed gives, on one machine with one
number of threads, the same bits as one left alone. Of several processes (`rfscale.train.ranks`) the first one trains in
the folder of the trial, and the others in one that is thrown away.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from rfscale import names
from rfscale.failures import DAMAGED_CHECKPOINT, DIVERGED, failure_of
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import Branch
from rfscale.spec.trunks import Trunk as Planned
from rfscale.store import ClaimedError, TrialFolder, write_json
from rfscale.train.achieved import achieved, count, flops_by_sides
from rfscale.train.batches import Batches
from rfscale.train.log import TrialLog
from rfscale.train.memory import watching_memory
from rfscale.train.placement import Placement, placed
from rfscale.train.ranks import ALONE, LostRankError, Ranks
from rfscale.train.record import Before, failed, note, record_attempt, went_on
from rfscale.train.state import TrainState
from rfscale.train.step import Recipe, Sums, take_step
from rfscale.train.stopping import Stop
from rfscale.train.system import Gauges
from rfscale.train.trunk import History, Trunk
from rfscale.train.weights import checksums, save_weights, save_weights_of, tensors
from rfscale.validation.attention import measure_attention
from rfscale.validation.profile import evaluate
from rfscale.validation.samples import save_samples

DIVERGED_FACTOR = 10.0
BEAT_SECONDS = 5.0  # between two signs of life

Progress = Callable[[int, float], None]  # called as progress(step, training loss) at every logged point


class Interrupted(names.RfscaleError, RuntimeError):
    """The process was told to stop; a checkpoint holds everything up to here."""


class DivergedError(names.RfscaleError, RuntimeError):
    """The loss is not finite, or far above that of the untrained network. Trying again gives the same."""

    failure = DIVERGED


def train(
    trial: Trial,
    folder: TrialFolder,
    resources: Resources = Resources(),
    samples: Samples = Samples(),
    progress: Progress = lambda step, loss: None,
    keep_weights: bool = False,
    stop: Stop = Stop(),
    trunk: Planned | None = None,
    ranks: Ranks = ALONE,
    before: Before = Before(),
) -> str:
    """Train a trial to its end, or resume it; returns how it ended, as result.json has it: `finished`, `diverged`, or
    `interrupted` where `stop` asked for it.

    A trial that has ended meanwhile, in whosever hands, is left as it is. `keep_weights` keeps the EMA weights of every
    validation point, for judges; it changes no number. `trunk`: the trials of the same store that share steps with this
    one (`rfscale.train.trunk`), which changes none either. `ranks`: the processes that train it together, each of which
    calls this; the first one alone looks at `folder`. `before`: what the attempt before this one came to. Any error is
    recorded with status `failed` and raised again, but not LostRankError: the trial is as after the death of its
    process. Raises PlacementError where the resources ask for what a trial cannot use, and StoreError when another
    process trains this trial or its files cannot be read.
    """
    placement = placed(resources, trial.training.batch, ranks)
    if not ranks.first:
        return _along(trial, placement, samples, keep_weights, stop, trunk)
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.claim(), TrialLog(folder, trial.training.steps) as log:
        ended = folder.known_state(thorough=True).status  # only what is asked under the lock is sure
        if ranks.told(ended) in names.OVER:
            return ended
        found = folder.begin()
        record_attempt(trial, folder, placement, found, before)
        log.begin()
        result: dict[str, object] = {"status": names.FAILED, "step": 0, "reason": "", "metrics": {}, "files": {}}
        run = None
        try:
            with ranks.hearing(), watching_memory(placement.device) as peak:
                run = Training(trial, folder, placement, resources.checkpoint_seconds, keep_weights, stop, trunk)
                if run.state.at.step:
                    went_on(folder, run.state.at.step)
                result["metrics"] = run.to_the_end(log.then(progress))
                result["files"] = run.finish(samples)
                result["memory_bytes"] = peak()
            result["sha256"] = checksums(folder)
            result |= {"status": names.FINISHED, "step": run.state.at.step, **achieved(trial, run.state.at)}
            folder.check()
        except Interrupted as error:
            result |= {"status": names.INTERRUPTED, "reason": str(error), "step": run.state.at.step if run else 0}
        except ClaimedError:  # somebody else has it by now, and writes how it ended
            raise
        except DivergedError as error:
            result |= {"status": names.DIVERGED, "reason": str(error), "step": run.state.at.step if run else 0}
            result |= failed(folder, DIVERGED, str(error))
        except LostRankError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {names.one_line(error)}"
            result |= {
                **failed(folder, failure_of(error), reason),
                "reason": reason,
                "traceback": traceback.format_exc(),
                "step": run.state.at.step if run else 0,
            }
            write_json(folder.result, result)
            raise
        finally:  # without a result (Ctrl-C) the trial is partial: it resumes
            if run is not None:
                run.close()
        write_json(folder.result, result)
        log.ended(result)
        if result["status"] != names.INTERRUPTED:
            for path in folder.checkpoints():
                shutil.rmtree(path)
            if run is not None and run.trunk is not None:
                run.trunk.tidy()
        return str(result["status"])


def _along(trial: Trial, placement: Placement, samples: Samples, keep: bool, stop: Stop, trunk: Planned | None) -> str:
    """The same, of the processes beside the first one: what they write is thrown away."""
    if (ended := placement.ranks.told("")) in names.OVER:
        return ended
    with tempfile.TemporaryDirectory(prefix="rfscale-") as place, placement.ranks.hearing():
        run = Training(trial, TrialFolder(Path(place)), placement, math.inf, keep, stop, trunk)
        try:
            run.to_the_end(lambda step, loss: None)
            run.finish(samples)
        except Interrupted:
            return names.INTERRUPTED
        except DivergedError:
            return names.DIVERGED
        finally:
            run.close()
    return names.FINISHED


class Training:
    """A state on its way through a trial, and what is written down along it."""

    def __init__(
        self,
        trial: Trial,
        folder: TrialFolder,
        placement: Placement,
        checkpoint_seconds: float = math.inf,
        keep: bool = False,
        stop: Stop = Stop(),
        trunk: Planned | None = None,
    ) -> None:
        self.trial, self.folder, self.keep, self.stop = trial, folder, keep, stop
        self.checkpoint_seconds = checkpoint_seconds
        self.ranks = placement.ranks
        # Where nobody has all the weights, everybody measures: a network is called by all of them.
        self.measures = placement.ranks.first or placement.sharded
        self.recipe = Recipe.of(trial, placement)
        self.batches = Batches(trial, placement)
        self.flops = flops_by_sides(trial)
        self.validation = self.batches.validation(trial.evaluation.images)
        self.state = TrainState.at_the_start(trial, placement)
        if found := self.state.restore(folder):
            note(folder, found, DAMAGED_CHECKPOINT)
        self.trunk: Trunk | None = None
        shared = False
        if trunk is not None and not keep:
            if self.ranks.first and not folder.is_copy:
                self.trunk = Trunk(trunk, trial.trial_id, folder.path.parent.parent, placement)
                shared = self.trunk.resume(self.state)
            self.trunk, shared = self.ranks.told((self.trunk, shared))
        self.state.share()
        # A checkpoint of the trial itself does not say what was measured before it, so others cannot begin there.
        self.on_trunk = self.trunk is not None and (shared or self.state.at.step == 0)
        self.sums = Sums.of(self.state.at, placement.device)
        self.journal = folder.open_journal()
        self.untold = shared
        self.gauges = Gauges(placement.device)

    def to_the_end(self, progress: Progress) -> dict[str, float]:
        """Train to the last step; returns the metrics of the last validation. Raises DivergedError and Interrupted."""
        if self.trunk is not None and self.untold:
            self._retell(self.trunk.history)
            self._leave_trunk()
        metrics = self.ranks.told(self.advance(self.trial.training.steps, progress))
        if not metrics:  # all of it was trained on the trunk, by a longer trial
            metrics, measured = self._validate(wide=True)
            self.journal.log(self.state.at.step, measured)
            metrics = self.ranks.told(metrics)
        if not math.isfinite(metrics[names.VAL_LOSS]):
            raise DivergedError(f"val/loss is {metrics[names.VAL_LOSS]} at the last step")
        return metrics

    def finish(self, samples: Samples) -> dict[str, int]:
        """Write the samples and the final weights; returns the size of each file of weights."""
        state, folder = self.state, self.folder
        if self.measures:
            save_samples(state.ema, self.trial, self.validation, samples, folder.samples)
        if self.ranks.first:
            return save_weights(folder, state.model, state.ema, self.trial.trial_id)
        for network in (state.model, state.ema):
            tensors(network)
        return {}

    def advance(self, until: int, progress: Progress) -> dict[str, float]:
        """One segment, from where the state stands to step `until`; returns the metrics of its last validation.

        Raises DivergedError, and Interrupted.
        """
        at, steps = self.state.at, self.trial.training.steps
        validate_at = set(self.trial.evaluation.steps(steps))
        saved = time.monotonic()
        clock, beaten, at.summed_seconds = saved - at.summed_seconds, saved, 0.0
        metrics: dict[str, float] = {}
        if self.trunk is not None and self.on_trunk:
            self.sums.told = self.trunk.history.add

        for batch in self.batches.between(at.step, until):
            take_step(self.state, batch, self.recipe, self.sums)
            count(self.state.at, batch, self.flops, self.ranks.count)
            last = at.step == steps
            if self._is_logged(at.step):
                progress(at.step, self._log(time.monotonic() - clock))
                clock = time.monotonic()

            paused = time.monotonic()
            if paused - beaten > BEAT_SECONDS:
                self.folder.beat()
                beaten = paused
            measured: dict[str, float] = {}
            if at.step in validate_at:
                metrics, measured = self._validate(wide=last)
                self.journal.log(at.step, measured)
                if self.keep and not last:
                    self._keep_weights()
            branching = self._along_trunk(measured if not last else {})
            # The first process has the clock; who is told to stop may be any.
            stopping, old = self.ranks.any(self.stop.asked, time.monotonic() - saved > self.checkpoint_seconds)
            due = not last and (stopping or old)
            if due or branching:
                self._save(paused - clock)
                saved = time.monotonic()
            self._leave_trunk()
            if due and stopping:
                raise Interrupted(f"it was told to stop; a checkpoint holds its {at.step} steps")
            clock += time.monotonic() - paused
        self.journal.sync()
        return metrics

    def _save(self, seconds: float) -> None:
        """A checkpoint; `seconds` were spent in steps since the last logged point."""
        self.folder.check()
        self.journal.sync()
        self.state.at.summed_seconds = seconds
        self.sums.put(self.state.at)
        if self.trunk is not None and self.on_trunk:
            self.trunk.save(self.state)
        else:
            self.state.save(self.folder)
        self.folder.carry()

    def _keep_weights(self) -> None:
        if self.ranks.first:
            save_weights_of(self.state.at.step, self.folder, self.state.ema)
        else:
            tensors(self.state.ema)

    def _along_trunk(self, measured: dict[str, float]) -> bool:
        """Note what is measured for all trials of the trunk; returns whether one of them branches off here.

        `measured`: by the trial itself at this step, if anything.
        """
        trunk, step = self.trunk, self.state.at.step
        if trunk is None or not self.on_trunk:
            return False
        if step in trunk.points:
            trunk.history.points[step] = measured or self._validate(wide=False)[1]
        return step in trunk.stops

    def _leave_trunk(self) -> None:
        """Once the trial's own branch begins, it is nobody else's business."""
        if self.trunk is not None and self.state.at.step >= self.trunk.own.step:
            self.on_trunk, self.sums.told = False, None

    def _retell(self, history: History) -> None:
        """Write into the journal what the trial would have measured on the trunk, and sum what is still open.

        Raises DivergedError where the trial would have.
        """
        at, mine = self.state.at, Branch.of(self.trial).on_trunk()
        end, seconds = at.step, at.seconds + at.summed_seconds
        each, micro = seconds / end, len(history.losses) // end
        self.sums, at.seconds, logged = Sums(torch.device("cpu")), 0.0, 0
        for at.step in range(1, end + 1):
            losses = history.losses[(at.step - 1) * micro : at.step * micro]
            self.sums.add([torch.tensor(loss) for loss in losses], torch.tensor(history.norms[at.step - 1]))
            if self._is_logged(at.step):
                self._log(each * (at.step - logged))
                logged = at.step
            if at.step in mine:
                self.journal.log(at.step, history.points[at.step])
        at.summed_seconds = each * (end - logged)
        self.sums.put(at)
        self.sums = Sums.of(at, self.recipe.placement.device)

    def _is_logged(self, step: int) -> bool:
        """The loss of step 1 is that of the untrained network: what a diverging loss is measured against."""
        steps = self.trial.training.steps
        return step % _log_every(steps) == 0 or step in (1, steps)

    def _log(self, seconds: float) -> float:
        """Write the means of the steps of the last `seconds`; returns their loss. Raises DivergedError."""
        steps, values = self.sums.take()  # the only place where the host waits for the device
        at = self.state.at
        at.seconds += seconds
        self._check_range(values[names.TRAIN_LOSS])
        values[names.LEARNING_RATE_NOW] = self.recipe.schedule.rate(at.step - 1)
        values[names.SAMPLES_PER_SECOND] = steps * self.trial.training.batch / seconds
        values[names.TRAIN_SECONDS] = at.seconds
        if self.gauges.due() or at.step == self.trial.training.steps:
            values |= self.gauges.read()
        self.journal.log(at.step, values)
        return values[names.TRAIN_LOSS]

    def _validate(self, wide: bool) -> tuple[dict[str, float], dict[str, float]]:
        """The metrics of the validation images, and these with what was measured of the attention; nothing of a process
        that does not measure."""
        if not self.measures:
            return {}, {}
        state, recipe = self.state, self.recipe
        shift = recipe.training.timestep_shift
        metrics = dict(evaluate(state.ema, state.model, recipe.formulation, self.validation, wide, shift))
        with recipe.precision():
            attention = dict(measure_attention(state.model, recipe.formulation, self.validation))
        return metrics, {**metrics, **attention}

    def _check_range(self, loss: float) -> None:
        at = self.state.at
        first = at.first_loss = loss if at.first_loss is None else at.first_loss
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss is {loss} by step {at.step}")
        if loss > DIVERGED_FACTOR * first:
            raise DivergedError(
                f"the training loss is {loss:.3g} by step {at.step}, over {DIVERGED_FACTOR:g} times its first "
                f"value {first:.3g}"
            )

    def close(self) -> None:
        self.batches.close()
        self.journal.close()


def _log_every(steps: int) -> int:
    return min(500, max(1, steps // 100))
