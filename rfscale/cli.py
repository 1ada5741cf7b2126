"""The `rfscale` command: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from rfscale import __version__, names
from rfscale.flow import FAMILIES, signature
from rfscale.store import Store, StoreError, TrialFolder, default_store, read_json
from rfscale.sweep import Resources, Sweep, SweepError, Trial, load_sweep

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SweepFile = Annotated[
    Path, typer.Argument(metavar="SWEEP", help="sweep file (YAML), such as experiments/quickstart.yaml")
]
StoreFolder = Annotated[
    Path | None, typer.Option("--store", help="folder of all results [default: $RFSCALE_STORE or ./runs]")
]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
Cpus = Annotated[float | None, typer.Option("--cpus", help="CPUs per trial, instead of the sweep's resources")]
Gpus = Annotated[float | None, typer.Option("--gpus", help="GPUs per trial, instead of the sweep's resources")]

P = ParamSpec("P")
R = TypeVar("R")


def one_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """Bad input is one clear sentence on standard error and exit code 2; all else is a bug and keeps its traceback.

    Bad input is what our own packages raise a named error for. Asking for its module, not its class, leaves those of
    the heavy modules unimported.
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, RuntimeError) as error:
            if type(error).__module__.split(".")[0] not in ("rfscale", "analysis"):
                raise
            typer.echo(f"rfscale: {error}", err=True)
            raise typer.Exit(2) from error

    return wrapped


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


_PLAN_COLUMNS = (
    *("trial_id", "formulation", "depth", "width", "heads", "parameters", "train_flops"),
    *("steps", "batch", "seed", "status", "reason"),
)
_PLAN_STATUSES = (names.NEW, names.PARTIAL, names.FINISHED, names.DROPPED)

# --- before -----------------------------------------------------------------------------------------------------------


@app.command()
@one_sentence
def plan(sweep: SweepFile, store: StoreFolder = None, as_json: Json = False) -> None:
    """Show every trial: its size, its cost, where it stands.

    Trains nothing and writes nothing. Status is new, partial (begun; will resume), finished, or dropped.
    """
    definition, place = load_sweep(sweep), _store(store)
    rows = [_planned(trial, place) for trial in definition.trials]
    totals = {
        "trials": len(rows),
        "duplicates_merged": definition.duplicates,
        "train_flops": sum(row["train_flops"] for row in rows),
        "samples": sum(row["samples"] for row in rows),
        **{status: sum(row["status"] == status for row in rows) for status in _PLAN_STATUSES},
    }
    if as_json:
        _print_json({"sweep": definition.name, "question": definition.question, "trials": rows, "totals": totals})
        return
    _print_table(f"{definition.name}: {definition.question}", _PLAN_COLUMNS, rows)
    parts = [f"{totals['trials']} trials", f"{totals['train_flops']:.3g} FLOPs of training"]
    parts += [f"{totals[status]} {status}" for status in _PLAN_STATUSES if totals[status]]
    if definition.duplicates:
        parts.append(f"{definition.duplicates} duplicates merged")
    typer.echo(", ".join(parts))


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
        _print_json(rows)
        return
    for row in rows:
        ranges = ", ".join(f"{k} in {v}" for k, v in row["parameters"].items())
        typer.echo(f"{row['name']}{f'    ({ranges})' if ranges else ''}")
        for key in ("path", "target", "noise_sampler", "source"):
            typer.echo(f"    {key.replace('_', ' '):<14} {row[key]}")


# --- training ---------------------------------------------------------------------------------------------------------


@app.command()
@one_sentence
def run(
    sweep: SweepFile,
    store: StoreFolder = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="join this Ray cluster instead of starting one here; 'auto' is the cluster this machine is part of",
        ),
    ] = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Train what is missing, then write the report.

    Trials run in parallel on Ray and are logged to MLflow. The same command resumes a sweep that was stopped.
    """
    from rfscale.launch import Outcome, launch, to_train
    from rfscale.progress import Display
    from rfscale.tracking import Mirror

    definition, place = _with_resources(load_sweep(sweep), cpus, gpus), _store(store)
    for data in {trial.data for trial in definition.trials}:
        data.check(decode=True)
    _mlflow(place)
    place.check_writable()

    missing = to_train(definition, place)
    console = _console()
    console.print(
        f"{definition.name}: {len(definition.trials)} trials, {len(missing)} to train", highlight=False, markup=False
    )
    mirror = Mirror(definition, place)
    outcome = Outcome()
    if missing:
        display = Display(definition, place, console)
        with mirror.in_background(), display.shown():
            outcome = launch(
                definition,
                place,
                address=address,
                tick=lambda now, ids: display.update(now, ids, _note(mirror.trouble)),
            )
    else:
        mirror.finish()
    _write_report(definition.name, place)
    failed = [
        f"{trial_id} ({state.reason})"
        for trial_id, state in outcome.unfinished.items()
        if state.status != names.DIVERGED
    ]
    if failed:
        typer.echo(
            f"rfscale: {len(failed)} trials failed: {'; '.join(failed)}. The same command tries them again.", err=True
        )
        raise typer.Exit(1)


@app.command()
@one_sentence
def train(
    sweep: SweepFile,
    trial_id: Annotated[
        str, typer.Argument(metavar="TRIAL_ID", help="id of the trial, or its first digits; `rfscale plan` lists them")
    ],
    store: StoreFolder = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Train one trial in this process, without Ray or MLflow.

    For a debugger, or a machine that has only torch. The same command resumes a trial that was stopped.
    """
    definition, place = _with_resources(load_sweep(sweep), cpus, gpus), _store(store)
    trial = definition.trial(trial_id)
    folder = place.trial(trial.trial_id)
    if folder.state().status == names.FINISHED:
        typer.echo(f"trial {trial.trial_id} is finished already: val/loss {folder.state().loss:.4f}")
        return
    trial.data.check(decode=True)
    place.check_writable()
    import torch

    from rfscale.train import train as train_trial

    if definition.resources.gpus and not torch.cuda.is_available():
        raise SweepError("the sweep asks for a GPU and torch sees none here; add --gpus 0 to train on the CPU")
    torch.set_num_threads(max(1, int(definition.resources.cpus)))
    every = max(1, trial.steps // 20)

    def progress(step: int, loss: float) -> None:
        if step % every == 0 or step == trial.steps:
            typer.echo(f"step {step}/{trial.steps}  train loss {loss:.4f}")

    train_trial(trial, folder, definition.resources, definition.samples, progress)
    state = folder.state()
    if state.status != names.FINISHED:
        typer.echo(f"rfscale: trial {trial.trial_id} {state.status}: {state.reason}", err=True)
        raise typer.Exit(1)
    typer.echo(f"trial {trial.trial_id} finished: val/loss {state.loss:.4f}, files in {folder.path}")


# --- after ------------------------------------------------------------------------------------------------------------


@app.command()
@one_sentence
def status(sweep: SweepFile, store: StoreFolder = None, as_json: Json = False) -> None:
    """Show how far each trial came, and its loss.

    The loss is val/loss where the trial is finished, else its last training loss.
    """
    definition, place = load_sweep(sweep), _store(store)
    rows = []
    for trial in definition.trials:
        state = place.trial(trial.trial_id).state()
        rows.append(
            {
                **_row(trial),
                "step": state.step,
                "loss": _finite(state.loss),
                "status": state.status,
                "reason": state.reason,
            }
        )
    count = {status: sum(row["status"] == status for row in rows) for status in names.STATUSES}
    if as_json:
        _print_json({"sweep": definition.name, "trials": rows, "totals": count})
        return
    _print_table(
        definition.name, ("trial_id", "formulation", "depth", "seed", "step", "steps", "loss", "status", "reason"), rows
    )
    typer.echo(", ".join(f"{number} {status}" for status, number in count.items() if number))
    typer.echo("loss: val/loss where finished, else the last training loss, which formulations do not share")


@app.command()
@one_sentence
def report(sweep: SweepFile, store: StoreFolder = None) -> None:
    """Write the report: figures, tables and one HTML page.

    It goes to <store>/reports/<name of the sweep>/report.html.
    """
    _write_report(load_sweep(sweep).name, _store(store))


@app.command()
@one_sentence
def compare(
    sweep: SweepFile,
    store: StoreFolder = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="formulation that the others are compared with")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank the formulations by val/loss, with intervals.

    Says also what each costs in FLOPs at equal loss.
    """
    name, uri = load_sweep(sweep).name, _mlflow(_store(store))
    from analysis.compare import compare as compare_table
    from analysis.table import read_sweep

    comparison = compare_table(read_sweep(uri, name), reference=reference)
    if as_json:
        _print_json(comparison.to_dict())
    else:
        typer.echo(comparison.text())


@app.command()
@one_sentence
def sample(
    trial_id: Annotated[
        str, typer.Argument(metavar="TRIAL_ID", help="id of a finished trial in the store, or its first digits")
    ],
    prompt: Annotated[list[str], typer.Option("--prompt", help="what the images should show; may be repeated")],
    store: StoreFolder = None,
    out: Annotated[Path, typer.Option("--out", help="PNG file to write")] = Path("sample.png"),
    count: Annotated[int, typer.Option("--count", min=1, help="images of each prompt")] = 4,
    steps: Annotated[int, typer.Option("--steps", min=1, help="steps of the ODE solver")] = 50,
    guidance: Annotated[
        float, typer.Option("--guidance", min=0, help="classifier-free guidance scale; 1 is none")
    ] = 2.5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of the noise")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="weights as trained instead of their EMA")] = False,
) -> None:
    """Make a PNG grid of images from a trained trial."""
    folder = _find_trial(_store(store), trial_id)
    if not out.resolve().parent.is_dir():
        raise StoreError(f"there is no folder {out.resolve().parent} for {out.name}; create it or change --out")
    trial = Trial.model_validate((read_json(folder.record) or {})["trial"])
    import torch

    from rfscale.checkpoint import load_model
    from rfscale.data.text import load_text_encoder
    from rfscale.evals.samples import generate_images, save_grid

    model = load_model(trial, folder, ema=not raw)
    captions = [text for text in prompt for _ in range(count)]
    context, pooled = (torch.as_tensor(part) for part in load_text_encoder(trial.text).encode(captions))
    save_grid(generate_images(model, trial, context, pooled, steps, guidance, seed), captions, out)
    typer.echo(f"{len(captions)} images of {trial.formulation}, depth {trial.depth}: {out}")


@app.command()
@one_sentence
def ui(
    store: StoreFolder = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="port of the page")] = 5000,
) -> None:
    """Serve the MLflow UI on this store, on loopback only."""
    from rfscale.tracking import tracking_uri

    place = _store(store)
    uri = tracking_uri(place)
    if uri.startswith(("http://", "https://")):
        typer.echo(f"MLFLOW_TRACKING_URI is set: open {uri}")
        return
    if not (place.root / "mlflow.db").exists():
        raise StoreError(f"there is no mlflow.db in {place.root}; run a sweep first, or name its store with --store")
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    typer.echo(f"http://127.0.0.1:{port}")
    arguments = ["-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *arguments])


# --- helpers ----------------------------------------------------------------------------------------------------------


def _store(given: Path | None) -> Store:
    return Store(given if given is not None else default_store())


def _with_resources(sweep: Sweep, cpus: float | None, gpus: float | None) -> Sweep:
    changes = {key: value for key, value in (("cpus", cpus), ("gpus", gpus)) if value is not None}
    if not changes:
        return sweep
    if cpus is not None and not 0 < cpus < math.inf:
        raise SweepError(f"--cpus {cpus:g} is not possible; give a positive number")
    if gpus is not None and not 0 <= gpus < math.inf:
        raise SweepError(f"--gpus {gpus:g} is not possible; give 0 or a positive number")
    return sweep.model_copy(update={"resources": Resources.model_validate({**sweep.resources.model_dump(), **changes})})


def _row(trial: Trial) -> dict[str, Any]:
    return {"trial_id": trial.trial_id, **trial.parameters()}


def _planned(trial: Trial, store: Store) -> dict[str, Any]:
    """A trial's row in `plan`, with one of four statuses: what will the next `run` do with it?"""
    state = store.trial(trial.trial_id).state()
    status, reason = _PLANNED.get(state.status, state.status), state.reason
    if state.status == names.RUNNING:
        reason = "a process is training it now"
    elif state.status in (names.DIVERGED, names.FAILED):
        reason = f"{state.status}: {state.reason}"
    return {**_row(trial), "status": status, "reason": reason}


_PLANNED = {names.RUNNING: names.PARTIAL, names.FAILED: names.PARTIAL, names.DIVERGED: names.DROPPED}


def _find_trial(store: Store, prefix: str) -> TrialFolder:
    found = sorted((store.root / "trials").glob(f"{prefix}*")) if prefix.isalnum() else []
    if len(found) != 1:
        what = f"{len(found)} trials start with" if found else "there is no trial"
        raise StoreError(f"{what} {prefix!r} in the store {store.root}; `rfscale status SWEEP` lists the ids")
    folder = store.trial(found[0].name)
    state = folder.state()
    if state.status != names.FINISHED:
        raise StoreError(f"trial {found[0].name} is not finished ({state.status}); `rfscale run` its sweep first")
    return folder


def _write_report(sweep: str, store: Store) -> None:
    uri = _mlflow(store)
    from analysis.report import write_report

    typer.echo(write_report(uri, sweep, store.report(sweep)).text)


def _mlflow(store: Store) -> str:
    """Where MLflow is; asked first, because its own client tries for minutes. Raises TrackingError."""
    from rfscale.tracking import check_reachable, tracking_uri

    uri = tracking_uri(store)
    check_reachable(uri)
    return uri


def _note(trouble: str) -> str:
    return f"MLflow does not answer, points wait in the store: {trouble}" if trouble else ""


def _finite(value: float) -> float | None:
    return value if value == value else None


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def _console() -> Console:
    from rich.console import Console

    # Piped output is for reading and grepping: no wrapping at 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=200)


def _print_table(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Never cut to the width of the terminal: an id with its end cut off is of no use."""
    shown = [column for column in columns if column != "reason" or any(row["reason"] for row in rows)]
    cells = [
        [column.replace("_", " ") for column in shown],
        *([_cell(row[column]) for column in shown] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(isinstance(row[column], int | float | None) for row in rows) for column in shown]
    typer.echo(f"{title}\n")
    for line in cells:
        padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True))
        typer.echo("  ".join(padded).rstrip())
    typer.echo()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:.2e}" if value >= 10**9 else f"{value:,}"
