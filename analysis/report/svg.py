"""An SVG of matplotlib's -> one that stands in a page: small, without what would leak, with the titles of its marks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from analysis.marks import Told
from analysis.style import BESIDE

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
PIXELS_PER_POINT = 1.44
"""Letters of 9 points are 13 pixels high on the page."""
PLACES = frozenset({"d", "x", "y", "transform", "points"})
"""Attributes in points, of which two decimals are enough."""

ElementTree.register_namespace("", SVG)


@dataclass(frozen=True)
class Inline:
    """`markup` is safe to stand in a page. `width`: pixels. `arms`: of its marks; `titles`: theirs, in order."""

    markup: str
    width: int
    arms: frozenset[str]
    titles: tuple[str, ...]


def inline(svg: bytes, name: str, alternative: str, bare: float, arms: Mapping[str, int]) -> Inline:
    """`bare`: points of its width that are kept. `arms`: the number by which the page knows each.

    Ids begin with `name`, so that several stand in one page.
    """
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    width = min(width, bare)
    there: set[str] = set()
    titles: dict[str, None] = {}
    for parent in list(root.iter()):
        for child in list(parent):
            beside = child.get("id") == BESIDE
            if beside or child.tag in (_tag("metadata"), _tag("style")):
                parent.remove(child)
            if beside:  # a mark is defined where it is drawn first, which may be here
                root.extend(child.iter(_tag("defs")))
    for group in list(root.iter(_tag("g"))):
        told = Told.of(group.attrib.pop("id", ""))
        if told is not None:
            there.add(told.arm)
            titles |= dict.fromkeys(told.titles)
            _say(group, told, arms)
    _rename(root, name)
    root.attrib.clear()
    root.attrib |= {
        "viewBox": f"0 0 {width:.5g} {height:.5g}",
        "role": "img",
        "aria-label": alternative,
        "class": "fig",
    }
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(r">\s+<", "><", text)
    return Inline(text, round(PIXELS_PER_POINT * width), frozenset(there & set(arms)), tuple(titles))


def _tag(name: str) -> str:
    return f"{{{SVG}}}{name}"


def _say(group: ElementTree.Element, told: Told, arms: Mapping[str, int]) -> None:
    """The arm on the group; a title on each of its points or lines, or one on the whole."""
    if told.arm in arms:
        group.set("data-arm", str(arms[told.arm]))
    points, lines = list(group.iter(_tag("use"))), group.findall(_tag("path"))
    marks = points or lines
    on = [group] if len(told.titles) == 1 else marks if len(marks) == len(told.titles) else []
    for element, words in zip(on, told.titles, strict=False):
        title = ElementTree.Element(_tag("title"))
        title.text = words
        element.insert(0, title)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Ids that are pointed to begin with the name; the others go, with the white grounds, which no dark page wants."""
    used = {found for element in root.iter() for value in element.attrib.values() for found in _pointed(value)}
    for element in root.iter():
        for place in PLACES & set(element.attrib):
            element.set(place, " ".join(re.sub(r"(\.\d\d)\d+", r"\1", element.attrib[place]).split()))
        own = element.attrib.pop("id", "")
        if own in used:
            element.set("id", f"{name}-{own}")
        href = element.attrib.pop(f"{{{XLINK}}}href", None)
        if href is not None:
            element.set("href", f"#{name}-{href.removeprefix('#')}")
        if clip := element.get("clip-path"):
            element.set("clip-path", clip.replace("#", f"#{name}-"))
        if (style := element.get("style")) and element.tag == _tag("path") and style.strip() == "fill: #ffffff":
            element.set("style", "fill: none")


def _pointed(value: str) -> list[str]:
    return re.findall(r"^(?:url\()?#([^)]+)\)?$", value)
