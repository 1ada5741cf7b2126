"""Every script is read, what was read well before is read as before, and what is read anew is another identity."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rfscale.data import FolderData, TextSpec
from rfscale.data.digits import NAMES, caption
from rfscale.data.glyphs import scenes as glyphs
from rfscale.data.notes import data_notes
from rfscale.data.shapes import scenes as shapes
from rfscale.data.spec import DigitsData, ShapesData
from rfscale.data.text import HashTextEncoder
from rfscale.data.words import READING, first_words, reading, words

TOKENS = {
    "一只红色的猫": ["一", "只", "红", "色", "的", "猫"],
    "ねこと犬": ["ね", "こ", "と", "犬"],
    "iPhone手机 12": ["iphone", "手", "机", "12"],
    "빨간 고양이": ["빨간", "고양이"],
    "हिन्दी में": ["हिन्दी", "में"],
    "สวัสดีค่ะ": ["ส", "วั", "ส", "ดี", "ค่", "ะ"],
    "красный Кот": ["красный", "кот"],
    "قِطَّة حمراء": ["قِطَّة", "حمراء"],
    "x\u030cy": ["x\u030cy"],
    "a 🐶 here": ["a", "🐶", "here"],
    "🐶🐱": ["🐶", "🐱"],
    "👍🏽👍": ["👍🏽", "👍"],
    "👩\u200d💻 ❤\ufe0f": ["👩💻", "❤"],
    "🇩🇪": ["🇩", "🇪"],
    "25 °C": ["25", "°", "c"],
    "...": ["_.", "_.", "_."],
    "?!": ["_?", "_!"],
    "_": ["__"],
    "": [],
    " \u200b\n": [],
}


@pytest.mark.parametrize("text", TOKENS)
def test_tokens(text: str) -> None:
    assert words(text) == TOKENS[text]


DIFFERENT = (
    ("一只红色的猫坐在沙发上", "一只蓝色的猫坐在沙发上"),
    ("🐶", "🐱"),
    ("a cat 🐶", "a cat 🐱"),
    ("👍🏽", "👍🏿"),
    ("👩\u200d💻", "👩💻"),
    ("कि", "की"),
    ("ค่า", "ค้า"),
    ("...", ""),
    ("...", "!!!"),
    ("5 €", "5 £"),
    ("\ue000", "\ue001"),
    (
        "flag \U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "flag \U0001f3f4\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f",
    ),
    ("press #\ufe0f\u20e3", "press *\ufe0f\u20e3"),
    ("press #\u20e3", "press"),
    ("猫犬", "犬猫"),
)


def test_captions_that_differ_in_one_sign_are_two_inputs() -> None:
    encoder = HashTextEncoder(16, 64)
    for one, other in DIFFERENT:
        tokens, pooled = encoder.encode([one, other])
        assert np.abs(tokens[0] - tokens[1]).max() > 0.1, (one, other)
        assert np.abs(pooled[0] - pooled[1]).max() > 0.1, (one, other)


def test_distinct_emoji_are_distinct() -> None:
    found = {tuple(words(chr(code))) for code in range(0x1F600, 0x1F650)}
    assert len(found) == 0x50


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_with_a_word_is_read_as_before(text: str) -> None:
    assert words(text) == first_words(text) or not first_words(text)
    assert reading([text]) == (1 if words(text) == first_words(text) else 2)


@given(st.text())
def test_whatever_can_be_seen_is_read(text: str) -> None:
    found = words(text)
    assert words(f" {text} ") == found
    assert all(token and " " not in token for token in found), "pairs of tokens are joined by a space"
    seen = [c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c)[0] not in "CZ"]
    assert bool(found) or not seen


def test_each_reading_of_captions_has_its_version() -> None:
    assert reading(["a cat", "ein Löwe"]) == 1
    assert reading(["a cat", "猫犬"]) == 2
    assert reading(["a cat", "猫犬", "press #\ufe0f\u20e3"]) == READING == 3
    assert reading(["\U0001f3f4\U000e0067\U000e0062\U000e007f"]) == 3
    assert words("press #\u20e3 now") == ["press", "\U000f0023", "now"]


def test_the_worlds_are_read_as_before() -> None:
    captions = [scene.caption for scene in (*shapes(range(2000)), *glyphs(range(2000)))]
    captions += [caption(name) for name in NAMES]
    for text in captions:
        assert words(text) == first_words(text)
    for text in ("A “red” ring — isn’t it…", "Größe, Été, naïve café", "½ cup", "красный кот"):
        assert reading([text]) == 1


# --- identity of a folder ---------------------------------------------------------------------------------------------


def picture_folder(folder: Path, texts: list[str], names: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    names = names or [f"{i:02d}.png" for i in range(len(texts))]
    for i, name in enumerate(names):
        if not (folder / name).exists():
            pixels = np.linspace(0, 200 + i, 64).reshape(8, 8).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name)
    lines = [json.dumps({"file_name": n, "text": t}) for n, t in zip(names, texts, strict=True)]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def content(folder: Path) -> object:
    return FolderData(name="folder", path=str(folder), resolution=8).identity()["content"]


def first_content(folder: Path) -> str:
    """The fingerprint as the first version wrote it."""
    digest = hashlib.sha256((folder / "metadata.jsonl").read_bytes())
    for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        name = json.loads(line)["file_name"]
        digest.update(f"\n{name}\0{(folder / name).stat().st_size}".encode())
    return digest.hexdigest()


def test_a_folder_that_was_read_well_keeps_its_fingerprint(tmp_path: Path) -> None:
    plain = picture_folder(tmp_path / "plain", [f"a cat, number {i}" for i in range(9)])
    assert content(plain) == first_content(plain)
    dotted = picture_folder(tmp_path / "dotted", ["a cat"] * 9, [f"./{i}.png" for i in range(9)])
    assert content(dotted) == first_content(dotted), "each file has one name: it is kept"


@pytest.mark.parametrize("text", ["一只红色的猫", "a dog 🐶", "...", "हिन्दी"])
def test_a_folder_that_is_read_anew_has_another_fingerprint(text: str, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "anew", [text, *(["a cat"] * 8)])
    assert content(folder) != first_content(folder)


# --- notes ------------------------------------------------------------------------------------------------------------


def test_a_folder_says_what_it_lacks(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "few", ["a " * 17, "\u200b", *(["a cat"] * 10)])
    spec = FolderData(name="folder", path=str(folder), resolution=8)
    found = "\n".join(data_notes(spec, TextSpec(), images=64, steps=100, batch=8))
    held_out = 12 - round(800 / float(found.split(" times over")[0].rsplit(" ", 1)[1]))
    assert f"evaluation asks for 64 held-out images and data `folder` has {held_out}" in found
    assert f"times over the {12 - held_out} training images" in found
    assert "1 of 12 captions of data `folder` have more than text.length = 16 tokens" in found
    assert "1 of 12 captions of data `folder` hold nothing that can be read" in found


def test_what_is_as_asked_for_is_not_noted() -> None:
    assert list(data_notes(ShapesData(name="shapes"), TextSpec(), images=10**6, steps=10**6, batch=10)) == []
    assert list(data_notes(DigitsData(name="digits"), TextSpec(), images=256, steps=1541, batch=1)) == []


def test_the_worlds_say_that_captions_are_cut_and_data_is_seen_again() -> None:
    (cut,) = data_notes(ShapesData(name="shapes"), TextSpec(length=4), images=8, steps=8, batch=8)
    assert "of the first 512 held-out captions of data `shapes` have more than text.length = 4 tokens" in cut
    more, again = data_notes(DigitsData(name="digits"), TextSpec(), images=257, steps=1541, batch=2)
    assert "asks for 257 held-out images and data `digits` has 256" in more
    assert "go 2.0 times over the 1,541 training images of data `digits`" in again
