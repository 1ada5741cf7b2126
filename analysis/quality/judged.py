"""Arms that the judges rank, since their losses cannot be compared: as text for a terminal, and as plain values.

Both say what the report does: its Table 1 (average fronts of CLIP score and FID) and its Table 2 (the scores at one
setting, with 95 % intervals).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from analysis.quality.means import Mean
from analysis.quality.summary import Quality, assess
from analysis.quality.tables import AtSteps, Ranks
from analysis.quality.wording import at_steps_note, at_steps_sizes, decimals, label, mean, quality_text
from analysis.table.read import SweepTable

NOBODY = "No judge was asked: name one under `quality:`."


def judged_text(table: SweepTable) -> str:
    """What the judges say, where the losses say nothing."""
    quality = assess(table)
    if quality is None:
        return NOBODY
    lines = [quality_text(quality)]
    if quality.at_steps is not None:
        lines += _score_lines(quality.at_steps)
    return "\n".join(lines)


def judged(table: SweepTable) -> dict[str, object]:
    """The same, ready for JSON: `arms` by their average rank, best first; what is not known is None.

    `p_front_1`, `p_best`: how likely an arm is among the best, and has the lowest average rank; `tied_with_best`: the
    best is not surely ahead of it. `scores`: by size, the largest first, each with its interval and number of trials.
    """
    quality = assess(table)
    if quality is None:
        return {"arms": [], "reasons": {"judges": NOBODY}}
    ranks, scores = quality.ranks, quality.at_steps
    ranked = [] if ranks is None else list(ranks.result.order)
    others = sorted(set(quality.scores["arm"]) - set(ranked))
    return {
        "arms": [{"arm": arm, **_rank(ranks, arm), "scores": _scores(scores, arm)} for arm in (*ranked, *others)],
        "settings": [] if ranks is None else list(ranks.result.settings),
        "seeds": None if ranks is None else ranks.seeds,
        "scores_at": None if scores is None else asdict(scores.setting),
        "intervals_over": None if scores is None else scores.spread,
        "judges": _judges(quality),
        "reasons": dict(quality.reasons),
    }


def _judges(quality: Quality) -> dict[str, str]:
    """Metric -> who gave it."""
    found = {} if quality.ranks is None else {"clip_score": quality.ranks.clip_judge, "fid": quality.ranks.fid_judge}
    return found if quality.at_steps is None else {**dict(_pairs(quality.at_steps)), **found}


def _pairs(scores: AtSteps) -> list[tuple[str, str]]:
    return list(zip(scores.metrics, scores.judges, strict=True))


def _rank(ranks: Ranks | None, arm: str) -> dict[str, object]:
    if ranks is None or arm not in ranks.result.names:
        return {"rank": None, "p_front_1": None, "p_best": None, "tied_with_best": None}
    result, place = ranks.result, ranks.result.names.index(arm)
    return {
        "rank": float(result.rank[place]),
        "p_front_1": _known(float(result.p_rank1[place])),
        "p_best": _known(float(result.p_best[place])),
        "tied_with_best": arm in result.tied_with_best,
    }


def _scores(scores: AtSteps | None, arm: str) -> list[dict[str, object]]:
    if scores is None:
        return []
    rows = [row for row in scores.rows if row.arm == arm]
    return [
        {
            "size": row.size,
            "parameters": row.parameters,
            **{metric: _mean(found) for metric, found in zip(scores.metrics, row.means, strict=True)},
        }
        for row in rows
    ]


def _mean(found: Mean) -> dict[str, float | int | None]:
    return {"value": _known(found.value), "low": _known(found.low), "high": _known(found.high), "n": found.n}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _score_lines(scores: AtSteps) -> list[str]:
    rows: list[Sequence[str]] = [("arm", "size", *map(label, scores.metrics))]
    for _, found in at_steps_sizes(scores):
        rows += [(row.arm, row.size, *map(mean, row.means, map(decimals, scores.metrics))) for row in found]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"Scores with {scores.setting.words}", *lines, at_steps_note(scores)]
