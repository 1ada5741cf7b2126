"""rfscale: scaling-law experiments for rectified-flow transformers, from one sweep file to an honest comparison.

    import rfscale
    sweep = rfscale.load("experiments/quickstart.yaml")     # its trials; nothing is trained
    study = rfscale.open("experiments/quickstart.yaml")     # with the store of its results
    study.plan(), study.run(), study.evaluate(), study.report(), study.compare()

What is used is loaded when it is first asked for: `import rfscale` alone loads no torch, no Ray and no MLflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfscale.run.study import Study
    from rfscale.run.study import open_study as open
    from rfscale.spec.sweep_file import load_sweep as load

__version__ = "0.1.0"
__all__ = ["Study", "__version__", "load", "open"]

_PLACES = {
    "Study": ("rfscale.run.study", "Study"),
    "load": ("rfscale.spec.sweep_file", "load_sweep"),
    "open": ("rfscale.run.study", "open_study"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'rfscale' has no attribute {name!r}")
    module, thing = _PLACES[name]
    return getattr(import_module(module), thing)
