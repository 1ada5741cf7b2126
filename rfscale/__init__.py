"""rfscale: scaling-law experiments for rectified-flow transformers, from one sweep file to an honest comparison.

    import rfscale
    rfscale.plan("experiments/quickstart.yaml")             # its trials and what they cost; nothing is trained
    rfscale.run("experiments/quickstart.yaml", seeds=[0, 1])
    study = rfscale.open("runs", "quickstart")              # what the store has of it
    study.compare(), study.law("rf"), study.plot.ranking(), study.gallery()

What is used is loaded when it is first asked for: `import rfscale` alone loads no torch, no Ray and no MLflow.
docs/python.md has every name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfscale.names import RfscaleError
    from rfscale.registry import allowing_plugins
    from rfscale.run.interface import import_runs, load, open_results, plan, run
    from rfscale.run.interface import open_study as open
    from rfscale.run.publish.models import load_published as load_model
    from rfscale.run.study import Study
    from rfscale.spec.sweep import Sweep

__version__ = "0.1.0"
__all__ = [
    "RfscaleError",
    "Study",
    "Sweep",
    "__version__",
    "allowing_plugins",
    "import_runs",
    "load",
    "load_model",
    "open",
    "open_results",
    "plan",
    "run",
]

_PLACES = {
    "RfscaleError": ("rfscale.names", "RfscaleError"),
    "Study": ("rfscale.run.study", "Study"),
    "Sweep": ("rfscale.spec.sweep", "Sweep"),
    "allowing_plugins": ("rfscale.registry", "allowing_plugins"),
    "import_runs": ("rfscale.run.interface", "import_runs"),
    "load": ("rfscale.run.interface", "load"),
    "load_model": ("rfscale.run.publish.models", "load_published"),
    "open": ("rfscale.run.interface", "open_study"),
    "open_results": ("rfscale.run.interface", "open_results"),
    "plan": ("rfscale.run.interface", "plan"),
}


def __getattr__(name: str) -> Any:
    if name == "run":  # the package of that name, which can be called
        return import_module("rfscale.run")
    if name not in _PLACES:
        raise AttributeError(f"module 'rfscale' has no attribute {name!r}")
    module, thing = _PLACES[name]
    return getattr(import_module(module), thing)


def __dir__() -> list[str]:
    return __all__
