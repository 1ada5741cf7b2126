"""What a study gives to others: the results in the formats of other tools, and everything as one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfscale.run.watch import SILENT, Watch
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store

if TYPE_CHECKING:
    from analysis.table.folder import Tables
    from rfscale.run.export import Exported
    from rfscale.run.publish import Published


class Sharing:
    """The part of a `Study` that writes for others; a `Study` gives it the sweep, the store and what was measured."""

    __slots__ = ()
    sweep: Sweep
    store: Store

    @property
    def command(self) -> str:
        raise NotImplementedError

    def states(self) -> list[tuple[Trial, State]]:
        raise NotImplementedError

    def finished(self) -> list[Trial]:
        raise NotImplementedError

    def tables(self, watch: Watch = SILENT) -> Tables:
        raise NotImplementedError

    def export(self, kind: str, folder: str | Path, *, watch: Watch = SILENT) -> Exported:
        """Write the results into a new folder in the format of another tool; arguments and errors as of `export`."""
        from rfscale.run.export import export

        with watch.counting() as progress:
            return export(self.sweep, self.store, self.states(), kind, Path(folder), progress)

    def publish(
        self,
        folder: str | Path,
        *,
        weights: str | Sequence[str] = (),
        licence: str = "CC-BY-4.0",
        authors: Sequence[str] = (),
        url: str = "",
        watch: Watch = SILENT,
    ) -> Published:
        """Write numbers, page, figures and weights into one new folder (docs/publish.md).

        `weights`: `none`, `best` (the default), `all`, an arm, the id of a trial, or several. Raises as `report` does.
        """
        from rfscale.run.publish import publish

        which = [weights] if isinstance(weights, str) else weights
        return publish(self, Path(folder), weights=which, licence=licence, authors=authors, url=url, watch=watch)
