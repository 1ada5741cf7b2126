"""Drawings -> PNG, and files that are whole or absent."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.style import house_style

DPI = 180
PIXELS_PER_INCH = 128
PAGE_WIDTH = 1150

Draw = Callable[[], Axes | Figure]


@dataclass(frozen=True)
class Picture:
    """One figure as it goes into the page."""

    name: str
    section: str
    caption: str
    png: bytes

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def width(self) -> int:
        """Pixels on the page: letters are of one size in all figures, unless a figure is wider than the page."""
        inches = int.from_bytes(self.png[16:20], "big") / DPI  # the width in a PNG's first chunk
        return min(PAGE_WIDTH, round(PIXELS_PER_INCH * inches))


def save_figure(draw: Draw, path: Path) -> None:
    """Draw in the house style and write a PNG."""
    with house_style():
        write_file(path, png_of(draw))


def png_of(draw: Draw) -> bytes:
    drawn = draw()
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    FigureCanvasAgg(figure)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.06)  # type: ignore[union-attr]
    return buffer.getvalue()


def write_file(path: Path, content: bytes) -> None:
    """Under a temporary name, then renamed: a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
