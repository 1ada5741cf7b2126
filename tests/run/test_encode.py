"""Encoding to shards and training from them: the same bits as the networks give, whatever was killed between."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import save_autoencoder, save_clip, save_t5
from typer.testing import CliRunner

from rfscale.cli import app
from rfscale.data.base import DataError, to_signed_unit
from rfscale.data.encoded import checks, files
from rfscale.data.encoded.layout import layout_of
from rfscale.data.encoded.networks import autoencoder, text_encoder
from rfscale.data.encoded.spec import EncodedData
from rfscale.data.encoded.text import PretrainedText
from rfscale.run.encoding import encode as encoding_module
from rfscale.run.encoding.encode import encode
from rfscale.run.encoding.spec import Encoding, parse_encoding
from rfscale.run.encoding.supply import supply_of

CHANNELS, SIDE, PIXELS = 4, 8, 16


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an autoencoder, two CLIPs and a T5."""
    folder = tmp_path_factory.mktemp("networks")
    save_autoencoder(folder / "vae", CHANNELS)
    save_clip(folder / "clip", 16, 12)
    save_clip(folder / "big", 24, 20, seed=1)
    save_t5(folder / "t5", 48)
    return folder


def encoding_of(networks: Path, **given: Any) -> Encoding:
    return parse_encoding(
        {
            "source": {"name": "shapes"},
            "resolution": PIXELS,
            "samples": 40,
            "held_out": 10,
            "shard": 16,
            "batch": 8,
            "autoencoder": {"path": "vae"},
            "text": [
                {"encoder": "clip", "path": "clip", "length": 24},
                {"encoder": "clip", "path": "big", "length": 20},
                {"encoder": "t5", "path": "t5", "length": 18},
            ],
            **given,
        },
        folder=networks,
    )


@pytest.fixture(scope="module")
def encoded(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(encoding_of(networks), tmp_path_factory.mktemp("data") / "out", inline=True).folder


def data_of(folder: Path, **given: Any) -> EncodedData:
    return EncodedData.model_validate({"name": "encoded", "path": str(folder), **given})


def sums(folder: Path) -> dict[str, str]:
    return {path.name: files.sha256(path) for path in sorted((folder / "shards").glob("*.safetensors"))}


# --- the same bits ----------------------------------------------------------------------------------------------------


def test_latents_are_what_the_autoencoder_gives_for_the_same_samples(networks: Path, encoded: Path) -> None:
    """In batches of the same size: whichever images stand beside one, and in whatever order."""
    data, encoding = data_of(encoded), encoding_of(networks)
    record, supply = data.data_record, supply_of(encoding.source, 40, 10)
    found = data.load().train(3, 5, 6)
    numbers = files.read_order(encoded, ("training",))[0][_stream(3, 5, 6, 40)] + 10
    network = autoencoder((networks / "vae").resolve())
    pixels = torch.from_numpy(to_signed_unit(supply.pixels([3, 4, *numbers.tolist()])))
    with torch.inference_mode():
        given = network.encode(pixels).latent_dist
    mean, deviation = given.mean[2:].half().float(), given.logvar[2:].half().float()
    at, scale = (np.array(record["latent"][key], np.float32).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    assert found.captions == tuple(supply.captions(number)[0] for number in numbers)
    np.testing.assert_array_equal(found.images, (mean.numpy() - at) / scale)
    assert found.spread is not None
    np.testing.assert_array_equal(found.spread, np.exp(deviation.numpy() * np.float32(0.5)) / scale)


def _stream(seed: int, first: int, count: int, size: int) -> Any:
    from rfscale.data.counter import shuffled_stream

    return shuffled_stream(seed, first, count, size)


def test_text_is_what_the_encoders_give_laid_out_as_in_the_paper(networks: Path, encoded: Path) -> None:
    """CLIPs side by side on the channels and padded with zeros, T5 after them; pooled vectors side by side."""
    found = data_of(encoded).load().validation(4)
    assert found.told is not None
    told = found.told()
    assert told.tokens.dtype == torch.float16
    assert told.tokens.shape == (4, 24 + 18, 48)
    assert told.pooled.shape == (4, 12 + 20)
    given = {
        name: text_encoder(kind, ((networks / name).resolve(),) * 2, length, layer, "cpu").encode(found.captions)
        for name, kind, length, layer in (
            ("clip", "clip", 24, "penultimate"), ("big", "clip", 20, "penultimate"), ("t5", "t5", 18, "last"),
        )
    }  # fmt: skip
    expected = torch.zeros(4, 42, 48)
    expected[:, :24, :16], expected[:, :20, 16:40] = given["clip"][0], given["big"][0]
    expected[:, 24:, :] = given["t5"][0]
    torch.testing.assert_close(told.tokens, expected.half(), rtol=0, atol=0)
    pooled = torch.cat((given["clip"][1], given["big"][1]), 1).half()
    torch.testing.assert_close(told.pooled, pooled, rtol=0, atol=0)


def test_what_is_loaded_for_new_captions_gives_what_the_data_hold(encoded: Path) -> None:
    data = data_of(encoded)
    text = PretrainedText().of(data)
    found = data.load().validation(3)
    assert found.told is not None
    tokens, pooled = text.load().encode(found.captions)
    torch.testing.assert_close(found.told().tokens, torch.from_numpy(tokens).half(), rtol=0, atol=0)
    torch.testing.assert_close(found.told().pooled, torch.from_numpy(pooled).half(), rtol=0, atol=0)
    tokens, pooled = text.load().encode([""])
    assert not tokens.any()
    assert not pooled.any()


def test_bf16_is_read_back_as_it_was_stored(networks: Path, encoded: Path, tmp_path: Path) -> None:
    other = encode(encoding_of(networks, dtype="bf16"), tmp_path / "bf16", inline=True).folder
    half, brain = (data_of(folder).load().validation(5) for folder in (encoded, other))
    assert brain.told is not None
    assert half.told is not None
    assert brain.told().tokens.dtype == torch.bfloat16
    torch.testing.assert_close(brain.told().tokens.float(), half.told().tokens.float(), rtol=0.01, atol=0.01)
    np.testing.assert_allclose(brain.images, half.images, rtol=0.02, atol=0.02)


def test_a_batch_is_a_function_of_its_samples(encoded: Path) -> None:
    data = data_of(encoded).load()
    whole, parts = data.train(1, 30, 24), [data.train(1, 30, 7), data.train(1, 37, 17)]  # over the end of an epoch
    np.testing.assert_array_equal(whole.images, np.concatenate([part.images for part in parts]))
    assert whole.captions == sum((part.captions for part in parts), ())


def test_normalised_latents_have_unit_variance(encoded: Path) -> None:
    """Over the training samples, as they are drawn from their mean and variance."""
    found = data_of(encoded).load().train(0, 0, 40)
    assert found.spread is not None
    mean = found.images.astype(np.float64)
    np.testing.assert_allclose(mean.mean((0, 2, 3)), 0, atol=1e-5)
    variance = mean.var((0, 2, 3)) + (found.spread.astype(np.float64) ** 2).mean((0, 2, 3))
    np.testing.assert_allclose(variance, 1, rtol=1e-5)


# --- killed, damaged, changed -----------------------------------------------------------------------------------------


def test_an_encoding_that_was_cut_off_goes_on_to_the_same_checksums(
    networks: Path, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = tmp_path / "out", []

    def dies(*args: Any) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args[3])
        whole(*args)

    whole = encoding_module.encode_shard
    monkeypatch.setattr(encoding_module, "encode_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        encode(encoding_of(networks), out, inline=True)
    with pytest.raises(ValueError, match="has not ended"):
        data_of(out)
    (out / "shards" / ".00002.safetensors.123").write_bytes(b"what a kill left")
    monkeypatch.undo()
    assert encode(encoding_of(networks), out, inline=True).kept == 2
    assert sums(out) == sums(encoded)
    assert data_of(out).data_record["content"] == data_of(encoded).data_record["content"]
    assert not list((out / "shards").glob(".*"))
    assert encode(encoding_of(networks), out, inline=True).kept == 4


def test_a_damaged_shard_is_named(encoded: Path, tmp_path: Path) -> None:
    shutil.copytree(encoded, tmp_path / "out")
    data, shard = data_of(tmp_path / "out"), tmp_path / "out" / "shards" / "00001.safetensors"
    assert isinstance(data.check(decode=True), tuple)
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    data.check()
    with pytest.raises(DataError, match=r"00001\.safetensors is damaged \(its SHA-256"):
        data.check(decode=True)
    shard.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"00001\.safetensors is damaged \(it has"):
        data.check()
    with pytest.raises(DataError, match=r"00001\.safetensors is damaged"):
        data.load().train(0, 0, 40)
    shard.unlink()
    with pytest.raises(DataError, match=r"00001\.safetensors cannot be read"):
        data.check()


def read_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read for their SHA-256 from here on."""
    found: list[str] = []

    def noting(path: Path) -> str:
        found.append(path.name)
        return files.sha256(path)

    monkeypatch.setattr(checks, "sha256", noting)
    return found


def test_a_shard_is_read_for_its_checksum_once(encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here since it was encoded; of a copy, or of a file that was touched, anew; `--verify` reads all of them."""
    read = read_of(monkeypatch)
    data_of(encoded).check(decode=True)
    assert read == [files.ORDER]
    shutil.copytree(encoded, tmp_path / "out")
    read.clear()
    data_of(tmp_path / "out").check(decode=True)
    assert len(read) == 5
    read.clear()
    data_of(tmp_path / "out").check(decode=True)
    assert read == [files.ORDER]
    (tmp_path / "out" / "shards" / "00002.safetensors").touch()
    read.clear()
    data_of(tmp_path / "out").check(decode=True)
    assert sorted(read) == ["00002.safetensors", files.ORDER]
    (tmp_path / "out" / checks.MARKS).write_text("[")
    read.clear()
    data_of(tmp_path / "out").check(decode=True)
    assert len(read) == 5
    read.clear()
    checks.verify(tmp_path / "out", data_of(encoded).data_record)
    assert len(read) == 5


def test_what_rots_unnoticed_is_named_when_its_row_is_read(encoded: Path, tmp_path: Path) -> None:
    """A bit that flips, and no time of change: by the CRC-32 of its row, of latents, of text and of a caption."""
    out, numbers, first = tmp_path / "out", np.arange(10, 26), np.zeros(16, dtype=np.int64)
    shutil.copytree(encoded, out)
    shard = out / "shards" / "00001.safetensors"
    whole, header, shards = shard.read_bytes(), files.header_of(shard), files.Shards(out, data_of(out).data_record)
    start = int(np.frombuffer(whole, "<i8", 16, header[files.ENDS].offset)[4])  # of caption 5
    for name, row, at in (
        (files.MEAN, 5, header[files.MEAN].row * 5),
        (files.tokens_of(2), 15, header[files.tokens_of(2)].row * 16 - 1),
        (files.ENDS, 5, None),
    ):
        offset = header[files.CAPTIONS].offset + start if at is None else header[name].offset + at
        flipped = bytearray(whole)
        flipped[offset] ^= 16
        for content, damaged in ((flipped, True), (whole, False)):
            shard.write_bytes(content)
            said = rf"00001\.safetensors is damaged \(row {row} of {name} is not what was written\)"
            with pytest.raises(DataError, match=said) if damaged else nullcontext():
                shards.texts(numbers, 1, first) if at is None else shards.rows(name, numbers)
    with_other_end = bytearray(whole)
    with_other_end[header[files.ENDS].offset + 7] ^= 64  # far outside of the file
    shard.write_bytes(with_other_end)
    with pytest.raises(DataError, match=r"is damaged \(row 0 of captions\.ends"):
        shards.texts(numbers, 1, first)


def test_a_damaged_shard_that_is_removed_is_made_again(networks: Path, encoded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(encoded, out)
    shard = out / "shards" / "00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    found = CliRunner().invoke(app, ["encode", str(out), "--verify"])
    assert found.exit_code == 2
    assert (
        "00002.safetensors is damaged (its SHA-256 is not what was written): restore it, or remove it" in found.stderr
    )
    shard.unlink()
    assert encode(encoding_of(networks), out, inline=True).kept == 3
    assert sums(out) == sums(encoded)
    found = CliRunner().invoke(app, ["encode", str(out), "--verify", "--json"])
    assert json.loads(found.stdout)["files"] == 5
    shard.write_bytes(content)  # of the same length: it is not taken for whole either
    assert encode(encoding_of(networks), out, inline=True).kept == 3


def test_another_encoder_does_not_go_on_with_the_shards(networks: Path, encoded: Path, tmp_path: Path) -> None:
    shutil.copytree(encoded, tmp_path / "out")
    other = save_t5(tmp_path / "t5", 48, seed=5)
    text = [{**one.model_dump(exclude_none=True)} for one in encoding_of(networks).text]
    text[2]["path"] = str(other)
    with pytest.raises(DataError, match=r"another encoding \(it differs in text\)"):
        encode(encoding_of(networks, text=text), tmp_path / "out", inline=True)
    assert sums(tmp_path / "out") == sums(encoded)


def test_a_changed_autoencoder_decodes_nothing(networks: Path, encoded: Path, tmp_path: Path) -> None:
    other = save_autoencoder(tmp_path / "vae", CHANNELS, seed=9)
    with pytest.raises(DataError, match="not the one that the data were encoded by"):
        data_of(encoded, autoencoder=str(other)).space.decode(torch.zeros(1, CHANNELS, SIDE, SIDE))
    shutil.copytree(networks / "vae", tmp_path / "moved")
    pixels = data_of(encoded, autoencoder=str(tmp_path / "moved")).space.decode(torch.zeros(1, CHANNELS, SIDE, SIDE))
    assert pixels.shape == (1, 3, PIXELS, PIXELS)


# --- identity ---------------------------------------------------------------------------------------------------------


def test_moved_data_keep_their_identity(encoded: Path, tmp_path: Path) -> None:
    shutil.copytree(encoded, tmp_path / "moved")
    record = json.loads((tmp_path / "moved" / files.RECORD).read_text())
    record["autoencoder"]["path"] = "elsewhere"
    (tmp_path / "moved" / files.RECORD).write_text(json.dumps(record))
    assert data_of(tmp_path / "moved").identity() == data_of(encoded).identity()
    record["shards"][0]["sha256"] = "0"
    (tmp_path / "moved" / files.RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is damaged"):
        data_of(tmp_path / "moved")


def test_three_encoders_are_dropped_as_in_the_paper(encoded: Path) -> None:
    text = PretrainedText().of(data_of(encoded))
    assert text.each_dropout == 0.464
    assert text.names == ("clip1", "clip2", "t5")
    assert text.parts == (24, 18)
    whole = data_of(encoded).load().validation(4).told().to("cpu")  # type: ignore[misc]
    without = whole.where_each(torch.tensor([[True, True, False]]), text.spans)
    assert not without.tokens[:, 24:].any()
    torch.testing.assert_close(without.tokens[:, :24], whole.tokens[:, :24], rtol=0, atol=0)
    torch.testing.assert_close(without.pooled, whole.pooled, rtol=0, atol=0)
    without = whole.where_each(torch.tensor([[False, True, True]]), text.spans)
    assert not without.tokens[:, :24, :16].any()
    assert without.tokens[:, :20, 16:40].any()
    assert not without.pooled[:, :12].any()


def test_the_layout_of_the_paper() -> None:
    """CLIP-L, CLIP-bigG and T5-XXL: 154 tokens of 4096, and 2048 pooled numbers."""
    layout = layout_of(
        [
            {"encoder": "clip", "length": 77, "width": 768, "pooled": 768},
            {"encoder": "clip", "length": 77, "width": 1280, "pooled": 1280},
            {"encoder": "t5", "length": 77, "width": 4096, "pooled": 0},
        ]
    )
    assert (layout.parts, layout.length, layout.width, layout.pooled) == ((77, 77), 154, 4096, 2048)
