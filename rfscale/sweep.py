"""Sweep definition -> trials: validated, pure, without torch or ray.

A sweep file is one question and the grid that answers it. `load_sweep` turns it into `Trial`s; a trial's id is a hash
of the declared fields that change its result and of nothing else, so the same trial has the same id on a laptop and on
a cluster, in whichever sweep it stands.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from yaml.constructor import ConstructorError

from rfscale.data.base import DataError
from rfscale.data.spec import DataSpec, DigitsData, FolderData, ShapesData
from rfscale.data.text import TextSpec
from rfscale.flow import FAMILIES, FormulationError, canonical, signature
from rfscale.sizes import ModelShape


class SweepError(ValueError):
    """A sweep file cannot be used; the message is one sentence that says what to change."""


class Strict(BaseModel):
    """Frozen, and an unknown key is an error that names the nearest valid one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]

# --- what a user writes -----------------------------------------------------------------------------------------------


class Ladder(Strict):
    """The model sizes. SD3 ties everything to the depth d: width 64 d, d heads, MLP 4 times the width (section 4.1)."""

    depths: Annotated[tuple[Positive, ...], BeforeValidator(_listed), Field(min_length=1)]
    width_per_depth: Positive = 64
    heads: Positive | None = None  # None: as many as blocks
    patch: Positive = 2
    mlp_ratio: Positive = 4
    qk_norm: bool = True


class Training(Strict):
    """One training. `steps` and `samples` are two ways to say the same; a list of them is an axis of the grid."""

    steps: Annotated[tuple[Positive, ...], BeforeValidator(_listed), Field(min_length=1)] | None = None
    samples: Annotated[tuple[Positive, ...], BeforeValidator(_listed), Field(min_length=1)] | None = None
    batch: Positive = 64
    learning_rate: PositiveFloat = 1e-3
    # constant: every width gets `learning_rate`, as in the paper. inverse_width: learning_rate * lr_base_width / width.
    lr_rule: Literal["constant", "inverse_width"] = "constant"
    lr_base_width: Positive | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None  # None: min(1000, steps / 20)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    adam_eps: PositiveFloat = 1e-8
    grad_clip: PositiveFloat = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    ema_every: Positive | None = None  # None: max(1, steps / 5000), the paper's 100 at its 500,000 steps
    precision: Literal["fp32", "bf16"] = "fp32"
    text_dropout: Probability = 0.1
    # alpha of the paper's resolution-dependent shift (section 5.3.2): log-SNR falls by 2 ln(alpha), in training and in
    # generation alike.
    timestep_shift: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        if (self.steps is None) == (self.samples is None):
            raise ValueError("give either steps or samples, exactly one of them")
        if self.lr_rule == "inverse_width" and self.lr_base_width is None:
            raise ValueError("lr_rule inverse_width needs lr_base_width, the width at which learning_rate holds")
        return self

    @property
    def budgets(self) -> tuple[int, ...]:
        """Steps of each budget on the axis."""
        return self.steps or tuple(-(-n // self.batch) for n in self.samples or ())


class Evaluation(Strict):
    """When and on how much the validation profile is measured."""

    images: Positive = 256
    points: Positive = 6

    def steps(self, total: int) -> tuple[int, ...]:
        """Log-spaced steps from total / 16 to total; the last is always among them, and the only one of one point."""
        first = max(1.0, total / 16)
        ratio = math.log(total / first) / max(1, self.points - 1)
        return tuple(sorted({round(total * math.exp(-ratio * i)) for i in range(self.points)}))


class Samples(Strict):
    """The sample images that are logged with a finished trial; they change no number."""

    images: Annotated[int, Field(ge=0)] = 16
    steps: Positive = 25
    guidance: Annotated[float, Field(ge=0)] = 2.5


class Resources(Strict):
    """Where and how, never what: nothing here is part of a trial's identity or can change its result."""

    cpus: PositiveFloat = 1
    gpus: Annotated[float, Field(ge=0)] = 0
    memory_gb: PositiveFloat | None = None
    microbatch: Positive | None = None  # None: the whole batch at once
    retries: Annotated[int, Field(ge=0)] = 3
    checkpoint_seconds: PositiveFloat = 60
    compile: bool = False


class Grid(Strict):
    """The product of its axes: depths x formulations x budgets x seeds."""

    data: DataSpec = ShapesData(name="shapes")
    text: TextSpec = TextSpec()
    model: Ladder
    formulations: tuple[str, ...] = Field(min_length=1)
    training: Training
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], BeforeValidator(_listed), Field(min_length=1)
    ] = (0,)
    evaluation: Evaluation = Evaluation()

    @field_validator("formulations", mode="before")
    @classmethod
    def _expand_formulations(cls, value: Any) -> tuple[str, ...]:
        return tuple(_expand(value if isinstance(value, list | tuple) else [value]))

    def trials(self) -> Iterator[Trial]:
        """Every trial of the product, in reading order."""
        model, training = self.model, self.training
        for depth, name, steps, seed in itertools.product(
            model.depths, self.formulations, training.budgets, self.seeds
        ):
            width = model.width_per_depth * depth
            rate = training.learning_rate
            if training.lr_rule == "inverse_width":
                rate *= (training.lr_base_width or width) / width
            yield Trial(
                data=self.data,
                text=self.text,
                depth=depth,
                width=width,
                heads=model.heads or depth,
                patch=model.patch,
                mlp_ratio=model.mlp_ratio,
                qk_norm=model.qk_norm,
                formulation=name,
                steps=steps,
                batch=training.batch,
                learning_rate=rate,
                lr_rule=training.lr_rule,
                warmup_steps=min(1000, steps // 20) if training.warmup_steps is None else training.warmup_steps,
                weight_decay=training.weight_decay,
                beta1=training.beta1,
                beta2=training.beta2,
                adam_eps=training.adam_eps,
                grad_clip=training.grad_clip,
                ema_decay=training.ema_decay,
                ema_every=training.ema_every or max(1, steps // 5000),
                precision=training.precision,
                text_dropout=training.text_dropout,
                timestep_shift=training.timestep_shift,
                evaluation=self.evaluation,
                seed=seed,
            )


# --- what is trained --------------------------------------------------------------------------------------------------

# Fields that a trial carries but that do not change its result.
_NOT_IDENTITY = {"lr_rule"}


@lru_cache(maxsize=64)
def _data_identity(spec: DataSpec) -> dict[str, Any]:
    return spec.identity()


class Trial(Strict):
    """One training: model size x formulation x data x budget x seed, everything resolved.

    Fields without a default are always part of the id. A field with a default is part of it only where it differs, so
    a field added later, with a default that keeps the old behaviour, leaves every old id unchanged. Never change a
    default.
    """

    data: DataSpec
    text: TextSpec = TextSpec()
    depth: Positive
    width: Positive
    heads: Positive
    patch: Positive
    mlp_ratio: Positive = 4
    qk_norm: bool = True
    formulation: str
    steps: Positive
    batch: Positive
    learning_rate: PositiveFloat
    lr_rule: str = "constant"
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    adam_eps: float = 1e-8
    grad_clip: float = 1.0
    ema_decay: float = 0.99
    ema_every: Positive
    precision: Literal["fp32", "bf16"] = "fp32"
    text_dropout: Probability = 0.1
    timestep_shift: PositiveFloat = 1.0
    evaluation: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0)]

    @field_validator("formulation")
    @classmethod
    def _canonical(cls, value: str) -> str:
        return canonical(value)

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Trial:
        _ = self.shape
        return self

    @cached_property
    def shape(self) -> ModelShape:
        """The model's shape, with its parameters and FLOPs."""
        return ModelShape(
            depth=self.depth,
            width=self.width,
            heads=self.heads,
            patch=self.patch,
            resolution=self.data.resolution,
            channels=self.data.channels,
            context_length=self.text.length,
            context_width=self.text.width,
            pooled_width=self.text.pooled_width,
            mlp_ratio=self.mlp_ratio,
            qk_norm=self.qk_norm,
        )

    def identity(self) -> dict[str, Any]:
        """The fields that are hashed: those without a default, and those that differ from it."""
        fields = self.model_dump(mode="json", exclude_defaults=True, exclude={"data", *_NOT_IDENTITY})
        return {**fields, "data": _data_identity(self.data)}

    @cached_property
    def trial_id(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the identity in canonical JSON."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def parameters(self) -> dict[str, str | int | float]:
        """Everything derived, once: recorded with the run and read by `analysis` (keys of `names.PARAMS`)."""
        flops = self.shape.flops()
        groups = self.shape.parameters()
        return {
            "formulation": self.formulation,
            "data": self.data.name,
            "resolution": self.data.resolution,
            "depth": self.depth,
            "width": self.width,
            "heads": self.heads,
            "patch": self.patch,
            "parameters": sum(groups.values()),
            "parameters_core": groups["attention"] + groups["mlp"],
            "forward_flops": flops.forward,
            "train_flops_per_step": flops.train * self.batch,
            "train_flops": flops.train * self.batch * self.steps,
            "steps": self.steps,
            "batch": self.batch,
            "samples": self.steps * self.batch,
            "image_tokens": self.shape.image_tokens,
            "tokens": self.shape.tokens,
            "learning_rate": self.learning_rate,
            "lr_rule": self.lr_rule,
            "warmup_steps": self.warmup_steps,
            "ema_decay": self.ema_decay,
            "ema_every": self.ema_every,
            "precision": self.precision,
            "text_dropout": self.text_dropout,
            "timestep_shift": self.timestep_shift,
            "seed": self.seed,
        }


class Sweep(Strict):
    """A question and the trials that answer it."""

    name: str
    question: str
    resources: Resources
    samples: Samples
    trials: tuple[Trial, ...]
    duplicates: int  # trials that stood in the grids more than once and were merged

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


class _Header(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    question: Annotated[str, Field(min_length=1)]
    resources: Resources = Resources()
    samples: Samples = Samples()


# --- formulations in a sweep file: names, grids, presets --------------------------------------------------------------

_TABLE_1 = (
    "rf/lognorm(0.00,1.00)",
    "rf/lognorm(1.00,0.60)",
    "rf/lognorm(0.50,0.60)",
    "rf/mode(1.29)",
    "rf/lognorm(0.50,1.00)",
    "eps/linear",
    "rf/mode(1.75)",
    "rf/cosmap",
    "edm(0.00,0.60)",
    "rf",
    "v/linear",
    "edm(0.60,1.20)",
    "v/cos",
    "edm/cos",
    "edm/rf",
    "edm(-1.20,1.20)",
)

PRESETS: dict[str, tuple[str, ...]] = {
    # The 16 rows that Table 1 of the paper prints.
    "paper-table1": _TABLE_1,
    # All 61 (section 5.1 and appendix B.3). The seven values of s are uniform in [-1, 1.75], and s = 1 is added; the
    # sixth, 1.2917, is printed as 1.29 and taken as printed.
    "paper-61": (
        *("eps/linear", "v/linear", "eps/cos", "v/cos", "rf", "rf/cosmap", "edm/rf", "edm/cos"),
        *(f"rf/mode({s})" for s in (-1, -0.5417, -0.0833, 0.375, 0.8333, 1, 1.29, 1.75)),
        *(f"rf/lognorm({m},{s})" for m in (-1, -0.5, 0, 0.5, 1) for s in (0.2, 0.6, 1.0, 1.4, 1.8, 2.2)),
        *(f"edm({m},{s})" for m in (-1.2, -0.6, 0, 0.6, 1.2) for s in (0.6, 1.2, 1.8)),
    ),
}


def _expand(entries: Iterable[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):
            if entry.count("(") > entry.count(")"):
                raise FormulationError(f"formulation {entry!r} was cut at its comma; inside [ ] put it in quotes")
            near = difflib.get_close_matches(entry.strip(), PRESETS, n=1, cutoff=0.7)
            if near and entry.strip() not in PRESETS:
                raise FormulationError(f"preset {entry!r} is not known; did you mean {near[0]!r}?")
            yield from (canonical(name) for name in PRESETS.get(entry.strip(), (entry,)))
        elif isinstance(entry, Mapping):
            for family, axes in entry.items():
                yield from _expand_grid(str(family), axes)
        else:
            raise FormulationError(
                f"formulation {entry!r} is not a name such as rf/lognorm(0,1), a grid such as "
                f"rf/mode: {{s: [1, 1.29]}}, or a preset ({', '.join(PRESETS)}); write one of these"
            )


def _expand_grid(family: str, axes: Any) -> Iterator[str]:
    if family not in FAMILIES:
        canonical(family)  # raises, naming the nearest
    names = [p.name for p in FAMILIES[family].parameters]
    if not isinstance(axes, Mapping) or set(axes) != set(names):
        raise FormulationError(
            f"the grid of {signature(family)} was given as {axes!r}; it needs "
            + (f"exactly the keys {', '.join(names)}" if names else "no keys: write the name alone")
        )
    for values in itertools.product(*(_listed(axes[name]) for name in names)):
        yield canonical(f"{family}({','.join(map(str, values))})")


# --- reading ----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """safe_load, with duplicate keys refused and `2e-3` read as a number (YAML 1.2; PyYAML alone reads a string)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
        if key in mapping:
            raise ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_sweep(path: str | Path) -> Sweep:
    """Read and validate a sweep file. Raises SweepError: one sentence that names the file, the key and the remedy."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise SweepError(
            f"cannot read the sweep file {path}: {error.strerror}; give the path of a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise SweepError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-45
        raise SweepError(f"{path} cannot be read as YAML: {_yaml_problem(error)}") from error
    if not isinstance(raw, Mapping):
        held = "is empty" if raw is None else f"holds {_KINDS.get(type(raw), type(raw).__name__)}, not a mapping"
        raise SweepError(f"{path} {held}; write keys such as name:, question:, model:, formulations: and training:")
    return parse_sweep(raw, source=str(path), folder=path.parent)


def parse_sweep(raw: Mapping[str, Any], source: str = "sweep", folder: Path | None = None) -> Sweep:
    """Validate a sweep definition that is a mapping already. Relative image folders are relative to `folder`."""
    body = {k: v for k, v in raw.items() if k not in _Header.model_fields and k != "grids"}
    grids = raw.get("grids", [{}])
    _check_keys(body, Grid, source, extra=(*_Header.model_fields, "grids"))
    if not isinstance(grids, list) or not grids or not all(isinstance(g, Mapping) for g in grids):
        raise SweepError(f"{source}: grids must be a non-empty list of mappings, each overriding keys of the sweep")
    header = _validated(_Header, {k: v for k, v in raw.items() if k in _Header.model_fields}, source)
    _data_identity.cache_clear()  # an image folder may have changed since the last sweep of this process
    trials: dict[str, Trial] = {}
    seen = 0
    for i, grid in enumerate(grids):
        where = source if len(grids) == 1 else f"{source}: grids[{i}]"
        for trial in _grid_trials(_validated(Grid, _located(_merged(body, grid), folder), where), where):
            seen += 1
            trials.setdefault(trial.trial_id, trial)
    return Sweep(
        name=header.name,
        question=header.question,
        resources=header.resources,
        samples=header.samples,
        trials=tuple(trials.values()),
        duplicates=seen - len(trials),
    )


def _grid_trials(grid: Grid, source: str) -> list[Trial]:
    try:
        grid.data.check()
        trials = list(grid.trials())
        for trial in trials:
            _ = trial.trial_id
    except ValidationError as error:
        raise SweepError(f"{source}: {_sentence(error)}") from error
    except DataError as error:
        raise SweepError(f"{source}: {error}") from error
    return trials


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            value = {**old, **value}
        merged[key] = value
    return merged


def _located(raw: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """A relative image folder is relative to the sweep file, so that the pair can be moved together."""
    data = raw.get("data")
    if (
        folder is not None
        and isinstance(data, Mapping)
        and data.get("name") == "folder"
        and isinstance(data.get("path"), str)
        and data["path"]
    ):
        return {**raw, "data": {**data, "path": str((folder / Path(data["path"]).expanduser()).resolve())}}
    return raw


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(model: type[_Model], raw: Mapping[str, Any], source: str) -> _Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SweepError(f"{source}: {_sentence(error)}") from error


def _check_keys(raw: Mapping[str, Any], model: type[BaseModel], source: str, extra: tuple[str, ...] = ()) -> None:
    allowed = [*model.model_fields, *extra]
    for key in raw:
        if key not in allowed:
            raise SweepError(f"{source}: {_unknown_key(str(key), '', allowed)}")


def _unknown_key(key: str, section: str, allowed: Iterable[str]) -> str:
    allowed = list(allowed)
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.0)[0]
    where = f" in {section}" if section else ""
    return f"unknown key {key!r}{where}; did you mean {near!r}? Allowed are {', '.join(allowed)}"


_SECTIONS: dict[str, type[BaseModel]] = {
    "model": Ladder,
    "training": Training,
    "evaluation": Evaluation,
    "samples": Samples,
    "resources": Resources,
    "text": TextSpec,
}
_DATA: dict[str, type[BaseModel]] = {"shapes": ShapesData, "digits": DigitsData, "folder": FolderData}
_KINDS: dict[type, str] = {str: "text", list: "a list", int: "a number", float: "a number", bool: "a truth value"}


def _sentence(error: ValidationError) -> str:
    """The first problem of a pydantic error as one sentence, with how many more there are."""
    problem, *more = error.errors(include_url=False)
    location = [str(part) for part in problem["loc"]]
    if location[:1] == ["data"] and len(location) > 1 and location[1] in _DATA:
        kind = _DATA[location.pop(1)]  # pydantic names the chosen data set between `data` and the key
    else:
        kind = _SECTIONS.get(location[0], Grid) if location else Grid
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        text = _unknown_key(location[-1], ".".join(location[:-1]), kind.model_fields)
    elif problem["type"] == "value_error":
        text = f"{name + ': ' if name else ''}{problem['ctx']['error']}"
    elif problem["type"] == "missing":
        text = f"the key {name!r} is missing; add it"
    elif problem["type"].startswith("union_tag"):
        given = f" = {problem['ctx']['tag']}" if "tag" in problem.get("ctx", {}) else ""
        text = f"data.name{given} is {'not known' if given else 'missing'}; it must be one of {', '.join(_DATA)}"
    elif problem["type"] in ("model_type", "model_attributes_type"):
        text = f"{name} = {problem['input']!r} is not a mapping; write {name}: {{key: value, ...}}"
    elif problem["type"] == "string_pattern_mismatch":
        text = f"{name} = {problem['input']!r} is not a file name; use letters, digits, '.', '_' and '-'"
    elif problem["type"] in ("too_short", "string_too_short"):
        text = f"{name} is empty; give it a value"
    else:
        text = f"{name} = {problem['input']!r}: {problem['msg'].replace('Input should', 'it should')}"
    return _one_line(text) + (f" (and {len(more)} more problem{'s' if len(more) > 1 else ''})" if more else "")


def _yaml_problem(error: Exception) -> str:
    """What is wrong and in which line, without PyYAML's names for its own parts."""
    if not isinstance(error, yaml.MarkedYAMLError) or not error.problem:
        return _one_line(error) if not isinstance(error, RecursionError) else "it is nested too deeply"
    where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    if "could not determine a constructor for the tag" in error.problem:
        tag = error.problem.split("'")[1].replace("tag:yaml.org,2002:", "!!")
        return f"{where}the tag {tag!r} is not allowed, only plain values are; remove it"
    return where + _one_line(error.problem)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
