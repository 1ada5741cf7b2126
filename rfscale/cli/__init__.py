"""The `rfscale` command: parse, call, print. Everything heavy is imported by the command that needs it."""

# ruff: noqa: I001 -- the order of the imports is that of the commands in --help
from rfscale.cli.common import app
from rfscale.cli import init
from rfscale.cli import encode
from rfscale.cli import plan
from rfscale.cli import coordcheck
from rfscale.cli import train
from rfscale.cli import stop
from rfscale.cli import quality
from rfscale.cli import results
from rfscale.cli import predict
from rfscale.cli import ledger
from rfscale.cli import rate
from rfscale.cli import laws
from rfscale.cli import publish
from rfscale.cli import autoencoder

__all__ = [
    "app",
    "autoencoder",
    "coordcheck",
    "encode",
    "init",
    "laws",
    "ledger",
    "plan",
    "predict",
    "publish",
    "quality",
    "rate",
    "results",
    "stop",
    "train",
]
