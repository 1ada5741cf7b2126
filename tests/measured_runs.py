"""A CSV of measured runs as a user of `rfscale fit` has it: a law with 0.3 % noise, and two rows to filter out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

COLUMNS = {"N": "size", "D": "tokens", "loss": "val/loss", "C": "flops"}


def write_runs(folder: Path) -> Path:
    """Write folder/runs.csv: 36 runs of family `good`, then two of family `bad`, one without a loss."""
    rng = np.random.default_rng(0)
    path = folder / "runs.csv"
    lines = ["size,tokens,val/loss,kept,family,flops"]
    for n in np.geomspace(1e7, 1e10, 6):
        for d in np.geomspace(1e9, 1e12, 6):
            loss = (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * np.exp(0.003 * rng.normal())
            lines.append(f"{n},{d},{loss},1,good,{6 * n * d}")
    lines.append("1e8,1e10,9.9,0,bad,6e18")
    lines.append("1e8,1e10,,0,bad,6e18")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
