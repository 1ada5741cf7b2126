"""What is asked, and the answers: one sqlite row per vote, kept whatever is killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rfscale.names import RfscaleError

# The paper's questions, word for word (section 5.4).
QUESTIONS: dict[str, str] = {
    "prompt following": ("Which image looks more representative of the text shown above and faithfully follows it?"),
    "visual quality": "Given the prompt, which image is of higher quality and aesthetically more pleasing?",
    "typography": (
        "Which image more accurately shows/displays the text specified in the above description? "
        "More accurate spelling is preferred! Ignore other aspects."
    ),
}
_DATA_WITH_TEXT = ("glyphs",)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,             -- UTC, ISO 8601
    rater TEXT NOT NULL,
    setting TEXT NOT NULL,          -- how the images were drawn, such as s50-g2.5-ema
    prompt_number INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    question TEXT NOT NULL,
    left_trial TEXT NOT NULL,
    right_trial TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'none')),
    showing TEXT NOT NULL,          -- one pair of images on the page; several questions are asked about it
    UNIQUE (showing, question)      -- a vote that is sent twice counts once
)
"""
_COLUMNS = "showing, rater, setting, prompt_number, prompt, left_trial, right_trial, question, choice"


class RatingError(RfscaleError, RuntimeError):
    """Images cannot be rated as asked; the message is one sentence that says what to do."""


def questions_of(data: str) -> tuple[str, ...]:
    """The questions for a data set, by name: that of typography only where captions ask for written words."""
    return tuple(name for name in QUESTIONS if name != "typography" or data in _DATA_WITH_TEXT)


Pair = frozenset[str]  # of two trials


@dataclass(frozen=True, slots=True)
class Showing:
    """Two images of one prompt, side by side, before one rater."""

    showing: str  # a random token
    rater: str
    setting: str
    prompt_number: int
    prompt: str
    left: str  # trial ids
    right: str

    @property
    def pair(self) -> Pair:
        return frozenset((self.left, self.right))


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer to one question."""

    showing: Showing
    question: str
    choice: str


class Votes:
    """The votes of a sweep. Every call opens the database anew, so threads and processes may share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._connection() as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise RatingError(
                f"cannot write the votes to {path} ({error}); choose another folder with --store"
            ) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30.0, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")  # a vote that was answered for is on the disk
            yield connection

    def add(self, vote: Vote) -> bool:
        """Keep a vote; False where this question of this showing has one already."""
        shown, now = vote.showing, datetime.now(UTC).isoformat(timespec="milliseconds")
        row = (shown.showing, shown.rater, shown.setting, shown.prompt_number, shown.prompt, shown.left, shown.right)
        with self._connection() as connection:
            done = connection.execute(
                f"INSERT INTO votes (time, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (now, *row, vote.question, vote.choice),
            )
            return done.rowcount == 1

    def remove(self, vote: Vote) -> None:
        """Take a vote back."""
        with self._connection() as connection:
            connection.execute(
                "DELETE FROM votes WHERE showing = ? AND question = ?", (vote.showing.showing, vote.question)
            )

    def of(self, setting: str) -> list[Vote]:
        """The votes on images of one setting, oldest first."""
        with self._connection() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM votes WHERE setting = ? ORDER BY id", (setting,))
            return [Vote(Showing(*row[:7]), row[7], row[8]) for row in rows]
