"""A card: one question of the first screen of the report, answered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """`answer` stands large, `lines` say by how much, `note` on what it rests. `sure`: the data tell it.

    `arm`: whose mark stands beside the answer, if any. `command`: what would tell more.
    """

    question: str
    answer: str
    sure: bool
    lines: tuple[str, ...] = ()
    note: str = ""
    arm: str = ""
    command: str = ""

    @property
    def said(self) -> tuple[str, ...]:
        """All of it, in reading order; question and answer as one."""
        parts = (f"{self.question} {self.answer}", *self.lines, self.command, self.note)
        return tuple(filter(None, parts))

    @property
    def text(self) -> str:
        """All of it, a line each."""
        return "\n".join(self.said)
