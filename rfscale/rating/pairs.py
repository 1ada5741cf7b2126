"""What is shown next: the pair that is known least, a prompt that it was shown least with, and a side by chance."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from random import Random

from rfscale.rating.votes import Pair, Showing


def all_pairs(trials: Iterable[str]) -> list[Pair]:
    """Every pair of trials."""
    return [frozenset(pair) for pair in itertools.combinations(trials, 2)]


def choose(
    trials: Sequence[str], prompts: int, rater: str, shown: Collection[Showing], random: Random
) -> tuple[int, str, str] | None:
    """(number of the prompt, left trial, right trial) to show a rater next; None where they have seen everything.

    `shown` is what all raters have seen so far. Every pair of trials is shown equally often, give or take one; no rater
    sees a pair with the same prompt twice; and of two showings of a pair to all raters, each trial is once at the left:
    the first side is drawn, the second balances it.
    """
    seen = {(showing.pair, showing.prompt_number) for showing in shown if showing.rater == rater}
    open_ = [(pair, number) for pair in all_pairs(trials) for number in range(prompts) if (pair, number) not in seen]
    if not open_:
        return None
    by_pair = Counter(showing.pair for showing in shown)
    least = min(by_pair[pair] for pair, _ in open_)
    pair = random.choice(list(dict.fromkeys(pair for pair, _ in open_ if by_pair[pair] == least)))

    here = [showing for showing in shown if showing.pair == pair]
    with_pair = Counter(showing.prompt_number for showing in here)
    by_rater = Counter(number for _, number in seen)
    known = {number: (with_pair[number], by_rater[number]) for other, number in open_ if other == pair}
    number = random.choice([number for number, count in known.items() if count == min(known.values())])

    left, right = random.sample(sorted(pair), 2)
    at_left = Counter(showing.left for showing in here)
    if at_left[left] > at_left[right]:
        left, right = right, left
    return number, left, right
