"""Labels of judges, and whether the files that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

from rfscale.paths import expanded
from rfscale.spec.judging import JudgeError


def short(model: str) -> str:
    """The last part of a path or a hub name."""
    return plain(Path(model).name)


def plain(text: str) -> str:
    """As part of a label, and so of a metric's name: MLflow refuses other characters, and "/" separates its parts."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def check_file(judge: str, key: str, path: str | None) -> None:
    """Raises JudgeError where a file that is named is missing."""
    if path is not None and not expanded(path, f"the judge `{judge}`: {key}").is_file():
        raise JudgeError(f"the judge `{judge}`: there is no file {path} ({key}); correct the path")


def check_model(judge: str, key: str, model: str) -> None:
    """A name that can only be a path must exist; `owner/name` may be on the hub."""
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_local and not expanded(model, f"the judge `{judge}`: {key}").is_dir():
        raise JudgeError(f"the judge `{judge}`: there is no folder {model} ({key}); correct the path")
