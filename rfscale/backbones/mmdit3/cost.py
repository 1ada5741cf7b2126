"""Sizes of an MM-DiT with a set of weights per text encoder. Imports no torch."""

from dataclasses import dataclass

from rfscale.backbones.mmdit.cost import MMDiTShape


@dataclass(frozen=True)
class MMDiT3Shape(MMDiTShape):
    """The image has one set of weights in each block, and each part of the text has one. Raises ValueError where the
    text has one part."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.parts) < 2:
            raise ValueError(
                "backbone mmdit3 has a set of weights for each of several text encoders, and the text has one; set "
                "text.encoders to 2, or take backbone mmdit."
            )

    @property
    def streams(self) -> tuple[int, ...]:
        return self.parts
