"""A logged model of MLflow, loaded: it draws images of captions.

    mlflow.pyfunc.load_model("models:/m-...").predict(["a red circle"], params={"guidance": 4.0})

gives uint8 pixels (captions, height, width, channels). `MLmodel` names this module; MLflow calls `_load_pyfunc`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfscale.run.images import draw_by, trial_of
from rfscale.store import TrialFolder

COLUMN = "prompt"


class Drawer:
    """What `predict` is called of. `folder`: with the record of the trial and its EMA weights."""

    def __init__(self, folder: Path) -> None:
        self._folder = TrialFolder(folder)
        self._trial = trial_of(self._folder)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """One image of each caption. `model_input`: captions, or a table with a column `prompt`, or with one column;
        `params`: `steps`, `guidance` and `seed`, as of `rfscale.run.images.draw_by`. Raises SweepError."""
        if hasattr(model_input, "columns"):
            model_input = model_input[COLUMN if COLUMN in model_input.columns else model_input.columns[0]]
        prompts = [model_input] if isinstance(model_input, str) else [str(prompt) for prompt in model_input]
        return draw_by(self._folder, self._trial, prompts, **{"count": 1, **(params or {})}).pixels


def _load_pyfunc(path: str) -> Drawer:
    return Drawer(Path(path))
