"""Steps of real length, and each of them on record: what the workers of `benchmarks/nodes.py` do beside training.

Steps of a small network take a few milliseconds, so a sweep of them is over before a node is back. Python runs the
`sitecustomize.py` of a folder that stands first on its path: the one written here has every step take `seconds`, until
there is a file `over`, and writes down when each step and each checkpoint was done. No number of the training changes.

Of each attempt at a trial there is a file `<trial>.<nanoseconds since 1970>.<process id>` with a line for each thing
that was done: `<what> <step> <seconds since 1970> <seconds that it took>`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

BEGIN, STEP, SAVED, END = "begin", "step", "saved", "end"

_HOOK = """
    import os, sys, time
    from pathlib import Path

    FOLDER, SECONDS = Path({folder!r}), {seconds!r}

    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name != "rfscale.train.loop":
                return None
            import importlib.util
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            load = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (load(module), watch(module))
            return spec

    def watch(loop):
        advance, save, take_step, file = loop.Training.advance, loop.Training._save, loop.take_step, []

        def tell(what, step, took):
            os.write(file[-1], f"{{what}} {{step}} {{time.time()}} {{took}}\\n".encode())

        def watched_advance(self, *given):
            name = f"{{self.folder.path.name}}.{{time.time_ns()}}.{{os.getpid()}}"
            file.append(os.open(FOLDER / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
            tell("begin", self.state.at.step, 0.0)
            found = advance(self, *given)
            tell("end", self.state.at.step, 0.0)
            return found

        def watched_save(self, *given):
            began = time.monotonic()
            save(self, *given)
            tell("saved", self.state.at.step, time.monotonic() - began)

        def watched_step(state, *given):
            began = time.monotonic()
            take_step(state, *given)
            while time.monotonic() - began < SECONDS and not (FOLDER / "over").exists():
                time.sleep(0.02)
            tell("step", state.at.step, time.monotonic() - began)

        loop.Training.advance, loop.Training._save, loop.take_step = watched_advance, watched_save, watched_step

    sys.meta_path.insert(0, Watch())
    """


def watching(folder: Path, seconds: float, path: str = "") -> Mapping[str, str]:
    """What the environment of a process holds, so that its steps take so long and are on record in the folder.

    `path`: its PYTHONPATH.
    """
    (folder / "site").mkdir(parents=True)
    text = textwrap.dedent(_HOOK).format(folder=str(folder), seconds=seconds)
    (folder / "site" / "sitecustomize.py").write_text(text, encoding="utf-8")
    return {"PYTHONPATH": f"{folder / 'site'}:{path}".rstrip(":")}


def hurry(folder: Path) -> None:
    """From now on a step takes as long as it takes."""
    (folder / "over").touch()


@dataclass(frozen=True, slots=True)
class Line:
    """Something that was done."""

    what: str
    step: int
    time: float  # when it was done, in seconds since 1970
    took: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a process did of a trial."""

    trial: str
    pid: int
    lines: Sequence[Line]

    @property
    def began(self) -> Line:
        """Its first line, with the step that it went on from."""
        return self.lines[0]

    @property
    def last(self) -> Line:
        """What it did last."""
        return self.lines[-1]

    @property
    def steps(self) -> int:
        """How far it came."""
        return max(line.step for line in self.lines)

    @property
    def over(self) -> bool:
        """Whether it came to the last step."""
        return self.last.what == END

    def saved_since(self, when: float) -> bool:
        """Whether it wrote a checkpoint after that, or needs none any more."""
        return self.over or any(line.what == SAVED and line.time > when for line in self.lines)

    def longest(self) -> tuple[float, float]:
        """Seconds between the ends of two steps, and of writing a checkpoint: the longest of each."""
        ends = [line for line in self.lines if line.what in (BEGIN, STEP)]
        saves = {line.step: line.took for line in self.lines if line.what == SAVED}
        between = [later.time - earlier.time - saves.get(earlier.step, 0.0) for earlier, later in pairwise(ends)]
        return max(between, default=0.0), max(saves.values(), default=0.0)


def attempts(folder: Path) -> Iterator[Attempt]:
    """All that were made, those of a trial one after the other."""
    for path in sorted(folder.glob("*.*.*")):
        trial, _, pid = path.name.split(".")
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a line may be half there
        fields = [line.split() for line in whole.splitlines()]
        lines = [Line(what, int(step), float(when), float(took)) for what, step, when, took in fields]
        if lines:
            yield Attempt(trial, int(pid), lines)


@dataclass(frozen=True, slots=True)
class Loss:
    """What an attempt at a trial did again, and what it may be."""

    kind: str
    number: int  # of the event
    trial: str
    steps: int
    seconds: float
    most: (
        float  # `checkpoint_seconds`, the longest step of the attempt that was ended, its longest write of a checkpoint
    )
    away: float  # seconds between the event and the first moment in which it trained again


def loss(
    kind: str, number: int, at: float, killed: bool, one: Attempt, following: Attempt, checkpoint_seconds: float
) -> Loss:
    """What was lost of `one`, of which `following` is the next attempt. `killed`: it was, by the event, at once.

    The time lost is that since the moment from which the state of the next attempt is: when the checkpoint was written,
    or the attempt begun. It ends with the event, or, where the process lived longer, with what that did last.
    """
    steps = max(0, one.steps - following.began.step)
    ended = max(at, one.last.time) if killed else one.last.time
    kept = max((line.time for line in one.lines if line.step <= following.began.step), default=one.began.time)
    step, write = one.longest()
    seconds = max(0.0, ended - kept)
    return Loss(kind, number, one.trial, steps, seconds, checkpoint_seconds + step + write, following.began.time - at)
