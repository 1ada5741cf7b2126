"""By people: `rate`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rfscale import names
from rfscale.cli.common import (
    Json,
    StoreFolder,
    app,
    check_option,
    check_picture,
    one_sentence,
    print_json,
    say,
    terminal,
)
from rfscale.flow.formulations import canonical
from rfscale.numbers import Whole, bounds_of
from rfscale.rating.votes import RatingError, Votes, questions_of
from rfscale.run.study import open_store
from rfscale.spec.sweep import Setting, Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store

if TYPE_CHECKING:
    from rfscale.rating.images import Drawing
    from rfscale.rating.sitting import Design


@app.command()
@one_sentence
def rate(
    sweep: Sweep,
    store: StoreFolder = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="port of the page; 0 is any free one")] = 8077,
    depth: Annotated[list[int] | None, typer.Option("--depth", help="only this depth; may be repeated")] = None,
    formulations: Annotated[
        list[str] | None, typer.Option("--formulations", help="only this formulation; may be repeated")
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", help="held-out captions to draw")] = 20,
    pairs: Annotated[int, typer.Option("--pairs", help="pairs of images that one person compares")] = 30,
    steps: Annotated[int, typer.Option("--steps", help="steps of the ODE solver")] = 50,
    guidance: Annotated[float, typer.Option("--guidance", help="classifier-free guidance scale; 1 turns it off")] = 2.5,
    results: Annotated[
        bool, typer.Option("--results", help="say what the votes so far mean, and serve nothing")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", readable=False, help="with --results: file for a figure of Elo: .png, .svg or .pdf"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask people which of two images is better, blind.

    A page on this machine alone. The images are drawn by the finished trials from the same prompts and noise. --results
    gives Elo with intervals.
    """
    for option, value, bounds in (
        ("--prompts", prompts, Whole(1, 10_000)),
        ("--pairs", pairs, Whole(1, 1_000_000)),
        ("--steps", steps, bounds_of(Setting, "steps")),
        ("--guidance", guidance, bounds_of(Setting, "guidance")),
    ):
        check_option(option, value, bounds)
    place = open_store(store)
    trials = _selected(sweep, depth or [], formulations or [])
    folder = place.root / "ratings" / sweep.name
    setting = names.setting_label(steps, guidance, "ema")
    if results:
        _results(sweep.name, trials, folder / "votes.sqlite", setting, plot, as_json)
        return
    finished = [trial for trial in trials if place.trial(trial.trial_id).state().status == names.FINISHED]
    _check(sweep.name, trials, finished)

    from rfscale.data import load
    from rfscale.rating.images import Drawing
    from rfscale.rating.sitting import Design

    captions = load(finished[0].data).validation(prompts).captions
    questions = questions_of(finished[0].data.name)
    design = Design(tuple(trial.trial_id for trial in finished), captions, questions, setting, pairs)
    _serve(sweep.name, design, finished, place, folder, Drawing(steps, guidance), port, as_json)


def _selected(sweep: Sweep, depths: Sequence[int], formulations: Sequence[str]) -> tuple[Trial, ...]:
    """The trials of the sweep with these depths and formulations. Raises RatingError for one that it does not have."""
    wanted = [canonical(name) for name in formulations]
    for what, given in (("depth", depths), ("formulation", wanted)):
        there = list(dict.fromkeys(trial.parameters()[what] for trial in sweep.trials))
        for value in given:
            if value not in there:
                raise RatingError(
                    f"sweep {sweep.name} has no trial of {what} {value}; it has {', '.join(map(str, there))}"
                )
    return tuple(
        trial
        for trial in sweep.trials
        if (not depths or trial.model.depth in depths) and (not wanted or trial.formulation in wanted)
    )


def _check(sweep: str, trials: Sequence[Trial], finished: Sequence[Trial]) -> None:
    """Raises RatingError where the finished trials cannot be compared."""
    if len(finished) < 2:
        raise RatingError(
            f"{len(finished)} of the {len(trials)} trials chosen of sweep {sweep} are finished and a comparison needs "
            f"two; train more with `rfscale run`, or choose more"
        )
    if len({trial.data for trial in finished}) > 1:
        raise RatingError(
            f"the trials of sweep {sweep} were trained on different data, so that their images tell them apart; "
            f"choose some of one data set with --depth and --formulations"
        )


def _serve(
    sweep: str,
    design: Design,
    trials: Sequence[Trial],
    store: Store,
    folder: Path,
    drawing: Drawing,
    port: int,
    as_json: bool,
) -> None:
    """Draw what is missing, then answer the page until Ctrl-C."""
    from rfscale.rating.images import draw_images
    from rfscale.rating.server import RatingServer, kept_key
    from rfscale.rating.sitting import Sitting

    store.check_writable()
    with RatingServer(port) as server:  # a busy port is found before the drawing, not after
        votes = Votes(folder / "votes.sqlite")
        typer.echo(f"{sweep}: {len(trials)} trials, {len(design.prompts)} prompts", err=as_json)
        try:
            with terminal(as_json).counting() as count:
                images = draw_images(
                    trials, design.prompts, store, folder / "images", drawing, partial(count, "drawing")
                )
        except KeyboardInterrupt:
            typer.echo("stopped while drawing; the same command goes on from there")
            raise typer.Exit(130) from None
        server.open(Sitting(design, votes), images, kept_key(folder / "key"))
        try:
            if as_json:
                print_json({"sweep": sweep, "address": server.address, "votes": str(votes.path)})
            else:
                typer.echo(f"open {server.address} in a browser; Ctrl-C ends, and every vote is kept")
            server.serve_forever()
        except KeyboardInterrupt:
            there = votes.of(design.setting)
            raters = len({vote.showing.rater for vote in there})
            typer.echo(
                f"\n{_count(len(there), 'vote')} by {_count(raters, 'rater')} in {votes.path}; "
                f"add --results to the same command to see what they say",
                err=as_json,
            )


def _results(sweep: str, trials: Sequence[Trial], path: Path, setting: str, plot: Path | None, as_json: bool) -> None:
    from analysis.preference.strengths import fit_preference, read_votes
    from analysis.preference.wording import text

    if plot is not None:
        check_picture(plot, "--plot")
    votes, ids = read_votes(path), {trial.trial_id for trial in trials}
    drawn = votes[votes["setting"] == setting]
    if drawn.empty:
        steps, guidance, _ = names.parse_setting(votes["setting"].iloc[-1])
        raise RatingError(
            f"there are no votes on images of {setting} in {path}; the last were with --steps {steps} "
            f"--guidance {guidance:g}"
        )
    chosen = drawn[drawn["left"].isin(ids) & drawn["right"].isin(ids)]
    if chosen.empty:
        raise RatingError(f"there are no votes between the trials chosen in {path}; choose others, or rate more")
    named = _labels(trials)
    preference = fit_preference(chosen.assign(left=chosen["left"].map(named), right=chosen["right"].map(named)))
    if plot is not None:
        from analysis.preference.plot import plot_preference
        from analysis.report.pictures import save_figure

        save_figure(lambda: plot_preference(preference), plot)
    if as_json:
        print_json({"sweep": sweep, "setting": setting, **preference.to_dict()})
    else:
        say(f"{sweep}, {setting}: {text(preference)}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _labels(trials: Sequence[Trial]) -> dict[str, str]:
    """Trial id -> formulation, and of depth, steps and seed what differs; the id too where that is not all."""
    fields = ("depth", "steps", "seed")
    differing = [field for field in fields if len({trial.parameters()[field] for trial in trials}) > 1]
    labels = {
        trial.trial_id: ", ".join([trial.formulation, *(f"{field} {trial.parameters()[field]}" for field in differing)])
        for trial in trials
    }
    if len(set(labels.values())) < len(labels):
        return {trial_id: f"{label}, {trial_id}" for trial_id, label in labels.items()}
    return labels
