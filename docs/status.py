"""docs/figures/status.svg: the table of `rfscale status --watch` as it stands now, of any sweep that is running.

python docs/status.py experiments/samplers.yaml runs
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.console import Console

from rfscale.run.board import Board
from rfscale.run.rates import kept
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store

PICTURE = Path(__file__).with_name("figures") / "status.svg"
WIDTH, HEIGHT = 80, 24


def main(sweep_file: str, store: str) -> None:
    """Draw it."""
    sweep, place = load_sweep(Path(sweep_file)), Store(Path(store))
    board = Board(sweep, place, kept(place))
    board.look()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(
            width=WIDTH, height=HEIGHT, record=True, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        console.print(board.shown(WIDTH, HEIGHT))
        console.save_svg(str(PICTURE), title=f"rfscale status {sweep_file} --watch")
    print(PICTURE)


if __name__ == "__main__":
    main(*sys.argv[1:])
