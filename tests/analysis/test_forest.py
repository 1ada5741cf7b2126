"""The ticks of a forest: legible wherever the estimates lie."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest

from analysis.compare.estimate import Estimate
from analysis.report.forest import WIDTH, forest
from analysis.style import looks

LABEL = re.compile(r'<text x="([\d.]+)"[^>]*>([^<]+)</text>')


@pytest.mark.parametrize("other", [0.5, 0.83, 0.934, 0.99, 1.01, 1.07, 1.3, 2.32, 30.0])
def test_labels_never_stand_on_each_other_and_one_is_among_them(other: float) -> None:
    rows = [("rf", Estimate(1.0, (1.0, 1.0), 3)), ("a", Estimate(other, (math.nan, math.nan), 3))]
    labels = LABEL.findall(forest(rows, "rf", "loss", looks(["rf", "a"])).axis)
    places = [float(at) for at, _ in labels]
    assert "1" in [label for _, label in labels]
    assert all(b - a > 28 for a, b in pairwise(places))
    assert all(10 <= at <= WIDTH - 10 for at in places)
