"""Encoding by networks of published size, with random weights: nothing here depends on the size of a network.

    OMP_NUM_THREADS=2 python benchmarks/published_sizes.py [--dtype bf16] [--folder DIR] [--images 4] [--sides 64 256]

Saved by diffusers and transformers in their own formats, in half precision as they are published: the autoencoder of
Stable Diffusion 3 (16 channels, widths 128, 256, 512, 512), the text model of CLIP-L (12 layers of 768) and that of
OpenCLIP bigG (32 layers of 1280). For each, and for each side of the images: seconds of one batch, and in a process of
its own the largest resident memory of `rfscale encode`. T5-XXL (24 layers of 4096) is built on torch's meta device: its
parameters, the bytes that its weights take on the disk and in float32, and the shape of what it gives.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

CLIPS = {
    "clip-l": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
               "projection_dim": 768, "hidden_act": "quick_gelu"},
    "clip-g": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
               "projection_dim": 1280, "hidden_act": "gelu"},
}  # fmt: skip
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="fp16", choices=list(DTYPES), help="of the weights on the disk")
    parser.add_argument("--folder", type=Path, default=None, help="where the networks are written, and kept")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--clips", nargs="*", default=list(CLIPS), choices=list(CLIPS))
    parser.add_argument("--encode", type=Path, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.encode is not None:
        encoded(asked.encode)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        save(folder, DTYPES[asked.dtype], asked.clips)
        for side in asked.sides:
            measure(folder, side, asked.images, asked.clips)
    t5()


def save(folder: Path, dtype: torch.dtype, clips: list[str]) -> None:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    torch.manual_seed(0)
    if not (folder / "vae").exists():
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=16, layers_per_block=2, norm_num_groups=32,
            sample_size=1024, use_quant_conv=False, use_post_quant_conv=False,
        ).to(dtype).save_pretrained(folder / "vae")  # fmt: skip
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += [f"unused{i}" for i in range(49_406 - len(pieces))] + ["<|startoftext|>", "<|endoftext|>"]
    for name in clips:
        if not (folder / name).exists():
            CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder / name)
            config = CLIPTextConfig(
                vocab_size=len(pieces), max_position_embeddings=77, bos_token_id=49_406, eos_token_id=49_407,
                pad_token_id=49_407, **CLIPS[name],
            )  # fmt: skip
            CLIPTextModelWithProjection(config).to(dtype).save_pretrained(folder / name)
    for name in ("vae", *clips):
        files = [path for path in (folder / name).iterdir() if path.suffix == ".safetensors"]
        print(f"{name:8} {sum(path.stat().st_size for path in files):,} bytes of weights in {len(files)} file(s)")


def measure(folder: Path, side: int, images: int, clips: list[str]) -> None:
    """Of a process that encodes a few images: its largest memory, and the seconds of a second run in it."""
    file = folder / f"encode-{side}.yaml"
    file.write_text(yaml.safe_dump({
        "source": {"name": "shapes"}, "resolution": side, "samples": images, "held_out": images, "batch": images,
        "autoencoder": {"path": str(folder / "vae")},
        "text": [{"encoder": "clip", "path": str(folder / name), "length": 77} for name in clips],
    }))  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, "--encode", str(file)], capture_output=True, text=True, check=False,
        env=dict(os.environ),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    print(f"{side:4} px  {done.stdout.strip()}")


def encoded(file: Path) -> None:
    from rfscale.run.encoding.encode import encode
    from rfscale.run.encoding.shard import latents_of, text_of
    from rfscale.run.encoding.spec import read_encoding
    from rfscale.run.encoding.supply import supply_of

    encoding = read_encoding(file)
    with tempfile.TemporaryDirectory() as out:
        done = encode(encoding, Path(out), inline=True)
        latent, size = done.record["latent"], done.bytes
    networks, batch = encoding.networks(), encoding.batch
    supply = supply_of(encoding.source, encoding.samples, encoding.held_out)
    began = time.perf_counter()
    list(latents_of(encoding, networks, supply, range(batch)))
    seconds = {"vae": time.perf_counter() - began}
    for j in range(len(networks.parts)):
        began = time.perf_counter()
        list(text_of(encoding, networks, j, ["a red circle"] * batch))
        seconds[f"text {j}"] = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    shown = ", ".join(f"{name} {value / batch:.2f} s" for name, value in seconds.items())
    print(
        f"latents {latent['channels']} x {latent['side']} x {latent['side']}; a sample: {shown}, "
        f"{size / (2 * batch):,.0f} bytes with its pixels; largest memory {peak:.2f} GB"
    )


def t5() -> None:
    """What can be known of T5-XXL without its memory."""
    from transformers import T5Config, T5EncoderModel

    from rfscale.data.encoded.networks import text_shape

    config = T5Config(
        vocab_size=32_128, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = T5EncoderModel(config)
        given = model(input_ids=torch.zeros(2, 77, dtype=torch.long)).last_hidden_state
    count = sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        width, pooled = text_shape("t5", Path(folder), "T5-XXL")
        assert json.loads((Path(folder) / "config.json").read_text())["d_model"] == width
    print(
        f"T5-XXL   {count:,} parameters: {2 * count / 1e9:.1f} GB on the disk in half precision, {4 * count / 1e9:.1f} "
        f"GB of memory in float32; gives {tuple(given.shape)}; rfscale reads a width of {width}, {pooled} pooled"
    )


if __name__ == "__main__":
    main()
