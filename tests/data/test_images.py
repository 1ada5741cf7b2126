"""Image files as people have them: wide pixel values, malformed metadata, one file under two names, flat pictures."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from test_words import content, first_content, picture_folder

from rfscale.data import DataError, FolderData, load
from rfscale.data.decoding import check_images, decode, is_flat
from rfscale.data.listing import folder_listing
from rfscale.data.pairs import split

RAMP = np.linspace(0.0, 1.0, 256).reshape(16, 16)

# What a ramp from black to white is saved as, and the levels that it should have.
WIDE: dict[str, tuple[npt.NDArray[np.generic], str]] = {
    "floats from 0 to 1": (RAMP.astype(np.float32), "tif"),
    "floats from 0 to 255": ((RAMP * 255).astype(np.float32), "tif"),
    "16 bits": (np.round(RAMP * 65535).astype(np.uint16), "png"),
    "16 bits in a TIFF": (np.round(RAMP * 65535).astype(np.uint16), "tif"),
    "32 bits that hold 16": (np.round(RAMP * 65535).astype(np.int32), "tif"),
    "8 bits": (np.round(RAMP * 255).astype(np.uint8), "png"),
}


@pytest.mark.parametrize("case", WIDE)
def test_a_ramp_is_a_ramp_in_every_format(case: str, tmp_path: Path) -> None:
    values, suffix = WIDE[case]
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(values).save(path)
    pixels = decode(path, 16)
    assert np.abs(pixels.astype(int) - (RAMP * 255)[..., None]).max() <= 1.0
    assert not is_flat(pixels)


UNKNOWN: dict[str, npt.NDArray[np.generic]] = {
    "12 bits in 16": np.round(RAMP * 4095).astype(np.uint16),
    "14 bits in 16": np.round(RAMP * 16383).astype(np.uint16),
    "percent": (RAMP * 100).astype(np.float32),
    "8 bits in 16": np.round(RAMP * 255).astype(np.uint16),
    "10 bits in 32": np.round(RAMP * 1023).astype(np.int32),
    "signed": np.round((RAMP - 0.5) * 60000).astype(np.int32),
    "24 bits": np.round(RAMP * 2**24).astype(np.int32),
    "floats from -1 to 1": (2 * RAMP - 1).astype(np.float32),
    "floats of high dynamic range": (RAMP * 3).astype(np.float32),
    "floats from 0 to 65535": (RAMP * 65535).astype(np.float32),
    "floats that are none": np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_range_that_cannot_be_known_is_refused_with_file_and_mode(case: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.tif"
    Image.fromarray(UNKNOWN[case]).save(path)
    with pytest.raises(DataError, match=r"odd.tif cannot be decoded \(mode (F|I|I;16) with values .*; save it with 8"):
        decode(path, 16)


def test_black_is_black_in_every_mode(tmp_path: Path) -> None:
    for kind in (np.uint8, np.uint16, np.int32, np.float32):
        Image.fromarray(np.zeros((8, 8), dtype=kind)).save(tmp_path / "black.tif")
        assert not decode(tmp_path / "black.tif", 8).any()


def test_pictures_that_are_nearly_of_one_colour_are_counted_and_said(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "some", ["a cat"] * 10)
    spec = FolderData(name="folder", path=str(folder), resolution=8)
    assert spec.check(decode=True) == ()
    for name, level in (("03.png", 0), ("07.png", 200)):
        Image.fromarray(np.full((8, 8), level, dtype=np.uint8) + np.arange(8, dtype=np.uint8)).save(folder / name)
    assert check_images(sorted(folder.glob("*.png")), (8, 8)) == [folder / "03.png", folder / "07.png"]
    (note,) = spec.check(decode=True)
    assert note.startswith("2 of 10 images of data `folder` are nearly of one colour, such as ")


# --- metadata ---------------------------------------------------------------------------------------------------------


def malformed_exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block whose second entry is a signed rational whose denominator does not fit."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    entries = struct.pack(f"{order}HHHIHH", 2, 0x0112, 3, 1, orientation, 0)
    entries += struct.pack(f"{order}HHII", 0x011A, 10, 1, 38) + struct.pack(f"{order}I", 0)
    return b"Exif\0\0" + head + entries + struct.pack(f"{order}Ii", 0, -1) + bytes(4)


def cut_exif(orientation: int) -> bytes:
    """An EXIF block that ends after its first entry, of the many that it announces."""
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 900) + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("exif", [malformed_exif, lambda o: malformed_exif(o, ">"), cut_exif])
def test_malformed_metadata_do_not_keep_good_pixels_out(
    exif: Callable[[int], bytes], suffix: str, tmp_path: Path
) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255  # light above
    light = {1: np.s_[:8], 3: np.s_[8:], 6: np.s_[:, 8:], 8: np.s_[:, :8]}
    for orientation, bright in light.items():
        path = tmp_path / f"{orientation}.{suffix}"
        Image.fromarray(pixels).save(path, exif=exif(orientation))
        decoded = decode(path, 16).astype(int)
        assert decoded[bright].mean() > 230, orientation
        assert decoded.mean() == pytest.approx(127.5, abs=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int, tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8, :4] = 255
    plain = Image.fromarray(pixels)
    turned: dict[str, npt.NDArray[np.uint8]] = {}
    for suffix in ("tif", "png"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        plain.save(tmp_path / f"a.{suffix}", exif=exif)
        turned[suffix] = decode(tmp_path / f"a.{suffix}", 16)
    assert np.array_equal(turned["tif"], turned["png"])
    assert (orientation == 1) == np.array_equal(turned["png"], pixels)


@pytest.mark.parametrize("rest", [b"", b"\0\0", b"\0\0II*\0", b"nonsense" * 9, b"\0\0II*\0\xff\xff\xff\xff\0\0"])
def test_metadata_that_say_nothing_turn_nothing(rest: bytes, tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif" + rest)
    assert np.array_equal(decode(tmp_path / "a.png", 16), pixels)


# --- one file, several names ------------------------------------------------------------------------------------------


def dotted(folder: Path, name: str) -> str:
    return f"./{name}"


def doubled(folder: Path, name: str) -> str:
    (folder / "sub").mkdir(exist_ok=True)
    if not (folder / "sub" / name).exists():
        os.symlink(f"../{name}", folder / "sub" / name)
    return f"sub//{name}"


def linked(folder: Path, name: str) -> str:
    os.link(folder / name, folder / f"x-{name}")
    return f"x-{name}"


def soft(folder: Path, name: str) -> str:
    os.symlink(name, folder / f"a{name}")
    return f"a{name}"


@pytest.mark.parametrize("other", [dotted, doubled, linked, soft])
def test_a_file_under_two_names_is_one_image_on_one_side(other: Callable[[Path, str], str], tmp_path: Path) -> None:
    names = [f"{i:02d}.png" for i in range(12)]
    folder = picture_folder(tmp_path / "twice", [f"a cat {i}" for i in range(12)], names)
    alone = content(folder)
    sides = [{e.file_name for e in side} for side in split(folder, folder_listing(folder).entries, 0.3)]
    twice = [*names, *(other(folder, name) for name in names)]
    picture_folder(folder, [f"a cat {i}" for i in range(24)], twice)
    entries = folder_listing(folder).entries
    assert len(entries) == 24
    held_out, training = split(folder, entries, 0.3)
    assert {e.file_name for e in held_out}.isdisjoint({e.file_name for e in training})
    assert len({e.file_name for e in entries}) == 12
    assert {os.stat(folder / e.file_name).st_ino for e in held_out}.isdisjoint(
        {os.stat(folder / e.file_name).st_ino for e in training}
    )
    assert [{e.file_name for e in held_out}, {e.file_name for e in training}] == sides, "the plain name decides"
    assert content(folder) not in (alone, first_content(folder)), "it was split otherwise before"
    batch = load(FolderData(name="folder", path=str(folder), resolution=8, validation_fraction=0.3)).validation(24)
    assert len(batch.captions) == len(held_out)
