"""The batches of a training, each made while the step before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from rfscale.data import Captioned, load_text_encoder
from rfscale.data.batch import Batch, encode
from rfscale.data.buckets import Turns
from rfscale.spec.trial import Trial
from rfscale.train.placement import Placement
from rfscale.validation.profile import ValidationSet, drawn_latents


class Batches:
    """The data of a trial as tensors: a function of (seed, step) for training, of which a process makes its own rows;
    fixed for validation."""

    def __init__(self, trial: Trial, placement: Placement) -> None:
        self.seed, self.size, self.device = trial.seed, trial.training.batch, placement.device
        self.rows = placement.ranks.rows(self.size)
        self.buckets = trial.data.load_buckets()
        self.turns = Turns(trial.seed, trial.data.bucket_images())
        self.encoder = None if trial.text.stored else load_text_encoder(trial.text)
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")

    def validation(self, images: int) -> ValidationSet:
        """The held-out samples, on the device, with their captions."""
        held_out = (bucket.validation(images) for bucket in self.buckets)
        first, *others = [self._held_out(one) for one in held_out if one.captions]
        return replace(first, others=tuple(others))

    def of(self, step: int) -> Batch:
        """This process's rows of a step's batch, the next samples of its bucket: on the host, pinned where the device
        is another."""
        bucket, turn = self.turns.at(step)
        first = turn * self.size + self.rows.start
        batch = self._tensors(self.buckets[bucket].train(self.seed, first, len(self.rows)))
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def between(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of the steps first .. last - 1."""
        if first >= last:
            return
        ready: Future[Batch] = self.thread.submit(self.of, first)
        for step in range(first, last):
            batch = ready.result()
            if step + 1 < last:
                ready = self.thread.submit(self.of, step + 1)
            yield batch

    def close(self) -> None:
        self.thread.shutdown(wait=True, cancel_futures=True)

    def _held_out(self, captioned: Captioned) -> ValidationSet:
        places = captioned.places
        found = None if places is None else torch.as_tensor(places, device=self.device)
        batch = self._tensors(captioned).to(self.device)
        if batch.spread is not None:  # drawn once: the same for every seed and every step
            batch = replace(batch, x0=drawn_latents(batch, found), spread=None)
        return ValidationSet(batch, captioned.captions, found)

    def _tensors(self, captioned: Captioned) -> Batch:
        if self.encoder is not None:
            condition = encode(self.encoder, captioned.captions)
        else:
            assert captioned.told is not None  # the data have what `trial.text` asks of them
            condition = captioned.told()
        spread = None if captioned.spread is None else torch.as_tensor(captioned.spread)
        return Batch(torch.as_tensor(captioned.images), condition, spread)
