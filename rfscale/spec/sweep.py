"""Sweep definition -> trials: validated, pure, without torch or ray.

A sweep is one question and the grid that answers it; `rfscale.spec.sweep_file` reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SkipValidation, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rfscale.backbones.base import BACKBONES, Ladder
from rfscale.backbones.spec import Quantity
from rfscale.data.spec import DataSource, DataSpec, ShapesData
from rfscale.data.text import AnyText, TextSpec
from rfscale.flow.presets import expand
from rfscale.names import RfscaleError, setting_label
from rfscale.numbers import (
    Batch,
    Depth,
    Guidance,
    Listed,
    Rate,
    Real,
    Sampled,
    Seed,
    SolverSteps,
    Steps,
    Warmup,
    Whole,
    Width,
)
from rfscale.registry import KEY, Written
from rfscale.spec.axes import DEPTHS, FORMULATIONS, SAMPLES, SEEDS, STEPS, Layout, Placing, Role
from rfscale.spec.judging import JUDGES, AnyJudge, JudgeError, JudgeSpec
from rfscale.spec.trial import (
    Evaluation,
    Optimisation,
    PluginRef,
    ResolvedTraining,
    Strict,
    Trial,
    load_plugins,
    plugins_of,
)


class SweepError(RfscaleError, ValueError):
    """A sweep file cannot be used; the message is one sentence that says what to change."""


# --- what a user writes -----------------------------------------------------------------------------------------------


class Training(Optimisation):
    """One training. `steps` and `samples` are two ways to say the same; a list of them is an axis of the grid."""

    steps: Annotated[tuple[Steps, ...], Listed, Field(min_length=1)] | None = None
    samples: Annotated[tuple[Sampled, ...], Listed, Field(min_length=1)] | None = None
    batch: Batch = 64
    learning_rate: Rate = 1e-3
    # constant: every width gets `learning_rate`, as in the paper. inverse_width: learning_rate * lr_base_width / width.
    # mup: each matrix its own, from `learning_rate` at lr_base_width (rfscale/train/mup.py).
    lr_rule: Literal["constant", "inverse_width", "mup"] = "constant"
    lr_base_width: Width | None = None
    warmup_steps: Warmup | None = None  # None: min(1000, steps / 20)
    ema_every: Steps | None = None  # None: max(1, steps / 5000), the paper's 100 at its 500,000 steps

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        if (self.steps is None) == (self.samples is None):
            raise ValueError("give either steps or samples, exactly one of them")
        if self.lr_rule != "constant" and self.lr_base_width is None:
            raise ValueError(f"lr_rule {self.lr_rule} needs lr_base_width, the width at which learning_rate holds")
        if self.lr_rule == "constant" and self.lr_base_width is not None:
            raise ValueError(
                "lr_base_width has no effect under lr_rule constant; remove it, or set inverse_width or mup"
            )
        if self.warmup_steps is not None and self.warmup_steps > min(self.budgets):
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} is longer than a training of {min(self.budgets)} steps; shorten it"
            )
        return self

    @property
    def budgets(self) -> tuple[int, ...]:
        """Steps of each budget on the axis."""
        return self.steps or tuple(-(-n // self.batch) for n in self.samples or ())

    def resolved(self, steps: int, width: int) -> ResolvedTraining:
        """The training of that many steps of a network of that width."""
        given = self.model_dump(exclude={"steps", "samples", "lr_base_width"}) | {"schedule": self.schedule}
        if self.lr_rule == "inverse_width":
            given["learning_rate"] *= (self.lr_base_width or width) / width
        if self.lr_rule == "mup":
            given["mup_base_width"] = self.lr_base_width
        if self.warmup_steps is None:
            given["warmup_steps"] = min(1000, steps // 20)
        return ResolvedTraining(**{**given, "steps": steps, "ema_every": self.ema_every or max(1, steps // 5000)})


class Samples(Strict):
    """The sample images that are logged with a finished trial; they change no number."""

    images: Annotated[int, Whole(0, 10_000)] = 16
    steps: SolverSteps = 25
    guidance: Guidance = 2.5


class Setting(Strict):
    """How images are drawn for a judge: Euler steps and classifier-free guidance."""

    steps: SolverSteps
    guidance: Guidance = 1.0


# Paper, section 5.1: 50 steps at guidance 1, 2.5, 5, and fewer steps at guidance 5.
PAPER_SETTINGS = tuple(
    Setting(steps=steps, guidance=guidance)
    for steps, guidance in ((50, 1.0), (50, 2.5), (50, 5.0), (5, 5.0), (10, 5.0), (25, 5.0))
)
Weights = Literal["ema", "raw"]


class Quality(Strict):
    """How the images of finished trials are judged. Like `Samples`, it is no part of a trial's identity."""

    judges: Annotated[tuple[AnyJudge, ...], Listed] = ()  # (): the judge of the data's own world
    settings: Annotated[tuple[Setting, ...], Listed, Field(min_length=1)] = PAPER_SETTINGS
    weights: Annotated[tuple[Weights, ...], Listed, Field(min_length=1)] = ("ema", "raw")
    # all: the EMA weights are kept at every validation point, and judged there too
    checkpoints: Literal["last", "all"] = "last"
    batch: Batch | None = None  # images drawn at once; None: 32 on a CPU, whose caches hold no more, 256 on a GPU

    plugins: tuple[PluginRef, ...] = ()  # what the judges come from; no key of a sweep file's section

    @model_validator(mode="before")
    @classmethod
    def _plugins_first(cls, value: Any, info: ValidationInfo) -> Any:
        # A sweep file says them once, at its top.
        if info.context and isinstance(value, Mapping) and "plugins" in value:
            fields = [field for field in cls.model_fields if field != "plugins"]
            raise PydanticCustomError(KEY, "unknown key", {"key": "plugins", "fields": fields})
        load_plugins(value)
        return value

    @model_validator(mode="after")
    def _nothing_twice(self) -> Quality:
        labels = [judge.label for judge in self.judges]
        drawn = [setting_label(setting.steps, setting.guidance, "") for setting in self.settings]
        for what, values in (("judges", labels), ("settings", drawn), ("weights", list(self.weights))):
            if len(set(values)) < len(values):
                raise ValueError(f"the same entry stands twice in {what}; remove one")
        return self

    def judges_of(self, data: DataSource) -> tuple[JudgeSpec, ...]:
        """The judges that score images of this data. Raises JudgeError where one cannot, or none is named.

        Of latents that are not on this machine nobody knows what pictures they were: those that are named.
        """
        if not data.known and data.space.range is None:
            return self.judges
        data = data.pictures
        if data.sides != (data.square,):
            raise JudgeError(
                f"data `{data.name}` has buckets, and judges look at square images only; remove `buckets`, or `quality`"
            )
        own = JUDGES.get(data.judge).model_validate({}) if data.judge else None
        judges = self.judges or ((own,) if isinstance(own, JudgeSpec) else ())
        if not judges:
            raise JudgeError(
                f"data `{data.name}` has no judge of its own; name one, such as `quality: {{judges: [clip]}}`"
            )
        for judge in judges:
            judge.check(data)
        return judges


Processes = Annotated[int, Whole(1, 4096)]
Sharding = Literal["replicate", "shard"]


class OfATrial(Strict):
    """What one trial takes: its processes, and what each of them has."""

    cpus: Annotated[float, Real(0, 100_000, low_open=True)] = 1
    gpus: Annotated[float, Real(0, 100_000)] = 0
    memory_gb: Annotated[float, Real(0, 1e6, low_open=True)] | None = None
    pack_gpu_gb: Annotated[float, Real(0, 1e6, low_open=True)] | None = None  # of a GPU; None: no other trial is on it
    microbatch: Batch | None = None  # None: all that the process has of the batch at once
    compile: bool = False
    processes: Processes = 1
    # replicate: every process holds all weights. shard: each holds its part of weights, EMA and optimiser.
    sharding: Sharding = "replicate"
    activation_checkpointing: bool = False  # keep no activation of a block: it is computed again in the backward pass

    @classmethod
    def keys(cls) -> list[str]:
        return list(cls.model_fields)


class AtDepths(OfATrial):
    """What trials of these depths take instead; a key that is not given is that of all."""

    depths: Annotated[tuple[Depth, ...], Listed, Field(min_length=1)]


class Resources(OfATrial):
    """Where and how, never what: nothing here is part of a trial's identity or can change its result."""

    by_depth: Annotated[tuple[AtDepths, ...], Listed] = ()
    retries: Annotated[int, Whole(0, 1000)] = 3
    checkpoint_seconds: Annotated[float, Real(0, 1e7, low_open=True)] = 60
    trunk: bool = True  # train the steps that trials of several lengths share once; false: each trial on its own

    @model_validator(mode="after")
    def _each_depth_once(self) -> Resources:
        depths = [depth for entry in self.by_depth for depth in entry.depths]
        if twice := next((depth for depth in depths if depths.count(depth) > 1), None):
            raise ValueError(f"by_depth has depth {twice} twice; give each depth once")
        return self

    def at(self, depth: int) -> Resources:
        """What a trial of that depth takes."""
        entry = next((entry for entry in self.by_depth if depth in entry.depths), None)
        given = entry.model_dump(include=entry.model_fields_set - {"depths"}) if entry is not None else {}
        return self.model_copy(update={**given, "by_depth": ()})

    def everywhere(self, changes: Mapping[str, float]) -> Resources:
        """With these values, at every depth."""
        by_depth = tuple(entry.model_copy(update=changes) for entry in self.by_depth)
        return self.model_copy(update={**changes, "by_depth": by_depth})


class Grid(Strict):
    """The product of its axes: depths x formulations x budgets x seeds."""

    data: DataSpec = ShapesData(name="shapes")
    text: AnyText = TextSpec()
    model: Annotated[Ladder, Written(BACKBONES)]
    formulations: tuple[str, ...] = Field(min_length=1)
    training: Training
    seeds: Annotated[tuple[Seed, ...], Listed, Field(min_length=1)] = (0,)
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _mup_keeps_heads(self) -> Grid:
        if self.training.lr_rule == "mup":
            heads = {at.width // at.heads: at for at in map(self.model.at, self.model.depths)}
            if len(heads) > 1:
                widths = " and ".join(str(head) for head in sorted(heads)[:2])
                raise ValueError(
                    f"lr_rule mup needs heads of one width at all sizes, and these have {widths}; leave out heads and "
                    "widths, so that heads grow in number"
                )
        return self

    @field_validator("formulations", mode="before")
    @classmethod
    def _expand_formulations(cls, value: Any) -> tuple[str, ...]:
        return tuple(expand(value if isinstance(value, list | tuple) else [value]))

    @property
    def count(self) -> int:
        """Trials of the product, without building one."""
        return len(self.model.depths) * len(self.formulations) * len(self.training.budgets) * len(self.seeds)

    def trials(self) -> Iterator[tuple[Trial, dict[str, Any]]]:
        """Every trial of the product, in reading order, with its value of each axis."""
        model, training, text = self.model, self.training, self.text.of(self.data)
        plugins = plugins_of(self.data, self.text, model, training.schedule)
        lengths, written = (STEPS, training.steps) if training.steps else (SAMPLES, training.samples)
        budgets = zip(training.budgets, written or (), strict=True)
        for depth, name, (steps, length) in itertools.product(model.depths, self.formulations, budgets):
            network = model.at(depth)
            first = Trial(
                data=self.data,
                text=text,
                model=network,
                formulation=name,
                training=training.resolved(steps, network.width),
                evaluation=self.evaluation,
                seed=self.seeds[0],
                plugins=plugins,
            )
            for seed in self.seeds:
                yield first.of_seed(seed), {DEPTHS: depth, FORMULATIONS: name, lengths: length, SEEDS: seed}


@dataclass(frozen=True, slots=True)
class Size:
    """One size of an arm beside the same size of the reference. `by`: what it is matched in, None for the reference;
    `flops`: of training, per sample; `times_...`: over those of the reference."""

    arm: str
    by: Quantity | None
    depth: int
    width: int
    heads: int
    parameters: int
    flops: int
    times_parameters: float
    times_flops: float

    @property
    def ratio(self) -> float:
        """Of what is matched."""
        return self.times_parameters if self.by == "parameters" else self.times_flops


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sweep comes from: its file, the folder that its paths are relative to, the fields given beside the file
    (`training.steps=1000`), and what file and fields say together. A sweep is the same wherever it comes from: nothing
    here is compared."""

    file: Path | None = field(default=None, compare=False)
    folder: Path = field(default=Path(), compare=False)
    fields: tuple[str, ...] = field(default=(), compare=False)
    definition: Mapping[str, Any] = field(default_factory=dict, compare=False)


class Sweep(Strict):
    """A question and the trials that answer it."""

    name: str
    question: str
    resources: Resources
    samples: Samples
    quality: Quality | None = None  # None: the sweep asks for no judge
    trials: tuple[Trial, ...]
    layout: SkipValidation[Layout]
    duplicates: int  # trials that stood in the grids more than once and were merged
    notes: tuple[str, ...] = ()  # what may not be meant as it is written, a sentence each
    sizes: SkipValidation[tuple[Size, ...]] = ()  # of matched arms and of the first one, beside each other
    origin: SkipValidation[Origin] = Origin()

    @property
    def arms(self) -> tuple[str, ...]:
        """The labels of the arms, in the order of the file."""
        return self.layout.arms

    @property
    def roles(self) -> dict[Role, list[str]]:
        """Role -> keys of `Trial.identity_record`."""
        return self.layout.roles

    @property
    def matched_to(self) -> str:
        """The label of the arm that others are matched to, "" where none is."""
        return next((size.arm for size in self.sizes if size.by is None), "")

    def placing(self, trial: Trial) -> Placing:
        """The arm, the rung, the tuned values and the seed of a trial of this sweep."""
        return self.layout.placings[trial.trial_id]

    def trial(self, trial_id: str) -> Trial:
        """The trial of that id, or of a prefix that only one trial has. Raises SweepError."""
        found = [t for t in self.trials if t.trial_id.startswith(trial_id)]
        if len(found) == 1:
            return found[0]
        what = (
            f"{len(found)} trials of sweep {self.name} start with"
            if found
            else f"no trial of sweep {self.name} has the id"
        )
        raise SweepError(f"{what} {trial_id!r}; `rfscale plan` lists the ids")
