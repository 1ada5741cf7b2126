"""Before and after a race: `plan --race`, and what `status` says of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from rfscale.cli.common import print_json, print_table, said_of, say, terminal
from rfscale.run.race import Drop, drops
from rfscale.run.race_cost import expected
from rfscale.run.study import Study


def show_race(study: Study, as_json: bool) -> None:
    """The blocks of a race, and what it is expected to cost, were it begun from nothing."""
    study.check()
    with terminal(as_json).busy("drawing races"):
        found = expected(study.sweep)
    rows = [
        {"block": number, "what": block.label, "arms": len(study.sweep.arms), "racing": racing, "flops": block.flops}
        for number, (block, racing) in enumerate(zip(found.blocks, found.arms, strict=True), 1)
    ]
    gone = drops(study.sweep, study.store)
    if as_json:
        print_json(
            {
                "sweep": study.sweep.name,
                "blocks": rows,
                "train_flops": found.full,
                "expected_flops": found.flops,
                "expected_flops_10": found.low,
                "expected_flops_90": found.high,
                "expected_arms_left": found.left,
                "worlds": found.worlds,
                "dropped": [asdict(drop) for drop in gone.values()],
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
    say_drops(gone)
    typer.echo(said_of(study.store))


def say_drops(gone: dict[str, Drop]) -> None:
    """What a race has dropped so far, and when."""
    for drop in gone.values():
        say(f"race: {drop.when[:16]}Z {drop.sentence}")


def drop_rows(study: Study) -> list[dict[str, Any]]:
    """The same, for programs."""
    return [{**asdict(drop), "why": drop.sentence} for drop in drops(study.sweep, study.store).values()]
