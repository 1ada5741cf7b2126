"""What a sweep will take on a machine: from the seconds of each size to hours, memory, disk, wall-clock and money.

Pure: what was measured comes in, numbers go out. The wall-clock is that of a list schedule, the largest trial first,
on as many slots as there are: what `rfscale.run.launch` does.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfscale.registry import paths_of
from rfscale.run.rates import Measured, size_of
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial

RAY_SECONDS = 8.0
"""Starting Ray, and ending it: a round figure. It took 12.9 s on two cores beside other work."""
TASK_SECONDS = 0.1
"""From the end of a task to the first line of the next one: a round figure."""
REPORT_SECONDS = 8.0
REPORT_SECONDS_A_TRIAL = 0.06
"""The last pass of the mirror and the report: round figures. With 153 trials it took 15 to 18 s on two busy cores."""


@dataclass(frozen=True, slots=True)
class Rung:
    """The trials of one size and one length."""

    trial: Trial  # one of them
    trials: int
    measured: Measured
    seconds: float  # of one of them, all in

    @property
    def slot_hours(self) -> float:
        return self.trials * self.seconds / 3600


@dataclass(frozen=True, slots=True)
class Forecast:
    """What training a sweep takes. Judging images is not in it."""

    rungs: tuple[Rung, ...]
    slots: int  # trials that run at once
    machines: int  # of the kind that was measured, for that many slots
    wall_seconds: float  # of the whole sweep, from the command to the report
    left_seconds: float  # the same of what is not trained yet
    report_seconds: float  # of these, the last pass of the mirror and the report
    cpus: float  # of a slot
    gpus: float
    disk_bytes: int  # while it runs, at the most
    kept_bytes: int  # weights that stay
    data_bytes: int  # of the files of the data, 0 where it is made as it is needed
    price_per_hour: float | None

    @property
    def slot_hours(self) -> float:
        return sum(rung.slot_hours for rung in self.rungs)

    @property
    def units(self) -> float:
        """GPUs, or else CPUs, of a slot."""
        return self.gpus or self.cpus

    @property
    def hours_of(self) -> str:
        """What the hours are counted in."""
        return "gpu_hours" if self.gpus else "core_hours"

    @property
    def money(self) -> float | None:
        """Of the whole sweep, in the unit of the price."""
        if self.price_per_hour is None:
            return None
        return self.price_per_hour * self.machines * self.wall_seconds / 3600

    @property
    def share(self) -> float:
        """Of the machine that the measurement had; the rest was other work's."""
        return sum(rung.measured.share * rung.slot_hours for rung in self.rungs) / self.slot_hours

    @property
    def measured(self) -> Measured:
        """Where and when the oldest of what it rests on was measured."""
        return min((rung.measured for rung in self.rungs), key=lambda measured: measured.when)


def forecast(
    sweep: Sweep,
    known: Mapping[str, Measured],
    left: Sequence[Trial],
    slots: int | None = None,
    price_per_hour: float | None = None,
) -> Forecast | None:
    """What `sweep` takes, of which `left` is still to train; None where a size of it was not measured.

    `slots`: trials at once; None for as many as the machine that was measured runs.
    """
    if not known:
        return None
    resources = sweep.resources.at(sweep.trials[0].model.depth)  # all are alike, or none was measured
    sizes = {trial.trial_id: size_of(trial, sweep.resources, sweep.samples) for trial in sweep.trials}
    if not sizes or any(size not in known for size in sizes.values()):
        return None
    found = {trial.trial_id: known[sizes[trial.trial_id]] for trial in sweep.trials}
    seconds = {trial.trial_id: found[trial.trial_id].seconds(trial, resources) + TASK_SECONDS for trial in sweep.trials}
    here = min(measured.slots for measured in found.values())
    slots = slots or here
    start = max(measured.start for measured in found.values())

    report = report_seconds(len(sweep.trials))

    def wall(trials: Iterable[Trial]) -> float:
        lengths = [seconds[trial.trial_id] for trial in largest_first(trials)]
        return (RAY_SECONDS + start + makespan(lengths, slots) if lengths else 0.0) + report

    at_once = sorted((measured.checkpoint_bytes for measured in found.values()), reverse=True)[:slots]
    weights = sum(measured.weights_bytes for measured in found.values())
    return Forecast(
        rungs=_rungs(sweep.trials, sizes, known, seconds),
        slots=slots,
        machines=-(-slots // here),
        wall_seconds=wall(sweep.trials),
        left_seconds=wall(left),
        report_seconds=report,
        cpus=resources.cpus,
        gpus=resources.gpus,
        disk_bytes=2 * sum(at_once) + weights,  # two checkpoints are kept of each that runs
        kept_bytes=weights,
        data_bytes=sum(_bytes_of(path) for path in {path for trial in sweep.trials for path in _files_of(trial)}),
        price_per_hour=price_per_hour,
    )


def report_seconds(trials: int) -> float:
    """Of a sweep with so many trials."""
    return REPORT_SECONDS + REPORT_SECONDS_A_TRIAL * trials


def largest_first(trials: Iterable[Trial]) -> list[Trial]:
    """In the order in which they are launched."""
    return sorted(trials, key=lambda trial: -trial.train_flops)


def makespan(seconds: Iterable[float], slots: int) -> float:
    """When the last of them ends, each begun in its turn on the slot that is free first."""
    free = [0.0] * max(1, slots)
    for length in seconds:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def _rungs(
    trials: Sequence[Trial], sizes: Mapping[str, str], known: Mapping[str, Measured], seconds: Mapping[str, float]
) -> tuple[Rung, ...]:
    """Of the same size and length, the smallest first."""
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.train_flops):
        groups.setdefault((sizes[trial.trial_id], trial.training.steps), []).append(trial)
    return tuple(
        Rung(group[0], len(group), known[size], sum(seconds[trial.trial_id] for trial in group) / len(group))
        for (size, _), group in groups.items()
    )


def _files_of(trial: Trial) -> list[Path]:
    """The files and folders that its data names."""
    named = (getattr(trial.data, key) for key in sorted(paths_of(type(trial.data))))
    return [Path(path).expanduser() for path in named if isinstance(path, str)]


def _bytes_of(path: Path) -> int:
    """Of a file, or of all that a folder holds; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


# --- in words ---------------------------------------------------------------------------------------------------------

BUSY_SHARE = 0.8
"""Below it, a forecast says that the machine was busy."""


def sentences(found: Forecast) -> list[str]:
    """What it comes to, for the terminal."""
    of = found.measured
    unit = f"{found.units:g} {'GPU' if found.gpus else 'CPU'}"
    machines = f" on {found.machines} machines" if found.machines > 1 else ""
    lines = [
        f"wall-clock: about {duration(found.wall_seconds)} with {found.slots} trials at once{machines}, {unit} each; "
        f"{duration(found.left_seconds)} for what is left",
        f"{found.hours_of.replace('_', '-')}: {found.slot_hours * found.units:.3g}"
        + (f"; money: {found.money:.2f}" if found.money is not None else ""),
        f"disk: at most {size(found.disk_bytes)} while it runs, {size(found.kept_bytes)} of weights stay; "
        + (f"data: {size(found.data_bytes)}" if found.data_bytes else "data: made as it is needed"),
        f"measured on {of.host} ({of.device}), {min(of.slots, found.slots)} side by side, on {of.when[:16]}Z; judging "
        "images is not in it",
    ]
    if found.share < BUSY_SHARE:
        lines.append(
            f"note: other work had {1 - found.share:.0%} of the machine while it was measured; alone the training "
            f"would take about {found.share:.2f} times as long"
        )
    return lines


def row(rung: Rung, found: Forecast) -> dict[str, float | int | str]:
    """A rung as `plan --measure` gives it."""
    trial, measured = rung.trial, rung.measured
    return {
        "backbone": trial.model.backbone,
        "depth": trial.model.depth,
        "width": trial.model.width,
        "batch": trial.training.batch,
        "steps": trial.training.steps,
        "trials": rung.trials,
        "seconds_per_step": measured.cost.step,
        "hours_per_trial": rung.seconds / 3600,
        found.hours_of: rung.slot_hours * found.units,
        "memory_bytes": measured.memory_bytes,
        "checkpoint_bytes": measured.checkpoint_bytes,
    }


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Bytes as people say them: 800 kB, 12 MB, 3.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
