"""Judges: models and programs that score generated samples, behind one interface."""

from __future__ import annotations

from pathlib import Path

from rfscale.data.spec import DataSource
from rfscale.judges.base import Generate, Judge, Score
from rfscale.judges.geneval.spec import GenEvalJudge
from rfscale.judges.glyphs.spec import GlyphsJudge
from rfscale.judges.published.spec import ClipJudge, InceptionJudge
from rfscale.judges.shapes.spec import ShapesJudge
from rfscale.spec.judging import JudgeError, JudgeSpec, Progress

__all__ = [
    "ClipJudge",
    "GenEvalJudge",
    "Generate",
    "GlyphsJudge",
    "InceptionJudge",
    "Judge",
    "JudgeError",
    "JudgeSpec",
    "Progress",
    "Score",
    "ShapesJudge",
    "load_judge",
]


def load_judge(
    spec: JudgeSpec,
    data: DataSource,
    cache: Path,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> Judge:
    """The judge that `spec` describes, ready to score images of `data`.

    `cache` is a folder for what a judge must train or compute once; processes may share it. Raises JudgeError.
    """
    return spec.load(data, cache, device, progress)
