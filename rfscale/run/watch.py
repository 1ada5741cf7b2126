"""Who is told what is under way: nobody, the terminal (`rfscale.run.progress`), a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from analysis.table.store import AbsentError
from rfscale.judges import Progress
from rfscale.run.queue import Outcome
from rfscale.spec.sweep import Sweep
from rfscale.store import Store

if TYPE_CHECKING:
    from analysis.report.page import Report
    from rfscale.run.tracking.mirror import Mirror

Moment = Callable[[Outcome, set[str], str], None]  # outcome so far, ids given to Ray, trouble with MLflow ("" for none)


class Watch(Protocol):
    """Who is told what is under way."""

    def say(self, text: str) -> None:
        """A sentence about what comes next."""

    def training(self, sweep: Sweep, store: Store) -> AbstractContextManager[Moment]:
        """While trials train; the function is called about twice a second."""

    def counting(self) -> AbstractContextManager[Progress]:
        """While something is counted: progress(what, done, total)."""

    def busy(self, what: str) -> AbstractContextManager[None]:
        """While something goes on that cannot be counted."""

    def reported(self, report: Report) -> None:
        """A report was written."""


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def training(self, sweep: Sweep, store: Store) -> Iterator[Moment]:
        yield lambda outcome, submitted, trouble: None

    @contextmanager
    def counting(self) -> Iterator[Progress]:
        yield lambda what, done, total: None

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        yield

    def reported(self, report: Report) -> None:
        pass


SILENT: Watch = Silent()


@contextmanager
def mirrored(mirror: Mirror, watch: Watch) -> Iterator[None]:
    """`Mirror.in_background`, but an MLflow that is away at the end is told, and no error."""
    try:
        with mirror.in_background():
            yield
    except AbsentError as error:
        watch.say(str(error))


def finish(mirror: Mirror, watch: Watch) -> None:
    """`Mirror.finish`, in the same way."""
    with mirrored(mirror, watch):
        pass
