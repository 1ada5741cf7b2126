"""Is the attention about to blow up? Its largest logit and its entropy, block by block, as in the paper's Figure 5.

    logit_ij = q_i . k_j / sqrt(e)        p_i = softmax_j logit_ij        entropy_i = -sum_j p_ij ln p_ij

for query i, key j and head width e. Before attention diverges its logits grow, every query looks at one key and the
entropy falls to 0 (Dehghani et al. 2023, *Scaling vision transformers to 22 billion parameters*, section 2; Wortsman et
al. 2023, *Small-scale proxies for large-scale transformer training instabilities*, section 3.1). The largest logit is
signed, as theirs is. QK-norm bounds it by sqrt(e) times its scales.

Measured are the weights as trained, which blow up before their EMA, in the precision of the training; logits and
entropy follow in fp32 from the queries and keys that the network made. What is not finite is logged as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rfscale import names
from rfscale.backbones.layers import Attend
from rfscale.data.batch import Condition
from rfscale.flow.formulations import Formulation
from rfscale.validation.profile import LOSS_LOGSNR, ValidationSet, noised

IMAGES = 8
LOGSNR = (LOSS_LOGSNR[0], LOSS_LOGSNR[3], LOSS_LOGSNR[6])  # t = 1/8, 1/2, 7/8
LOGITS_AT_ONCE = 1 << 24  # numbers of fp32: 64 MiB, whatever the number of tokens


@torch.no_grad()
def measure_attention(network: nn.Module, formulation: Formulation, data: ValidationSet) -> list[tuple[str, float]]:
    """(key, value) of every attention, over the first validation images at three noise levels, under the same noise as
    in the profile; nothing of a network without `Attend`.

    The network runs as it is called here, under autocast or not. Blocks that are compiled run as they are written: a
    compiled block does not see a hook that is set later.
    """
    places, x0, condition = next(data.batches())  # of images in several shapes, those of the first
    with torch.compiler.set_stance("force_eager"), _watched(network) as watched:
        if watched:  # all levels at once: small networks are slow for their number of calls
            made = [noised(formulation, level, places[:IMAGES], x0[:IMAGES]) for level in LOGSNR]
            z, logsnr = (torch.cat(parts) for parts in zip(*made, strict=True))
            told = [torch.cat([t[:IMAGES]] * len(LOGSNR)) for t in (condition.tokens, condition.pooled)]
            formulation.predict(network, z, logsnr, Condition(*told))
    called = [(block, seen) for block, seen in watched.items() if seen.queries]
    if not called:
        return []
    peaks, entropies = (
        torch.stack([seen.max_logit for _, seen in called]).tolist(),
        torch.stack([seen.entropy / seen.queries for _, seen in called]).tolist(),
    )
    return [
        (names.attention_key(metric, block), value)
        for metric, values in ((names.MAX_LOGIT, peaks), (names.ENTROPY, entropies))
        for (block, _), value in zip(called, values, strict=True)
    ]


@dataclass(slots=True)
class _Seen:
    """What one attention did so far. It stays on the device: nothing waits for it before the end."""

    max_logit: Tensor = field(default_factory=lambda: torch.tensor(-math.inf))
    entropy: Tensor = field(default_factory=lambda: torch.tensor(0.0, dtype=torch.float64))  # sum
    queries: int = 0

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], output: object) -> None:
        """A forward hook."""
        query, key = given[0].detach(), given[1].detach()
        b, s, h, _ = query.shape
        at_once = max(1, LOGITS_AT_ONCE // (h * s * key.shape[1]))
        for first in range(0, b, at_once):
            peak, entropy = logits_of(query[first : first + at_once], key[first : first + at_once])
            self.max_logit = torch.maximum(self.max_logit.to(peak), peak)  # NaN if either is
            self.entropy = self.entropy.to(entropy.device) + entropy.sum(dtype=torch.float64)
            self.queries += entropy.numel()


def logits_of(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """query (b, s, h, e), key (b, s', h, e) of any precision -> the largest logit, (), and (b, h, s) entropies in nats,
    both fp32."""
    with torch.autocast(query.device.type, enabled=False):  # it would round the products to bf16
        q, k = query.float().transpose(1, 2), key.float().permute(0, 2, 3, 1)
        logits = (q / math.sqrt(query.shape[-1])) @ k
        largest = logits.amax(-1, keepdim=True)
        below = logits - largest
        weights = below.exp()
        total = weights.sum(-1)
        # Of ln total - sum below exp(below) / total: with `below` in place of the logits no large numbers cancel
        return largest.max(), total.log() - (weights * below).sum(-1) / total


@contextmanager
def _watched(network: nn.Module) -> Iterator[dict[str, _Seen]]:
    """A hook on every attention for as long as the block lasts, whatever ends it."""
    watched: dict[str, _Seen] = {}
    handles = []
    try:
        for block, attend in attentions(network):
            watched[block] = _Seen()
            handles.append(attend.register_forward_hook(watched[block]))
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def attentions(network: nn.Module) -> Iterator[tuple[str, Attend]]:
    """(block, module) of every attention. Blocks are numbered as the network holds them, those without attention left
    out; `kind` is what the module is called in its block, without the word attend: `attend_cross` -> cross.
    """
    numbers: dict[str, int] = {}
    for path, module in network.named_modules():
        if isinstance(module, Attend):
            parts = path.split(".")
            last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
            number = numbers.setdefault(".".join(parts[: last + 1]), len(numbers))
            words = [word for part in parts[last + 1 :] for word in part.split("_") if word not in ("attend", "")]
            yield names.attention_block(number, "_".join(words)), module
