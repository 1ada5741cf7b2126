"""One trial, top to bottom. Needs torch, and neither Ray nor MLflow.

    set up -> resume -> [ batch -> loss -> step -> EMA -> log, validate, checkpoint ] -> weights, samples, result

Every random number is a function of (seed, step, sample), every sum has a fixed order, and a checkpoint falls only
where no running mean is open and after everything measured at its step is in the journal: so a trial that was killed
and resumed gives, on one machine with one number of threads, the same bits as one left alone.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from rfscale import names
from rfscale.backbones.mmdit.network import MMDiT
from rfscale.data import Captioned, load
from rfscale.data.batch import Batch, encode
from rfscale.data.text import load_text_encoder
from rfscale.environment import describe
from rfscale.flow.formulations import formulation
from rfscale.flow.noise import Stream, normal, stratified, uniform
from rfscale.spec.sweep import Resources, Samples
from rfscale.spec.trial import ResolvedTraining, Trial
from rfscale.store import TrialFolder, read_json, write_json
from rfscale.train import checkpoint
from rfscale.validation.profile import ValidationSet, evaluate
from rfscale.validation.samples import save_samples

DIVERGED_FACTOR = 10.0


class DivergedError(names.RfscaleError, RuntimeError):
    """The loss left the range of sense. Deterministic: trying again gives the same."""


def train(
    trial: Trial,
    folder: TrialFolder,
    resources: Resources = Resources(),
    samples: Samples = Samples(),
    progress: Callable[[int, float], None] = lambda step, loss: None,
    keep_weights: bool = False,
) -> str:
    """Train a trial to its end, or resume it; returns its status, `finished` or `diverged`, and writes result.json.

    `keep_weights` keeps the EMA weights of every validation point, for judges; it changes no number.
    Calls progress(step, training loss) at every logged point. Any error is recorded with status `failed` and raised
    again. Raises StoreError when another process trains this trial.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.claim():
        folder.begin()
        device = torch.device("cuda" if resources.gpus and torch.cuda.is_available() else "cpu")
        _record_attempt(trial, folder, device)
        result: dict[str, object] = {"status": names.FAILED, "step": 0, "reason": "", "metrics": {}, "files": {}}
        run = None
        try:
            run = _Training(trial, folder, resources, device, keep_weights)
            result["metrics"] = run.to_the_end(progress)
            save_samples(run.ema, trial, run.validation, samples, folder.samples)
            result["files"] = checkpoint.save_weights(folder, run.model, run.ema, trial.trial_id)
            result |= {"status": names.FINISHED, "step": run.at.step}
        except DivergedError as error:
            result |= {"status": names.DIVERGED, "reason": str(error), "step": run.at.step if run else 0}
        except Exception as error:
            result |= {
                "reason": f"{type(error).__name__}: {names.one_line(error)}",
                "traceback": traceback.format_exc(),
                "step": run.at.step if run else 0,
            }
            write_json(folder.result, result)
            raise
        finally:  # without a result (Ctrl-C) the trial is partial: it resumes
            if run is not None:
                run.close()
        write_json(folder.result, result)
        for path in folder.checkpoints():
            shutil.rmtree(path)
        return str(result["status"])


class _Training:
    """The state of one training and its loop."""

    def __init__(
        self, trial: Trial, folder: TrialFolder, resources: Resources, device: torch.device, keep_weights: bool = False
    ) -> None:
        self.trial, self.folder, self.resources, self.device = trial, folder, resources, device
        self.keep_weights = keep_weights
        self.formulation = formulation(trial.formulation)
        self.dataset = load(trial.data)
        self.encoder = load_text_encoder(trial.text)
        held_out = self.dataset.validation(trial.evaluation.images)
        self.validation = ValidationSet(self._tensors(held_out).to(device), held_out.captions)

        self.model = MMDiT(trial.shape, torch.Generator().manual_seed(trial.seed)).to(device)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.parameters: list[Tensor] = list(self.model.parameters())
        self.ema_parameters: list[Tensor] = list(self.ema.parameters())
        self.optimizer = _optimizer(self.model, trial.training)
        if resources.compile:
            for block in self.model.blocks:
                block.compile()

        self.at = checkpoint.restore(folder, self.model, self.ema, self.optimizer, device)
        self.window = _Window(device)
        self.journal = folder.open_journal()
        self.loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")

    def to_the_end(self, progress: Callable[[int, float], None]) -> dict[str, float]:
        """Train to the last step; returns the metrics of the last validation."""
        trial, at = self.trial, self.at
        validate_at = set(trial.evaluation.steps(trial.training.steps))
        log_every = min(500, max(1, trial.training.steps // 100))
        saved = clock = time.monotonic()
        metrics: dict[str, float] = {}

        for batch in self._batches():
            self._step(batch)
            at.step += 1
            last = at.step == trial.training.steps
            # The loss of step 1 is that of the untrained network: what a diverging loss is measured against.
            logged = at.step % log_every == 0 or at.step == 1 or last

            if logged:
                steps, values = self.window.take()  # the only place where the host waits for the device
                seconds = time.monotonic() - clock
                at.seconds += seconds
                self._check_range(values[names.TRAIN_LOSS])
                values[names.LEARNING_RATE_NOW] = self._learning_rate(at.step - 1)
                values[names.SAMPLES_PER_SECOND] = steps * trial.training.batch / seconds
                values[names.TRAIN_SECONDS] = at.seconds
                self.journal.log(at.step, values)
                progress(at.step, values[names.TRAIN_LOSS])
                clock = time.monotonic()

            paused = time.monotonic()
            if at.step in validate_at:
                metrics = self._validate(wide=last)
                if self.keep_weights and not last:
                    checkpoint.keep_weights(self.folder, self.ema, at.step)
            if logged and not last and time.monotonic() - saved > self.resources.checkpoint_seconds:
                self.journal.sync()
                checkpoint.save(self.folder, self.model, self.ema, self.optimizer, at)
                saved = time.monotonic()
            clock += time.monotonic() - paused

        self.journal.sync()
        if not math.isfinite(metrics[names.VAL_LOSS]):
            raise DivergedError(f"val/loss is {metrics[names.VAL_LOSS]} at the last step")
        return metrics

    def _step(self, batch: Batch) -> None:
        """One optimiser step of the global batch, in microbatches. Enqueues work and never waits for the device."""
        trial, training, at, device = self.trial, self.trial.training, self.at, self.device
        size = self.resources.microbatch or training.batch
        for first in range(0, training.batch, size):
            part = batch[first : first + size].to(device, non_blocking=True)
            x0, count = part.x0, len(part)
            eps = normal(trial.seed, Stream.NOISE, at.step, first, count, tuple(x0.shape[1:]), device)
            logsnr = self.formulation.draw(
                stratified(trial.seed, at.step, training.batch, first, count, device),
                training.timestep_shift,
            )
            kept = uniform(trial.seed, Stream.TEXT_DROPOUT, at.step, first, count, device) >= training.text_dropout
            told = part.condition.where(kept)
            with self._precision():
                loss = self.formulation.loss(self.model, x0, eps, logsnr, told).sum() / training.batch
            loss.backward()  # type: ignore[no-untyped-call]
            self.window.loss += loss.detach()
        self.window.norm += nn.utils.clip_grad_norm_(self.parameters, training.grad_clip)
        self.window.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(at.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if (at.step + 1) % training.ema_every == 0:
            self._update_ema()

    def _precision(self) -> AbstractContextManager[object]:
        low = self.trial.training.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if low else nullcontext()

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant (paper, appendix B.3)."""
        return self.trial.training.learning_rate * min(1.0, (step + 1) / max(1, self.trial.training.warmup_steps))

    def _update_ema(self) -> None:
        """EMA of the weights every k steps (paper, appendix B.3), with the usual warm-up min(decay, (1 + n) / (10 + n))
        so that a short training does not average its initial weights.

        One fused call: `swa_utils.AveragedModel` copies its counter to the device, and so waits for it, every time.
        """
        n = self.at.ema_updates
        decay = min(self.trial.training.ema_decay, (1 + n) / (10 + n))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema_parameters, self.parameters, 1.0 - decay)
        self.at.ema_updates += 1

    def _validate(self, wide: bool) -> dict[str, float]:
        metrics = dict(
            evaluate(self.ema, self.model, self.formulation, self.validation, wide, self.trial.training.timestep_shift)
        )
        self.journal.log(self.at.step, metrics)
        return metrics

    def _check_range(self, loss: float) -> None:
        first = self.at.first_loss = loss if self.at.first_loss is None else self.at.first_loss
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss is {loss} by step {self.at.step}")
        if loss > DIVERGED_FACTOR * first:
            raise DivergedError(
                f"the training loss is {loss:.3g} by step {self.at.step}, over {DIVERGED_FACTOR:g} times its first "
                f"value {first:.3g}"
            )

    def _batches(self) -> Iterator[Batch]:
        """The batches from the present step to the last, each made while the step before it runs."""
        ready: Future[Batch] = self.loader.submit(self._batch, self.at.step)
        for step in range(self.at.step, self.trial.training.steps):
            batch = ready.result()
            if step + 1 < self.trial.training.steps:
                ready = self.loader.submit(self._batch, step + 1)
            yield batch

    def _batch(self, step: int) -> Batch:
        """The batch of a step on the host, pinned where the device is another."""
        batch = self.dataset.train(self.trial.seed, step * self.trial.training.batch, self.trial.training.batch)
        tensors = self._tensors(batch)
        return tensors.pin_memory() if self.device.type == "cuda" else tensors

    def _tensors(self, captioned: Captioned) -> Batch:
        return Batch(torch.as_tensor(captioned.images), encode(self.encoder, captioned.captions))

    def close(self) -> None:
        self.loader.shutdown(wait=True, cancel_futures=True)
        self.journal.close()


class _Window:
    """Sums over the steps since the last logged point, kept on the device so that a step never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.loss, self.norm = torch.zeros((), device=device), torch.zeros((), device=device)
        self.steps = 0

    def take(self) -> tuple[int, dict[str, float]]:
        """The number of steps and their means; starts again."""
        steps, (loss, norm) = self.steps, torch.stack((self.loss, self.norm)).tolist()
        self.loss.zero_()
        self.norm.zero_()
        self.steps = 0
        return steps, {names.TRAIN_LOSS: loss / steps, names.GRAD_NORM: norm / steps}


def _optimizer(model: MMDiT, training: ResolvedTraining) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, as is usual."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.adam_eps,
        fused=True,
    )


def _record_attempt(trial: Trial, folder: TrialFolder, device: torch.device) -> None:
    """trial.json: what was asked and what it is derived to, and for each attempt when, with what code and on what."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} thread(s)"
    attempt = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **describe(name)}
    before = read_json(folder.record) or {}
    record = {
        "trial_id": trial.trial_id,
        "trial": trial.model_dump(mode="json"),
        "identity": trial.identity_record(),
        "parameters": trial.parameters(),
        "attempts": [*before.get("attempts", []), attempt],
    }
    write_json(folder.record, record)
