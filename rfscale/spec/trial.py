"""One training, everything resolved: what it is made of, its id, and what is recorded of it. No torch, no ray.

A trial's id is a hash of the declared fields that change its result and of nothing else, so the same trial has the same
id on a laptop and on a cluster, in whichever sweep it stands.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, field_validator, model_validator

from rfscale import names
from rfscale.backbones.base import BACKBONES, CORE, BackboneSpec, Cost, CostOfSides
from rfscale.backbones.mmdit.spec import MMDiTSpec
from rfscale.data.buckets import Sides, steps_of
from rfscale.data.spec import DATA, DataSource, DataSpec
from rfscale.data.text import TEXT, AnyText, TextSpec
from rfscale.flow.formulations import canonical
from rfscale.numbers import (
    Batch,
    Clip,
    Decay,
    Epsilon,
    Images,
    Points,
    Probability,
    Rate,
    Seed,
    Shift,
    Steps,
    Warmup,
    WeightDecay,
    Width,
)
from rfscale.registry import KINDS, load_plugin
from rfscale.spec.schedule import SCHEDULES, AnySchedule, Constant


class Strict(BaseModel):
    """Frozen, and an unknown key is an error that names the nearest valid one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def keys(cls) -> list[str]:
        """What may be written, a section's own keys before those that it shares with others."""
        return sorted(cls.model_fields, key=lambda key: key not in cls.__annotations__)


class Evaluation(Strict):
    """When and on how much the validation profile is measured."""

    images: Images = 256
    points: Points = 6

    def steps(self, total: int) -> tuple[int, ...]:
        """Log-spaced steps from total / 16 to total; the last is always among them, and the only one of one point."""
        first = max(1.0, total / 16)
        ratio = math.log(total / first) / max(1, self.points - 1)
        return tuple(sorted({round(total * math.exp(-ratio * i)) for i in range(self.points)}))


class Optimisation(Strict):
    """What a training is made of, whatever its length and the width of its network."""

    weight_decay: WeightDecay = 0.0
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    adam_eps: Epsilon = 1e-8
    grad_clip: Clip = 1.0
    ema_decay: Decay = 0.99
    precision: Literal["fp32", "bf16"] = "fp32"
    text_dropout: Probability = 0.1
    # alpha of the paper's resolution-dependent shift (section 5.3.2): log-SNR falls by 2 ln(alpha), in training and in
    # generation alike.
    timestep_shift: Shift = 1.0
    schedule: AnySchedule = Constant()


class ResolvedTraining(Optimisation):
    """How one trial is trained, with what follows from its length and width worked out (`rfscale.spec.sweep.Training`
    is what the user writes)."""

    steps: Steps
    batch: Batch
    learning_rate: Rate
    lr_rule: str = "constant"  # where learning_rate comes from; no part of the identity
    warmup_steps: Warmup
    ema_every: Steps
    mup_base_width: Width | None = None  # of lr_rule mup: the width at which learning_rate holds as it stands

    @model_validator(mode="after")
    def _has_room(self) -> ResolvedTraining:
        self.schedule.check(self.warmup_steps, self.steps)
        return self

    @property
    def samples(self) -> int:
        """Training samples seen by the last step."""
        return self.steps * self.batch


# Fields that a trial carries but that do not change its result.
_NOT_IDENTITY = {"lr_rule"}
# Fields that were added later: on record only where they are not what they were before.
_LATER = {"mup_base_width"}


@lru_cache(maxsize=64)
def data_identity(spec: DataSource) -> dict[str, Any]:
    return DATA.identity(spec)


@lru_cache(maxsize=64)
def bucket_images(spec: DataSource) -> tuple[int, ...]:
    """The training images of each bucket. Raises DataError."""
    return spec.bucket_images()


class PluginRef(Strict):
    """A plug-in that a trial needs: where it lies, which is no part of the identity, and what it says, which is."""

    path: str
    sha256: str


def plugins_of(*specs: BaseModel) -> tuple[PluginRef, ...]:
    """The plug-ins that the choices come from."""
    found = (kind.plugin_of(spec) for spec in specs for kind in KINDS.values() if kind.holds(spec))
    return tuple(PluginRef(path=p.path, sha256=p.sha256) for p in dict.fromkeys(found) if p is not None)


def load_plugins(value: object) -> None:
    """Run the plug-ins that a record names, where that is allowed. Raises PluginError."""
    for plugin in (value.get("plugins") or ()) if isinstance(value, Mapping) else ():
        ref = PluginRef.model_validate(plugin)
        load_plugin(ref.path, ref.sha256)


class Trial(Strict):
    """One training: data x text x model x formulation x training x seed, everything resolved.

    Fields without a default are always part of the id. A field with a default is part of it only where it differs, so
    a field added later, with a default that keeps the old behaviour, leaves every old id unchanged. Never change a
    default.
    """

    data: DataSpec
    text: AnyText = TextSpec()
    model: Annotated[BackboneSpec, BACKBONES]
    formulation: str
    training: ResolvedTraining
    evaluation: Evaluation = Evaluation()
    seed: Seed
    plugins: tuple[PluginRef, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, value: Any) -> Any:
        """A record of an older store names the fields of model and training side by side. Plug-ins come first: they
        may hold what the rest names."""
        load_plugins(value)
        if not isinstance(value, Mapping) or "model" in value or "training" in value:
            return value
        nested = {"model": MMDiTSpec.model_fields, "training": ResolvedTraining.model_fields}
        inner = {key: {k: v for k, v in value.items() if k in fields} for key, fields in nested.items()}
        rest = {k: v for k, v in value.items() if not any(k in fields for fields in nested.values())}
        return {**rest, **inner}

    @field_validator("formulation")
    @classmethod
    def _canonical(cls, value: str) -> str:
        return canonical(value)

    @model_validator(mode="after")
    def _text_is_dropped_one_way(self) -> Trial:
        if self.text.each_dropout is not None and "text_dropout" in self.training.model_fields_set:
            default = ResolvedTraining.model_fields["text_dropout"].default
            if self.training.text_dropout != default:
                raise ValueError(
                    "text.dropout drops each encoder by itself, and training.text_dropout all of them at once; "
                    "write one of the two"
                )
        return self

    @model_validator(mode="after")
    def _mup_fits(self) -> Trial:
        base = self.training.mup_base_width
        if base is None:
            return self
        if not type(self.model).mup:
            raise ValueError(
                f"lr_rule mup does not know the backbone `{self.model.backbone}`; take `mmdit`, or another rule"
            )
        head = self.model.width // self.model.heads
        if base % math.lcm(head, 4):
            raise ValueError(
                f"lr_base_width = {base} is no width of heads of {head}, which lr_rule mup keeps; take a multiple of "
                f"{math.lcm(head, 4)}"
            )
        return self

    @model_validator(mode="after")
    def _shapes_are_possible(self) -> Trial:
        _ = self.costs
        return self

    def of_seed(self, seed: int) -> Trial:
        """The same with another seed, one that a trial may have: nothing else is looked at again."""
        if seed == self.seed:
            return self
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        twin = self.model_construct(self.model_fields_set, **{**fields, "seed": seed})
        # A sweep of many seeds would spend most of its time on working these out again.
        twin.__dict__.update({name: self.__dict__[name] for name in ("shape", "costs") if name in self.__dict__})
        return twin

    @cached_property
    def shape(self) -> Cost:
        """The model's shape, with its parameters, and its FLOPs on the square image."""
        return self.model.shape(self.data, self.text)

    @cached_property
    def costs(self) -> tuple[Cost, ...]:
        """What the network costs on the images of each bucket. Raises ValueError where it cannot take them."""
        return tuple(self.shape if sides == self.data.square else self.cost_at(sides) for sides in self.data.sides)

    def cost_at(self, sides: Sides) -> Cost:
        """What the network costs on images of that height and width. Raises ValueError where it cannot take them."""
        if not isinstance(self.shape, CostOfSides):
            raise ValueError(
                f"the backbone `{self.model.backbone}` takes square images of side "
                f"{self.data.resolution * self.data.downsampling} only; "
                "choose another backbone, or no other size"
            )
        return self.shape.at(sides)

    @cached_property
    def bucket_steps(self) -> tuple[int, ...]:
        """How many of the steps take a batch of each bucket: they follow from the seed. Raises DataError."""
        return steps_of(self.seed, bucket_images(self.data), self.training.steps)

    def sum_of(self, cost: Callable[[Cost], int]) -> int:
        """The exact sum over the steps, of what a sample costs at each."""
        return sum(cost(one) * steps for one, steps in zip(self.costs, self.bucket_steps, strict=True))

    def mean_of(self, cost: Callable[[Cost], int]) -> int | float:
        """The mean over the steps, of what a sample costs at each: a whole number wherever it is one."""
        total, steps = self.sum_of(cost), self.training.steps
        return total / steps if total % steps else total // steps

    @property
    def text_dropout(self) -> float:
        """The probability that training sees a sample without its text: that all encoders are dropped."""
        each = self.text.each_dropout
        return self.training.text_dropout if each is None else each ** len(self.text.spans)

    @property
    def train_flops(self) -> int:
        """Of the whole training, exactly."""
        return self.sum_of(lambda cost: cost.flops().train) * self.training.batch

    def identity(self) -> dict[str, Any]:
        """The fields that are hashed: those without a default, and those that differ from it.

        Those of training, and of the first backbone, stand side by side with the others: so they did in the first ids.
        """
        apart = {"data", "text", "model", "training", "plugins"}
        fields = self.model_dump(mode="json", exclude_defaults=True, exclude=apart)
        training = self.training.model_dump(mode="json", exclude_defaults=True, exclude={*_NOT_IDENTITY, "schedule"})
        model = BACKBONES.identity(self.model)
        fields |= {"model": model} if BACKBONES.tag in model else model
        optional = {
            "text": TEXT.identity(self.text),
            "schedule": SCHEDULES.identity(self.training.schedule),
            "plugins": sorted(plugin.sha256 for plugin in self.plugins),
        }
        return {
            **training,
            **fields,
            **{key: value for key, value in optional.items() if value},
            "data": data_identity(self.data),
        }

    @cached_property
    def trial_id(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the identity in canonical JSON."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def identity_record(self) -> dict[str, JsonValue]:
        """The whole identity, flat under dotted keys, defaults included: `model.depth`, `training.learning_rate`.

        What decides which trials are comparable. An image folder is the fingerprint of its content, not its path.
        `training.samples` is there beside steps and batch: a sweep may fix either length.
        """
        fields = self.model_dump(mode="json", exclude={"data", "plugins"})
        apart = _NOT_IDENTITY | {k for k in _LATER if fields["training"][k] is None}
        fields["training"] = {k: v for k, v in fields["training"].items() if k not in apart}
        fields["training"]["samples"] = self.training.samples
        if self.plugins:
            fields["plugins"] = [plugin.sha256 for plugin in self.plugins]
        # Text, model and schedule hold no paths of ours; a plug-in's may.
        fields["text"], fields["model"] = self.text.record(), self.model.record()
        fields["training"]["schedule"] = self.training.schedule.record()
        fields["data"] = {**self.data.record(), **data_identity(self.data)}
        return dict(_flat(fields))

    def unsaid_record(self) -> dict[str, JsonValue]:
        """What `identity_record` does not say as it was added later, flat under the same keys."""
        training: dict[str, JsonValue] = {"schedule": self.training.schedule.unsaid()}
        fields: dict[str, JsonValue] = {
            "text": self.text.unsaid(), "model": self.model.unsaid(), "training": training, "data": self.data.unsaid(),
        }  # fmt: skip
        return dict(_flat(fields))

    def parameters(self) -> dict[str, str | int | float]:
        """Everything derived, once: recorded with the run and read by `analysis` (keys of `names.PARAMS`)."""
        groups = self.shape.parameters()
        model, training = self.model, self.training
        return {
            "formulation": self.formulation,
            "data": self.data.name,
            "resolution": self.data.resolution,
            "depth": model.depth,
            "width": model.width,
            "heads": model.heads,
            "patch": model.patch,
            "parameters": sum(groups.values()),
            "parameters_core": sum(groups.get(group, 0) for group in CORE),
            "forward_flops": self.mean_of(lambda cost: cost.flops().forward),
            "train_flops_per_step": self.mean_of(lambda cost: cost.flops().train * training.batch),
            "train_flops": self.train_flops,
            "steps": training.steps,
            "batch": training.batch,
            "samples": training.samples,
            "image_tokens": self.mean_of(lambda cost: cost.image_tokens),
            "tokens": self.mean_of(lambda cost: cost.tokens),
            "learning_rate": training.learning_rate,
            "lr_rule": training.lr_rule,
            "warmup_steps": training.warmup_steps,
            "ema_decay": training.ema_decay,
            "ema_every": training.ema_every,
            "precision": training.precision,
            "text_dropout": self.text_dropout,
            "timestep_shift": training.timestep_shift,
            "curve_ends": names.ALL_POINTS if training.schedule.anytime else names.LAST_POINT,
            "seed": self.seed,
        }


def _flat(fields: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, json.dumps(value)
        else:
            yield prefix + key, value
