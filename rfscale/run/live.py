"""`rfscale status --watch`: the board of a sweep, drawn again and again until the sweep is done or Ctrl-C."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from rfscale.run.board import Board
from rfscale.run.rates import kept
from rfscale.spec.sweep import Sweep
from rfscale.store import Store

LOOK_SECONDS = 2.0
LOOKS_AFTER_THE_END = 2
"""A trial that failed may be tried again a moment later: the sweep is done when it is seen to be so often."""


def watch(sweep: Sweep, store: Store, console: Console, seconds: float = LOOK_SECONDS) -> Board:
    """Show the board on a terminal until the sweep is done; returns it as it was last seen. Writes nothing.

    Ctrl-C ends it, with the last board left on the screen.
    """
    board = Board(sweep, store, kept(store))
    board.look()
    ended = 0
    try:
        with Live(_drawn(board, console), console=console, auto_refresh=False) as live:
            while not board.over or (board.running or ended < LOOKS_AFTER_THE_END):
                time.sleep(seconds)
                board.look()
                ended = ended + 1 if board.over else 0
                live.update(_drawn(board, console), refresh=True)
    except KeyboardInterrupt:
        pass
    return board


def _drawn(board: Board, console: Console) -> RenderableType:
    size = console.size
    shown = board.shown(size.width, size.height - 2)
    if board.over:
        return shown
    if not board.running:
        text = "nothing runs now; `rfscale run` goes on from here. Ctrl-C ends this table and nothing else"
    else:
        text = "Ctrl-C ends this table and nothing else"
    return Group(shown, Text(text, style="dim"))
