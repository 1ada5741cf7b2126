"""Latent spaces: `train-autoencoder`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rfscale.cli.common import Json, StoreFolder, app, one_sentence, print_json, print_table, say, terminal
from rfscale.run.autoencoders import Trained, train_autoencoders
from rfscale.run.study import open_store
from rfscale.spec.autoencoder import load_autoencoders
from rfscale.spec.overrides import parse_fields

if TYPE_CHECKING:
    from rfscale.judges.reconstruction import Reconstruction

_COLUMNS = ("autoencoder", "latents", "parameters", "FID", "FID_se", "PSNR", "SSIM")
_PERCEPTUAL = ("LPIPS", "LPIPS_se")


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
    them, on held-out images: reconstruction FID, PSNR and SSIM, and LPIPS where the file names weights as `lpips`. What
    is in the folder already is not trained again.
    """
    spec = load_autoencoders(file, parse_fields(fields or ()))
    place = open_store(store)
    place.check_writable()
    found = list(train_autoencoders(spec, out, place.judges, terminal(as_json)))
    if as_json:
        print_json({"autoencoders": [_as_json(one) for one in found]})
        return
    columns = (*_COLUMNS, *(_PERCEPTUAL if any(one.found.perceptual for one in found) else ()))
    print_table("Autoencoders, by what they give back of held-out images", columns, [_row(one) for one in found])
    for sentence in _notes(found):
        say(sentence)


def _row(one: Trained) -> dict[str, Any]:
    numbers = {"FID": one.found.fid, "FID_se": one.found.fid_se, "PSNR": one.found.psnr, "SSIM": one.found.ssim,
               "LPIPS": one.found.lpips, "LPIPS_se": one.found.lpips_se}  # fmt: skip
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
        "lpips": found.lpips,
        "lpips_se": found.lpips_se,
        "lpips_network": found.perceptual or None,
    }


def _notes(found: list[Trained]) -> list[str]:
    first = found[0].found
    by = f"on features of {first.features}" if first.features else "not known: the data have no judge with features"
    more = "" if first.features else ", and `inception` names no weights"
    told = [
        f"{first.images:,} held-out images, given back from the mean of their latents. FID is {by}{more}. PSNR in dB "
        f"and SSIM: means over images, by torchmetrics. {_perceptual(first)}"
    ]
    if old := [one for one in found if not one.new]:
        again = sum(one.measured for one in old)
        were = f"; {again} of them were measured again, by weights that are new" if again else " and are as they were"
        told.append(f"{len(old)} of {len(found)} were trained before{were}.")
    return told


def _perceptual(found: Reconstruction) -> str:
    if not found.perceptual:
        return "No LPIPS: `lpips` names no weights."
    known = "mean over images" if found.lpips == found.lpips else "not known: the images are smaller than it reads"
    return f"LPIPS on {found.perceptual}: {known}."
