"""A user's plug-in: a backbone and a data set in one file, named by `plugins: [plugin_example.py]` in a sweep."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from rfscale.backbones.base import BACKBONES, BackboneSpec
from rfscale.backbones.cost import Flops
from rfscale.data.base import Captioned
from rfscale.data.spec import DATA, DataSource


class Cost:
    image_tokens, tokens = 1, 17

    def __init__(self, spec, pixels):
        self.weights = {"mlp": spec.depth * pixels * (pixels + 1)}

    def parameters(self):
        return self.weights

    def parameter_count(self):
        return self.weights["mlp"]

    def flops(self):
        return Flops(2 * self.parameter_count(), 6 * self.parameter_count(), 0)


class Layers(nn.Module):
    def __init__(self, depth, pixels, generator):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(pixels, pixels) for _ in range(depth))
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 0.01, generator=generator)

    def forward(self, z, time, condition):
        x = z.flatten(1)
        for layer in self.layers:
            x = x + layer(torch.tanh(x)) * time[:, None]
        return x.view_as(z)


@BACKBONES.add
class PlainSpec(BackboneSpec):
    """Linear layers on all pixels at once; it does not read the caption."""

    backbone: Literal["plain"] = "plain"

    def shape(self, data, text):
        return Cost(self, data.channels * data.resolution**2)

    def build(self, data, text, generator=None):
        return Layers(self.depth, data.channels * data.resolution**2, generator)


class Stripes:
    def _draw(self, rows, resolution=8):
        phase = np.asarray(rows, dtype=np.float32)[:, None, None, None]
        x = np.arange(resolution, dtype=np.float32)[None, None, None, :] + np.zeros((1, 3, resolution, 1), np.float32)
        return Captioned(np.sin(x + phase).astype(np.float32), tuple(f"phase {int(row) % 7}" for row in rows))

    def train(self, seed, first, count):
        return self._draw(range(seed + first, seed + first + count))

    def validation(self, count):
        return self._draw(range(10**6, 10**6 + count))


@DATA.add
class StripesData(DataSource):
    """Sine waves of a random phase."""

    name: Literal["stripes"] = "stripes"
    resolution: int = 8

    def load(self):
        return Stripes()
