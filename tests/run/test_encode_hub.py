"""Networks from the Hugging Face hub: its client against a server that speaks as the hub does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_server import Hub, serving
from huggingface_hub import constants
from tiny_networks import save_autoencoder, save_clip, save_t5
from typer.testing import CliRunner

from rfscale.cli import app
from rfscale.data import hub as hub_module
from rfscale.data.encoded.spec import EncodedData
from rfscale.data.encoded.text import PretrainedText

PIPELINE = "owner/pipeline"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of diffusers with an autoencoder and a CLIP beside its tokenizer, and a T5."""
    folder = tmp_path_factory.mktemp("networks")
    save_autoencoder(folder / "pipeline" / "vae")
    save_clip(folder / "pipeline" / "text_encoder_2", 16, 12)
    (folder / "pipeline" / "tokenizer_2").mkdir()
    for path in (folder / "pipeline" / "text_encoder_2").glob("*token*"):
        path.rename(folder / "pipeline" / "tokenizer_2" / path.name)
    (folder / "pipeline" / "model_index.json").write_text("{}")
    (folder / "pipeline" / "whole.safetensors").write_bytes(b"all of it once more")
    save_t5(folder / "t5", 24)
    shutil.copytree(folder / "t5", folder / "pickled")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    return folder


@pytest.fixture
def hub(networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    repositories = {
        PIPELINE: networks / "pipeline", "owner/t5": networks / "t5", "owner/gated": networks / "t5",
        "owner/pickled": networks / "pickled",
    }  # fmt: skip
    with serving(repositories, gated=("owner/gated",)) as server:
        resolve = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)  # as HF_ENDPOINT does in a new process
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


def encode(place: Path, autoencoder: str, clip: str, t5: str, code: int = 0) -> str:
    asked = {
        "source": {"name": "shapes"}, "resolution": 16, "samples": 6, "held_out": 2,
        "autoencoder": autoencoder,
        "text": [{"encoder": "clip", "path": clip, "length": 24}, {"encoder": "t5", "path": t5, "length": 8}],
    }  # fmt: skip
    place.mkdir(exist_ok=True)
    (place / "encode.yaml").write_text(yaml.safe_dump(asked))
    found = CliRunner().invoke(app, ["encode", str(place / "encode.yaml"), str(place / "out"), "--inline", "--json"])
    assert found.exit_code == code, (found.output, found.exception)
    return found.stderr if code else found.stdout


def test_what_comes_from_the_hub_is_what_lies_in_a_folder(
    networks: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the parts that are named are sent, once; afterwards nothing is asked where there is no network."""
    names = (f"{PIPELINE}/vae", f"{PIPELINE}/text_encoder_2", "owner/t5")
    far = json.loads(encode(tmp_path / "far", *names))
    pipeline = networks / "pipeline"
    local = (str(pipeline / "vae"), str(pipeline / "text_encoder_2"), str(networks / "t5"))
    near = json.loads(encode(tmp_path / "near", *local))
    assert far["content"] == near["content"]
    assert "whole.safetensors" not in hub.sent
    parts = (pipeline / "vae", pipeline / "text_encoder_2", pipeline / "tokenizer_2", networks / "t5")
    assert sorted(hub.sent) == sorted(path.name for part in parts for path in part.iterdir())
    hub.sent.clear()
    shutil.rmtree(tmp_path / "far")
    encode(tmp_path / "far", *names)
    assert hub.sent == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    data = EncodedData.model_validate({"name": "encoded", "path": str(tmp_path / "far" / "out")})
    assert data.data_record["autoencoder"]["path"] == names[0]
    assert data.space.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 16, 16)
    tokens, pooled = PretrainedText().of(data).load().encode(["a new caption"])
    assert tokens.any()
    assert pooled.any()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("owner/none", "has no such repository, or shows it only after a login): correct the name"),
        ("owner/gated", "its owner asks for a login: accept the terms on its page, and give the command `hf auth"),
        (PIPELINE, f"it holds a pipeline of several networks: name one of them, such as {PIPELINE}/vae"),
        (f"{PIPELINE}/unet", "it has no folder unet"),
        ("owner/pickled", "only weights in safetensors are read, and its weights are pytorch_model.bin: name another"),
        ("no name", "it is no name of a repository, which is owner/name"),
        ("a/b/c/d", "there is no folder a/b/c/d: give one that save_pretrained wrote, or a name on the hub"),
    ],
)
def test_a_name_that_is_wrong(hub: Hub, networks: Path, tmp_path: Path, name: str, said: str) -> None:
    check(encode(tmp_path / "far", name, str(networks / "t5"), "owner/t5", code=2), said, tmp_path)
    assert not [name for name in hub.sent if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("offline", "HF_HUB_OFFLINE is set, and it is not in the cache here"),
        ("refused", "cannot be reached ("),
        ("breaks", "answers 503"),
    ],
)
def test_no_network(
    hub: Hub, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, said: str
) -> None:
    """Also one that ends in the middle of a file: half a network is none, and the next call has all of it."""
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.5)
    names = (f"{PIPELINE}/vae", f"{PIPELINE}/text_encoder_2", "owner/t5")
    if network == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif network == "refused":
        hub.server_close()
    else:
        hub.fails = ".safetensors"
    check(encode(tmp_path / "far", *names, code=2), said, tmp_path)
    if network == "breaks":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        check(encode(tmp_path / "far", *names, code=2), "HF_HUB_OFFLINE is set, and it is not in", tmp_path)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.fails = ""
        encode(tmp_path / "far", *names)


def check(found: str, said: str, place: Path) -> None:
    *before, sentence = found.strip().splitlines()
    assert said in sentence
    assert all("Fetching" in line or "download" in line.lower() for line in before), "how far a download is"
    assert not (place / "far" / "out").exists()
