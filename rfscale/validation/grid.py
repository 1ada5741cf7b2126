"""The picture of samples says itself where each image is, and of which caption: written with it, and read back.

No torch: a report reads them too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY = "rfscale"
"""Of the text chunk of the PNG."""
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Cell:
    """One image of a grid: its box in the picture (left, top, right, bottom), its own sides in pixels, its caption.

    The caption is None where the picture does not say it.
    """

    box: tuple[int, int, int, int]
    width: int
    height: int
    caption: str | None


def described(cells: Sequence[Cell]) -> PngInfo:
    """What is saved with the picture."""
    info = PngInfo()
    info.add_text(KEY, json.dumps([asdict(cell) for cell in cells]))
    return info


def save_row(images: Sequence[Pixels], captions: Sequence[str], path: Path) -> None:
    """Images side by side as they are, uint8 "h w 3" of any shapes, with their captions: what `read_grid` reads."""
    sheet = Image.new("RGB", (sum(image.shape[1] for image in images), max(image.shape[0] for image in images)))
    cells, left = [], 0
    for image, caption in zip(images, captions, strict=True):
        height, width = image.shape[:2]
        sheet.paste(Image.fromarray(image), (left, 0))
        cells.append(Cell((left, 0, left + width, height), width, height, caption))
        left += width
    sheet.save(path, pnginfo=described(cells))


def read_grid(path: Path, resolution: int) -> list[tuple[Pixels, str | None]]:
    """The images, uint8 "h w 3" as they were drawn, with their captions.

    Up to 0.1.0 a picture did not say what it shows: then the images are square, of that many pixels, and the captions
    are None. Raises OSError and ValueError for what is no such picture.
    """
    with Image.open(path) as picture:
        told = picture.info.get(KEY)
        sheet = picture.convert("RGB")
    cells = [Cell(**cell) for cell in json.loads(told)] if told else list(_unsaid(sheet, resolution))
    return [(_cut(sheet, cell), cell.caption) for cell in cells]


def _cut(sheet: Image.Image, cell: Cell) -> Pixels:
    part = sheet.crop(cell.box)
    if cell.width < part.width:  # it was enlarged by repeating pixels
        part = part.resize((cell.width, cell.height), Image.Resampling.NEAREST)
    return np.asarray(part)


_SIDE, _GAP, _TEXT = 160, 8, 44


def _unsaid(sheet: Image.Image, resolution: int) -> Iterator[Cell]:
    """The cells of a picture that does not say them, up to the first that is empty."""
    side = min(resolution, _SIDE)
    for top in range(_GAP, sheet.height - _SIDE, _SIDE + _TEXT + _GAP):
        for left in range(_GAP, sheet.width - _SIDE, _SIDE + _GAP):
            cell = Cell((left, top, left + _SIDE, top + _SIDE), side, side, None)
            if np.all(np.asarray(sheet.crop(cell.box)) == 255):
                return
            yield cell
