"""Scores of sample quality: the metrics of one run -> tidy rows, and what true images score.

Knows the keys of `rfscale.names` and no MLflow; `analysis.table.read` hands it the metrics.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rfscale import names

COLUMNS = ("step", "metric", "judge", "solver_steps", "guidance", "weights", "value", "se")
SE, CEILING, TRUE = "_se", "_ceiling", "true"

Row = tuple[int, str, str, int, float, str, float, float]
Latest = Mapping[str, tuple[int, float]]
"""Key -> its last point, (step, value)."""
History = Callable[[str], Mapping[int, float]]
"""Key -> all its points, step -> value."""


@dataclass(frozen=True)
class Scores:
    """Of one trial: `rows` as in `COLUMNS`, `ceilings` by (judge, metric)."""

    rows: tuple[Row, ...]
    ceilings: Mapping[tuple[str, str], float]


def is_score(key: str) -> bool:
    """Whether a metric of a run is one of sample quality."""
    return names.parse_quality(key) is not None


def read_scores(latest: Latest, history: History) -> Scores:
    """The scores of one run, each with the standard error logged beside it (NaN if none).

    A history costs a call, so it is asked for only where one can exist: weights along the way are scored with EMA
    only, and a judge gives all its scores of one setting at once, so its first metric tells for all of them.
    Raises ValueError for a key whose setting cannot be read.
    """
    ceilings: dict[tuple[str, str], float] = {}
    drawn: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in sorted(filter(is_score, latest)):
        metric, judge, setting = _parsed(key)
        if setting == TRUE:
            ceilings[judge, metric.removesuffix(CEILING)] = latest[key][1]
        else:
            drawn[judge, setting].append(key)
    rows: list[Row] = []
    for (judge, setting), keys in sorted(drawn.items()):
        steps, guidance, weights = names.parse_setting(setting)
        points: dict[str, Mapping[int, float]] = {_parsed(key)[0]: dict([latest[key]]) for key in keys}
        if weights == "ema" and len(history(keys[0])) > 1:
            points = {_parsed(key)[0]: history(key) for key in keys}
        for metric, values in points.items():
            if metric.removesuffix(SE) in points and metric.endswith(SE):
                continue
            errors = points.get(metric + SE, {})
            rows += [
                (step, metric, judge, steps, guidance, weights, value, errors.get(step, math.nan))
                for step, value in sorted(values.items())
            ]
    return Scores(tuple(rows), ceilings)


def _parsed(key: str) -> tuple[str, str, str]:
    parsed = names.parse_quality(key)
    assert parsed is not None  # the callers keep scores only
    return parsed
