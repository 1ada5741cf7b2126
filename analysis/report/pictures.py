"""Drawings -> PNG, SVG and PDF, and files that are whole or absent."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from analysis.style import BESIDE, house_style

DPI = 160
PAD, OVERHANG = 0.06, 0.16
"""Inches: around a figure, and kept at the right of the axes for what hangs over."""
FORMATS = ("png", "svg", "pdf")
"""What a figure can be written as; the ending of a file's name says as which."""
_UNDATED: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}

Draw = Callable[[], Axes | Figure]


@dataclass(frozen=True)
class Drawn:
    """A figure, laid out once for all formats. `bare`: its width in points without the legend beside it."""

    figure: Figure
    box: Bbox
    bare: float

    @staticmethod
    def of(draw: Draw) -> Drawn:
        """Draw and lay out, within `house_style`."""
        drawn = draw()
        figure = drawn if isinstance(drawn, Figure) else drawn.figure
        assert isinstance(figure, Figure)  # no axes of ours are on a subfigure
        renderer = cast(RendererBase, FigureCanvasAgg(figure).get_renderer())  # type: ignore[no-untyped-call]
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
        figure.set_layout_engine(None)  # as it is now, whatever is written; with any, each writing draws twice
        box = figure.get_tightbbox(renderer).padded(PAD)
        legends = (ax.get_legend() for ax in figure.axes)
        beside = any(legend is not None and legend.get_gid() == BESIDE for legend in legends)
        right = max(ax.bbox.x1 for ax in figure.axes) / figure.dpi + OVERHANG
        return Drawn(figure, box, 72 * ((min(right, box.x1) if beside else box.x1) - box.x0))

    def written(self, kind: str) -> bytes:
        """As one of `FORMATS`, the same bytes for the same figure."""
        buffer = io.BytesIO()
        if kind == "png":  # a file a little larger, in half the time
            self.figure.savefig(buffer, format=kind, dpi=DPI, bbox_inches=self.box, pil_kwargs={"compress_level": 3})
        else:
            self.figure.savefig(buffer, format=kind, dpi=DPI, bbox_inches=self.box, metadata=_UNDATED[kind])
        return buffer.getvalue()


def png_of(draw: Draw) -> bytes:
    """Within `house_style`."""
    return Drawn.of(draw).written("png")


def save_figure(draw: Draw, path: Path) -> None:
    """Draw in the house style and write the file that its name ends as, one of `FORMATS`."""
    with house_style():
        write_file(path, Drawn.of(draw).written(path.suffix.lower().removeprefix(".")))


def write_file(path: Path, content: bytes) -> None:
    """Under a temporary name, then renamed: a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
