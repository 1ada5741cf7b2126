"""What cannot be encoded, or trained on once encoded: one sentence each, exit code 2, and nothing is lost."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from tiny_networks import save_autoencoder, save_clip, save_t5
from typer.testing import CliRunner

from rfscale.cli import app
from rfscale.run.encoding import shard as shard_module

PIXELS = 16


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    save_autoencoder(folder / "vae")
    save_clip(folder / "clip", 16, 12)
    save_t5(folder / "t5", 24)
    return folder


@pytest.fixture
def here(networks: Path, tmp_path: Path) -> Path:
    for name in ("vae", "clip", "t5"):
        shutil.copytree(networks / name, tmp_path / name)
    return tmp_path


def write(here: Path, **given: Any) -> Path:
    raw = {
        "source": {"name": "shapes"}, "resolution": PIXELS, "samples": 20, "held_out": 8, "shard": 8, "batch": 4,
        "autoencoder": {"path": "./vae"}, "text": [{"encoder": "clip", "path": "./clip", "length": 24}],
    }  # fmt: skip
    path = here / "encode.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in {**raw, **given}.items() if v is not None}))
    return path


def call(*arguments: object, code: int = 2) -> str:
    found = CliRunner().invoke(app, [str(one) for one in arguments])
    assert found.exit_code == code, (found.output, found.exception)
    if code:
        assert len(found.stderr.strip().splitlines()) == 1
        assert "Traceback" not in found.stderr
    return found.stderr if code else found.stdout


def encode(here: Path, code: int = 2, **given: Any) -> str:
    return call("encode", write(here, **given), here / "out", "--inline", code=code)


def pictures(count: int) -> list[bytes]:
    found = []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"autoencoder": {"path": "./clip"}}, "not an AutoencoderKL of diffusers: give the folder of one"),
        ({"autoencoder": {"path": "./none"}}, "there is no folder"),
        ({"text": [{"encoder": "t5", "path": "./clip"}]}, "not a text encoder of the kind t5"),
        ({"text": [{"encoder": "clip", "path": "./t5"}]}, "holds a network of the kind t5, not a text encoder of the"),
        ({"text": [{"encoder": "clip", "path": "./vae"}]}, "holds a network of the kind AutoencoderKL"),
        ({"text": [{"encoder": "clip", "path": "./clip", "length": 77}]}, "reads 32 tokens, and length is 77"),
        ({"text": [{"encoder": "clip", "path": "./clip", "lenght": 7}]}, "did you mean 'length'"),
        ({"resolution": 17}, "resolution 17 is no multiple of 2"),
        ({"samples": None}, "write samples and held_out"),
        ({"source": {"name": "digits"}, "resolution": 8}, "1 channel, and autoencoders take 3"),
        ({"source": {"name": "encoded", "path": "x"}}, "is encoded already"),
        ({"captions": "long"}, "have one caption each"),
        ({"dtype": "fp8"}, "dtype"),
    ],
)
def test_what_cannot_be_encoded(here: Path, given: dict[str, Any], said: str) -> None:
    assert said in encode(here, **given)
    assert not (here / "out" / "dataset.json").exists()


def test_weights_that_are_missing(here: Path) -> None:
    (here / "cut").mkdir()
    shutil.copy(here / "vae" / "config.json", here / "cut")
    assert "cannot be loaded" in encode(here, autoencoder={"path": "./cut"})


def test_a_disk_that_fills(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known before anything is computed; what was finished stays, and the same command goes on."""
    real, left = os.posix_fallocate, [2]

    def full(file: int, offset: int, size: int) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        real(file, offset, size)

    monkeypatch.setattr(shard_module.os, "posix_fallocate", full)
    said = encode(here)
    assert "no space left on device" in said.lower()
    assert str(here)[:30] in said
    assert sorted(path.name for path in (here / "out" / "shards").iterdir()) == [
        "00000.json", "00000.safetensors", "00001.json", "00001.safetensors",
    ]  # fmt: skip
    monkeypatch.undo()
    assert "20 samples and 8 held out, 4 shards" in encode(here, code=0)


def test_a_corrupt_member_of_a_tar(here: Path) -> None:
    with tarfile.open(here / "data.tar", "w") as tar:
        for number, content in enumerate(pictures(12)):
            content = content[:60] if number == 7 else content
            for name, data in ((f"{number:03d}.png", content), (f"{number:03d}.txt", b"a picture")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    said = encode(here, source={"name": "webdataset", "path": "data.tar"}, samples=None, held_out=None, shard=2)
    assert "007.png" in said
    assert "cannot be decoded" in said
    assert not (here / "out" / "dataset.json").exists()


def test_parquet_without_the_caption_column(here: Path) -> None:
    rows = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(pictures(12))]
    pq.write_table(pa.table({"image": rows, "caption": ["a picture"] * 12}), here / "data.parquet")
    source = {"name": "parquet", "path": "data.parquet"}
    said = encode(here, source=source, samples=None, held_out=None, captions="synthetic")
    assert "has no caption column `synthetic`; its columns are image, caption" in said
    assert not (here / "out" / "shards").exists()
    found = encode(here, code=0, source=source, samples=None, held_out=None, captions="caption")
    assert "held out" in found


def test_numbers_that_half_precision_cannot_hold(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shard_module.encode_pixels
    monkeypatch.setattr(shard_module, "encode_pixels", lambda *of: tuple(part * 1e9 for part in real(*of)))
    assert "do not fit into fp16: set dtype: bf16" in encode(here)


# --- training on what was encoded -------------------------------------------------------------------------------------


def sweep(here: Path, **given: Any) -> Path:
    raw = {
        "name": "tiny", "question": "Is it refused?", "data": {"name": "encoded", "path": "out"}, "text": "pretrained",
        "model": {"depths": [1], "width_per_depth": 16, "patch": 2}, "formulations": ["rf"],
        "training": {"steps": 4, "batch": 4}, "evaluation": {"images": 4, "points": 1},
    }  # fmt: skip
    path = here / "tiny.yaml"
    path.write_text(yaml.safe_dump({**raw, **given}))
    return path


def test_an_encoder_that_changed_since_the_data_were_encoded(here: Path) -> None:
    encode(here, code=0)
    shutil.rmtree(here / "vae")
    save_autoencoder(here / "vae", seed=3)
    said = call("run", sweep(here), "--store", here / "runs")
    assert "is not the one that the data were encoded by" in said
    assert not (here / "runs").exists()
    shutil.rmtree(here / "clip")
    save_clip(here / "clip", 16, 12, seed=3)
    assert "it differs in autoencoder, text" in encode(here)


def test_two_data_sets_with_texts_of_different_widths(here: Path) -> None:
    encode(here, code=0)
    more = [{"encoder": "t5", "path": "./t5", "length": 8}]
    call("encode", write(here, text=more), here / "other", "--inline", code=0)
    two = [{"name": "encoded", "path": name} for name in ("out", "other")]
    said = call("plan", sweep(here, data=two), "--store", here / "runs")
    assert "have different shapes, so a network for one cannot read the other" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": {"name": "shapes"}}, "text `pretrained` is read from encoded data"),
        ({"data": {"name": "encoded", "path": "out", "captions": "long"}}, "has no caption column `long`; it has text"),
        ({"data": {"name": "encoded", "path": "out", "latent_channels": 16, "resolution": 8}}, "take them out"),
        ({"data": {"name": "encoded", "path": "nowhere"}}, "holds no dataset.json"),
        (
            {"text": {"encoder": "pretrained", "encoders": [{"encoder": "t5", "width": 8}]}},
            "text.encoders says t5 of 77 x 8 and 0 pooled, and data `encoded` hold clip of 24 x 16 and 12 pooled",
        ),
        ({"model": {"depths": [1], "width_per_depth": 16, "backbone": "mmdit3"}}, "the text has one"),
    ],
)
def test_what_cannot_be_trained(here: Path, given: dict[str, Any], said: str) -> None:
    encode(here, code=0)
    assert said in call("plan", sweep(here, **given), "--store", here / "runs")
