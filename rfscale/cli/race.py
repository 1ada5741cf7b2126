"""Before and after a race: `plan --race`, and what `status` says of it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import typer

from rfscale.cli.common import check_option, print_json, print_table, said_of, say, terminal
from rfscale.numbers import Real
from rfscale.run.race_blocks import ALONE, Limits
from rfscale.run.race_cost import expected
from rfscale.run.race_record import drops, ended
from rfscale.run.study import Study

FLOPS = Real(1, 1e30)
NEAR = Real(0, 1, low_open=True)


def limits_of(budget: float | None, enough: float | None) -> Limits:
    """Where a race ends, by the options --budget and --enough. Raises as `check_option`."""
    for option, value, bounds in (("--budget", budget, FLOPS), ("--enough", enough, NEAR)):
        if value is not None:
            check_option(option, value, bounds)
    return Limits(math.inf if budget is None else budget, enough or 0.0)


def show_race(study: Study, limits: Limits, as_json: bool) -> None:
    """The blocks of a race, and what it is expected to cost, were it begun from nothing."""
    study.check()
    with terminal(as_json).busy("drawing races"):
        found = expected(study.sweep, limits)
    rows = [
        {"block": number, "what": block.label, "arms": len(study.sweep.arms), "racing": racing, "flops": block.flops}
        for number, (block, racing) in enumerate(zip(found.blocks, found.arms, strict=True), 1)
    ]
    if as_json:
        print_json(
            {
                "sweep": study.sweep.name,
                "blocks": rows,
                "train_flops": found.full,
                "budget": limits.budget,
                "enough": limits.enough or None,
                "expected_flops": found.flops,
                "expected_flops_10": found.low,
                "expected_flops_90": found.high,
                "expected_arms_left": found.left,
                "chance_best_is_left": found.kept,
                "worlds": found.worlds,
                **race_record(study),
            }
        )
        return
    shown = [{**row, "racing": f"{row['racing']:.1f}", "flops": f"{row['flops']:.2e}"} for row in rows]
    print_table(
        f"{study.sweep.name} as a race: racing, the arms expected to be left; FLOPs, of one arm",
        ("block", "what", "arms", "racing", "flops"),
        shown,
    )
    say(found.sentence)
    say_race(study)
    typer.echo(said_of(study.store))


def say_race(study: Study) -> None:
    """What a race has dropped so far, when and why, and how it ended, if it did."""
    for drop in drops(study.sweep, study.store).values():
        say(f"race: {drop.when[:16]}Z {drop.sentence}")
    if (end := ended(study.sweep, study.store)) is not None:
        other = "" if end.rule == ALONE else "a race with other limits goes on, and "
        say(f"race: {end.when[:16]}Z {end.sentence}; {other}a run without --race trains what it left")


def race_record(study: Study) -> dict[str, Any]:
    """The same, for programs: `dropped`, and `ended`, null where it has not."""
    end = ended(study.sweep, study.store)
    return {
        "dropped": [{**asdict(drop), "why": drop.sentence} for drop in drops(study.sweep, study.store).values()],
        "ended": {**asdict(end), "why": end.sentence} if end is not None else None,
    }
