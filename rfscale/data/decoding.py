"""Images in files, or inside other files -> RGB pixels of one height and width, in a thread pool (Pillow decodes
outside the interpreter lock)."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from rfscale.data.base import DataError
from rfscale.data.buckets import Sides

_CHUNK = 256  # images in flight, so that a large folder is never in memory at once
_FLAT = 16  # of 255: an image of which no channel spans more shows next to nothing

# EXIF 2.32, table 6: what turns a stored image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Stored:
    """An image inside another file. `where` names it and `remedy` says what to do where it cannot be decoded; `stamp`
    changes when the file does. `read` gives its bytes."""

    where: str
    remedy: str
    stamp: Hashable
    read: Callable[[], bytes] = field(compare=False)

    def __str__(self) -> str:
        return self.where


Picture = Path | Stored
_Place = TypeVar("_Place")


@dataclass(frozen=True, eq=False)
class Pictures(Sequence[Stored], Generic[_Place]):
    """Images inside other files, by their number. `stored` makes one of its place when it is asked for: of millions of
    images only the places are kept."""

    places: Sequence[_Place]
    stored: Callable[[_Place], Stored]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, number: int) -> Stored: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Stored]: ...
    def __getitem__(self, number: int | slice) -> Stored | Sequence[Stored]:
        if isinstance(number, slice):
            return Pictures(self.places[number], self.stored)
        return self.stored(self.places[number])


def decode(picture: Picture, height: int, width: int | None = None) -> npt.NDArray[np.uint8]:
    """uint8 "height width 3": EXIF orientation applied, RGB, the largest centred part of that aspect, bicubic with
    antialiasing. Without a width, a square.

    Cropping first and resizing then equals resizing until one side fits and cropping the other, without rounding the
    longer one. Transparent pixels are laid over white. Raises DataError that names a file which cannot be decoded, or
    whose values have no known range.
    """
    width = height if width is None else width
    try:
        with Image.open(_source(picture)) as image:
            upright = _rgb(_upright(image))
            right, bottom = upright.size
            kept_width, kept_height = min(right, bottom * width / height), min(bottom, right * height / width)
            left, top = (right - kept_width) / 2, (bottom - kept_height) / 2
            box = (left, top, left + kept_width, top + kept_height)
            return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC, box=box))
    except Exception as error:  # a corrupt file makes Pillow raise nearly anything: OSError, SyntaxError, struct.error
        raise _undecodable(picture, error) from error


def _source(picture: Picture) -> Path | io.BytesIO:
    return picture if isinstance(picture, Path) else io.BytesIO(picture.read())


def decode_all(pictures: Sequence[Picture], sides: Sides) -> npt.NDArray[np.uint8]:
    """uint8 "n h w 3"."""
    if len(pictures) == 1:
        return decode(pictures[0], *sides)[None]
    with ThreadPoolExecutor(_threads()) as pool:
        return np.stack(list(pool.map(lambda picture: decode(picture, *sides), pictures)))


def check_images(pictures: Sequence[Picture], sides: Sides) -> list[Picture]:
    """Decode every image and keep none; returns those that are nearly of one colour.

    Raises DataError that names the first one which cannot be decoded.
    """
    flat: list[Picture] = []
    with ThreadPoolExecutor(_threads()) as pool:
        for first in range(0, len(pictures), _CHUNK):
            chunk = pictures[first : first + _CHUNK]
            decoded = pool.map(lambda picture: decode(picture, *sides), chunk)
            flat += [picture for picture, pixels in zip(chunk, decoded, strict=True) if is_flat(pixels)]
    return flat


def upright_sizes(pictures: Sequence[Picture]) -> list[Sides]:
    """Height and width of every image as `decode` sees it, from its header. Raises DataError as `decode` does."""
    with ThreadPoolExecutor(_threads()) as pool:
        return list(pool.map(_upright_size, pictures))


def _upright_size(picture: Picture) -> Sides:
    try:
        if isinstance(picture, Stored):
            return _size_of(picture, picture.stamp)
        status = picture.stat()
        return _size_of(picture, (status.st_mtime_ns, status.st_size))
    except Exception as error:
        raise _undecodable(picture, error) from error


@lru_cache(maxsize=1 << 18)
def _size_of(picture: Picture, stamp: Hashable) -> Sides:
    """Of the file as it was at that time: a sweep asks for the same sizes many times."""
    with Image.open(_source(picture)) as image:
        turned = _orientation(image) in _SIDEWAYS
        # Pillow turns a TIFF itself: some versions already when it is opened, others when it is loaded.
        width, height = _upright(image).size if turned and image.format == "TIFF" else image.size
        return (width, height) if turned and image.format != "TIFF" else (height, width)


def _undecodable(picture: Picture, error: Exception) -> DataError:
    if isinstance(error, DataError):  # what holds the image cannot be read
        return error
    remedy, reason = "replace it or remove its line from the metadata file", str(error)
    if isinstance(picture, Stored):
        remedy = picture.remedy
        if isinstance(error, UnidentifiedImageError):  # Pillow names the buffer that it was given, by its address
            reason = "cannot identify image file"
    return DataError(f"the image {picture} cannot be decoded ({reason}): {remedy}.")


def is_flat(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether every channel of "h w 3" spans less than 16 of 255 levels: nearly one colour."""
    return bool(np.ptp(pixels, axis=(0, 1)).max() < _FLAT)


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says. Pillow's own `exif_transpose` writes all metadata anew, which one malformed
    number in them makes impossible."""
    image.load()  # where a TIFF turns itself, and forgets that it was turned
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 .. 8; 1 where there is none that can be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of metadata that are malformed anywhere
        found = _scanned_orientation(image.info.get("exif", b""))
    return found if isinstance(found, int) and found in _TURNS else 1


def _scanned_orientation(exif: object) -> int | None:
    """Orientation from the first directory of raw EXIF, entry by entry, whatever the other entries hold.

    TIFF 6.0, section 2: a header (byte order, 42, offset), a count, then entries of 12 bytes: tag, type, count, value.
    """
    content = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 10:
        return None
    (at,) = struct.unpack_from(f"{order}I", content, 4)
    if at + 2 > len(content):
        return None
    (entries,) = struct.unpack_from(f"{order}H", content, at)
    for entry in range(at + 2, min(at + 2 + 12 * entries, len(content) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", content, entry)
        if tag == ExifTags.Base.Orientation and kind == 3:
            return int(value)
    return None


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits. Raises ValueError for a mode whose values have no range that can be known."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


def _grey(values: npt.NDArray[np.generic], mode: str) -> npt.NDArray[np.uint8]:
    """Wide grey values "h w" -> 0 .. 255. Pillow knows no range for them, and would clip at 255.

    Integers (I, I;16): 0 .. 65535, where an image uses more than the 14 lower bits; fewer may as well be the 12 or 14
    bits of a camera, and the image would come out nearly black. Floats (F): 0 .. 1, or 0 .. 255 where the upper half is
    used; less may as well be 0 .. 100.
    Raises ValueError that names the mode and the range found.
    """
    low, high = float(values.min()), float(values.max())
    if low == high == 0:
        return np.zeros(values.shape, dtype=np.uint8)
    if mode == "F" and low >= 0 and high <= 1:
        return np.asarray(np.round(values.astype(np.float64) * 255), dtype=np.uint8)
    if mode == "F" and low >= 0 and 127 < high <= 255:
        return values.astype(np.uint8)
    if mode != "F" and low >= 0 and 16383 < high <= 65535:
        return (values.astype(np.int64) // 257).astype(np.uint8)
    ranges = "0 to 1, or 0 to 255 with more than 127," if mode == "F" else "0 to 65535 with more than 16383"
    raise ValueError(f"mode {mode} with values {low:g} to {high:g}, where {ranges} is read; save it with 8 bits")
