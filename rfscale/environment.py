"""What a result depends on beside its trial: package versions, commit, device, host. Recorded with every attempt."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("rfscale", "torch", "numpy", "scipy", "pandas", "ray", "mlflow", "safetensors", "pillow", "scikit-learn")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Python and package versions; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of the code, "+dirty" where tracked files differ from it, or "unknown" outside a git checkout."""
    folder = Path(__file__).resolve().parent
    try:
        if _git(folder, "ls-files", "--error-unmatch", __file__) == "":
            return "unknown"
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", str(folder))
        return _git(folder, "rev-parse", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe(device: str) -> dict[str, Any]:
    """Everything of this file in one record, for the attempt that runs on `device`."""
    found = {"versions": versions(), "commit": commit(), "device": device, "platform": platform.platform()}
    return {**found, "host": platform.node()}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
