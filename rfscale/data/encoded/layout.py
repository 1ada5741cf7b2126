"""Where each text encoder stands in a condition (paper, section 4.2).

The token sequences of the CLIPs lie side by side on the channels, padded with zeros to the width of the widest encoder;
those of T5 follow them in the sequence. The pooled vectors of the CLIPs lie side by side; T5 has none, and alone a
single zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfscale.data.text import Span

CLIP, T5 = "clip", "t5"


@dataclass(frozen=True, slots=True)
class Layout:
    """`parts`: tokens of the CLIPs together, and of each T5."""

    parts: tuple[int, ...]
    width: int
    pooled: int
    spans: tuple[Span, ...]

    @property
    def length(self) -> int:
        return sum(self.parts)


def layout_of(encoders: Sequence[Mapping[str, Any]]) -> Layout:
    """Of encoders, each with its `encoder`, `length`, `width` and `pooled`."""
    clips = [one for one in encoders if one["encoder"] == CLIP]
    first = max((int(one["length"]) for one in clips), default=0)
    at, across, pooled = first, 0, 0
    spans, parts = [], [first] if clips else []
    for one in encoders:
        length, width, vector = int(one["length"]), int(one["width"]), int(one["pooled"])
        if one["encoder"] == CLIP:
            spans.append(Span((0, length), (across, across + width), (pooled, pooled + vector)))
            across += width
        else:
            spans.append(Span((at, at + length), (0, width), (pooled, pooled + vector)))
            at += length
            parts.append(length)
        pooled += vector
    return Layout(tuple(parts), max((span.channels[1] for span in spans), default=0), max(1, pooled), tuple(spans))
