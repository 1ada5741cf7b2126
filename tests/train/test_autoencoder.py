"""Small KL autoencoders: one seed gives one network, the figures of Table 3, and folders that diffusers reads."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from rfscale.cli import app
from rfscale.judges.reconstruction import Features, compared
from rfscale.run import autoencoders
from rfscale.spec.autoencoder import AutoencoderTraining, load_autoencoders
from rfscale.spec.sweep import SweepError
from rfscale.train.autoencoder import new_autoencoder, rate, reconstructed, train_autoencoder

SMALL = "data: {name: digits, resolution: 16}\nchannels: [1, 2]\nwidths: [8, 8]\nsteps: 6\nbatch: 4\nimages: 20\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "autoencoder.yaml"
    path.write_text(SMALL)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train-autoencoder", *map(str, arguments)])


def test_table_3_by_hand() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(-1, 1, (40, 3, 16, 16)).astype(np.float32)
    noisy = np.clip(true + rng.normal(0, 0.1, true.shape), -1, 1).astype(np.float32)
    found = compared(true, noisy, Features("the mean", lambda x: x.mean(axis=(2, 3))))
    error = ((true - noisy).astype(np.float64) ** 2).mean(axis=(1, 2, 3))
    assert found.psnr == pytest.approx(np.mean(10 * np.log10(4 / error)), abs=1e-3)  # mean over images, not of the set
    assert 0.8 < found.ssim < 1
    assert (found.images, found.features) == (40, "the mean")
    same = compared(true, true, None)
    assert (same.ssim, same.features) == (pytest.approx(1), "")
    assert math.isnan(same.fid)
    assert math.isnan(compared(true[..., :8, :8], noisy[..., :8, :8], None).ssim), "smaller than the window of SSIM"
    further = compared(true, -true, Features("the mean", lambda x: x.mean(axis=(2, 3))))
    assert further.fid > found.fid
    assert further.psnr < found.psnr


def test_training_follows_the_seed_and_lowers_the_loss(file: Path) -> None:
    spec = load_autoencoders(file, {"steps": 60, "channels": 2, "learning_rate": 5e-3})
    losses: list[float] = []
    first = train_autoencoder(spec, 2, lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.8 * losses[0]
    torch.manual_seed(17)  # whatever was drawn before
    again = train_autoencoder(spec, 2)
    other = train_autoencoder(spec.model_copy(update={"seed": 1}), 2)
    one, two, three = (network.state_dict() for network in (first, again, other))  # type: ignore[attr-defined]
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], three[key]) for key in one)
    from rfscale.data import load

    images = load(spec.data).validation(20).images
    given_back = reconstructed(first, images)
    assert given_back.shape == images.shape
    assert np.abs(given_back).max() <= 1
    assert (
        compared(images, given_back, None).psnr
        > compared(images, reconstructed(new_autoencoder(spec, 2), images), None).psnr
    )


def test_the_rate_rises_and_falls_to_nothing(file: Path) -> None:
    spec = load_autoencoders(file, {"steps": 100, "learning_rate": 0.5})
    rates = [rate(spec, step) for step in range(100)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.001


def test_a_folder_that_diffusers_reads_whole_or_not_at_all(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import AutoencoderKL

    out, store = tmp_path / "out", ("--store", tmp_path / "store")
    done = invoke(file, "--out", out, "--json", *store)
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["autoencoders"]
    assert [(row["channels"], row["latents"], row["trained"]) for row in rows] == [
        (1, [1, 8, 8], True),
        (2, [2, 8, 8], True),
    ]
    assert rows[0]["fid"] is rows[0]["fid_features"] is None
    assert rows[0]["psnr"] > 0
    read = AutoencoderKL.from_pretrained(out / "c2")
    spec = load_autoencoders(file)
    fresh = train_autoencoder(spec, 2)
    assert all(torch.equal(read.state_dict()[k], v) for k, v in fresh.state_dict().items())  # type: ignore[attr-defined]
    assert read.config.scaling_factor == fresh.config.scaling_factor != 0.18215  # type: ignore[attr-defined]
    record = json.loads((out / "c2" / "rfscale.json").read_text())
    assert record["training"]["seed"] == 0
    assert {"diffusers", "torch"} <= set(record["environment"]["versions"])
    before = load_file(out / "c1" / "diffusion_pytorch_model.safetensors")

    monkeypatch.setattr("rfscale.train.autoencoder.train_autoencoder", lambda *a: pytest.fail("trained again"))
    done = invoke(file, "--out", out, *store)
    assert "2 of 2 were trained before" in done.stdout
    assert "PSNR" in done.stdout
    for fields, sentence in (
        (["steps=7"], "holds an autoencoder of another training (it differs in steps); name another folder by --out"),
        (["images=21"], "it differs in images"),
    ):
        done = invoke(file, *fields, "--out", out, *store)
        assert done.exit_code == 2
        assert sentence in done.stderr
    assert all(
        torch.equal(v, load_file(out / "c1" / "diffusion_pytorch_model.safetensors")[k]) for k, v in before.items()
    )
    weights = out / "c1" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    assert "are not those that were saved there" in invoke(file, "--out", out, *store).stderr


def test_weights_that_come_later_measure_what_is_there(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained again, and no column stands without its weights."""
    from test_lpips import weights

    from rfscale.judges.published.lpips import ALEXNET

    asked = (
        "data={name: digits, resolution: 32}",
        "channels=[1]",
        "--out",
        tmp_path / "out",
        "--store",
        tmp_path / "s",
    )
    assert "LPIPS se" not in invoke(file, *asked).stdout
    torch.save(weights(ALEXNET), tmp_path / "alexnet.pth")
    before = json.loads((tmp_path / "out" / "c1" / "rfscale.json").read_text())
    monkeypatch.setattr("rfscale.train.autoencoder.train_autoencoder", lambda *a: pytest.fail("trained again"))
    done = invoke(file, *asked, "lpips=alexnet.pth", "--json")
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout)["autoencoders"]
    assert row["lpips"] > 0
    assert row["lpips_se"] > 0
    assert row["lpips_network"].startswith("AlexNet (")
    assert not row["trained"]
    after = json.loads((tmp_path / "out" / "c1" / "rfscale.json").read_text())
    assert after["reconstruction"].pop("lpips") == row["lpips"]
    assert {**after, "reconstruction": 0} == {**before, "reconstruction": 0}
    assert after["reconstruction"]["psnr"] == before["reconstruction"]["psnr"]
    monkeypatch.setattr("rfscale.judges.reconstruction.compared", lambda *a: pytest.fail("measured again"))
    shown = " ".join(invoke(file, *asked, "lpips=alexnet.pth").stdout.split())
    assert "LPIPS se" in shown
    assert "LPIPS on AlexNet (" in shown
    assert "LPIPS se" in " ".join(invoke(file, *asked).stdout.split()), "what is known is shown"


def test_a_killed_training_leaves_the_finished_ones(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(spec: AutoencoderTraining, channels: int, *rest: Any) -> Any:
        if channels == 2:
            raise Killed
        return train_autoencoder(spec, channels)

    with monkeypatch.context() as patch:
        patch.setattr("rfscale.train.autoencoder.train_autoencoder", killed)
        with pytest.raises(Killed):
            list(autoencoders.train_autoencoders(load_autoencoders(file), tmp_path / "out", tmp_path))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c1"]
    again = list(autoencoders.train_autoencoders(load_autoencoders(file), tmp_path / "out", tmp_path))
    assert [(one.channels, one.new) for one in again] == [(1, False), (2, True)]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (["chanels=4"], "unknown key 'chanels'; did you mean 'channels'?"),
        (["channels=[4,4]"], "channels names a number twice"),
        (["channels=0"], "a whole number from 1 to 256"),
        (["widths=[12]"], "a multiple of 8"),
        (["widths=[8,8,8,8,8,8]"], "latents 32 times smaller, which does not divide the resolution 16"),
        (["data={name: nothing}"], "nothing"),
        (["inception=none.pth"], "there is no file"),
        (["lpips=none.pth"], "give lpips the path of torchvision's weights of VGG16 or AlexNet"),
        (["learning_rate=0"], "a number above 0"),
    ],
)
def test_wrong_fields_give_one_sentence(fields: list[str], sentence: str, file: Path, tmp_path: Path) -> None:
    done = invoke(file, *fields, "--out", tmp_path / "out", "--store", tmp_path / "store")
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="cannot read the autoencoder file"):
        load_autoencoders(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(SweepError, match="write keys such as data:, channels: and steps:"):
        load_autoencoders(tmp_path / "list.yaml")


def test_without_diffusers_one_sentence(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refusing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "diffusers":
            raise ImportError
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refusing)
    done = invoke(file, "--out", tmp_path / "out", "--store", tmp_path / "store")
    assert done.exit_code == 2
    assert "pip install 'rfscale[encode]'" in done.stderr
    assert not (tmp_path / "out").exists()
