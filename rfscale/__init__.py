"""rfscale: how to run scaling-law experiments for rectified-flow transformers. See README.md for the map."""

__version__ = "0.1.0"
