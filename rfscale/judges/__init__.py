"""Judges: models and programs that score generated samples, behind one interface."""

from __future__ import annotations

from pathlib import Path

from rfscale.data.spec import DataSpec
from rfscale.judges.base import Generate, Judge, JudgeError, Progress, Score
from rfscale.judges.spec import ClipJudge, GenEvalJudge, GlyphsJudge, InceptionJudge, JudgeSpec, ShapesJudge

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
    data: DataSpec,
    cache: Path,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> Judge:
    """The judge that `spec` describes, ready to score images of `data`.

    `cache` is a folder for what a judge must train or compute once; processes may share it. Raises JudgeError.
    """
    # Imported here: planning a sweep loads neither torch nor any model library.
    if isinstance(spec, ShapesJudge):
        from rfscale.judges.shapes.judge import load_shapes

        return load_shapes(spec, data, cache, device, progress)
    if isinstance(spec, GlyphsJudge):
        from rfscale.judges.glyphs.judge import load_glyphs

        return load_glyphs(spec, data, cache)
    if isinstance(spec, ClipJudge):
        from rfscale.judges.published.clip import load_clip

        return load_clip(spec, data, cache, device)
    if isinstance(spec, InceptionJudge):
        from rfscale.judges.published.inception import load_inception

        return load_inception(spec, data, cache, device)
    from rfscale.judges.geneval.detector import load_geneval

    return load_geneval(spec, data, cache, device)
