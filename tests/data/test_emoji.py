"""The emoji of a font: what they are called, what stands on one side of the split, and fonts that cannot be used."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import BigGlyphMetrics, SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import BitmapSizeTable, SbitLineMetrics, Strike, eblc_index_sub_table_1
from PIL import Image

from rfscale.data import DataError, load
from rfscale.data.emoji import FONT, EmojiData, base_of, plain, unicode_name

SINGLE = [0x1F600 + i for i in range(24)] + [0x1F44B, 0x1F692, 0x1F468, 0x1F469, 0x2764, 0x1F43B, 0x1F3FB, 0x1F3FF]
JOINED = [(0x1F44B, 0x1F3FB), (0x1F44B, 0x1F3FF), (0x1F468, 0x200D, 0x1F692), (0x1F469, 0x200D, 0x1F692)]
TWINS = (0x1F61E, 0x1F61F)  # one picture under two characters


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "png")
    return file.getvalue()


def write_font(path: Path, bitmaps: bool = True) -> Path:
    """A small font with colour bitmaps (CBDT, CBLC) and ligatures, the sequences also backwards."""
    names = {character: f"u{character:X}" for character in [*SINGLE, *TWINS, 0x200D]}
    joined = {code: "g" + "_".join(f"{c:X}" for c in code) for code in JOINED}
    order = [".notdef", *names.values(), *joined.values()]
    builder = FontBuilder(1000, isTTF=False)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupOS2()
    builder.setupPost()
    rules = [f"sub {' '.join(names[c] for c in code)} by {name};" for code, name in joined.items()]
    rules += [f"sub {' '.join(names[c] for c in reversed(code))} by {name};" for code, name in joined.items()]
    builder.addOpenTypeFeatures(f"feature ccmp {{ {' '.join(rules)} }} ccmp;")
    font = builder.font
    if bitmaps:
        drawn = [name for name in order if name not in (".notdef", names[0x200D])]
        glyphs: dict[str, Any] = {}
        for number, name in enumerate(drawn):
            glyph = glyphs[name] = cbdt_bitmap_format_17(b"", font)
            glyph.imageData = png(drawn.index(names[TWINS[0]]) if name == names[TWINS[1]] else number)
            glyph.metrics = SmallGlyphMetrics()
            for key in ("height", "width", "BearingX", "BearingY", "Advance"):
                setattr(glyph.metrics, key, 12)
        font["CBDT"], font["CBLC"] = newTable("CBDT"), newTable("CBLC")
        font["CBDT"].version = font["CBLC"].version = 3.0
        font["CBDT"].strikeData = [glyphs]
        strike, index = Strike(), eblc_index_sub_table_1(b"", font)
        size = strike.bitmapSizeTable = BitmapSizeTable()
        size.hori, size.vert = SbitLineMetrics(), SbitLineMetrics()
        for line in (size.hori, size.vert):
            for key in ("ascender", "descender", "widthMax", "caretSlopeNumerator", "caretSlopeDenominator"):
                setattr(line, key, 0)
            for key in ("caretOffset", "minOriginSB", "minAdvanceSB", "maxBeforeBL", "minAfterBL", "pad1", "pad2"):
                setattr(line, key, 0)
        size.colorRef, size.ppemX, size.ppemY, size.bitDepth, size.flags = 0, 12, 12, 32, 1
        index.names, index.indexFormat, index.imageFormat = drawn, 1, 17
        index.metrics = BigGlyphMetrics()
        strike.indexSubTables = [index]
        font["CBLC"].strikes = [strike]
    font.save(path)
    return path


@pytest.fixture(scope="module")
def font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_font(tmp_path_factory.mktemp("font") / "emoji.ttf")


def spec(path: Path, **fields: Any) -> EmojiData:
    return EmojiData.model_validate({"name": "emoji", "path": str(path), "resolution": 8, **fields})


def test_names_and_bases() -> None:
    for code, name, base in (
        ((0x1F600,), "grinning face", "1f600"),
        ((0x1F44B, 0x1F3FC), "waving hand sign: medium-light skin tone", "1f44b"),
        ((0x1F469, 0x200D, 0x1F692), "woman, fire engine", "1f692"),
        ((0x1F468, 0x1F3FF, 0x200D, 0x1F692), "man, fire engine: dark skin tone", "1f692"),
        ((0x1F3C3, 0x200D, 0x2640, 0xFE0F), "runner, female sign", "1f3c3"),
        ((0x1F3C3, 0x1F3FB, 0x200D, 0x2640, 0xFE0F, 0x200D, 0x27A1, 0xFE0F), None, "1f3c3"),
        ((0x1F468,), "man", "person"),
        ((0x1F469, 0x1F3FB), "woman: light skin tone", "person"),
        ((0x1F469, 0x200D, 0x2764, 0xFE0F, 0x200D, 0x1F468), "woman, heavy black heart, man", "people-2764"),
        ((0x2764, 0xFE0F), "heavy black heart", "2764"),
        ((0x1F1E9, 0x1F1EA), "flag: de", "1f1e9-1f1ea"),
        ((0x1F3F4, 0xE0067, 0xE0062, 0xE007F), "flag: gb", "1f3f4-e0067-e0062-e007f"),
        ((0x1F3FB,), "light skin tone", "1f3fb"),
        ((0xE000,), "", "e000"),
    ):
        assert base_of(plain(code)) == base
        assert name is None or unicode_name(plain(code)) == name


def test_the_emoji_of_a_font(font: Path) -> None:
    listing = spec(font).listing()
    texts = [entry.text for entry in listing.entries]
    assert len(texts) == len(set(texts)) == len(SINGLE) + len(TWINS) + len(JOINED)
    assert {"grinning face", "man, fire engine", "waving hand sign: dark skin tone"} <= set(texts)
    bases = {entry.text: entry.file_name for entry in listing.entries}
    assert len({base for text, base in bases.items() if "fire engine" in text}) == 1
    assert bases["disappointed face"] == bases["worried face"], "one picture"
    spec(font).check(decode=True)
    data = load(spec(font, validation_fraction=0.3))
    held_out, training = set(data.validation(100).captions), set(data.train(0, 0, 200).captions)
    assert held_out | training == set(texts)
    assert {bases[text] for text in held_out}.isdisjoint({bases[text] for text in training})


def test_identity_is_of_the_font(font: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.ttf"
    moved.write_bytes(font.read_bytes())
    assert spec(moved).identity() == spec(font).identity()
    assert spec(font).identity().keys() == {"name", "resolution", "content"}


def test_annotations_give_more_columns(font: Path, tmp_path: Path) -> None:
    (tmp_path / "de.xml").write_text(
        '<ldml><annotations><annotation cp="😀">Gesicht | lol</annotation>'
        '<annotation cp="😀" type="tts">grinsendes Gesicht</annotation></annotations></ldml>',
        encoding="utf-8",
    )
    data = spec(font, annotations=str(tmp_path / "de.xml"), captions=["cldr", "keywords", "text"])
    (face,) = [entry for entry in data.listing().entries if "grinning face" in entry.texts]
    assert face.texts == ("grinsendes Gesicht", "Gesicht, lol", "grinning face")
    (note,) = data.check()
    assert note.startswith("37 of 38 emoji are not in ")
    for content, sentence in (
        ("<ldml>", "cannot be read as CLDR"),
        ("<ldml></ldml>", "holds no annotation of type tts"),
    ):
        (tmp_path / "de.xml").write_text(content)
        with pytest.raises(DataError, match=sentence):
            data.check()


def test_names_that_follow_a_rule_are_in_a_file_beside(font: Path, tmp_path: Path) -> None:
    """CLDR's annotationsDerived/de.xml is the other half of annotations/de.xml."""
    for folder, code, name in (("annotations", "👋", "Hand"), ("annotationsDerived", "👋🏻", "Hand: 1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "de.xml").write_text(
            f'<ldml><annotations><annotation cp="{code}" type="tts">{name}</annotation></annotations></ldml>',
            encoding="utf-8",
        )
    texts = [
        e.text for e in spec(font, annotations=str(tmp_path / "annotations/de.xml"), captions="cldr").listing().entries
    ]
    assert {"Hand", "Hand: 1", "grinning face"} <= set(texts)
    copy = tmp_path / "de.xml"
    copy.write_bytes((tmp_path / "annotations/de.xml").read_bytes())
    alone = [entry.text for entry in spec(font, annotations=str(copy), captions="cldr").listing().entries]
    assert "Hand" in alone
    assert "Hand: 1" not in alone
    # A light skin comes before a dark one by its character and here by CLDR's name, and after it by Unicode's.
    by_name = spec(font, annotations=str(tmp_path / "annotations/de.xml"), captions="cldr").load().train(0, 0, 60)
    assert np.array_equal(by_name.images, spec(font).load().train(0, 0, 60).images), (
        "one order, whatever is written below"
    )


def test_what_cannot_be_used_is_one_sentence(font: Path, tmp_path: Path) -> None:
    (tmp_path / "none.ttf").write_bytes(b"no font")
    bare = write_font(tmp_path / "bare.ttf", bitmaps=False)
    for data, sentence in (
        (
            spec(tmp_path / "gone.ttf"),
            r"gone.ttf \(No such file.*: apt-get install fonts-noto-color-emoji",
        ),
        (spec(tmp_path / "none.ttf"), "none.ttf cannot be read"),
        (spec(bare), "bare.ttf has no colour bitmaps"),
        (spec(font, captions="cldr"), "has no caption column `cldr`: its columns are text, and with `annotations`"),
        (spec(font, annotations=str(tmp_path / "x.xml")), r"x.xml \(No such file.*: apt-get install unicode-cldr-core"),
    ):
        with pytest.raises(DataError, match=sentence) as caught:
            data.check()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not Path(FONT).exists(), reason="fonts-noto-color-emoji is not installed")
def test_debians_font() -> None:
    data = EmojiData.model_validate({"name": "emoji", "resolution": 16})
    data.check(decode=True)
    listing = data.listing()
    assert len(listing.entries) > 3000
    assert len({entry.file_name for entry in listing.entries}) > 1000
