"""How a fit ended: one code for programs, one sentence per reason for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rfscale.names import RfscaleError


class FitError(RfscaleError, ValueError):
    """No usable answer exists for the data given; the message says why and what to do."""


class Code(StrEnum):
    """What can be said of a fit, from best to worst."""

    CONVERGED = "converged"
    NOTE = "note"
    DOUBTFUL = "doubtful"  # the data speak against the form
    DEPENDENT = "rows depend on each other"  # intervals take them as independent
    TWO_MINIMA = "two minima"
    WEAK = "barely identified"
    BOUND = "bound hit"
    NOT_IDENTIFIED = "not identified"
    NOT_CONVERGED = "did not converge"


_SEVERITY = {code: rank for rank, code in enumerate(Code)}


@dataclass(frozen=True)
class Reason:
    """One finding about a fit: its code and one sentence."""

    code: Code
    sentence: str


@dataclass(frozen=True)
class Status:
    """All findings about a fit; `code` is the worst of them (a note alone leaves `converged`)."""

    reasons: tuple[Reason, ...] = ()

    @property
    def code(self) -> Code:
        worst = max((reason.code for reason in self.reasons), key=_SEVERITY.__getitem__, default=Code.CONVERGED)
        return Code.CONVERGED if worst is Code.NOTE else worst

    @property
    def ok(self) -> bool:
        return self.code is Code.CONVERGED

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(reason.sentence for reason in self.reasons)

    def has(self, code: Code) -> bool:
        return any(reason.code is code for reason in self.reasons)

    def to_dict(self) -> dict[str, object]:
        return {
            "code": self.code.value,
            "ok": self.ok,
            "reasons": [{"code": reason.code.value, "sentence": reason.sentence} for reason in self.reasons],
        }
