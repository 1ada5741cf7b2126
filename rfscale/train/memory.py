"""The memory that a step takes: predicted from the size of a trial, and measured at its peak.

    bytes = 20 N / P + 2 N [bf16] + 4 N / L [several processes share the weights]           weights, EMA, Adam, gradient
          + m T L (16 + 2 r) w b                                                            activations
          + 0.6 GB                                                                          the device's own

N parameters; P processes that share them (1 where each has all); L blocks; m samples of a microbatch; T tokens of an
image and its caption; w the width; r the ratio of the MLP; b bytes of a number, 4, or 3 under bf16 autocast, which
keeps norms and sums in fp32. Of a block each token keeps what the backward pass asks for: its input, norms, queries,
keys and values with their norms, what attention gave, and the MLP's hidden layer before and after its activation:
16 + 2 r vectors of the width, after Korthikanti et al. 2022 (arXiv 2205.05198, equation 2), without the matrix of
attention, which no kernel keeps. With activation checkpointing a block keeps its input, and one block all.

`predicted` loads no torch.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rfscale.spec.sweep import OfATrial
from rfscale.spec.trial import Trial

if TYPE_CHECKING:
    import torch

STATE_BYTES = 20  # of a parameter: fp32 weight, EMA, two moments of Adam, gradient
VECTORS, VECTORS_PER_RATIO = 16, 2
OWN_BYTES = 6e8
"""Of a CUDA context with its libraries: what an empty process holds. A round figure."""
_MLP_RATIO = 4


def predicted(trial: Trial, asked: OfATrial, microbatch: int | None = None) -> int:
    """Bytes of the device of one process; `microbatch`: by default as it is asked for."""
    known, count = trial.parameters(), asked.processes
    parameters, depth = float(known["parameters"]), max(1, int(known["depth"]))
    low = trial.training.precision == "bf16"
    sharing = count if asked.sharding == "shard" else 1
    state = STATE_BYTES * parameters / sharing + (2 * parameters if low else 0)
    if sharing > 1:
        state += 4 * parameters / depth
    rows = microbatch or asked.microbatch or -(-trial.training.batch // count)
    token = float(known["width"]) * (3 if low else 4)
    whole = (VECTORS + VECTORS_PER_RATIO * float(getattr(trial.shape, "mlp_ratio", _MLP_RATIO))) * token
    kept = depth * token + whole if asked.activation_checkpointing else depth * whole
    return round(state + rows * float(known["tokens"]) * kept + OWN_BYTES)


@contextmanager
def watching_memory(device: torch.device) -> Iterator[Peak]:
    """The peak from here on."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # Linux; elsewhere the peak is that of the largest trial so far
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    yield Peak(device)


@dataclass(frozen=True, slots=True)
class Peak:
    """Call it for the most memory that was held at once."""

    device: torch.device

    def __call__(self) -> int:
        """Bytes: of the GPU what torch held at once, elsewhere of the whole process."""
        if self.device.type == "cuda":
            import torch

            return int(torch.cuda.max_memory_reserved(self.device))
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
