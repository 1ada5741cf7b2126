"""The user's own images: what is read, how it is decoded, and every way in which it can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfscale.data import DataError, FolderData, load, pairset
from rfscale.data.decoding import decode
from rfscale.data.listing import folder_listing
from rfscale.data.pairs import split
from rfscale.data.sorting import parts_of


def write_listing(folder: Path, names: list[str], texts: list[str] | None = None) -> None:
    texts = texts or [f"picture {name}" for name in names]
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in zip(names, texts, strict=True)]
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_images(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (10, 14, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


NAMES = [f"{number:03}.png" for number in range(40)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path, NAMES)
    write_listing(tmp_path, NAMES)
    return tmp_path


def spec(folder: Path, **fields: float) -> FolderData:
    return FolderData.model_validate({"name": "folder", "path": str(folder), "resolution": 8, **fields})


def test_every_image_is_in_one_of_the_two_splits(images: Path) -> None:
    data = load(spec(images))
    (part,) = parts_of(spec(images))
    held_out, training = ({entry.file_name for entry in entries} for entries in (part.held_out, part.training))
    assert held_out.isdisjoint(training)
    assert held_out | training == set(NAMES)
    assert len(data.validation(1000).captions) == len(held_out)


def test_the_held_out_share_is_the_fraction_asked_for(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(4000)]
    for name in names:
        (tmp_path / name).touch()
    write_listing(tmp_path, names)
    share = len(parts_of(spec(tmp_path, validation_fraction=0.2))[0].held_out) / len(names)
    assert abs(share - 0.2) < 5 * (0.2 * 0.8 / len(names)) ** 0.5


def test_adding_images_leaves_the_others_in_their_split(images: Path) -> None:
    before = {entry.file_name for entry in parts_of(spec(images))[0].held_out}
    more = [f"new-{number}.png" for number in range(40)]
    write_images(images, more)
    write_listing(images, more + NAMES[::-1])
    after = {entry.file_name for entry in parts_of(spec(images))[0].held_out}
    assert before <= after
    assert after - before <= set(more)


def test_at_least_one_image_is_held_out(images: Path) -> None:
    assert len(parts_of(spec(images, validation_fraction=1e-9))[0].held_out) == 1


def test_captions_of_one_image_stay_in_one_split(images: Path) -> None:
    write_listing(images, NAMES * 2, ["one"] * 40 + ["two"] * 40)
    (part,) = parts_of(spec(images))
    assert {e.file_name for e in part.held_out}.isdisjoint(e.file_name for e in part.training)
    assert len(part.held_out) + len(part.training) == 80


def test_pixels_and_captions_belong_together(images: Path) -> None:
    batch = load(spec(images)).train(0, 0, 60)
    for image, caption in zip(batch.images, batch.captions, strict=True):
        pixels = decode(images / caption.removeprefix("picture "), 8)
        assert np.allclose((image.transpose(1, 2, 0) + 1) * 127.5, pixels, atol=1e-4)


def test_the_cache_changes_nothing(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = load(spec(images))
    monkeypatch.setattr(pairset, "CACHE_BYTES", 0)
    plain = load(spec(images))
    assert np.array_equal(cached.train(0, 0, 100).images, plain.train(0, 0, 100).images)
    assert np.array_equal(cached.train(0, 50, 9).images, plain.train(0, 50, 9).images)
    assert np.array_equal(cached.validation(4).images, plain.validation(4).images)


def test_a_small_set_is_decoded_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(spec(images))
    first = data.train(0, 0, 100).images
    for name in NAMES:
        (images / name).unlink()
    assert np.array_equal(data.train(0, 0, 100).images, first)


def test_the_centre_square_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, :20], pixels[:, 20:40], pixels[:, 40:] = 10, 200, 90
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    wide, tall = decode(tmp_path / "wide.png", 10), decode(tmp_path / "tall.png", 10)
    assert np.array_equal(wide[:, 2:-2], np.full((10, 6, 3), 200))
    assert np.array_equal(tall, wide.transpose(1, 0, 2))
    whole = Image.fromarray(pixels).resize((30, 10), Image.Resampling.BICUBIC)
    assert np.array_equal(wide, np.asarray(whole)[:, 10:20])


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    shrunk = decode(tmp_path / "stripes.png", 8).astype(float)
    assert np.abs(shrunk[:, 1:-1] - 127.5).max() < 3


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255  # light above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: light on the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    decoded = decode(tmp_path / "turned.png", 16)
    assert decoded[:, 8:].min() == 255
    assert decoded[:, :8].max() == 0


def translucent() -> Image.Image:
    return Image.new("RGBA", (16, 16), (200, 0, 100, 0))


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 0, 100])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("make", "suffix", "expected"),
    [
        (lambda: Image.new("L", (16, 16), 77), "png", (77, 77, 77)),
        (lambda: Image.new("1", (16, 16), 1), "png", (255, 255, 255)),
        (lambda: Image.fromarray(np.full((16, 16), 77 * 257, dtype=np.uint16)), "png", (77, 77, 77)),
        (lambda: Image.new("RGBA", (16, 16), (200, 0, 100, 255)), "png", (200, 0, 100)),
        (translucent, "png", (255, 255, 255)),
        (
            lambda: Image.new("RGB", (16, 16), (200, 0, 100)).convert("P", palette=Image.Palette.ADAPTIVE),
            "png",
            (200, 0, 100),
        ),
        (palette_with_transparency, "png", (255, 255, 255)),
        (lambda: Image.new("LA", (16, 16), (77, 255)), "png", (77, 77, 77)),
        (lambda: Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "tiff", (0, 0, 0)),
        (lambda: Image.new("RGB", (16, 16), (200, 0, 100)), "webp", (200, 0, 100)),
    ],
    ids=["grey", "bilevel", "grey16", "rgba", "transparent", "palette", "palette-transparent", "la", "cmyk", "webp"],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, make: Callable[[], Image.Image], suffix: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"image.{suffix}"
    make().save(path)
    decoded = decode(path, 8)
    assert decoded.shape == (8, 8, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - expected).max() <= 2


def test_identity_follows_the_content_and_not_the_place(images: Path, tmp_path: Path) -> None:
    identity = spec(images).identity()
    assert set(identity) == {"name", "resolution", "content"}
    copy = tmp_path / "copy"
    write_images(copy, NAMES)
    write_listing(copy, NAMES)
    assert spec(copy).identity() == identity
    assert spec(copy, validation_fraction=0.2).identity()["validation_fraction"] == 0.2
    write_listing(copy, NAMES, ["another caption"] * len(NAMES))
    assert spec(copy).identity() != identity
    write_listing(copy, NAMES)
    assert spec(copy).identity() == identity
    (copy / "notes.txt").write_text("not listed, so not counted")
    assert spec(copy).identity() == identity
    with (copy / NAMES[0]).open("ab") as file:
        file.write(b"0")
    assert spec(copy).identity() != identity


def test_a_byte_order_mark_blank_lines_and_subfolders_are_fine(tmp_path: Path) -> None:
    names = [f"images/{number}.png" for number in range(8)]
    write_images(tmp_path, names)
    lines = [json.dumps({"file_name": name, "text": "un œuf", "source": 1}, ensure_ascii=False) for name in names]
    (tmp_path / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    spec(tmp_path).check(decode=True)
    assert load(spec(tmp_path)).validation(1).captions == ("un œuf",)


def line(file_name: object = "000.png", text: object = "a picture") -> str:
    return json.dumps({"file_name": file_name, "text": text})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "metadata.jsonl is empty: write a line such as"),
        ("\n \n", "metadata.jsonl is empty: write a line such as"),
        (
            f"{line()}\n{{oops\n",
            r"metadata.jsonl, line 2 is not JSON \(.*\): expected an object with file_name and text",
        ),
        (f"{line()}\n\n[1]\n", "metadata.jsonl, line 3 is JSON but not an object: expected"),
        ('{"text": "a cat"}', "metadata.jsonl, line 1 has no `file_name`: each line needs file_name and text"),
        ('{"file_name": "000.png"}', "metadata.jsonl, line 1 has no `text`: each line needs file_name and text"),
        (line(text=3), "metadata.jsonl, line 1: `text` is 3, but it must be a string"),
        (f"{line()}\n{line(text=' ')}", "line 2: the caption of '000.png' is empty: write one or remove the line"),
        (line("missing.png"), "line 1: the file 'missing.png' does not exist in .*: add it or remove the line"),
        (line("000.png/x.png"), "line 1: the file '000.png/x.png' does not exist in"),
        (line("../000.png"), "line 1: file_name '../000.png' must be a path inside the folder"),
        (line("/etc/passwd"), "line 1: file_name '/etc/passwd' must be a path inside the folder"),
        (line("."), "line 1: '.' is not a file: name an image or remove the line"),
        (line("a\0b"), r"line 1: the file 'a\\x00b' cannot be used \(embedded null byte\)"),
        (line("a" * 300), r"line 1: the file 'a+\.\.\. cannot be used \(.*too long"),
        (line(text="\ud83d"), "line 1: `text` holds half a character"),
        (line(""), "line 1: file_name '' must be a path inside the folder"),
        ("\n".join(line(name) for name in NAMES[:7]), "lists 7 images, but at least 8 are needed: add images"),
        ("\n".join([line()] * 20), "lists 1 images, but at least 8 are needed"),
    ],
)
def test_a_wrong_listing_gives_one_sentence(images: Path, content: str, sentence: str) -> None:
    (images / "metadata.jsonl").write_text(content)
    with pytest.raises(DataError, match=sentence) as caught:
        spec(images).check()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    with pytest.raises(DataError, match=sentence):
        load(spec(images))


def test_text_that_is_not_utf8_is_named(images: Path) -> None:
    (images / "metadata.jsonl").write_bytes(line().encode() + b'\n{"file_name": "001.png", "text": "\xff"}\n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        spec(images).check()


def test_a_missing_folder_or_listing_is_named(tmp_path: Path) -> None:
    for call in (FolderData.check, FolderData.identity, load):
        with pytest.raises(
            DataError, match=r"the data folder .*nowhere does not exist: give `path` an existing folder"
        ):
            call(spec(tmp_path / "nowhere"))  # type: ignore[operator]
        with pytest.raises(DataError, match=r"has no metadata\.jsonl: write one with a line such as"):
            call(spec(tmp_path))  # type: ignore[operator]


def test_a_split_without_training_images_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, NAMES[:8])
    write_listing(tmp_path, NAMES[:8])
    with pytest.raises(DataError, match="has 8 images, and validation_fraction 1 holds out all of them"):
        split(tmp_path, folder_listing(tmp_path).entries, 1.0)


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_a_corrupt_image_is_named(images: Path, content: bytes | str) -> None:
    path = images / "017.png"
    path.write_bytes(path.read_bytes()[:150] if isinstance(content, str) else content)
    spec(images).check()  # the listing is in order
    with pytest.raises(DataError, match=r"the image .*017.png cannot be decoded \(.*\): replace it or remove its line"):
        spec(images).check(decode=True)
    with pytest.raises(DataError, match=r"017.png cannot be decoded"):
        load(spec(images)).train(0, 0, 60)


def test_a_sound_folder_passes(images: Path) -> None:
    spec(images).check(decode=True)


def test_home_is_expanded(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(images.parent))
    FolderData(name="folder", path=f"~/{images.name}").check()
