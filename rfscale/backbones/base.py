"""What every backbone gives: its spec, its costs in closed form, and its network. Imports no torch.

A new backbone is a folder with a `BackboneSpec` and one line in `BACKBONES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, create_model

from rfscale.backbones.cost import Flops
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec
from rfscale.numbers import Depth, Heads, Listed, Patch, Width
from rfscale.registry import Kind, Spec

if TYPE_CHECKING:
    from torch import Generator, nn


CORE = ("attention", "mlp", "convolution")
"""Groups of parameters that do the work on tokens, in every block."""

SYMBOLS = {
    "x, c": "image tokens, text tokens",
    "d": "width",
    "e": "head width, d / heads (QK-norm has a scale of e numbers)",
    "m": "MLP width / d",
    "n, l": "number of image tokens, of text tokens",
    "k": "number of text encoders",
    "M(u)": "LN(u) (1 + scale) + shift",
    "g": "gate, as scale and shift a linear layer of y, of time and pooled text",
}
"""What the letters in the facts of a backbone stand for."""


class Cost(Protocol):
    """What a network costs, in closed form: exact, and held to torch's own counter by a test."""

    @property
    def image_tokens(self) -> int: ...

    @property
    def tokens(self) -> int:
        """Image and context tokens."""
        ...

    def parameters(self) -> dict[str, int]:
        """Trainable parameters per group; those of `CORE` are the core."""
        ...

    def parameter_count(self) -> int: ...

    def flops(self) -> Flops:
        """Of one sample."""
        ...


@runtime_checkable
class CostOfSides(Cost, Protocol):
    """Of a network that takes images of any height and width; one that has no `at` takes the square alone."""

    def at(self, sides: tuple[int, int]) -> Self:
        """The same network on images of that height and width. Raises ValueError where it cannot take them."""
        ...


class BackboneSpec(Spec):
    """One network, everything resolved, as a trial carries it. A subclass names itself in `backbone`, and may add
    fields of its own. Never change a default: it is not in the ids."""

    sizes: ClassVar[type[Ladder]]
    """What its ladder begins with: how the sizes of a sweep follow from a depth."""
    equation: ClassVar[str] = ""
    """One block, in the words of `SYMBOLS`. This and what follows is for people; "" where it is not said."""
    block_flops: ClassVar[str] = ""
    """Forward FLOPs of one block before the last, of one sample."""
    block_parameters: ClassVar[str] = ""
    """Parameters of one block before the last."""
    mup: ClassVar[bool] = False
    """Whether `lr_rule: mup` knows it: every matrix is named and drawn as in `rfscale.backbones.layers`."""
    source: ClassVar[str] = ""
    """Paper and section."""
    backbone: str
    depth: Depth
    width: Width
    heads: Heads = 1
    patch: Patch = 1

    def shape(self, data: DataSource, text: EncoderSpec) -> Cost:
        """The network's costs on that data. Raises ValueError, in one sentence, where it does not fit."""
        raise NotImplementedError

    def build(self, data: DataSource, text: EncoderSpec, generator: Generator | None = None) -> nn.Module:
        """The network: (z (b, c, h, w), time (b,), condition) -> (b, c, h, w). All weights come from `generator`."""
        raise NotImplementedError

    def parts(self, network: nn.Module) -> Iterable[nn.Module]:
        """What is compiled, each by itself, under `resources: {compile: true}`."""
        return (network,)

    @classmethod
    def facts(cls) -> dict[str, str]:
        """What it is, for people; what it does not say is left out."""
        keys = ("equation", "block_flops", "block_parameters", "source")
        return {key: fact for key in keys if (fact := str(getattr(cls, key)))}

    @classmethod
    def ladder(cls) -> type[Ladder]:
        """What a sweep file says under `model:`: the fields of the spec, with a list of depths in the place of one."""
        return _ladder(cls)


class Ladder(BaseModel):
    """The model sizes of a sweep, as it says them under `model:`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: ClassVar[type[BackboneSpec]]
    tied: ClassVar[frozenset[str]] = frozenset({"backbone", "depth"})
    """Fields of the spec that follow from the ladder, and that a sweep file does not say."""
    backbone: str = "mmdit"
    depths: Annotated[tuple[Depth, ...], Listed, Field(min_length=1, description="blocks of each size")]

    def at(self, depth: int) -> BackboneSpec:
        """The network of that depth."""
        given = self.model_dump(exclude={"depths", "backbone"})
        return type(self).spec.model_validate({**given, "depth": depth, "backbone": self.backbone})


@cache
def _ladder(spec: type[BackboneSpec]) -> type[Ladder]:
    fields: dict[str, Any] = {
        key: (info.annotation if not info.metadata else Annotated[(info.annotation, *info.metadata)], info)
        for key, info in spec.model_fields.items()
        if key not in spec.sizes.tied and key not in spec.sizes.model_fields
    }
    made: type[Ladder] = create_model(f"{spec.__name__}Ladder", __base__=spec.sizes, __doc__=spec.__doc__, **fields)
    made.spec = spec
    return made


BackboneSpec.sizes = Ladder

BACKBONES = Kind(
    "backbones",
    "model",
    "backbone",
    "mmdit",
    {
        "mmdit": "rfscale.backbones.mmdit.spec:MMDiTSpec",
        "mmdit3": "rfscale.backbones.mmdit3.spec:MMDiT3Spec",
        "dit": "rfscale.backbones.dit.spec:DiTSpec",
        "crossdit": "rfscale.backbones.crossdit.spec:CrossDiTSpec",
        "uvit": "rfscale.backbones.uvit.spec:UViTSpec",
    },
    written=lambda spec: spec.ladder(),
    family=True,
)
