"""The judging of a study: what is asked of its judges before anything starts, and the scores that are missing."""

from __future__ import annotations

from rfscale.judges import Judge, JudgeError
from rfscale.judges.units import units
from rfscale.run.launch import launch_evaluation
from rfscale.run.queue import Outcome
from rfscale.run.watch import Watch, finish, mirrored
from rfscale.spec.sweep import Quality, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store, StoreError


def check_judges(sweep: Sweep, quality: Quality) -> None:
    """Before anything is loaded: every judge can score the data, and its files are there. Raises JudgeError."""
    data = {trial.data.pictures for trial in sweep.trials if trial.data.known or trial.data.space.range is not None}
    if len(data) > 1:
        raise JudgeError(
            f"sweep {sweep.name} has {len(data)} data sets, and scores of images are comparable within one "
            "alone; make it one sweep for each"
        )
    for one in data:
        quality.judges_of(one)


def ready_judges(sweep: Sweep, store: Store, quality: Quality, watch: Watch) -> list[Judge]:
    """Every judge, loaded: what it must train is trained once, in view, and one that cannot score says so now.

    Raises JudgeError.
    """
    from rfscale.judges import load_judge

    data = sweep.trials[0].data.pictures
    with watch.counting() as progress:
        return [load_judge(spec, data, store.judges, progress=progress) for spec in quality.judges_of(data)]


def judge(
    sweep: Sweep, store: Store, quality: Quality, finished: list[Trial], address: str | None, watch: Watch
) -> dict[str, str]:
    """Score what is missing and mirror it to MLflow; returns the trials that failed, with reasons."""
    from rfscale.judges.evaluate import check_same_judge, missing
    from rfscale.run.tracking.mirror import Mirror

    unread: dict[str, str] = {}

    def count(trial: Trial) -> int:
        try:
            return len(missing(trial, store.trial(trial.trial_id), quality))
        except StoreError as error:
            unread[trial.trial_id] = str(error)
            return 0

    left = {t.trial_id: count(t) for t in finished}
    todo = sorted((t for t in finished if left[t.trial_id]), key=lambda t: -t.shape.flops().forward)
    wanted, total = sum(left.values()), sum(len(units(t, quality)) for t in finished)
    watch.say(f"{sweep.name}: {len(finished)} trained, {wanted} of {total} evaluations to do")
    mirror = Mirror(sweep, store)
    if not todo:
        finish(mirror, watch)
        return unread
    for one in ready_judges(sweep, store, quality, watch):
        check_same_judge(one, [t for t in finished if t.trial_id not in unread], store)
    with mirrored(mirror, watch), watch.counting() as progress:

        def tick(outcome: Outcome, submitted: set[str]) -> None:
            for t in todo:
                if left[t.trial_id]:  # a trial with nothing left is not read again
                    left[t.trial_id] = count(t)
            progress("evaluations", wanted - sum(left.values()), wanted)

        outcome = launch_evaluation(sweep, quality, todo, store, address=address, tick=tick)
    return unread | {trial_id: state.reason for trial_id, state in outcome.unfinished.items()}
