"""Which trials are looked at next, so that a look takes no longer the more trials there are that rest.

A launcher says what it has in hand: these are looked at in every pass, and once more after they have ended. Of all
others some are, in turn, since another launcher of the store may train them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence

OTHERS = 200
"""Of the trials that nobody here has in hand, looked at in a pass."""


class Due:
    """The trials of a sweep in turn. `follow` is called by one thread, the rest by another."""

    def __init__(self, trials: Sequence[str]) -> None:
        self._trials, self._at = tuple(trials), 0
        self._hand: frozenset[str] = frozenset()
        self._open: set[str] = set()  # in hand now, or since the last pass
        self._turn = threading.Lock()

    def follow(self, hand: Iterable[str]) -> None:
        """These are in hand now."""
        with self._turn:
            self._hand = frozenset(hand)
            self._open |= self._hand

    def take(self) -> list[str]:
        """What to look at now."""
        with self._turn:
            due, self._open = self._open, set(self._hand)
        upto = self._at + min(OTHERS, len(self._trials))
        others = [self._trials[at % len(self._trials)] for at in range(self._at, upto)]
        self._at = upto % max(1, len(self._trials))
        return list(dict.fromkeys([*sorted(due), *others]))

    def again(self, trials: Collection[str]) -> None:
        """They were not through: they are looked at in the next pass too."""
        with self._turn:
            self._open |= set(trials)
