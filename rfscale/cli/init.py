"""First: `init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rfscale.cli.common import FileError, Json, app, one_sentence, print_json
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.yaml import parse

_ENDINGS = (".yaml", ".yml")


@app.command()
@one_sentence
def init(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", readable=False, help="name of the sweep; NAME.yaml is written")
    ] = Path("sweep"),
    as_json: Json = False,
) -> None:
    """Write a sweep file to begin with, every part explained.

    Never over a file that is there.
    """
    path = name if name.suffix in _ENDINGS else name.with_name(f"{name.name}.yaml")
    text = starter(path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise FileError(f"{path} exists already and is left as it is; give another name") from error
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {str(error.strerror).lower()}; name a file in a folder that is there"
        ) from error
    if as_json:
        print_json({"file": str(path), "sweep": path.stem})
    else:
        typer.echo(f"{path}  (rfscale plan {shlex.quote(str(path))})")


def starter(path: Path) -> str:
    """The text of the file. Raises SweepError where its name can be none of a sweep."""
    template = Path(__file__).with_name("starter.yaml").read_text(encoding="utf-8")
    text = template.format(name=path.stem, file=path)
    parse_sweep({**parse(text), "name": path.stem}, source=str(path))
    return text
