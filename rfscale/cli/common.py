"""What the commands share: the application, its options, errors in one sentence, and printing."""

from __future__ import annotations

import errno
import inspect
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, get_args

import typer
from typer.core import TyperGroup

from rfscale import __version__
from rfscale.flow.formulations import FormulationError, canonical
from rfscale.names import RfscaleError
from rfscale.numbers import Real, Whole, bounds_of
from rfscale.paths import expanded
from rfscale.quoting import quoted, wrapped
from rfscale.registry import allowing_plugins
from rfscale.run.imports import named
from rfscale.run.results import Results
from rfscale.run.study import open_store
from rfscale.spec.overrides import known, parse_fields
from rfscale.spec.sweep import Resources, Sweep, SweepError
from rfscale.spec.sweep_file import allowing_absent_data, load_sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store

if TYPE_CHECKING:
    from analysis.compare.arms import Comparison
    from analysis.report.page import Report
    from analysis.table.read import SweepTable
    from rfscale.run.progress import Terminal
    from rfscale.run.study import Ran, Study


class _Group(TyperGroup):
    """The commands; a wrong name, option or value is one sentence, as every other bad input is."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:  # raises what prints the help
            return super().parse_args(ctx, args)
        with _usage_in_one_sentence(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _usage_in_one_sentence(ctx):
            return super().invoke(ctx)


@contextmanager
def _usage_in_one_sentence(ctx: Any) -> Iterator[None]:
    try:
        yield
    except typer.TyperException as error:
        command = (getattr(error, "ctx", None) or ctx).command_path
        said = " ".join(error.format_message().split())
        say(f"rfscale: {said.rstrip('.')}{'' if said.endswith('?') else '.'} See `{command} --help`.", err=True)
        raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SweepFile = Annotated[
    Path,
    typer.Argument(metavar="SWEEP", readable=False, help="sweep file (YAML), such as experiments/quickstart.yaml"),
]
_SweepOrResults = Annotated[
    Path | None,
    typer.Argument(metavar="SWEEP", readable=False, help="sweep file (YAML), or the name of imported runs"),
]


def _known(incomplete: str) -> list[str]:
    """What a shell completes: the fields, up to their sign."""
    return [f"{field}=" for field in known() if field.startswith(incomplete)]


_FieldsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FIELD=VALUE",
        autocompletion=_known,
        help="fields of the sweep, as if the file said so: training.steps=1000 'seeds=[0,1,2]'; null takes one out",
    ),
]
_NameOption = Annotated[str | None, typer.Option("--name", help="another name of the sweep, the same as name=NAME")]
# readable=False, here and elsewhere: no check by typer, since our own sentences say what to do.
StoreFolder = Annotated[
    Path | None,
    typer.Option("--store", readable=False, help="folder of all results [default: $RFSCALE_STORE or ./runs]"),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="join this Ray cluster instead of starting one here; 'auto' is the cluster this machine is part of",
    ),
]
Reference = Annotated[str | None, typer.Option("--reference", help="arm that the others are compared with")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
Cpus = Annotated[float | None, typer.Option("--cpus", help="CPUs per process, instead of the sweep's resources")]
Gpus = Annotated[float | None, typer.Option("--gpus", help="GPUs per process, instead of the sweep's resources")]

P = ParamSpec("P")


class FileError(RfscaleError, RuntimeError):
    """A file cannot be written; the message is one sentence that says what to do."""


R = TypeVar("R")
ABSENT = "its data may be absent"
"""Metadata of an argument `sweep`: the command takes one whose data are not on this machine."""
_SWEEP, _TRIAL = "sweep", "trial_id"
"""The arguments through which a command reads a sweep or a trial, either of which may name a plug-in."""
_FIELDS, _NAME = "fields", "name"
"""What every command that reads a sweep takes beside its file."""
_Allow = Annotated[bool, typer.Option("--allow-plugins", help="run the Python files that the sweep names as plug-ins")]
_OF_THE_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What a machine refuses whoever asks, wherever it is met: permissions, a read-only disk, a full one."""
_ARGUMENTS = ("sweep", "table", "folder", "source")  # paths that stand without an option's name


def one_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """Bad input is one clear sentence on standard error and exit code 2; all else is a bug and keeps its traceback.

    Bad input is what our own packages raise a named error for. Every path that the command is given is checked to be
    one, and expanded, here. A command with an argument `sweep: Sweep` takes a file and fields beside it, and is given
    the sweep that they make.
    """

    signature = inspect.signature(command, eval_str=True)
    without_file, absent = (one in _does_with(signature) for one in (Results, ABSENT))

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        allowed = bool(kwargs.pop("allow_plugins", False))
        beside = {key: kwargs.pop(key, None) for key in (_FIELDS, _NAME)} if _SWEEP in kwargs else {}
        try:
            for key, value in kwargs.items():
                if isinstance(value, Path):
                    kwargs[key] = expanded(value, key.upper() if key in _ARGUMENTS else f"--{key}")
            with allowing_plugins(allowed):
                if "=" in str(kwargs.get(_TRIAL, "")):
                    raise SweepError(f"{quoted(kwargs[_TRIAL])} is no id of a trial; write the id before the fields")
                if _SWEEP in kwargs:
                    place = kwargs.get("store")
                    with allowing_absent_data(absent):
                        kwargs[_SWEEP] = _loaded(kwargs[_SWEEP], place, without_file, **beside)
                return command(*args, **kwargs)
        except RfscaleError as error:
            say(f"rfscale: {' '.join(str(error).split())}", err=True)  # one line, whatever was quoted
            raise typer.Exit(2) from error
        except OSError as error:
            if error.errno not in _OF_THE_MACHINE or not error.filename:
                raise
            where, why = quoted(str(error.filename)), str(error.strerror).lower()
            say(f"rfscale: {where} cannot be used: {why}; correct that, or name another place", err=True)
            raise typer.Exit(2) from error

    _show(wrapped, signature)
    return wrapped


def _does_with(signature: inspect.Signature) -> tuple[Any, ...]:
    """What a command does with: `Results` that have no sweep file, a sweep whose data are `ABSENT`."""
    return get_args(signature.parameters[_SWEEP].annotation) if _SWEEP in signature.parameters else ()


def _loaded(path: Any, store: Any, without_file: bool, fields: Any, name: Any) -> Sweep | Results | None:
    """The sweep of a file and the fields given beside it. Where a command can do `without_file`, also the results of
    imported runs, by their name, and None for nothing. Raises SweepError."""
    if without_file and not fields and name is None:
        if path is None:
            return None
        imported = named(path, open_store(store))
        if imported is not None:
            return imported
    if path is None:
        raise SweepError(f"{fields[0] if fields else '--name'} is a field of a sweep; give the sweep file before it")
    given = parse_fields(fields or ())
    if name is not None:
        if "name" in given:
            raise SweepError("the name is given twice, by --name and by name=; give it once")
        given["name"] = name
    return load_sweep(path, given)


def _show(wrapped: Any, signature: inspect.Signature) -> None:
    """What typer sees of a command: its own parameters, and those that every command of its kind has."""
    own, kind = dict(signature.parameters), inspect.Parameter.KEYWORD_ONLY
    more: list[tuple[str, Any, Any]] = []
    if _SWEEP in own:
        own[_SWEEP] = own[_SWEEP].replace(annotation=_SweepOrResults if Results in _does_with(signature) else SweepFile)
        more += [(_FIELDS, _FieldsArgument, None), (_NAME, _NameOption, None)]
    if _SWEEP in own or _TRIAL in own:
        more.append(("allow_plugins", _Allow, False))
    added = [inspect.Parameter(name, kind, default=default, annotation=hint) for name, hint, default in more]
    parameters = [*own.values(), *added]
    wrapped.__signature__ = signature.replace(parameters=parameters)
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Scaling-law experiments for rectified-flow transformers: one sweep file -> trained grid -> honest comparison."""


# --- places and trials ------------------------------------------------------------------------------------------------


def said_of(store: Store) -> str:
    """Where the results were looked for, so that a mistyped folder is seen."""
    return f"store: {store.address}" + ("" if store.root.is_dir() else " (it does not exist yet)")


FIGURE = (".png", ".svg", ".pdf")
"""What a figure is written as, by the ending of its file's name (`analysis.report.pictures.FORMATS`)."""


def check_picture(path: Path, option: str, endings: Sequence[str] = FIGURE) -> None:
    """Before anything is computed for it: a picture can be written there. Raises FileError."""
    folder = path.resolve().parent
    if path.is_dir():
        raise FileError(f"{option} {path} is a folder; name a file in it, such as {path / 'figure.png'}")
    if path.suffix.lower() not in endings:
        kinds = [ending[1:].upper() for ending in endings]
        said = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        named = path.with_suffix(endings[0])
        raise FileError(f"{option} {path} is no name of a {said} file, which is what is written; write {named}")
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder} for {path.name}; create it or change {option}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"the folder {folder} cannot be written to; name a file in another one with {option}")


def with_resources(sweep: Sweep, cpus: float | None, gpus: float | None) -> Sweep:
    changes = {key: value for key, value in (("cpus", cpus), ("gpus", gpus)) if value is not None}
    if not changes:
        return sweep
    for key, value in changes.items():
        check_option(f"--{key}", value, bounds_of(Resources, key))
    return sweep.model_copy(update={"resources": sweep.resources.everywhere(changes)})


def check_option(option: str, value: float, bounds: Whole | Real) -> None:
    """An option has the bounds of the field that it stands for. Raises SweepError."""
    if not bounds.allows(value):
        given = f"{value:g}" if isinstance(value, float) else quoted(value)
        raise SweepError(f"{option} {given} is not possible; give {bounds.allowed}")


def trial_row(trial: Trial, sweep: Sweep) -> dict[str, Any]:
    """A trial as `plan` and `status` show it: its id, its arm, its tuned values as the file has them, and the rest."""
    return {**place_row(trial, sweep), **trial.parameters()}


def place_row(trial: Trial, sweep: Sweep) -> dict[str, Any]:
    """What tells a trial from the others of a sweep, without what follows from it, which takes time to work out."""
    place = sweep.placing(trial)
    told = {"depth": trial.model.depth, "seed": trial.seed, "steps": trial.training.steps}
    return {"trial_id": trial.trial_id, "arm": place.arm, **dict(place.tuned), **told}


def tuned_fields(sweep: Sweep) -> tuple[str, ...]:
    """The fields that are tuned, such as `training.learning_rate`: columns of the rows of trials."""
    return tuple(axis.field for axis in sweep.layout.of("tuned"))


def arm_named(given: str | None) -> str | None:
    """An arm as a user names it: a formulation in any spelling, or a label of the sweep file as it stands."""
    if given is None:
        return None
    try:
        return canonical(given)
    except FormulationError:
        return given


# --- printing ---------------------------------------------------------------------------------------------------------

MAX_WIDTH = 120
"""Characters of a line of a table, where columns can be spared."""


def say(text: str, err: bool = False) -> None:
    """Sentences, broken between words where somebody reads them on a terminal; else a line each, for grep."""
    on_terminal = (sys.stderr if err else sys.stdout).isatty()
    typer.echo(wrapped(text, shutil.get_terminal_size().columns) if on_terminal else text, err=err)


def print_notes(sweep: Sweep) -> None:
    for note in sweep.notes:
        say(f"note: {note}")


def print_json(value: Any) -> None:
    """What is not a finite number is null: JSON has no other word for it."""
    typer.echo(json.dumps(_plain(value), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def terminal(as_json: bool = False) -> Terminal:
    """Shows what is under way: on standard output, or on standard error where that is for JSON alone."""
    from rich.console import Console

    from rfscale.run.progress import Terminal

    # Piped output is for reading and grepping: no wrapping at 80 columns.
    width = None if (sys.stderr if as_json else sys.stdout).isatty() else 200
    return Terminal(Console(stderr=as_json, width=width))


def said_by(study: Study, report: Report) -> dict[str, Any]:
    """What the report of a study says, and where it is."""
    return said_of_report(study.sweep.name, study.command, report)


def said_of_report(name: str, command: str, report: Report) -> dict[str, Any]:
    """What a report says, and where it is."""
    return {
        "sweep": name,
        "command": command,
        "report": str(report.path),
        "comparison": said_of_arms(report.comparison, report.table),
        "laws": report.laws.frame().to_dict("records"),
        "left_out": report.table.rejected.to_dict("records"),
    }


def said_of_arms(comparison: Comparison, table: SweepTable) -> dict[str, Any]:
    """A comparison; of arms in different spaces also what the judges say, `judged`, which ranks them."""
    found = comparison.to_dict()
    if comparison.apart:
        from analysis.quality.judged import judged

        found["judged"] = judged(table)
    return found


def end(study: Study, ran: Ran, as_json: bool) -> None:
    """What failed, on standard error, with exit code 1; all of it is tried again by the same command."""
    if as_json:
        print_json({**said_by(study, ran.report), "failed": ran.failed, "unjudged": ran.unjudged})
    for what, reasons in (("trials", ran.failed), ("evaluations", ran.unjudged)):
        if reasons:
            listed = "; ".join(f"{trial_id} ({reason})" for trial_id, reason in reasons.items())
            say(f"rfscale: {len(reasons)} {what} failed: {listed}. The same command tries them again.", err=True)
    if ran.failed or ran.unjudged:
        raise typer.Exit(1)


def print_table(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]], spare: Sequence[str] = ()) -> None:
    """Never cut to the width of the terminal: an id with its end cut off is of no use.

    Fields are called by their last part where that is no other's. Columns of `spare` are left out, in that order, until
    a line has at most MAX_WIDTH characters before its reason.
    """
    shown = [column for column in columns if column != "reason" or any(row["reason"] for row in rows)]
    last = [column.rpartition(".")[2] for column in shown]
    heads = [name if last.count(name) == 1 else column for column, name in zip(shown, last, strict=True)]
    cells = {
        column: [head.replace("_", " "), *(_cell(row[column]) for row in rows)]
        for column, head in zip(shown, heads, strict=True)
    }
    widths = {column: max(map(len, found)) for column, found in cells.items()}
    for column in spare:
        if sum(widths[c] + 2 for c in shown if c != "reason") - 2 > MAX_WIDTH and column in shown:
            shown.remove(column)
    numeric = {column: all(isinstance(row[column], int | float | None) for row in rows) for column in shown}
    say(f"{title}\n")
    lines = []
    for i in range(len(rows) + 1):
        padded = (cells[c][i].rjust(widths[c]) if numeric[c] else cells[c][i].ljust(widths[c]) for c in shown)
        lines.append("  ".join(padded).rstrip())
    typer.echo("\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:.2e}" if value >= 10**9 else f"{value:,}"
