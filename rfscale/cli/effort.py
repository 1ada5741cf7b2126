"""Before: `plan --measure`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from rfscale.cli.common import check_option, print_json, print_table, said_of, say, terminal
from rfscale.numbers import Real, Whole
from rfscale.run import rates
from rfscale.run.effort import Forecast, Rung, forecast, row, sentences, size
from rfscale.run.measure import measure
from rfscale.run.study import Study
from rfscale.run.work import to_train

WORKERS, PRICE = Whole(1, 1_000_000), Real(0, 1e9)
_COLUMNS = (
    "backbone",
    "depth",
    "width",
    "batch",
    "steps",
    "trials",
    "s/step",
    "h/trial",
    "hours",
    "memory",
    "checkpoint",
)
_SPARE = ("backbone", "width")


def show_forecast(study: Study, workers: int | None, price_per_hour: float | None, as_json: bool) -> None:
    """Time every size here, keep that in the store, and say what the sweep will take."""
    if workers is not None:
        check_option("--workers", workers, WORKERS)
    if price_per_hour is not None:
        check_option("--price-per-hour", price_per_hour, PRICE)
    study.check()
    sweep, store = study.noted().sweep, study.store
    store.check_writable()
    with terminal(as_json).counting() as progress:
        rates.keep(store, measure(sweep, slots=workers, progress=progress))
    found = forecast(sweep, rates.kept(store), to_train(sweep, store), workers, price_per_hour)
    assert found is not None  # every size has just been measured
    if as_json:
        print_json(_as_json(study, found))
        return
    hours = found.hours_of.replace("_", "-")
    columns = tuple(hours if column == "hours" else column for column in _COLUMNS)
    print_table(
        f"{sweep.name}: what it takes here", columns, [_row(rung, found, hours) for rung in found.rungs], _SPARE
    )
    for sentence in sentences(found):
        say(sentence)
    if any(sweep.resources.at(trial.model.depth).pack_gpu_gb is not None for trial in sweep.trials):
        say("note: what was timed had a GPU alone; how long trials take that share one by pack_gpu_gb is not forecast")
    if sweep.quality is not None:
        say("note: images are judged after training, which is not in it")
    typer.echo(said_of(store))


def _row(rung: Rung, found: Forecast, hours: str) -> dict[str, object]:
    plain = row(rung, found)
    return {
        **plain,
        "s/step": plain["seconds_per_step"],
        "h/trial": plain["hours_per_trial"],
        hours: plain[found.hours_of],
        "memory": size(rung.measured.memory_bytes),
        "checkpoint": size(rung.measured.checkpoint_bytes),
    }


def _as_json(study: Study, found: Forecast) -> dict[str, object]:
    return {
        "sweep": study.sweep.name,
        "rungs": [{**row(rung, found), "measured": asdict(rung.measured)} for rung in found.rungs],
        "slots": found.slots,
        "machines": found.machines,
        "wall_seconds": found.wall_seconds,
        "left_seconds": found.left_seconds,
        found.hours_of: found.slot_hours * found.units,
        "disk_bytes": found.disk_bytes,
        "kept_bytes": found.kept_bytes,
        "data_bytes": found.data_bytes,
        "money": found.money,
        "share_of_the_machine": found.share,
    }
