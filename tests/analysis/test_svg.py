"""Figures in a page: titles at the right marks, nothing that leaks, nothing that users wrote as markup."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.marks import Told, tell
from analysis.report.pictures import FORMATS, Drawn
from analysis.report.svg import SVG, Inline, inline
from analysis.style import house_style, legend_beside

EVIL = '</svg><script>alert("owned")</script> & "why"?'


@pytest.fixture(scope="module")
def drawn() -> tuple[Drawn, Inline]:
    def draw() -> Figure:
        figure = Figure(figsize=(4, 2), layout="constrained")
        ax = figure.subplots()
        tell(ax.plot([1, 2, 3], [3, 1, 2], "o", ls="", label="a"), "a", ["one", EVIL, "three"])
        tell(ax.plot([1, 3], [1, 3], label=EVIL), EVIL, ["the line"])
        tell(ax.fill_between([1, 3], [0, 2], [2, 4], alpha=0.2), "a")
        ax.plot([1, 2], [2, 2])
        legend_beside(ax)
        return figure

    with house_style():
        made = Drawn.of(draw)
        return made, inline(made.written("svg"), "fig", "what it shows", made.bare, {"a": 4, EVIL: 0})


def parsed(drawing: Inline) -> ElementTree.Element:
    return ElementTree.fromstring(drawing.markup)


def tag(name: str) -> str:
    return f"{{{SVG}}}{name}"


def test_each_mark_has_its_title_and_its_arm(drawn: tuple[Drawn, Inline]) -> None:
    root = parsed(drawn[1])
    points = [use for use in root.iter(tag("use")) if use.find(tag("title")) is not None]
    assert [use.findtext(tag("title")) for use in points] == ["one", EVIL, "three"]
    x = [float(use.attrib["x"]) for use in points]
    y = [float(use.attrib["y"]) for use in points]
    assert np.argsort(x).tolist() == [0, 1, 2], "the first title at the first point"
    assert np.argsort(y).tolist() == [0, 2, 1], "downwards"
    of = {group.get("data-arm"): group for group in root.iter(tag("g")) if group.get("data-arm")}
    assert set(of) == {"4", "0"}
    assert of["0"].findtext(tag("title")) == "the line"
    assert drawn[1].arms == {"a", EVIL}
    assert drawn[1].titles == ("one", EVIL, "three", "the line")


def test_nothing_leaks_out_of_the_drawing(drawn: tuple[Drawn, Inline]) -> None:
    made, drawing = drawn
    root = parsed(drawing)
    assert "<script" not in drawing.markup
    assert not list(root.iter(tag("style")))
    assert "legend" not in drawing.markup
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert all(name.startswith("fig-") for name in ids)
    assert len(ids) == len(set(ids))
    for element in root.iter():
        for value in (element.get("href", ""), element.get("clip-path", "").removeprefix("url(").rstrip(")")):
            assert not value or value.removeprefix("#") in ids, "what is pointed to is there, the legend's marks too"
    assert root.get("role") == "img"
    assert root.get("aria-label") == "what it shows"
    width = float(root.attrib["viewBox"].split()[2])
    assert width == pytest.approx(made.bare, rel=1e-3)
    assert width < 72 * 4 - 30, "cut where the legend was"


def test_a_figure_is_written_as_the_same_bytes_in_every_format(drawn: tuple[Drawn, Inline]) -> None:
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    with house_style():
        for kind in FORMATS:
            once = drawn[0].written(kind)
            assert once.startswith(starts[kind])
            assert once == drawn[0].written(kind)


def test_names_that_are_none_of_ours_say_nothing() -> None:
    assert Told.of("line2d_4") is None
    assert Told.of('told:["rf", "x"]') == Told("rf", ("x",))
