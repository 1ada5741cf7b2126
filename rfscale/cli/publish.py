"""For others, and from them: `publish`, `import`, `export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from rfscale.cli.common import Json, StoreFolder, app, one_sentence, print_json, say, terminal
from rfscale.quoting import quoted
from rfscale.run.imports import import_runs
from rfscale.run.imports.importing import said_of
from rfscale.run.imports.mapping import mapped, read_mapping
from rfscale.run.study import Study, open_store
from rfscale.spec.sweep import Sweep, SweepError

NewFolder = Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="folder to make; must be new or empty")]


@app.command()
@one_sentence
def publish(
    sweep: Sweep,
    folder: NewFolder,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            help="whose weights: none, best (lowest val/loss), all, an arm, or the id of a trial; may be repeated "
            "[default: best]",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="CC-BY-4.0, CC0-1.0 or Apache-2.0, for numbers and weights")
    ] = "CC-BY-4.0",
    author: Annotated[
        list[str] | None, typer.Option("--author", help="who is cited, as 'Ada Lovelace'; may be repeated")
    ] = None,
    url: Annotated[str, typer.Option("--url", help="where the folder will be found")] = "",
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Write all results into one folder, for others.

    Tables as parquet and CSV with a dictionary of every column, the report and its figures, the sweep file, the
    journals, weights with a model card each (in the layout of diffusers where its SD3Transformer2DModel is the same
    network), a Croissant description, licence, citation, environment and checksums. `rfscale report --from DIR` makes
    the report again from it alone.
    """
    _check_folder(folder)
    study = Study(sweep, open_store(store))
    found = study.publish(
        folder, weights=weights or (), licence=licence, authors=author or (), url=url, watch=terminal(as_json)
    )
    if as_json:
        print_json({"folder": str(found.folder), "trials": found.trials, "models": list(found.models),
                    "files": found.files, "unfinished": found.unfinished})  # fmt: skip
        return
    say(f"{found.trials} trials, weights of {len(found.models)}, {found.files} files: {found.folder}")
    say_unfinished(found.unfinished, len(study.sweep.trials))


def _column(option: str, help_: str) -> Any:
    return typer.Option(option, metavar="COLUMN", help=help_)


Column = str | None


@app.command("import")
@one_sentence
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", readable=False, help="published folder, or CSV or parquet file of runs")
    ],
    store: StoreFolder = None,
    loss: Annotated[Column, _column("--loss", "column of the loss [default: loss]")] = None,
    parameters: Annotated[Column, _column("--parameters", "column of N, parameters [default: parameters]")] = None,
    samples: Annotated[Column, _column("--samples", "column of D, samples or tokens [default: samples]")] = None,
    flops: Annotated[Column, _column("--flops", "column of training FLOPs [default: flops; without one 6 N D]")] = None,
    step: Annotated[Column, _column("--step", "column of the training step [default: step; or samples]")] = None,
    seed: Annotated[Column, _column("--seed", "column of the seed [default: seed; without one 0]")] = None,
    arm: Annotated[Column, _column("--arm", "what is compared; several with commas [default: one arm]")] = None,
    run: Annotated[
        Column,
        _column("--run", "names a training, whose rows are its points; several with commas [default: a row each]"),
    ] = None,
    size: Annotated[Column, _column("--size", "tells sizes apart beside N, such as width,depth")] = None,
    columns: Annotated[
        Path | None,
        typer.Option(
            "--columns", readable=False, help="YAML file with the options above as keys, such as `loss: final_loss`"
        ),
    ] = None,
    where: Annotated[str, typer.Option("--where", help='rows to use, such as "kept == 1 and N > 1e6"')] = "",
    name: Annotated[str, typer.Option("--name", help="name of the runs in the store [default: that of the file]")] = "",
    question: Annotated[str, typer.Option("--question", help="what the report is about")] = "",
    as_json: Json = False,
) -> None:
    """Take runs that were not trained here into a store.

    Of a published folder every finished trial, with its journal, its scores and the weights that were published: the
    sweep file in it then works as on trials of one's own. Of any other CSV or parquet file one run per row, or per
    --run, under a name that `report`, `compare` and `status` take in place of a sweep file. Each says where it is from,
    and none is ever trained again; what is in the store already stays as it is.
    """
    given = {"loss": loss, "parameters": parameters, "samples": samples, "flops": flops, "step": step, "seed": seed,
             "arm": arm, "run": run, "size": size, "name": name, "question": question, "where": where}  # fmt: skip
    asked = mapped({key: value for key, value in given.items() if value})
    if columns is not None:
        asked = asked.over(read_mapping(columns))
    with terminal(as_json).counting() as progress:
        found = import_runs(source, open_store(store), asked, progress)
    if as_json:
        print_json(said_of(found))
        return
    say(f"{found.name}: {len(found.added)} runs {found.origin}")
    if found.kept:
        say(f"note: {len(found.kept)} are in the store already and stay as they are: {_some(list(found.kept))}")
    if found.left:
        say(f"note: {len(found.left)} are not finished in the publication and were left out: {_some(list(found.left))}")
    for note in found.notes:
        say(f"note: {note}")
    say(f"rfscale report {shlex.quote(found.sweep)}{'' if store is None else f' --store {shlex.quote(str(store))}'}")


@app.command()
@one_sentence
def export(
    sweep: Sweep,
    folder: NewFolder,
    to: Annotated[str, typer.Option("--to", help="tensorboard, wandb-csv, csv or parquet")],
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Write the results in the format of another tool.

    tensorboard: event files, a folder for each trial. wandb-csv: what Weights & Biases exports, the table of runs and a
    chart of each number. csv, parquet: one row per trial, and all curves as one long table. Works also while the sweep
    runs: what is not finished is exported as far as it came.
    """
    _check_folder(folder)
    study = Study(sweep, open_store(store))
    found = study.export(to, folder, watch=terminal(as_json))
    if as_json:
        print_json({"folder": str(found.folder), "format": found.kind, "files": found.files, "trials": found.trials,
                    "unfinished": found.unfinished})  # fmt: skip
        return
    say(f"{found.trials} trials, {found.files} files: {found.folder}")
    say_unfinished(found.unfinished, len(study.sweep.trials))


def say_unfinished(unfinished: dict[str, str], trials: int) -> None:
    """How many trials are not finished, and which, where there are any."""
    if not unfinished:
        return
    by_status: dict[str, list[str]] = {}
    for trial_id, status in unfinished.items():
        by_status.setdefault(status, []).append(trial_id)
    told = "; ".join(f"{len(ids)} {status} ({_some(ids)})" for status, ids in by_status.items())
    say(f"note: {len(unfinished)} of {trials} trials are not finished: {told}")


def _some(ids: list[str], most: int = 4) -> str:
    return ", ".join(ids[:most]) + (", ..." if len(ids) > most else "")


def _check_folder(folder: Any) -> None:
    if "=" in folder.name and not folder.exists():  # a field of the sweep, where the folder was forgotten
        raise SweepError(f"{quoted(str(folder))} is no folder; write the folder to make before the fields")
