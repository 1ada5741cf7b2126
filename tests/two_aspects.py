"""An image folder of two aspect ratios: coloured shapes on landscapes of 3:2 and portraits of 2:3.

    python tests/two_aspects.py experiments/two-aspects

What `experiments/buckets.yaml` trains on, and the tests in small. On a landscape the second shape is to the right of
the first, on a portrait below it.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 25, 35), "yellow": (255, 240, 70), "green": (40, 175, 60), "blue": (40, 95, 245)}
SHAPES = ("circle", "square", "triangle")
LONG, SHORT = 72, 48
GROUND = (56, 56, 56)


def draw_folder(folder: Path, count: int, landscapes: float = 0.5) -> None:
    """`count` images, that share of them landscapes, with their metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    lines = []
    for number in range(count):
        image, text = _draw(chance, wide=number < round(count * landscapes))
        name = f"{number:04}.png"
        image.save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": text}))
    (folder / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _draw(chance: random.Random, wide: bool) -> tuple[Image.Image, str]:
    width, height = (LONG, SHORT) if wide else (SHORT, LONG)
    large = Image.new("RGB", (4 * width, 4 * height), GROUND)
    draw = ImageDraw.Draw(large)
    told = []
    for middle in (LONG / 4, 3 * LONG / 4):  # the middles of the two squares that the canvas is
        shape, colour, half = chance.choice(SHAPES), chance.choice(list(COLOURS)), chance.uniform(9, 14)
        across = SHORT / 2 + chance.uniform(-8, 8)
        x, y = (middle, across) if wide else (across, middle)
        left, top, right, bottom = (4 * v for v in (x - half, y - half, x + half, y + half))
        if shape == "circle":
            draw.ellipse((left, top, right, bottom), fill=COLOURS[colour])
        elif shape == "square":
            draw.rectangle((left, top, right, bottom), fill=COLOURS[colour])
        else:
            draw.polygon(((left, bottom), (right, bottom), ((left + right) / 2, top)), fill=COLOURS[colour])
        told.append(f"a {colour} {shape}")
    return large.resize((width, height), Image.Resampling.BOX), f"{told[0]} {'left of' if wide else 'above'} {told[1]}"


if __name__ == "__main__":
    draw_folder(Path(sys.argv[1]), count=1200)
