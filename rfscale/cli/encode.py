"""Before training: `encode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rfscale.cli.common import Address, Json, app, one_sentence, print_json, say, terminal

EncodingFile = Annotated[
    Path, typer.Argument(metavar="ENCODE", readable=False, help="file (YAML) that says what is encoded, by what")
]
Out = Annotated[
    Path | None,
    typer.Argument(metavar="[OUT]", readable=False, help="folder of the encoded data [default: beside the file]"),
]


@app.command()
@one_sentence
def encode(
    source: EncodingFile,
    folder: Out = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="say bytes and hours, from a few samples that are timed; write nothing")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="read every shard, and name those that are damaged; ENCODE may be OUT alone"),
    ] = False,
    inline: Annotated[bool, typer.Option("--inline", help="encode in this process, without Ray")] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Encode pictures and captions to shards, once.

    Latents of an autoencoder (mean and log variance), and what CLIP and T5 give for every caption, are written as
    safetensors shards; `data: {name: encoded, path: OUT}` trains from them. Each shard is a Ray task, and is there
    whole or not at all: the same command goes on after a kill, and makes again what was damaged and removed.
    """
    from rfscale.run.effort import size
    from rfscale.run.encoding.encode import encode as encode_all
    from rfscale.run.encoding.plan import planned
    from rfscale.run.encoding.spec import read_encoding

    if verify:
        check_encoded(folder or (source if source.is_dir() else _beside(source)), as_json)
        return
    encoding = read_encoding(source)
    out = folder or _beside(source)
    if plan:
        found = planned(encoding, address)
        if as_json:
            print_json({"folder": str(out), **found.said()})
        else:
            say(found.sentence)
        return
    with terminal(as_json).counting() as progress:
        done = encode_all(encoding, out, address=address, inline=inline, progress=progress)
    record: dict[str, Any] = dict(done.record)
    if as_json:
        shown = {key: record[key] for key in ("content", "training", "held_out", "latent")}
        print_json(
            {"folder": str(out), "shards": len(record["shards"]), "kept": done.kept, "bytes": done.bytes, **shown}
        )
        return
    say(
        f"{record['training']:,} samples and {record['held_out']:,} held out, {len(record['shards']):,} shards, "
        f"{size(done.bytes)}: {out}"
    )
    for one in record["text"]:
        if one["truncated"]:
            say(f"note: {one['truncated']:,} captions have more than {one['length']} tokens of {one['encoder']}: cut")


def check_encoded(folder: Path, as_json: bool) -> None:
    """`encode --verify`: every byte of the shards is read, also where they were whole before."""
    from rfscale.data.encoded.checks import verify
    from rfscale.data.encoded.files import read_record
    from rfscale.run.effort import size

    record = read_record(str(folder))
    with terminal(as_json).counting() as progress:
        count = verify(folder, record, progress=progress)
    held = sum(int(one["bytes"]) for one in record["shards"])
    if as_json:
        print_json({"folder": str(folder), "files": count, "bytes": held, "whole": True})
    else:
        say(f"{count:,} files, {size(held)}, hold what was written: {folder}")


def _beside(source: Path) -> Path:
    return source.with_name(f"{source.stem}-encoded")
