"""Before: the next sweep file, of `plan --next` and of `plan --budget`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rfscale.cli.common import print_json, say
from rfscale.run.study import Study
from rfscale.spec.sweep import SweepError

if TYPE_CHECKING:
    from rfscale.run.extend import Extended
    from rfscale.run.propose import Proposal


def extend_lists(study: Study, out: Path | None, as_json: bool) -> None:
    """The sweep with the lists of its tuned axes extended, written."""
    from rfscale.run.extend import extend

    write_next(study, extend(study.sweep, study.sweep.origin.definition, study.table()), out, as_json)


def write_next(study: Study, found: Proposal | Extended, out: Path | None, as_json: bool) -> None:
    """The next sweep into its file, never over another. Raises SweepError."""
    if out is None:
        path = study.sweep.origin.file or Path(study.sweep.name)
        out = path.with_name(f"{path.stem}-next.yaml")
    if out.exists():
        raise SweepError(f"{out} exists already; move it, or name another file with --out")
    try:
        out.write_text(found.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise SweepError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
    if as_json:
        print_json({**found.to_dict(), "file": str(out)})
        return
    say(found.text())
    typer.echo(f"Sweep: {out}  (rfscale run {out})")
