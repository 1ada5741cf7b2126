"""A trial on encoded data, from its encoders to drawn images: sizes in pixels, and text encoders that are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_networks import save_autoencoder, save_clip, save_t5
from typer.testing import CliRunner

from rfscale.cli import app
from rfscale.data.encoded.text import JoinedParts
from rfscale.run.encoding.encode import encode
from rfscale.run.encoding.spec import parse_encoding
from rfscale.run.images import draw
from rfscale.spec.sweep import Samples
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.train.loop import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Trial]:
    """Latents 4 times smaller than images of 32 pixels, in patches of 2: 8 pixels a patch."""
    here = tmp_path_factory.mktemp("trained")
    save_autoencoder(here / "vae", downs=2)
    save_clip(here / "clip", 16, 12)
    save_t5(here / "t5", 24)
    asked = {
        "source": {"name": "shapes"}, "resolution": 32, "samples": 8, "held_out": 4, "autoencoder": "vae",
        "text": [{"encoder": "clip", "path": "clip", "length": 24}, {"encoder": "t5", "path": "t5", "length": 8}],
    }  # fmt: skip
    encode(parse_encoding(asked, folder=here), here / "out", inline=True)
    definition = {
        "name": "one", "question": "?", "data": {"name": "encoded", "path": str(here / "out")}, "text": "pretrained",
        "model": {"depths": [1], "width_per_depth": 16, "patch": 2}, "formulations": ["rf"],
        "training": {"steps": 2, "batch": 4}, "evaluation": {"images": 4, "points": 1},
    }  # fmt: skip
    (trial,) = parse_sweep(definition).trials
    store = Store(here / "store")
    train(trial, store.trial(trial.trial_id), samples=Samples(images=0))
    return store, trial


def test_sizes_are_in_pixels(trained: tuple[Store, Trial]) -> None:
    store, trial = trained
    whole = draw(store, trial.trial_id, ["a red circle"], count=1, steps=1)
    assert whole.drawn.shape == (1, 3, 32, 32)
    same = draw(store, trial.trial_id, ["a red circle"], count=1, steps=1, size=(32, 32))
    torch.testing.assert_close(same.drawn, whole.drawn, rtol=0, atol=0)
    wide = draw(store, trial.trial_id, ["a red circle"], count=1, steps=1, size=(24, 48))
    assert wide.drawn.shape == (1, 3, 24, 48)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("32x30", "size 32x30: the network draws latents of 4 pixels a side in whole patches, which do not make 30 "
                  "pixels; take 24 or 32"),
        ("36x32", "do not make 36 pixels; take 32 or 40"),
        ("4x32", "do not make 4 pixels; take 8"),
        ("0x32", "size = 0 is not possible"),
    ],
)  # fmt: skip
def test_a_size_that_is_no_whole_number_of_patches(
    trained: tuple[Store, Trial], tmp_path: Path, size: str, said: str
) -> None:
    store, trial = trained
    asked = ["sample", trial.trial_id, "--prompt", "x", "--store", store.address, "--out", str(tmp_path / "x.png")]
    done = CliRunner().invoke(app, [*asked, "--size", size])
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "x.png").exists()


def test_without_t5_is_its_part_zeroed(trained: tuple[Store, Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    store, trial = trained
    without = draw(store, trial.trial_id, ["a red circle"], count=1, steps=2, without=["t5"])
    encoded = JoinedParts.encode

    def zeroed(self: JoinedParts, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
        tokens, pooled = encoded(self, captions)
        tokens[:, 24:] = 0
        return tokens, pooled

    both = draw(store, trial.trial_id, ["a red circle"], count=1, steps=2)
    monkeypatch.setattr(JoinedParts, "encode", zeroed)
    found = draw(store, trial.trial_id, ["a red circle"], count=1, steps=2)
    torch.testing.assert_close(found.drawn, without.drawn, rtol=0, atol=0)
    assert not torch.equal(both.drawn, without.drawn)
