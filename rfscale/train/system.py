"""What the machine does while a trial trains: how busy it is, and what memory the trial takes."""

from __future__ import annotations

import time

import psutil
import torch

from rfscale import names

SECONDS = 10.0
"""Between two readings, as MLflow's own; the last step of a training has one in any case."""
_MEGABYTE = 1e6


class Gauges:
    """The gauges of the machine and of this process. `device`: where the trial trains."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._process = psutil.Process()
        self._read = time.monotonic()
        psutil.cpu_percent()  # what the next reading counts from

    def due(self) -> bool:
        """Whether it is time for another reading."""
        return time.monotonic() - self._read >= SECONDS

    def read(self) -> dict[str, float]:
        """`names.SYSTEM` key -> value; of the GPU only where the trial has one."""
        self._read = time.monotonic()
        found = {
            names.CPU_USE: psutil.cpu_percent(),
            names.MEMORY_USE: psutil.virtual_memory().percent,
            names.PROCESS_MEMORY: self._process.memory_info().rss / _MEGABYTE,
        }
        if self.device.type == "cuda":
            found[names.GPU_MEMORY] = torch.cuda.max_memory_allocated(self.device) / _MEGABYTE
            use = _gpu_use(self.device)
            if use is not None:
                found[names.GPU_USE] = use
        return found


def _gpu_use(device: torch.device) -> float | None:
    """None without NVIDIA's library for it, which is in the package nvidia-ml-py."""
    try:
        return float(torch.cuda.utilization(device))
    except (ImportError, RuntimeError):
        return None
