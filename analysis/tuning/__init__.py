"""Tuned axes: the optimum of each by a fit, how it follows size and length, and what a value held fixed would cost."""
