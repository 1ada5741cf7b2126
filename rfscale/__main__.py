"""`python -m rfscale`: the command, where its script is not on the path."""

from rfscale.cli import app

app(prog_name="python -m rfscale")
