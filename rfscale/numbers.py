"""The numbers of every spec: whole or not, between two bounds, and nothing that only looks like a number.

    Steps = Annotated[int, Whole(1, 10**9)]

Truth values, text, NaN, infinities and whatever lies outside the bounds are refused in one sentence that names the
bounds. A whole number may be written as `1e6`, and a real one as `1`; each is stored in the type that its field
declares, so that a spelling never changes an id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

REFUSED = "number_refused"
"""The type of the error in pydantic's list."""

MAX_ENTRIES = 10_000
"""Entries of one list, such as the seeds of a grid."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Metadata of an int field: a whole number from `low` to `high`, both included, a multiple of `step`."""

    low: int
    high: int
    step: int = 1

    @property
    def allowed(self) -> str:
        """The allowed values in words, such as "a whole number from 1 to 10,000"."""
        kind = "a whole number" if self.step == 1 else f"a multiple of {self.step}"
        return f"{kind} from {self.low:,} to {self.high:,}"

    def allows(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and value == int(value) and int(value) % self.step == 0

    def check(self, value: Any) -> int:
        if not self.allows(value):
            raise _refused(self.allowed)
        return int(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)


@dataclass(frozen=True, slots=True)
class Real:
    """Metadata of a float field: a finite number from `low` to `high`; a bound that is open is not included."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values in words, such as "a number above 0 and at most 1,000"."""
        low, high = _plain(self.low), _plain(self.high)
        if not self.low_open and not self.high_open:
            return f"a number from {low} to {high}"
        first = f"{'above' if self.low_open else 'of at least'} {low}"
        return f"a number {first} and {'below' if self.high_open else 'at most'} {high}"

    def allows(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        inside = self.low <= value <= self.high  # false for NaN, and exact for an integer that no float can hold
        return inside and not (self.low_open and value == self.low) and not (self.high_open and value == self.high)

    def check(self, value: Any) -> float:
        if not self.allows(value):
            raise _refused(self.allowed)
        return float(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)


def _refused(allowed: str) -> PydanticCustomError:
    return PydanticCustomError(REFUSED, "it should be {allowed}", {"allowed": allowed})


def _plain(bound: float) -> str:
    return f"{bound:,.0f}" if bound == math.floor(bound) and abs(bound) < 1e15 else f"{bound:g}"


def bounds_of(spec: type[BaseModel], field: str) -> Whole | Real:
    """The bounds of a number field, such as those of an option that stands for it."""
    return next(bounds for bounds in spec.model_fields[field].metadata if isinstance(bounds, Whole | Real))


def listed(value: Any) -> Any:
    """One value is a list of one. Raises ValueError for a list too long to be meant."""
    entries = value if isinstance(value, list | tuple) else [value]
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"a list of {len(entries):,} entries; give at most {MAX_ENTRIES:,}")
    return entries


Listed = BeforeValidator(listed)
"""Metadata of a tuple field of which one value may be written without brackets."""

# --- the kinds, each with the largest value that any cluster will see -------------------------------------------------

Seed = Annotated[int, Whole(0, 2**31 - 1)]
Steps = Annotated[int, Whole(1, 10**9)]
Warmup = Annotated[int, Whole(0, 10**9)]
Sampled = Annotated[int, Whole(1, 10**13)]
"""Training samples."""
Batch = Annotated[int, Whole(1, 10**7)]
Depth = Annotated[int, Whole(1, 10_000)]
Width = Annotated[int, Whole(1, 1_000_000)]
Heads = Annotated[int, Whole(1, 100_000)]
Patch = Annotated[int, Whole(1, 4096)]
Ratio = Annotated[int, Whole(1, 1000)]
Images = Annotated[int, Whole(1, 1_000_000)]
Count = Annotated[int, Whole(2, 1_000_000)]
"""Images of which a statistic is taken."""
Points = Annotated[int, Whole(1, 1000)]
SolverSteps = Annotated[int, Whole(1, 100_000)]
Rate = Annotated[float, Real(0, 1000, low_open=True)]
"""Learning rates and the like."""
WeightDecay = Annotated[float, Real(0, 1000)]
Epsilon = Annotated[float, Real(0, 1, low_open=True)]
Clip = Annotated[float, Real(0, 1e12, low_open=True)]
Shift = Annotated[float, Real(1e-3, 1e3)]
"""alpha of the timestep shift: log-SNR moves by 2 ln(alpha), so by 14 at most."""
Guidance = Annotated[float, Real(0, 1000)]
Decay = Annotated[float, Real(0, 1, high_open=True)]
"""Of a moving average: 1 would never move."""
Probability = Annotated[float, Real(0, 1)]
Share = Annotated[float, Real(0, 1, low_open=True)]
"""A part of a whole that is not nothing."""
