"""encode.yaml: what is encoded, by what, and to what. Loads no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, ValidationError

from rfscale.data.encoded.files import FORMAT
from rfscale.data.encoded.networks import autoencoder_folder, content, text_folders, text_shape
from rfscale.data.encoded.text import Layer, Part
from rfscale.data.pairs import CaptionsField, Weights
from rfscale.data.spec import DATA, DataSource, DataSpec, PairsData
from rfscale.numbers import Batch, Real, Whole
from rfscale.quoting import cut, quoted
from rfscale.spec.sentences import sentence, unknown_key
from rfscale.spec.sweep import Resources, SweepError
from rfscale.spec.sweep_file import read_mapping
from rfscale.spec.trial import Strict


class AutoencoderPart(Strict):
    """`path`: a folder of diffusers' AutoencoderKL, or its name on the hub. `sample`: training draws latents from their
    mean and variance; false takes the mean."""

    path: Annotated[str, Field(min_length=1)]
    sample: bool = True


class TextPart(Strict):
    """A text encoder of transformers."""

    encoder: Literal["clip", "t5"]
    path: Annotated[str, Field(min_length=1)]
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    length: Annotated[int, Whole(1, 4096)] = 77
    layer: Layer | None = None

    @property
    def taken(self) -> Layer:
        """The layer, also where none is said: the paper's."""
        return self.layer or ("penultimate" if self.encoder == "clip" else "last")


class Machine(Strict):
    """What one task, which encodes one shard, takes of a machine."""

    cpus: Annotated[float, Real(0, 100_000, low_open=True)] = 1
    gpus: Annotated[float, Real(0, 100_000)] = 0
    memory_gb: Annotated[float, Real(0, 1e6, low_open=True)] | None = None

    def resources(self) -> Resources:
        return Resources(cpus=self.cpus, gpus=self.gpus, memory_gb=self.memory_gb)


class Encoding(Strict):
    """What `rfscale encode` reads."""

    source: DataSpec
    autoencoder: AutoencoderPart
    text: tuple[TextPart, ...] = ()
    resolution: Annotated[int, Whole(8, 1024)] | None = None
    captions: Annotated[Weights, CaptionsField()] = ()
    samples: Annotated[int, Whole(1, 10**9)] | None = None
    held_out: Annotated[int, Whole(1, 10**7)] | None = None
    dtype: Literal["fp16", "bf16"] = "fp16"
    shard: Annotated[int, Whole(1, 10**6)] = 1000
    batch: Batch = 16
    resources: Machine = Machine()

    @property
    def is_endless(self) -> bool:
        return not isinstance(self.source, PairsData)

    @property
    def weights(self) -> Weights:
        """Caption columns and their weights."""
        chosen = self.source.captions if isinstance(self.source, PairsData) else ()
        return chosen or (("text", 1.0),)

    def networks(self) -> Networks:
        """Where the networks lie, and what they are. Raises DataError."""
        folder = autoencoder_folder(self.autoencoder.path)
        parts, folders = [], []
        for number, one in enumerate(self.text):
            what = f"text[{number}]"
            found = text_folders(one.encoder, one.path, one.tokenizer, what)
            width, pooled = text_shape(one.encoder, found[0], what)
            folders.append(found)
            parts.append(
                Part(encoder=one.encoder, length=one.length, width=width, pooled=pooled, layer=one.taken,
                     sha256=content(*found), path=_kept(one.path), tokenizer=_kept(one.tokenizer or ""))
            )  # fmt: skip
        return Networks(
            autoencoder=folder,
            sha256=content(folder),
            path=_kept(self.autoencoder.path),
            parts=tuple(parts),
            folders=tuple(folders),
        )


class Networks(BaseModel):
    """The networks of an encoding: their folders, and the hashes of what they hold."""

    autoencoder: Path
    sha256: str
    path: str
    parts: tuple[Part, ...]
    folders: tuple[tuple[Path, Path], ...]


def identity_of(encoding: Encoding, networks: Networks, source: Mapping[str, JsonValue]) -> dict[str, Any]:
    """All that the shards depend on, by content."""
    return {
        "format": FORMAT,
        "source": dict(source),
        "samples": encoding.samples,
        "held_out": encoding.held_out,
        "autoencoder": networks.sha256,
        "text": [part.said() for part in networks.parts],
        "dtype": encoding.dtype,
        "shard": encoding.shard,
        "batch": encoding.batch,
    }


def key_of(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_encoding(path: Path) -> Encoding:
    """The encoding that a file describes; paths in it are relative to it. Raises SweepError: one sentence."""
    return parse_encoding(read_mapping(path), str(path), path.parent)


def parse_encoding(raw: Mapping[str, Any], source: str = "encode.yaml", folder: Path | None = None) -> Encoding:
    """The same of a mapping. Raises SweepError."""
    _check_keys(raw, Encoding, source, "")
    found = dict(raw)
    for name, model in (("autoencoder", AutoencoderPart), ("resources", Machine)):
        if isinstance(raw.get(name), Mapping):
            _check_keys(raw[name], model, source, name)
    if isinstance(raw.get("autoencoder"), str):
        found["autoencoder"] = {"path": raw["autoencoder"]}
    for number, one in enumerate(raw.get("text") or ()):
        if isinstance(one, Mapping):
            _check_keys(one, TextPart, source, f"text[{number}]")
    given = raw.get("source")
    given = {"name": given} if isinstance(given, str) else given
    if isinstance(given, Mapping):
        if given.get("name") == "encoded":
            raise SweepError(f"{source}: the source is encoded already; name the data that it was made from")
        beside = {key: raw[key] for key in ("resolution", "captions") if key in raw}
        for key in beside:
            if key in given:
                raise SweepError(f"{source}: {key} stands at the top and under source; write it once")
        chosen = DATA.get(str(given.get("name"))) if given.get("name") in DATA else None
        if chosen is not None and "captions" in beside and "captions" not in chosen.model_fields:
            raise SweepError(f"{source}: data `{given['name']}` have one caption each; take captions out")
        found["source"] = {**given, **beside}
    try:
        encoding = Encoding.model_validate(_located(found, folder), context={"folder": folder})
    except ValidationError as error:
        raise SweepError(f"{source}: {sentence(error)}") from error
    _check(encoding, source)
    return encoding


def _check(encoding: Encoding, where: str) -> None:
    source = encoding.source
    if source.sides != (source.square,):
        raise SweepError(f"{where}: buckets cannot be encoded, square images only; take source.buckets out")
    if getattr(source, "flips", False):
        raise SweepError(f"{where}: source.flips mirrors images at training, and latents cannot be; take it out")
    given = [key for key in ("samples", "held_out") if getattr(encoding, key) is not None]
    if encoding.is_endless and len(given) < 2:
        raise SweepError(f"{where}: data `{source.name}` have no end; write samples and held_out, how many of it")
    if not encoding.is_endless and given:
        raise SweepError(
            f"{where}: {given[0]} is for data without an end, and data `{source.name}` have one; take it out"
        )
    if source.channels != 3:
        raise SweepError(f"{where}: data `{source.name}` have {source.channels} channel, and autoencoders take 3")


def _check_keys(given: Mapping[str, Any], model: type[BaseModel], source: str, section: str) -> None:
    for key in given:
        if key not in model.model_fields:
            raise SweepError(f"{source}: {unknown_key(str(key), section, list(model.model_fields))}")
    if any(value is None for value in given.values()):
        empty = next(key for key, value in given.items() if value is None)
        raise SweepError(f"{source}: {quoted(cut(f'{section}.{empty}'.lstrip('.')))} is empty; give it a value")


def _located(found: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """With the paths of networks that lie beside the file; what does not may be a name on the hub."""

    def at(given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        paths = {key: _beside(folder, given[key]) for key in ("path", "tokenizer") if isinstance(given.get(key), str)}
        return {**given, **paths}

    text = found.get("text")
    more = {"text": tuple(map(at, text))} if isinstance(text, list | tuple) else {}
    return {**found, "autoencoder": at(found.get("autoencoder")), **more}


def _beside(folder: Path | None, given: str) -> str:
    inside = (folder or Path()) / given
    return str(inside.resolve()) if given.startswith(".") or inside.is_dir() else given


def _kept(path: str) -> str:
    """As it is written down: a folder from the root, a name on the hub as it is."""
    return str(Path(path).expanduser().resolve()) if path and Path(path).expanduser().is_dir() else path


def source_identity(source: DataSource) -> dict[str, JsonValue]:
    """What is encoded, by content. Raises DataError."""
    return DATA.identity(source)
