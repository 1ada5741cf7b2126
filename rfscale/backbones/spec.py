"""What the transformers share in a trial, and as a ladder of sizes in a sweep file. Imports no torch.

A backbone of this family is a folder: a spec (`TransformerSpec`) that names its shape, its costs (`TransformerShape`)
and its network (`rfscale.backbones.layers.Transformer`), and one line in `BACKBONES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rfscale.backbones.base import BackboneSpec, Ladder
from rfscale.backbones.cost import TransformerShape
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec
from rfscale.numbers import Depth, Heads, Listed, Patch, Ratio, Width

if TYPE_CHECKING:
    from torch import nn


class TransformerSpec(BackboneSpec):
    """A transformer on patches. A subclass names itself in `backbone`, its costs in `costs`, and builds its network."""

    costs: ClassVar[type[TransformerShape]]
    depth: Depth
    width: Width
    heads: Heads
    patch: Patch
    mlp_ratio: Ratio = Field(default=4, description="MLP width / width")
    qk_norm: bool = Field(default=True, description="RMS norm of queries and keys")

    def shape(self, data: DataSource, text: EncoderSpec) -> TransformerShape:
        own = self.model_dump(exclude={"backbone"})
        return type(self).costs(
            **own,
            resolution=data.resolution,
            channels=data.channels,
            context_length=sum(text.parts),
            context_parts=text.parts,
            context_width=text.width,
            pooled_width=text.pooled_width,
        )

    def parts(self, network: nn.Module) -> Iterable[nn.Module]:
        return network.get_submodule("blocks").children()

    @property
    def width_step(self) -> int:
        """The network can have the widths that are multiples of this number: heads of equal width, and sine and cosine
        of both axes in the positions."""
        return math.lcm(self.heads, 4)


Quantity = Literal["flops", "parameters"]
"""What two networks are made equal in."""


class TransformerLadder(Ladder):
    """SD3 ties everything to the depth d: width 64 d, d heads, MLP 4 times the width (section 4.1)."""

    tied = frozenset({"backbone", "depth", "width"})
    width_per_depth: Width = Field(default=64, description="width / depth; 64 is the paper's, CPU ladders want less")
    widths: Annotated[tuple[Width, ...], Listed, Field(min_length=1)] | None = Field(
        default=None, description="the width of each size, one for each of depths, in place of width_per_depth"
    )
    match: Quantity | None = Field(
        default=None,
        description="flops or parameters: the widths that come nearest to the first arm in these, in place of "
        "width_per_depth",
    )
    heads: Heads | None = Field(default=None, description="attention heads; must divide every width [default: depth]")
    patch: Patch = Field(default=2, description="side of a patch in pixels; must divide the resolution")

    @model_validator(mode="after")
    def _one_width_each(self) -> Self:
        if self.widths is None:
            return self
        if "width_per_depth" in self.model_fields_set:
            raise ValueError("width_per_depth and widths both set the width; remove one of them")
        if len(self.widths) != len(self.depths) or len(set(self.depths)) < len(self.depths):
            raise ValueError(
                f"widths has {len(self.widths)} entries and depths {len(set(self.depths))} different ones; give one "
                f"width for each depth"
            )
        return self

    def width(self, depth: int) -> int:
        """Of the size of that depth."""
        return self.width_per_depth * depth if self.widths is None else self.widths[self.depths.index(depth)]

    def at(self, depth: int) -> BackboneSpec:
        given = self.model_dump(exclude={"depths", "width_per_depth", "widths", "match"})
        sizes = {"depth": depth, "width": self.width(depth), "heads": self.heads or depth}
        return type(self).spec.model_validate({**given, **sizes})


TransformerSpec.sizes = TransformerLadder
