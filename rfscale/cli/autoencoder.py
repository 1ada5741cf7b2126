"""Latent spaces: `train-autoencoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rfscale.cli.common import Json, StoreFolder, app, one_sentence, print_json, print_table, say, terminal
from rfscale.run.autoencoders import Trained, train_autoencoders
from rfscale.run.study import open_store
from rfscale.spec.autoencoder import load_autoencoders
from rfscale.spec.overrides import parse_fields

_COLUMNS = ("autoencoder", "latents", "parameters", "FID", "FID_se", "PSNR", "SSIM")


@app.command("train-autoencoder")
@one_sentence
def train_autoencoder(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", readable=False, help="autoencoder file (YAML), such as experiments/latents/autoencoder.yaml"
        ),
    ],
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="FIELD=VALUE", help="fields of the file, as if it said so: steps=500 'channels=[4,8]'"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", readable=False, help="folder of the autoencoders; each has a folder in it")
    ] = Path("autoencoders"),
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Train small KL autoencoders, and measure them.

    One for each number of latent channels of the file, saved as diffusers does. The table is the paper's Table 3 for
    them, on held-out images: reconstruction FID, PSNR and SSIM. What is in the folder already is not trained again.
    """
    spec = load_autoencoders(file, parse_fields(fields or ()))
    place = open_store(store)
    place.check_writable()
    found = list(train_autoencoders(spec, out, place.judges, terminal(as_json)))
    if as_json:
        print_json({"autoencoders": [_as_json(one) for one in found]})
        return
    print_table("Autoencoders, by what they give back of held-out images", _COLUMNS, [_row(one) for one in found])
    for sentence in _notes(found):
        say(sentence)


def _row(one: Trained) -> dict[str, Any]:
    numbers = {"FID": one.found.fid, "FID_se": one.found.fid_se, "PSNR": one.found.psnr, "SSIM": one.found.ssim}
    return {
        "autoencoder": str(one.folder),
        "latents": " x ".join(map(str, one.latents)),
        "parameters": one.parameters,
        **{name: value if value == value else None for name, value in numbers.items()},
        "reason": "",
    }


def _as_json(one: Trained) -> dict[str, Any]:
    found = one.found
    return {
        "folder": str(one.folder),
        "channels": one.channels,
        "latents": list(one.latents),
        "parameters": one.parameters,
        "trained": one.new,
        "images": found.images,
        "fid": found.fid,
        "fid_se": found.fid_se,
        "fid_features": found.features or None,
        "psnr": found.psnr,
        "ssim": found.ssim,
    }


def _notes(found: list[Trained]) -> list[str]:
    first = found[0].found
    by = f"on features of {first.features}" if first.features else "not known: the data have no judge with features"
    more = "" if first.features else ", and `inception` names no weights"
    told = [
        f"{first.images:,} held-out images, given back from the mean of their latents. FID is {by}{more}. PSNR in dB "
        "and SSIM: means over images, by torchmetrics. No perceptual distance: it needs published weights."
    ]
    if old := [one for one in found if not one.new]:
        told.append(f"{len(old)} of {len(found)} were trained before and are as they were.")
    return told
