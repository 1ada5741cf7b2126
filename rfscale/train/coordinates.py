"""The coordinate check: does the size of the activations stay the same as the width grows, a few steps into training?

Under the maximal-update parametrisation it does at every place of the network; under the standard rule it grows (Yang &
Hu 2021, arXiv 2203.03466, appendix D.1). Needs torch.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from rfscale.backbones.layers import Linear
from rfscale.data.batch import Condition
from rfscale.spec.sweep import Resources
from rfscale.spec.trial import Trial
from rfscale.store import TrialFolder
from rfscale.train.loop import Training
from rfscale.train.placement import placed
from rfscale.train.step import take_step
from rfscale.validation.profile import LOSS_LOGSNR, noised

LEVELS = (LOSS_LOGSNR[0], LOSS_LOGSNR[3], LOSS_LOGSNR[6])  # t = 1/8, 1/2, 7/8
IMAGES = 16


def sizes(trial: Trial, steps: int, resources: Resources) -> dict[str, float]:
    """Place -> the mean absolute value of what leaves it, after so many steps of the trial, on held-out images at three
    noise levels. A place is a linear layer, or a block (its image tokens), by its name in the network; `network` is the
    prediction. Raises as `rfscale.train.loop.train` does."""
    with tempfile.TemporaryDirectory(prefix="rfscale-") as place:
        run = Training(trial, TrialFolder(Path(place)), placed(resources), math.inf)
        try:
            for batch in run.batches.between(0, steps):
                take_step(run.state, batch, run.recipe, run.sums)
            network = run.state.model
            at, x0, condition = next(run.validation.batches())
            made = [noised(run.recipe.formulation, level, at[:IMAGES], x0[:IMAGES]) for level in LEVELS]
            z, logsnr = (torch.cat(parts) for parts in zip(*made, strict=True))
            told = Condition(*(torch.cat([t[:IMAGES]] * len(LEVELS)) for t in (condition.tokens, condition.pooled)))
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), _watched(network) as seen:
                run.recipe.formulation.predict(network, z, logsnr, told)
            return {name: float(value) for name, value in seen.items()}
        finally:
            run.close()


@contextmanager
def _watched(network: nn.Module) -> Iterator[Mapping[str, Tensor]]:
    """While the block lasts: place -> size, of every call of the network."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def heard(_: nn.Module, __: object, out: object) -> None:
            first = out[0] if isinstance(out, tuple) else out
            if isinstance(first, Tensor):
                seen[name] = first.float().abs().mean()

        return heard

    blocks = set(network.get_submodule("blocks").children())
    watched = [(name, part) for name, part in network.named_modules() if isinstance(part, Linear) or part in blocks]
    handles = [part.register_forward_hook(hook(name)) for name, part in [("network", network), *watched]]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
