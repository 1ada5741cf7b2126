"""Text conditions: a sequence of token vectors and one pooled vector per caption (paper section 4.2).

`hash` is a frozen embedding that needs no download: a fixed random code, like an untrained embedding table. It knows
which words a caption holds and in which order, and nothing of what they mean. Trained encoders fit the same protocol.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Protocol, Self

import numpy as np
from pydantic import Field

from rfscale.data.base import FloatArray
from rfscale.data.counter import uniform
from rfscale.data.words import words
from rfscale.numbers import Probability, Whole
from rfscale.registry import Kind, Spec

if TYPE_CHECKING:
    from rfscale.data.spec import DataSource


class Span(NamedTuple):
    """Where a condition holds what one text encoder gives, each as (first, one past the last): of the tokens, of their
    channels, and of the numbers of the pooled vector."""

    tokens: tuple[int, int]
    channels: tuple[int, int]
    pooled: tuple[int, int]


class EncoderSpec(Spec):
    """A text encoder, as a sweep file names it under `text:`. A subclass names itself in `encoder`.

    To add one: its file with an `EncoderSpec` whose `load` gives a `TextEncoder`, and one line in `TEXT`.
    """

    encoder: str
    length: int
    width: int

    @property
    def parts(self) -> tuple[int, ...]:
        """How many tokens each text encoder gives, in the order in which they follow each other."""
        return (self.length,)

    @property
    def pooled_width(self) -> int:
        return self.width

    @property
    def spans(self) -> tuple[Span, ...]:
        """Where the condition holds what each text encoder gives."""
        return (Span((0, self.length), (0, self.width), (0, self.pooled_width)),)

    @property
    def stored(self) -> bool:
        """Whether the data hold what the encoders give, so that training needs none of them."""
        return False

    def of(self, data: DataSource) -> Self:
        """The text as a trial on that data has it. Raises DataError where the data cannot have it."""
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What a person calls each text encoder, as in `rfscale sample --without`."""
        if len(self.spans) == 1:
            return (self.encoder,)
        return tuple(f"{self.encoder}{number}" for number, _ in enumerate(self.spans, start=1))

    @property
    def each_dropout(self) -> float | None:
        """The probability with which training drops each encoder by itself (paper, appendix B.3); None where it drops
        all of them at once."""
        return None

    def load(self) -> TextEncoder:
        raise NotImplementedError


class TextSpec(EncoderSpec):
    """A frozen, deterministic embedding of words that needs no download."""

    later = frozenset({"encoders", "dropout"})
    encoder: Literal["hash"] = "hash"
    length: Annotated[int, Whole(1, 512)] = Field(
        default=16, description="tokens per caption, of each encoder; longer captions are cut"
    )
    width: Annotated[int, Whole(8, 4096, step=2)] = Field(default=64, description="width of a token vector")
    encoders: Annotated[int, Whole(1, 8)] = Field(
        default=1, description="embeddings that read each caption, each with word vectors of its own"
    )
    dropout: Probability | None = Field(
        default=None,
        description="chance that training drops an encoder, each by itself, instead of text_dropout; the paper: 0.464",
    )

    @property
    def parts(self) -> tuple[int, ...]:
        return (self.length,) * self.encoders

    @property
    def pooled_width(self) -> int:
        return self.width * self.encoders

    @property
    def spans(self) -> tuple[Span, ...]:
        def at(number: int, size: int) -> tuple[int, int]:
            return number * size, (number + 1) * size

        numbers = range(self.encoders)
        return tuple(Span(at(n, self.length), (0, self.width), at(n, self.width)) for n in numbers)

    @property
    def each_dropout(self) -> float | None:
        return self.dropout

    def load(self) -> TextEncoder:
        encoders = [HashTextEncoder(self.length, self.width, salt) for salt in range(self.encoders)]
        return encoders[0] if self.encoders == 1 else JoinedEncoder(encoders)


TEXT = Kind(
    "text",
    "text",
    "encoder",
    "hash",
    {"hash": "rfscale.data.text:TextSpec", "pretrained": "rfscale.data.encoded.text:PretrainedText"},
)
AnyText = Annotated[EncoderSpec, TEXT]


class TextEncoder(Protocol):
    """Captions -> (tokens float32 "b length width", pooled float32 "b pooled_width"); the tokens are the parts of
    `EncoderSpec.parts`, one after the other.

    The empty caption is the unconditional input: all zeros. `truncated` counts the captions that do not fit, `unread`
    those that come out as the empty one.
    """

    length: int
    width: int
    pooled_width: int

    def encode(self, captions: Sequence[str]) -> tuple[FloatArray, FloatArray]: ...

    def truncated(self, captions: Sequence[str]) -> int: ...

    def unread(self, captions: Sequence[str]) -> int: ...


def load_text_encoder(spec: EncoderSpec) -> TextEncoder:
    """The encoder that `spec` describes."""
    return spec.load()


def position_code(length: int, width: int) -> FloatArray:
    """Sinusoidal positions "length width" of unit mean square: sqrt(2) (sin, cos)(p / 100^(i / (width/2))).

    The base is 100, not the usual 10,000, because captions are short: more of the code varies over 16 positions.
    """
    frequencies = 100.0 ** (-np.arange(width // 2) / (width // 2))
    angles = np.arange(length)[:, None] * frequencies
    code = np.sqrt(2.0) * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.asarray(code, dtype=np.float32)


def word_vector(word: str, width: int, salt: int = 0) -> FloatArray:
    """A standard normal vector that depends on the word and the salt alone: SHA-256 -> counter -> Box-Muller.

    Rounded to multiples of 2^-12, so that the last bit of log and cos, which differs between platforms, is not seen,
    and sums of these vectors are exact in float32 whatever their order.
    """
    salted = f"{salt}\n{word}" if salt else word  # no word and no pair of words holds a new line
    key = int.from_bytes(hashlib.sha256(salted.encode("utf-8", "surrogatepass")).digest()[:8], "little")
    u = uniform(key, np.arange(width))
    radius = np.sqrt(-2.0 * np.log(1.0 - u[0::2]))
    angle = 2.0 * np.pi * u[1::2]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return (np.round(normal * 4096.0) / 4096.0).astype(np.float32)


class JoinedEncoder:
    """Several encoders that read the same caption (paper section 4.2): their tokens one after the other, as of CLIP and
    T5, and their pooled vectors side by side, as of the two CLIPs. All are of one width."""

    def __init__(self, encoders: Sequence[TextEncoder]) -> None:
        self._encoders = tuple(encoders)
        self.length = sum(encoder.length for encoder in encoders)
        self.width = encoders[0].width
        self.pooled_width = sum(encoder.pooled_width for encoder in encoders)

    def encode(self, captions: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        tokens, pooled = zip(*(encoder.encode(captions) for encoder in self._encoders), strict=True)
        return np.concatenate(tokens, axis=1), np.concatenate(pooled, axis=1)

    def truncated(self, captions: Sequence[str]) -> int:
        """How many captions one of the encoders cuts, at least."""
        return max(encoder.truncated(captions) for encoder in self._encoders)

    def unread(self, captions: Sequence[str]) -> int:
        """How many captions no encoder reads, at most."""
        return min(encoder.unread(captions) for encoder in self._encoders)


class HashTextEncoder:
    """tokens[p] = (word vector + position code of p) / sqrt(2), zeros after the last word.

    pooled = sum of the vectors of the caption's words and of its pairs of neighbours (the ends count as neighbours),
    scaled to unit mean square: the pairs make "a red circle above a blue square" differ from its reverse.
    """

    _MAX_VECTORS = 65_536  # of words and pairs: 16 MiB at width 64
    _MAX_CAPTIONS = 65_536

    def __init__(self, length: int, width: int, salt: int = 0) -> None:
        self.length = length
        self.width = width
        self.pooled_width = width
        self._salt = salt
        self._positions = position_code(length, width)
        self._lock = threading.Lock()  # training may prefetch in a thread while validation encodes
        self._forget()

    def encode(self, captions: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        with self._lock:
            if len(self._rows) > self._MAX_VECTORS or len(self._captions) > self._MAX_CAPTIONS:
                self._forget()
            rows = np.array([self._caption_rows(caption) for caption in captions], dtype=np.int64)
            rows = rows.reshape(len(captions), 2 * self.length + 1)
            table = self._table
        word_rows = rows[:, : self.length]
        present = (word_rows > 0)[:, :, None]
        tokens = (table[word_rows] + self._positions * present) * np.float32(np.sqrt(0.5))
        total = table[rows].sum(axis=1)
        mean_square = np.mean(np.square(total, dtype=np.float64), axis=1, keepdims=True)
        pooled = total / np.sqrt(np.where(mean_square > 0, mean_square, 1.0))
        return tokens, pooled.astype(np.float32)

    def truncated(self, captions: Sequence[str]) -> int:
        """How many captions have more words than `length` and lose their end."""
        return sum(len(words(caption)) > self.length for caption in captions)

    def unread(self, captions: Sequence[str]) -> int:
        """How many captions hold nothing that can be seen."""
        return sum(not words(caption) for caption in captions)

    def _forget(self) -> None:
        """Row 0 is the padding: zeros."""
        self._table: FloatArray = np.zeros((256, self.width), dtype=np.float32)
        self._rows: dict[str, int] = {"": 0}
        self._captions: dict[str, list[int]] = {}

    def _caption_rows(self, caption: str) -> list[int]:
        """Rows of the words (padded to length), then of the pairs of neighbours (padded to length + 1)."""
        rows = self._captions.get(caption)
        if rows is None:
            kept = words(caption)[: self.length]
            ends = ["^", *kept, "$"] if kept else []  # neither mark nor space can occur in a word
            pairs = [f"{left} {right}" for left, right in pairwise(ends)]
            rows = [self._row(word) for word in kept] + [0] * (self.length - len(kept))
            rows += [self._row(pair) for pair in pairs]
            rows += [0] * (2 * self.length + 1 - len(rows))
            self._captions[caption] = rows
        return rows

    def _row(self, text: str) -> int:
        row = self._rows.get(text)
        if row is None:
            row = len(self._rows)
            if row == len(self._table):  # grow a copy: a batch being encoded keeps the old one
                self._table = np.concatenate([self._table, np.zeros_like(self._table)])
            self._table[row] = word_vector(text, self.width, self._salt)
            self._rows[text] = row
        return row
