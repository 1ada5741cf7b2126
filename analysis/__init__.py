"""analysis: what the numbers of a sweep mean. Reads MLflow and `rfscale.names`, nothing else of rfscale.

    import analysis
    table = analysis.read_table("runs", "quickstart")     # a store, or the address of an MLflow server
    found = analysis.compare_arms(table)                  # which arm, by how much, how surely
    analysis.scaling_laws(table).law("rf")                # and what a larger run will give
    analysis.fit("chinchilla", {"N": n, "D": d, "loss": loss})   # a law on any numbers

What is used is loaded when it is first asked for. docs/python.md has every name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.compare.arms import compare as compare_arms
    from analysis.laws.fit import fit
    from analysis.laws.ladder import ladder_laws as scaling_laws
    from analysis.quality.summary import assess as assess_quality
    from analysis.report.page import write_report
    from analysis.table.anywhere import read_table

__all__ = ["assess_quality", "compare_arms", "fit", "read_table", "scaling_laws", "write_report"]

_PLACES = {
    "assess_quality": ("analysis.quality.summary", "assess"),
    "compare_arms": ("analysis.compare.arms", "compare"),
    "fit": ("analysis.laws.fit", "fit"),
    "read_table": ("analysis.table.anywhere", "read_table"),
    "scaling_laws": ("analysis.laws.ladder", "ladder_laws"),
    "write_report": ("analysis.report.page", "write_report"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    module, thing = _PLACES[name]
    return getattr(import_module(module), thing)


def __dir__() -> list[str]:
    return __all__
