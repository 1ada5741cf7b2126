"""Machines that fail everything: their failures in a row are theirs, and no trial's. No Ray.

A machine without the data, with a broken GPU or a full disk fails every trial within seconds, and so takes all that
wait. After `IN_A_ROW` trials that failed there, none having ended well in between, it is left out for the rest of the
launch; one on which rfscale cannot be imported, or which does not see the store, after the first. Those trials are
trained elsewhere, and nothing counts. Where no other machine has room for such a trial, the failures are the trials'.
A trial whose process died on a machine is tried again on another one: so a bad machine is told from a bad trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rfscale.failures import BAD_CONFIGURATION, BAD_NODE, DIED, ERROR, FULL_DISK, HUNG, READ_ONLY_DISK
from rfscale.run.room import Node, slots
from rfscale.run.tasks import Problem
from rfscale.spec.sweep import Resources

IN_A_ROW = 3
_MAY_BE_THE_MACHINE = (BAD_CONFIGURATION, DIED, HUNG, FULL_DISK, READ_ONLY_DISK, ERROR)


@dataclass(slots=True)
class Nodes:
    """The machines of a launch."""

    alive: Mapping[str, str] = field(default_factory=dict)  # id -> what people call it
    have: Mapping[str, Node] = field(default_factory=dict)  # id -> what it has
    drained: dict[str, str] = field(default_factory=dict)  # id -> a sentence
    _row: dict[str, list[str]] = field(default_factory=dict)  # id -> trials that failed there in a row
    last: dict[str, str] = field(default_factory=dict)  # trial id -> the machine on which it failed last

    def fine(self, node: str) -> None:
        """A trial ended well there."""
        self._row.pop(node, None)

    def not_for(self, trial_id: str, need: Resources) -> tuple[str, ...]:
        """The machines that a trial is not given to."""
        last = self.last.get(trial_id, "")
        elsewhere = last in self.alive and last not in self.drained and self._others(last, need)
        return (*self.drained, last) if elsewhere else tuple(self.drained)

    def choosy(self, trial_id: str, need: Resources) -> bool:
        """Whether a trial is not given to a machine that others are given to."""
        return len(self.not_for(trial_id, need)) > len(self.drained)

    def _others(self, node: str, need: Resources) -> bool:
        """Whether there is room for such a trial beside the machine."""
        there = [one for one in self.alive if one != node and one not in self.drained]
        return slots(need, [self.have[one] for one in there]) > 0

    def blamed(self, node: str, trial_id: str, problem: Problem, need: Resources) -> list[str]:
        """A task failed there: the trials that are given back since it is the machine's fault; none where it is not
        known to be."""
        if node in self.drained:  # it ran there already when the machine was left out
            return [trial_id] if problem.failure in (BAD_NODE, *_MAY_BE_THE_MACHINE) else []
        if not node or not self._others(node, need):
            return []
        if problem.failure in _MAY_BE_THE_MACHINE:
            self.last[trial_id] = node
        row = self._row.setdefault(node, [])
        if problem.failure in (BAD_NODE, *_MAY_BE_THE_MACHINE) and trial_id not in row:
            row.append(trial_id)
        if problem.failure != BAD_NODE and len(row) < IN_A_ROW:
            return []
        count = "a trial" if len(row) == 1 else f"{len(row)} trials in a row"
        self.drained[node] = (
            f"machine {self.alive.get(node, node)} is left out for the rest of this run: {count} failed there "
            f"({problem.sentence}); they are trained on the others, and nothing counts"
        )
        return self._row.pop(node)
