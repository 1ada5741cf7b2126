"""Judging the finished trials of a sweep, with progress: what `run` and `evaluate` share."""

from __future__ import annotations

import typer

from rfscale.cli.common import console
from rfscale.judges import Judge, JudgeError
from rfscale.judges.units import units
from rfscale.spec.sweep import Quality, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store


def check_judges(sweep: Sweep, quality: Quality) -> None:
    """Before anything is loaded: every judge can score the data, and its files are there. Raises JudgeError."""
    data = {trial.data for trial in sweep.trials}
    if len(data) > 1:
        raise JudgeError(
            f"sweep {sweep.name} has {len(data)} data sets, and scores of images are comparable within one alone; "
            "make it one sweep for each"
        )
    for one in data:
        quality.judges_of(one)


def ready_judges(sweep: Sweep, quality: Quality, store: Store) -> list[Judge]:
    """Every judge, loaded: what it must train is trained once, in view, and one that cannot score says so now.

    Raises JudgeError.
    """
    from rfscale.judges import load_judge
    from rfscale.run.progress import Bars

    bars, data = Bars(console()), sweep.trials[0].data
    with bars.shown():
        return [load_judge(spec, data, store.judges, progress=bars.show) for spec in quality.judges_of(data)]


def judge_trials(
    sweep: Sweep, quality: Quality, finished: list[Trial], store: Store, address: str | None
) -> dict[str, str]:
    """Score what is missing and mirror it to MLflow, with progress; returns the trials that failed, with reasons."""
    from rfscale.judges.evaluate import check_same_judge, missing
    from rfscale.run.launch import Outcome, launch_evaluation
    from rfscale.run.mirror import Mirror
    from rfscale.run.progress import Bars

    screen = console()
    left = {t.trial_id: len(missing(t, store.trial(t.trial_id), quality)) for t in finished}
    todo = sorted((t for t in finished if left[t.trial_id]), key=lambda t: -t.shape.flops().forward)
    total = sum(len(units(t, quality)) for t in finished)
    screen.print(
        f"{sweep.name}: {len(finished)} trained, {sum(left.values())} of {total} evaluations to do",
        highlight=False,
        markup=False,
    )
    mirror = Mirror(sweep, store)
    if not todo:
        mirror.finish()
        return {}
    for judge in ready_judges(sweep, quality, store):
        check_same_judge(judge, finished, store)
    bars, wanted = Bars(screen), sum(left.values())

    def tick(outcome: Outcome, running: set[str]) -> None:
        for t in todo:
            if left[t.trial_id]:  # a trial with nothing left is not read again
                left[t.trial_id] = len(missing(t, store.trial(t.trial_id), quality))
        bars.show("evaluations", wanted - sum(left.values()), wanted)

    with mirror.in_background(), bars.shown():
        outcome = launch_evaluation(sweep, quality, todo, store, address=address, tick=tick)
    return {trial_id: state.reason for trial_id, state in outcome.unfinished.items()}


def stop_on_failures(failed: dict[str, str]) -> None:
    if failed:
        listed = "; ".join(f"{trial_id} ({reason})" for trial_id, reason in failed.items())
        typer.echo(
            f"rfscale: the evaluation of {len(failed)} trials failed: {listed}. The same command tries them again.",
            err=True,
        )
        raise typer.Exit(1)
