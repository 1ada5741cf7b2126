"""One optimiser step: a function of the state, the batch and the recipe, and of nothing else.

Every random number of it is a function of (seed, step, sample), and every sum has a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfscale import names
from rfscale.data.batch import Batch, Condition
from rfscale.data.text import EncoderSpec
from rfscale.flow.formulations import Formulation, formulation
from rfscale.flow.noise import Stream, normal, stratified, uniform, uniforms
from rfscale.spec.trial import ResolvedTraining, Trial
from rfscale.train.mup import RATE
from rfscale.train.placement import Placement
from rfscale.train.schedule import Schedule, schedule_of
from rfscale.train.spread import alone, own_part, whole
from rfscale.train.state import Position, TrainState


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a trial is trained: all that a step needs to know beside the state and the batch."""

    seed: int
    formulation: Formulation
    training: ResolvedTraining
    text: EncoderSpec
    schedule: Schedule
    placement: Placement

    @classmethod
    def of(cls, trial: Trial, placement: Placement) -> Recipe:
        training = trial.training
        return cls(trial.seed, formulation(trial.formulation), training, trial.text, schedule_of(training), placement)

    def precision(self) -> AbstractContextManager[object]:
        """What the network is run in during training."""
        low = self.training.precision == "bf16"
        return torch.autocast(self.placement.device.type, torch.bfloat16) if low else nullcontext()


Told = Callable[[list[Tensor], Tensor], None]
"""Hears of every step: the losses of its microbatches, and its norm."""


class Sums:
    """Sums over the steps since the last logged point, kept on the device so that a step never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.loss, self.norm = torch.zeros((), device=device), torch.zeros((), device=device)
        self.steps = 0
        self.told: Told | None = None

    @classmethod
    def of(cls, at: Position, device: torch.device) -> Sums:
        """As they were when the position was saved."""
        sums = cls(device)
        sums.loss.fill_(at.summed_loss)
        sums.norm.fill_(at.summed_norm)
        sums.steps = at.summed_steps
        return sums

    def add(self, losses: list[Tensor], norm: Tensor) -> None:
        """One step: the losses of its microbatches, in their order, and the norm of its gradient."""
        for loss in losses:
            self.loss += loss
        self.norm += norm
        self.steps += 1
        if self.told is not None:
            self.told(losses, norm)

    def put(self, at: Position) -> None:
        """Into the position, to the bit: a float holds every float32. Waits for the device."""
        at.summed_steps, (at.summed_loss, at.summed_norm) = self.steps, torch.stack((self.loss, self.norm)).tolist()

    def take(self) -> tuple[int, dict[str, float]]:
        """The number of steps and their means; starts again."""
        steps, (loss, norm) = self.steps, torch.stack((self.loss, self.norm)).tolist()
        self.loss.zero_()
        self.norm.zero_()
        self.steps = 0
        return steps, {names.TRAIN_LOSS: loss / steps, names.GRAD_NORM: norm / steps}


def take_step(state: TrainState, batch: Batch, recipe: Recipe, sums: Sums) -> None:
    """One step of the global batch, in microbatches: the state moves on by one, and `sums` gets its loss and norm.

    `batch`: the rows of this process. Enqueues work and never waits for the device.
    """
    training, step, device = recipe.training, state.at.step, recipe.placement.device
    ranks = recipe.placement.ranks
    rows = ranks.rows(training.batch)
    size = recipe.placement.microbatch or len(rows)
    losses: list[Tensor] = []
    for first in range(0, len(rows), size):
        part = batch[first : first + size].to(device, non_blocking=True)
        count, row = len(part), rows.start + first
        x0 = _drawn(part, recipe, step, row)
        eps = normal(recipe.seed, Stream.NOISE, step, row, count, tuple(x0.shape[1:]), device)
        u = stratified(recipe.seed, step, training.batch, row, count, device)
        logsnr = recipe.formulation.draw(u, training.timestep_shift)
        told = _told(part.condition, recipe, step, row)
        with alone(state.network, more=first + size < len(rows)):
            with recipe.precision():
                loss = recipe.formulation.loss(state.network, x0, eps, logsnr, told).sum() / training.batch
            loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    if ranks.count > 1:  # the loss of a step is that of the global batch
        losses = [ranks.add_up(torch.stack(losses).sum())]
    sums.add(losses, whole(nn.utils.clip_grad_norm_(state.parameters, training.grad_clip)))
    for group in state.optimizer.param_groups:
        group["lr"] = recipe.schedule.rate(step) * group.get(RATE, 1.0)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if (step + 1) % training.ema_every == 0:
        _update_ema(state, training.ema_decay)
    state.at.step += 1


def _drawn(part: Batch, recipe: Recipe, step: int, first: int) -> Tensor:
    """x0; of latents, drawn from their mean and variance anew at each step."""
    if part.spread is None:
        return part.x0
    shape, device = tuple(part.x0.shape[1:]), recipe.placement.device
    return part.around(normal(recipe.seed, Stream.LATENT, step, first, len(part), shape, device))


def _told(condition: Condition, recipe: Recipe, step: int, first: int) -> Condition:
    """What the network is told in training: all of the text dropped at once, or each encoder by itself."""
    seed, count, device = recipe.seed, len(condition), recipe.placement.device
    text = recipe.text
    if text.each_dropout is None:
        kept = uniform(seed, Stream.TEXT_DROPOUT, step, first, count, device) >= recipe.training.text_dropout
        return condition.where(kept)
    drawn = uniforms(seed, Stream.ENCODER_DROPOUT, step, first, count, len(text.spans), device)
    return condition.where_each(drawn >= text.each_dropout, text.spans)


def _update_ema(state: TrainState, ema_decay: float) -> None:
    """EMA of the weights every k steps (paper, appendix B.3), with the usual warm-up min(decay, (1 + n) / (10 + n)) so
    that a short training does not average its initial weights.

    One fused call: `swa_utils.AveragedModel` copies its counter to the device, and so waits for it, every time.
    """
    n = state.at.ema_updates
    decay = min(ema_decay, (1 + n) / (10 + n))
    with torch.no_grad():
        ema, own = ([own_part(p) for p in of] for of in (state.ema_parameters, state.parameters))
        torch._foreach_lerp_(ema, own, 1.0 - decay)
    state.at.ema_updates += 1
