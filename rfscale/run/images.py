"""Images of trained trials: drawn anew, or the samples that every finished trial has. Loads torch when it draws."""

from __future__ import annotations

import base64
import html
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from rfscale import names
from rfscale.data.buckets import MAX_SIDE, Sides, named
from rfscale.numbers import Real, Whole, bounds_of
from rfscale.quoting import quoted
from rfscale.run.imports.origin import origin_of
from rfscale.spec.sweep import Setting, Sweep, SweepError
from rfscale.spec.trial import ResolvedTraining, Trial
from rfscale.store import Store, StoreError, TrialFolder, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

THREADS = 4
"""Of torch while images are drawn, at most: more help little on images of these sizes, and take cores from others."""
DRAWN: dict[str, Whole | Real] = {
    "count": Whole(1, 10_000),
    "steps": bounds_of(Setting, "steps"),
    "guidance": bounds_of(Setting, "guidance"),
    "seed": Whole(0, 2**63 - 1),
    "shift": bounds_of(ResolvedTraining, "timestep_shift"),
}
"""The bounds of what `draw` is asked for."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images (n, channels, height, width) in [-1, 1], each with its prompt. Shown as a grid in a notebook."""

    drawn: Tensor
    prompts: tuple[str, ...]
    trial: Trial

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The same as (n, height, width, channels) of 0 to 255."""
        from rfscale.data.space import to_uint8

        return to_uint8(self.drawn.float().cpu().numpy())

    def save(self, path: str | Path) -> Path:
        """Write the grid as PNG."""
        from rfscale.validation.samples import save_grid

        save_grid(self.drawn, self.prompts, Path(path))
        return Path(path)

    def _repr_png_(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            return self.save(Path(folder) / "images.png").read_bytes()


@dataclass(frozen=True, slots=True)
class Gallery:
    """The samples of finished trials, the same captions and noise for all: a row per arm, a column per rung."""

    seed: int
    arms: tuple[str, ...]
    rungs: tuple[str, ...]
    files: dict[tuple[str, str], Path]

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(rung)}</th>" for rung in self.rungs)
        rows = []
        for arm in self.arms:
            cells = "".join(f"<td>{self._cell(arm, rung)}</td>" for rung in self.rungs)
            rows.append(f"<tr><th>{html.escape(arm)}</th>{cells}</tr>")
        return f"<table><tr><th>seed {self.seed}</th>{head}</tr>{''.join(rows)}</table>"

    def _cell(self, arm: str, rung: str) -> str:
        path = self.files.get((arm, rung))
        if path is None:
            return "none"
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return f'<img alt="{html.escape(f"samples of {arm}, {rung}")}" src="data:image/png;base64,{data}">'


def gallery(sweep: Sweep, store: Store, seed: int | None = None) -> Gallery:
    """The samples of the trials of one seed, by default the first. Raises StoreError where there are none."""
    seeds = list(dict.fromkeys(trial.seed for trial in sweep.trials))
    if seed is None:
        seed = seeds[0]
    if seed not in seeds:
        raise SweepError(f"sweep {sweep.name} has no seed {seed}; it has {', '.join(map(str, seeds))}")
    arms: dict[str, None] = {}
    rungs: dict[str, None] = {}
    files: dict[tuple[str, str], Path] = {}
    for trial in sweep.trials:
        place, folder = sweep.placing(trial), store.trial(trial.trial_id)
        if trial.seed == seed and folder.samples.exists() and folder.state().status == names.FINISHED:
            rung = ", ".join(f"{field.rpartition('.')[2]} {value}" for field, value in (*place.rung, *place.tuned))
            arms[place.arm] = rungs[rung or "one rung"] = None
            files[place.arm, rung or "one rung"] = folder.samples
    if not files:
        raise StoreError(
            f"no finished trial of sweep {sweep.name}, seed {seed}, has sample images in {store.address}; run it, with "
            "samples: {images: 16}"
        )
    return Gallery(seed, tuple(arms), tuple(rungs), files)


class Asked(TypedDict, total=False):
    """The settings of `draw_by`, each with its default there."""

    count: int
    steps: int
    guidance: float
    seed: int
    ema: bool
    size: Sides | None
    shift: float | None
    without: Sequence[str]


def draw(store: Store, trial_id: str, prompts: Sequence[str], **asked: Unpack[Asked]) -> Images:
    """`draw_by` a finished trial of the store, by the first digits of its id. Raises StoreError and SweepError."""
    folder = finished_trial(store, trial_id)
    return draw_by(folder, trial_of(folder), prompts, **asked)


def draw_by(
    folder: TrialFolder,
    trial: Trial,
    prompts: Sequence[str],
    *,
    count: int = 4,
    steps: int = 50,
    guidance: float = 2.5,
    seed: int = 0,
    ema: bool = True,
    size: Sides | None = None,
    shift: float | None = None,
    without: Sequence[str] = (),
) -> Images:
    """`count` images of each prompt by the weights in a folder; image i has noise number i of the seed.

    `size`: height and width in pixels, of latents too; None for those of the training. `shift`: of the timesteps, None
    for that of the training; for m pixels instead of n the paper takes sqrt(m / n) (section 5.3.2). `without`: text
    encoders whose part is zeros, by `EncoderSpec.names`. Raises StoreError, and SweepError for a value that cannot be.
    """
    asked = {"count": count, "steps": steps, "guidance": guidance, "seed": seed}
    for name, value in (asked if shift is None else {**asked, "shift": shift}).items():
        if not DRAWN[name].allows(value):
            raise SweepError(f"{name} = {quoted(value)} is not possible; give {DRAWN[name].allowed}")
    if not prompts:
        raise SweepError("there is no prompt; give one or more, in words")
    shape = None if size is None else (trial.data.channels, *_possible(size, trial))
    kept = _kept_encoders(without, trial)
    import torch

    from rfscale.data.batch import encode
    from rfscale.data.text import load_text_encoder
    from rfscale.train.weights import load_model
    from rfscale.validation.samples import generate_images

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(THREADS, before, len(os.sched_getaffinity(0)))))
    try:
        captions = [text for text in prompts for _ in range(count)]
        condition = encode(load_text_encoder(trial.text), captions)
        if not all(kept):
            condition = condition.where_each(torch.tensor([kept]), trial.text.spans)
        model = load_model(trial, folder, ema=ema)
        images = generate_images(model, trial, condition, steps, guidance, seed, shape=shape, shift=shift)
    finally:
        torch.set_num_threads(before)
    return Images(images, tuple(captions), trial)


def _kept_encoders(without: Sequence[str], trial: Trial) -> list[bool]:
    """Whether each text encoder of the trial is read. Raises SweepError for a name that none of them has."""
    names = trial.text.names
    for name in without:
        if name not in names:
            of = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
            raise SweepError(f"trial {trial.trial_id} has no text encoder {quoted(name)}; it reads its text with {of}")
    return [name not in without for name in names]


def sides_of(size: str) -> Sides:
    """HEIGHTxWIDTH as numbers. Raises SweepError."""
    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", size)
    if found is None:
        raise SweepError(f"--size {quoted(size)} is no size; write HEIGHTxWIDTH in pixels, such as --size 24x16")
    height, width = map(int, found.groups())
    return height, width


def _possible(size: Sides, trial: Trial) -> Sides:
    """Height and width of x0 for images of that size in pixels. Raises SweepError where the network draws none."""
    for side in size:
        if not Whole(1, MAX_SIDE).allows(side):
            raise SweepError(f"size = {side} is not possible; give {Whole(1, MAX_SIDE).allowed}")
    factor = trial.data.downsampling
    if factor > 1:
        _check_latents(size, trial, factor)
    height, width = (side // factor for side in size)
    try:
        trial.cost_at((height, width))
    except ValueError as error:
        raise SweepError(f"size {named(size)}: {error}") from error
    return height, width


def _check_latents(size: Sides, trial: Trial, factor: int) -> None:
    """Raises SweepError, in pixels, where a side is no whole number of patches of latents."""
    other = trial.data.resolution

    def takes(side: int) -> bool:
        try:
            trial.cost_at((side, other))
        except ValueError:
            return False
        return True

    for side in size:
        if takes(other) and (side % factor or not takes(side // factor)):
            below = next((n * factor for n in range(side // factor, 0, -1) if takes(n)), None)
            above = next(n * factor for n in range(side // factor + 1, side // factor + other + 1) if takes(n))
            raise SweepError(
                f"size {named(size)}: the network draws latents of {factor} pixels a side in whole patches, which do "
                f"not make {side} pixels; take {above if below is None else f'{below} or {above}'}"
            )


def network(store: Store, trial_id: str, *, ema: bool = True, device: str = "cpu") -> nn.Module:
    """The trained network of a finished trial, in evaluation mode. Raises StoreError."""
    from rfscale.train.weights import load_model

    folder = finished_trial(store, trial_id)
    return load_model(trial_of(folder), folder, ema=ema, device=device)


def finished_trial(store: Store, prefix: str) -> TrialFolder:
    """The folder of the one finished trial whose id begins so. Raises StoreError."""
    folder = store.find(prefix)
    state = folder.state()
    if state.status == names.DIVERGED:
        raise StoreError(
            f"trial {folder.path.name} diverged ({state.reason}), and running it again gives the same; choose another, "
            "or train it with a lower learning rate"
        )
    if state.status != names.FINISHED:
        why = f"{state.status}: {state.reason}" if state.status == names.DAMAGED else state.status
        raise StoreError(f"trial {folder.path.name} is not finished ({why}); `rfscale run` its sweep first")
    if (
        origin_of(folder) is not None
        and "trial" in (read_json(folder.record) or {})
        and not folder.bring("ema.safetensors").exists()
    ):
        raise StoreError(
            f"trial {folder.path.name} was imported, and its weights were not published; ask for a publication with "
            f"`--weights {folder.path.name}`, or choose another trial"
        )
    return folder


def trial_of(folder: TrialFolder) -> Trial:
    """The trial of a folder, as it is on record."""
    record = read_json(folder.record) or {}
    if "trial" not in record:
        raise StoreError(f"trial {folder.path.name} was imported from a table, without a network; choose another")
    return Trial.model_validate(record["trial"])
