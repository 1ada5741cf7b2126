"""`rfscale encode` through Ray, killed as a machine kills: the same command goes on to the same checksums."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny_networks import save_autoencoder, save_clip

from rfscale.data.encoded.files import sha256
from rfscale.run.encoding.encode import encode
from rfscale.run.encoding.spec import read_encoding

pytestmark = pytest.mark.slow


def test_a_killed_encoding_goes_on_to_the_same_checksums(tmp_path: Path) -> None:
    save_autoencoder(tmp_path / "vae")
    save_clip(tmp_path / "clip")
    asked = {
        "source": {"name": "shapes"}, "resolution": 16, "samples": 3000, "held_out": 100, "shard": 100,
        "autoencoder": {"path": "vae"}, "text": [{"encoder": "clip", "path": "clip", "length": 24}],
    }  # fmt: skip
    (tmp_path / "encode.yaml").write_text(yaml.safe_dump(asked))
    command = [sys.executable, "-m", "rfscale", "encode", str(tmp_path / "encode.yaml"), str(tmp_path / "out")]
    process = subprocess.Popen(command, start_new_session=True)
    shards = tmp_path / "out" / "shards"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(shards.glob("*.json")) if shards.exists() else ()) < 2:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "dataset.json").exists()
    subprocess.run(command, check=True)
    whole = encode(read_encoding(tmp_path / "encode.yaml"), tmp_path / "whole", inline=True).folder
    found = {path.name: sha256(path) for path in shards.glob("*.safetensors")}
    assert found == {path.name: sha256(path) for path in (whole / "shards").glob("*.safetensors")}
    assert len(found) == 31
