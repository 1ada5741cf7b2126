"""Image files -> square RGB pixels, in a thread pool (Pillow decodes outside the interpreter lock)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from rfscale.data.base import DataError

_CHUNK = 256  # images in flight, so that a large folder is never in memory at once


def decode(path: Path, resolution: int) -> npt.NDArray[np.uint8]:
    """uint8 "h w 3": EXIF orientation applied, RGB, centre square, bicubic with antialiasing.

    Cropping the centre square first and resizing it equals resizing the short side and then cropping, without rounding
    the long side. Transparent pixels are laid over white. Raises DataError that names a file which cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            upright = _rgb(ImageOps.exif_transpose(image))
            width, height = upright.size
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            square = upright.resize(
                (resolution, resolution), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
            )
            return np.asarray(square)
    except Exception as error:  # a corrupt file makes Pillow raise nearly anything: OSError, SyntaxError, struct.error
        raise DataError(
            f"the image {path} cannot be decoded ({error}): replace it or remove its line from metadata.jsonl."
        ) from error


def decode_all(paths: Sequence[Path], resolution: int) -> npt.NDArray[np.uint8]:
    """uint8 "n h w 3"."""
    if len(paths) == 1:
        return decode(paths[0], resolution)[None]
    with ThreadPoolExecutor(_threads()) as pool:
        return np.stack(list(pool.map(decode, paths, [resolution] * len(paths))))


def check_images(paths: Sequence[Path], resolution: int) -> None:
    """Decode every image and keep none. Raises DataError that names the first one which cannot be decoded."""
    with ThreadPoolExecutor(_threads()) as pool:
        for first in range(0, len(paths), _CHUNK):
            chunk = paths[first : first + _CHUNK]
            for _ in pool.map(decode, chunk, [resolution] * len(chunk)):
                pass


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255 instead of scaling
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")
