"""Before: `plan`, `formulations`, `backbones`, `list`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import JsonValue

from rfscale.backbones.base import BACKBONES, SYMBOLS, BackboneSpec
from rfscale.cli.common import (
    ABSENT,
    Json,
    StoreFolder,
    app,
    one_sentence,
    print_json,
    print_notes,
    print_table,
    said_of,
    say,
    terminal,
    trial_row,
    tuned_fields,
)
from rfscale.cli.effort import show_forecast
from rfscale.cli.follow import extend_lists, write_next
from rfscale.cli.race import limits_of, say_race, show_race
from rfscale.flow.formulations import FAMILIES, canonical, signature
from rfscale.registry import KINDS
from rfscale.run.planned import PLAN_STATUSES, Plan, Planned
from rfscale.run.study import Study, open_store
from rfscale.spec.axes import ARMS, Axis, shown
from rfscale.spec.match import WORDS
from rfscale.spec.sweep import Size, Sweep, SweepError
from rfscale.spec.trunks import Shared, shared, trunks_of

_PLAN_COLUMNS = ("depth", "width", "heads", "parameters", "train_flops", "steps", "batch", "seed", "status", "reason")
_SPARE = ("heads", "width", "batch")  # of no use for telling two trials apart: said by the depth, or the same for all
_AXIS_COLUMNS = ("axis", "role", "size", "values")
_SIZE_COLUMNS = ("arm", "depth", "width", "N", "x N", "FLOPs", "x FLOPs")
OPEN = "open"
"""In the place of an id that depends on data which are not on this machine."""
_LINE = 80  # characters of a line of text
_LABELS = {"equation": "block", "block_flops": "FLOPs", "block_parameters": "parameters"}
_LONGEST_VALUES = 100  # characters: what is longer is shown by its ends


_MODES: dict[str, tuple[str, ...]] = {
    "--race": ("--enough", "--budget"),
    "--next": ("--out",),
    "--measure": ("--workers", "--price-per-hour"),
    "--budget": ("--formulation", "--target", "--out"),
}
"""What `plan` can be asked for instead of the list of trials, and the options that each heeds."""

Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        help="training FLOPs to spend next: proposes a sweep, with this one as the pilot; with --race, as of `run`",
    ),
]
FormulationOption = Annotated[
    str | None, typer.Option("--formulation", help="with --budget: whose loss to predict [default: the best]")
]
TargetOption = Annotated[
    str | None, typer.Option("--target", help="with --budget: predict this training, such as depth=8,steps=2400")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", readable=False, help="with --budget or --next: file of the sweep [default: <name>-next.yaml]"
    ),
]
Next = Annotated[
    bool,
    typer.Option("--next", help="write the sweep with the lists of tuned axes extended where a best value ends one"),
]
Measure = Annotated[
    bool, typer.Option("--measure", help="time a few steps of every size on this machine, and say what it will take")
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="with --measure: trials at once [default: as many as this machine runs]")
]
Price = Annotated[
    float | None, typer.Option("--price-per-hour", help="with --measure: price of an hour of a machine like this one")
]
Race = Annotated[
    bool, typer.Option("--race", help="the blocks of `rfscale run --race`, and what they are expected to cost")
]
Enough = Annotated[
    float | None, typer.Option("--enough", help="with --race: what it costs until then, as of `rfscale run`")
]


@app.command()
@one_sentence
def plan(
    sweep: Annotated[Sweep, ABSENT],
    store: StoreFolder = None,
    budget: Budget = None,
    formulation: FormulationOption = None,
    target: TargetOption = None,
    out: Out = None,
    follow: Next = False,
    measure: Measure = False,
    workers: Workers = None,
    price_per_hour: Price = None,
    race: Race = False,
    enough: Enough = None,
    as_json: Json = False,
) -> None:
    """Show every trial: its size, its cost, where it stands.

    Trains nothing and writes nothing. Status is new, partial (begun; will resume), finished, or dropped. With --budget,
    the sweep is a pilot: its curves tell which trainings would best sharpen the predicted loss of a larger one, and
    these are written as the next sweep file. With --next, where an arm's best value of a tuned axis is at the end of
    its list, that list goes on, at that rung alone, in a new sweep file. With --measure, a few steps of every size are
    timed here, and the seconds are kept in the store: `rfscale run` then says how much time is left, and how far it is
    from the forecast. With --race, what a race of the sweep is expected to cost, begun from nothing: the mean of races
    in made worlds, to its end or to where --enough or --budget end it, with the arms left and the chance that the best
    is one of them.
    """
    study = Study(sweep, open_store(store))
    mode = _mode_of(
        {
            "--race": race or None,
            "--next": follow or None,
            "--measure": measure or None,
            "--budget": budget,
            "--enough": enough,
            "--workers": workers,
            "--price-per-hour": price_per_hour,
            "--target": target,
            "--out": out,
            "--formulation": formulation,
        }
    )
    if mode == "--race":
        show_race(study, limits_of(budget, enough), as_json)
    elif mode == "--next":
        extend_lists(study, out, as_json)
    elif mode == "--measure":
        show_forecast(study, workers, price_per_hour, as_json)
    elif budget is not None:
        _propose(study, budget, formulation, target, out, as_json)
    else:
        _show_plan(study, as_json)


def _mode_of(options: Mapping[str, object]) -> str | None:
    """The one thing asked for, or None: the list. Raises SweepError for a second, and for an option without effect."""
    given = [option for option, value in options.items() if value is not None]
    mode = next((option for option in given if option in _MODES), None)
    for option in given:
        if mode is not None and option in (mode, *_MODES[mode]):
            continue
        needed = [name for name, heeded in _MODES.items() if option in heeded and option not in _MODES]
        if needed and not any(name in given for name in needed):
            first = needed[-1]
            also = "".join(f" or {name}" for name in needed[:-1])
            add = f"{first} FLOPS" if first == "--budget" else first
            raise SweepError(f"{option} has no effect without {first}{also}; add {add}, or remove it")
        raise SweepError(f"{option} and {mode} ask for two different things; give one of them")
    return mode


def _show_plan(study: Study, as_json: bool) -> None:
    planned = study.plan()
    definition = planned.sweep
    rows = [_row(definition, one) for one in planned.trials]
    saved = shared(definition.trials, trunks_of(definition))
    totals = {
        "trials": len(rows),
        "duplicates_merged": definition.duplicates,
        "train_flops": planned.train_flops,
        "samples": planned.samples,
        "state_bytes": planned.state_bytes,
        "evaluations": planned.evaluations,
        "trunks": saved.trunks,
        "train_flops_paid": saved.paid,
        **{status: planned.count(status) for status in PLAN_STATUSES},
    }
    if as_json:
        axes = [{"field": axis.field, "role": axis.role, "values": axis.values} for axis in definition.layout.axes]
        print_json(
            {
                "sweep": definition.name,
                "question": definition.question,
                "axes": axes,
                "arms": definition.arms,
                "roles": definition.roles,
                "compared": definition.layout.sentence(),
                "sizes": [asdict(size) for size in definition.sizes],
                "trials": rows,
                "totals": totals,
                "notes": definition.notes,
            }
        )
        return
    title = f"{definition.name}: {definition.question}"
    if definition.layout.axes:
        print_table(title, _AXIS_COLUMNS, [_axis_row(axis) for axis in definition.layout.axes])
        title = definition.layout.sentence()
    if len(named := _named_arms(definition)) > 1:
        print_table(title, tuple(named[0]), named)
        title = "Trials:"
    if definition.sizes:
        print_table(_sizes_title(definition), _SIZE_COLUMNS, [_size_row(size) for size in definition.sizes])
    print_table(title, ("trial_id", "arm", *tuned_fields(definition), *_PLAN_COLUMNS), rows, _SPARE)
    _show_totals(study, planned, totals, saved)
    if definition.quality is not None:
        typer.echo(f"{totals['evaluations']} evaluations of images")
    print_notes(definition)
    typer.echo(said_of(study.store))


def _show_totals(study: Study, planned: Plan, totals: Mapping[str, Any], saved: Shared) -> None:
    """What all trials together take, what a race left out, and what trunks save."""
    parts = [f"{totals['trials']} trials", f"{totals['train_flops']:.3g} FLOPs of training"]
    size, unit = (planned.state_bytes / 1e9, "GB") if planned.state_bytes >= 1e9 else (planned.state_bytes / 1e6, "MB")
    parts.append(f"a training state of {size:.3g} {unit} at most")
    parts += [f"{totals[status]} {status}" for status in PLAN_STATUSES if totals[status]]
    if planned.sweep.duplicates:
        parts.append(f"{planned.sweep.duplicates} duplicates merged")
    say(", ".join(parts))
    say_race(study)
    if saved.trunks:
        say(
            f"{saved.trials} trials share {saved.trunks} trunk{'s' if saved.trunks > 1 else ''}, whose steps are "
            f"trained once: {saved.paid:.3g} FLOPs paid, {saved.alone - saved.paid:.3g} saved, "
            f"{saved.alone / saved.paid:.2f} times less than one by one"
        )


def _propose(
    study: Study,
    budget: float,
    formulation: str | None,
    target: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    from analysis.compare.arms import compare
    from analysis.laws.command import parse_point
    from rfscale.run.propose import Target, propose_sweep

    table = study.table()
    name = canonical(formulation) if formulation is not None else compare(table).best.arm
    goal = None
    if target is not None:
        point = parse_point(target, "depth=8,steps=2400")
        if set(point) != {"depth", "steps"} or not all(v >= 1 and v == int(v) for v in point.values()):
            raise SweepError(f"--target {target!r} is not a training; write it as depth=8,steps=2400")
        goal = Target(int(point["depth"]), int(point["steps"]))
    with terminal(as_json).busy("looking for the best trainings"):
        proposal = propose_sweep(study.sweep, study.sweep.origin.definition, table, budget, name, goal)
    write_next(study, proposal, out, as_json)


def _axis_row(axis: Axis) -> dict[str, Any]:
    several = ("; " if any("," in value for value in axis.values) else ", ").join(axis.values)
    return {
        "axis": axis.field,
        "role": axis.role,
        "size": len(axis.values),
        "values": several if len(several) <= _LONGEST_VALUES else f"{axis.values[0]}, ..., {axis.values[-1]}",
    }


def _row(sweep: Sweep, planned: Planned) -> dict[str, Any]:
    trial_id = {} if planned.trial.data.known else {"trial_id": OPEN}
    return {**trial_row(planned.trial, sweep), **trial_id, "status": planned.status, "reason": planned.reason}


def _named_arms(sweep: Sweep) -> list[dict[str, Any]]:
    """What each arm that the sweep names itself sets: its value of every field in which the arms differ."""
    if not any(axis.field == ARMS for axis in sweep.layout.axes):
        return []  # the label of an arm is made of its values
    found: dict[str, dict[str, list[str]]] = {}
    for trial in sweep.trials:
        record, row = trial.identity_record(), found.setdefault(sweep.placing(trial).arm, {})
        for key in sweep.roles["arm"]:
            row.setdefault(key, []).append(_short(record.get(key)))
    rows = [{key: ", ".join(dict.fromkeys(values)) for key, values in row.items()} for row in found.values()]
    differing = [key for key in sweep.roles["arm"] if len({row[key] for row in rows}) > 1]
    return [{"arm": arm, **{key: row[key] for key in differing}} for arm, row in zip(found, rows, strict=True)]


def _sizes_title(sweep: Sweep) -> str:
    """What the widths of matched arms come to, at the worst."""
    far = {by: [abs(size.ratio - 1) for size in sweep.sizes if size.by == by] for by in WORDS}
    near = ", ".join(f"{WORDS[by]} within {100 * max(off):.2g} %" for by, off in far.items() if off)
    return (
        f"Matched by width to {sweep.matched_to}, the first arm: {near}.\n"
        f"N: parameters; FLOPs: training, per sample; x: over those of {sweep.matched_to}."
    )


def _size_row(size: Size) -> dict[str, Any]:
    return {
        **{key: getattr(size, key) for key in ("arm", "depth", "width")},
        "N": size.parameters,
        "FLOPs": size.flops,
        "x N": size.times_parameters,
        "x FLOPs": size.times_flops,
    }


def _short(value: JsonValue) -> str:
    """A value as one of several in a cell: three digits of what follows from a rule, such as 0.00457142857."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else shown(value)


@app.command()
@one_sentence
def formulations(as_json: Json = False) -> None:
    """List the formulations that a sweep can name.

    Each with its noise path, the network's target, its noise sampler, and where the paper (arXiv 2403.03206) has it.
    """
    rows: list[dict[str, Any]] = []
    for name, family in FAMILIES.items():
        example = family.noise_sampler(*(max(0.5, p.low) for p in family.parameters))
        rows.append(
            {
                "name": signature(name),
                "path": family.path.formula,
                "target": family.target.formula,
                "noise_sampler": example.formula,
                "parameters": {p.name: p.range for p in family.parameters},
                "source": family.source,
            }
        )
    if as_json:
        print_json(rows)
        return
    for row in rows:
        ranges = ", ".join(f"{k} in {v}" for k, v in row["parameters"].items())
        typer.echo(f"{row['name']}{f'    ({ranges})' if ranges else ''}")
        for key in ("path", "target", "noise_sampler", "source"):
            typer.echo(f"    {key.replace('_', ' '):<14} {row[key]}")


@app.command()
@one_sentence
def backbones(as_json: Json = False) -> None:
    """List the networks that a sweep can name under `model:`.

    Each with its block, what a block costs, and where it comes from. `rfscale list backbones` lists their keys.
    """
    rows = [{"name": row["name"], "what": row["summary"], **_facts(row["name"])} for row in BACKBONES.table()]
    if as_json:
        print_json({"backbones": rows, "symbols": SYMBOLS})
        return
    for row in rows:
        typer.echo(row.pop("name"))
        for key, said in row.items():
            typer.echo(_hanging(_LABELS.get(key, key), said, 10))
    typer.echo("\nFLOPs of the forward pass of one sample. Both costs are of a block before the")
    typer.echo("last, which leaves out what nothing reads after it. The letters:")
    for symbol, meaning in SYMBOLS.items():
        typer.echo(_hanging(symbol, meaning, 5))


def _facts(name: str) -> dict[str, str]:
    spec = BACKBONES.get(name)
    return spec.facts() if issubclass(spec, BackboneSpec) else {}


def _hanging(label: str, text: str, width: int) -> str:
    """A label and its text, wrapped beside it; where the text has semicolons, at those."""
    first, hard = f"    {label:<{width}} ", "\xa0"
    if ";" in text:
        text = text.replace(" ", hard).replace(f";{hard}", "; ")
    filled = textwrap.fill(
        text, _LINE, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )
    return filled.replace(hard, " ")


@app.command("list")
@one_sentence
def list_kinds(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="one kind, such as data or backbones [default: all]")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the choices of a sweep file.

    Data, text encoders, backbones, schedules, judges.

    Each with its keys and their defaults. `rfscale formulations` lists the formulations.
    """
    if kind is not None and kind not in KINDS:
        raise SweepError(f"there is no kind {kind!r} of choices; choose one of {', '.join(KINDS)}")
    found = {name: one.table() for name, one in KINDS.items() if kind in (None, name)}
    if as_json:
        print_json(found)
        return
    for name, rows in found.items():
        typer.echo(f"{name}, under `{KINDS[name].section}` as `{KINDS[name].tag}`")
        for row in rows:
            keys = ", ".join(f"{key} ({field['default']})" for key, field in row["fields"].items())
            typer.echo(f"    {row['name']:<12} {row['summary']}\n{'':<17}{keys or 'no keys'}")
