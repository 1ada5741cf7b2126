"""What is drawn of many seeds."""

from __future__ import annotations

import pandas as pd

from analysis import crowd


def trials(*counts: int) -> pd.DataFrame:
    """An arm of one size for each count, with losses 0, 1, 2, ... in an order that is not theirs."""
    rows = [
        {"arm": f"arm {at}", "parameters": 10, "train_flops": 7, "loss": float((7 * one) % count)}
        for at, count in enumerate(counts)
        for one in range(count)
    ]
    return pd.DataFrame(rows)


def test_few_are_all_drawn_and_of_a_crowd_the_quartiles_and_the_ends() -> None:
    frame = trials(crowd.MOST, 101)
    drawn = crowd.drawn(frame, "loss")
    assert drawn["arm"].value_counts().to_dict() == {"arm 0": crowd.MOST, "arm 1": 5}
    assert sorted(drawn.loc[drawn["arm"] == "arm 1", "loss"]) == [0, 25, 50, 75, 100]
    assert list(drawn.index) == sorted(drawn.index)
    assert crowd.is_crowd(frame)
    assert not crowd.is_crowd(trials(crowd.MOST, 3))
    assert not crowd.is_crowd(frame.iloc[:0])


def test_every_size_is_a_crowd_of_its_own() -> None:
    frame = trials(2 * crowd.MOST)
    frame["parameters"] = [10, 20] * crowd.MOST
    pd.testing.assert_frame_equal(crowd.drawn(frame, "loss"), frame)
