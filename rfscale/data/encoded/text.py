"""CLIP and T5 as the text of a trial: read from the data, which hold what they give, and loaded for other captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rfscale.data.base import DataError, FloatArray
from rfscale.data.encoded.layout import CLIP, Layout, layout_of
from rfscale.data.text import EncoderSpec, Span, TextEncoder
from rfscale.numbers import Probability, Whole

if TYPE_CHECKING:
    from rfscale.data.spec import DataSource

Layer = Literal["penultimate", "last"]


class Part(BaseModel):
    """One text encoder and what it gives."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    encoder: Literal["clip", "t5"]
    length: Annotated[int, Whole(1, 4096)] = 77
    width: Annotated[int, Whole(1, 65_536)]
    pooled: Annotated[int, Whole(0, 65_536)] = 0
    layer: Layer | None = None
    sha256: str = ""
    path: str = ""
    tokenizer: str = ""

    def said(self) -> dict[str, JsonValue]:
        """All but where it lies."""
        return self.model_dump(mode="json", exclude={"path", "tokenizer"})

    @property
    def shape(self) -> tuple[str, int, int, int]:
        return self.encoder, self.length, self.width, self.pooled


class PretrainedText(EncoderSpec):
    """CLIP and T5 text encoders, as `data: encoded` holds what they give (paper, section 4.2)."""

    encoder: Literal["pretrained"] = "pretrained"
    encoders: tuple[Part, ...] = Field(
        default=(),
        strict=False,
        description="[{encoder: clip, length: 77, width: 768, pooled: 768}, ...], only for a plan without the data",
    )
    dropout: Probability | None = Field(
        default=None,
        description="chance that training drops an encoder, each by itself; 0.464 of three, 0.1^(1/k) of k",
    )
    length: Annotated[int, Whole(0, 100_000)] = Field(default=0, description="follows from the encoders")
    width: Annotated[int, Whole(0, 1_000_000)] = Field(default=0, description="follows from the encoders")

    @property
    def layout(self) -> Layout:
        return layout_of([part.model_dump() for part in self.encoders])

    @property
    def parts(self) -> tuple[int, ...]:
        return self.layout.parts

    @property
    def pooled_width(self) -> int:
        return self.layout.pooled

    @property
    def spans(self) -> tuple[Span, ...]:
        return self.layout.spans

    @property
    def names(self) -> tuple[str, ...]:
        """`t5`, and `clip1`, `clip2` where there are two."""
        kinds = [part.encoder for part in self.encoders]
        return tuple(
            kind if kinds.count(kind) == 1 else f"{kind}{kinds[: number + 1].count(kind)}"
            for number, kind in enumerate(kinds)
        )

    @property
    def stored(self) -> bool:
        return True

    @property
    def each_dropout(self) -> float | None:
        return self.dropout if self.dropout is not None else round(0.1 ** (1 / max(1, len(self.encoders))), 3)

    def of(self, data: DataSource) -> Self:
        """With the encoders that the data were encoded by. Raises DataError where they were by none, or by others."""
        found = tuple(Part.model_validate(one) for one in data.text_encoders())
        if not found and not data.known:
            found = self.encoders
        if not found:
            raise DataError(_lacking(data))
        if self.encoders and [part.shape for part in self.encoders] != [part.shape for part in found]:
            raise DataError(
                f"text.encoders says {_shown(self.encoders)}, and data `{data.name}` hold {_shown(found)}: take it out."
            )
        layout = layout_of([part.model_dump() for part in found])
        for name, given, follows in (("length", self.length, layout.length), ("width", self.width, layout.width)):
            if given not in (0, follows):
                raise DataError(f"text.{name} is {given}, and the encoders give {follows}: take it out.")
        return self.model_copy(update={"encoders": found, "length": layout.length, "width": layout.width})

    def identity(self) -> dict[str, JsonValue]:
        """The encoders by their content, wherever they lie."""
        return {**super().identity(), "encoders": [part.said() for part in self.encoders]}

    def load(self) -> TextEncoder:
        """The encoders themselves. Raises DataError where they are not here, or not those of the data."""
        return _loaded(self.encoders)


def _lacking(data: DataSource) -> str:
    if data.name != "encoded":
        return f"text `pretrained` is read from encoded data, and data `{data.name}` are none: encode them first."
    if not data.known:
        return "the data are not on this machine, and text.encoders does not say what they hold: write it for a plan."
    return "the data were encoded without text encoders: take text `hash`, or encode them with `text:`."


def _shown(parts: Sequence[Part]) -> str:
    return ", ".join(f"{p.encoder} of {p.length} x {p.width} and {p.pooled} pooled" for p in parts)


@lru_cache(maxsize=2)
def _loaded(parts: tuple[Part, ...]) -> TextEncoder:
    return JoinedParts(parts)


class JoinedParts:
    """Several frozen encoders, their output laid out as in a condition (`rfscale.data.encoded.layout`)."""

    def __init__(self, parts: Sequence[Part]) -> None:
        from rfscale.data.encoded.networks import content, text_encoder, text_folders

        self._layout: Layout = layout_of([part.model_dump() for part in parts])
        self.length, self.width, self.pooled_width = self._layout.length, self._layout.width, self._layout.pooled
        self._encoders = []
        for part in parts:
            what = f"the text encoder {part.encoder}"
            folders = text_folders(part.encoder, part.path, part.tokenizer or None, what)
            if content(*folders) != part.sha256:
                raise DataError(
                    f"{what} in {folders[0]} is not the one that the data were encoded by: restore it, or encode the "
                    "data again."
                )
            layer = part.layer or ("penultimate" if part.encoder == CLIP else "last")
            self._encoders.append(text_encoder(part.encoder, folders, part.length, layer, "cpu"))

    def encode(self, captions: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        tokens = np.zeros((len(captions), self.length, self.width), dtype=np.float32)
        pooled = np.zeros((len(captions), self.pooled_width), dtype=np.float32)
        for encoder, span in zip(self._encoders, self._layout.spans, strict=True):
            states, vector = encoder.encode(captions)
            tokens[:, slice(*span.tokens), slice(*span.channels)] = states.numpy()
            pooled[:, slice(*span.pooled)] = vector.numpy()
        return tokens, pooled

    def truncated(self, captions: Sequence[str]) -> int:
        return max(encoder.truncated(captions) for encoder in self._encoders)

    def unread(self, captions: Sequence[str]) -> int:
        return sum(not caption.strip() for caption in captions)


def parts_of(record: Mapping[str, Any]) -> tuple[Part, ...]:
    """The text encoders of an encoded data set."""
    return tuple(Part.model_validate({k: v for k, v in one.items() if k != "truncated"}) for one in record["text"])
