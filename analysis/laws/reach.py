"""How far beyond the runs that a law was fitted to a prediction is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.laws.forms import Array

FAR = 10.0
"""Beyond this many times the largest size or compute that was fitted, a prediction is said to be far."""
EXTRAPOLATED = 1.05
"""Beyond this many times what was trained, a size or a length is said to be extrapolated."""
COMPUTE = "compute"
"""The product of N and D, where a law has both."""


def sizes(x: Mapping[str, Array]) -> dict[str, Array]:
    """Each variable, and the compute (as N D) where both are there."""
    return dict(x) | ({COMPUTE: np.asarray(x["N"] * x["D"])} if {"N", "D"} <= set(x) else {})


def largest(x: Mapping[str, Array]) -> dict[str, float]:
    """The largest fitted of each of `sizes`."""
    return {name: float(np.max(values)) for name, values in sizes(x).items()}


def beyond(fitted: Mapping[str, float], at: Mapping[str, Array]) -> dict[str, Array]:
    """By which factor points (m,) go beyond the largest that was fitted, for each of `sizes` that is known of both."""
    return {name: np.asarray(values / fitted[name]) for name, values in sizes(at).items() if name in fitted}


def far_words(factors: Mapping[str, float]) -> str:
    """A sentence where one of the factors is beyond `FAR`, about the compute first; else empty."""
    name = max(factors, key=lambda key: (factors[key] > FAR, key == COMPUTE, factors[key]), default="")
    if not name or not factors[name] > FAR:
        return ""
    return (
        f"{factors[name]:.3g} times the largest {name} that was fitted: beyond {FAR:g} times a law is a guess, however "
        f"narrow its interval"
    )
