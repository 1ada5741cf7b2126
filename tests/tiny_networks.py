"""Networks in the real formats, tiny and with random weights: what `save_pretrained` of diffusers and transformers
writes. Nobody need have trained them: what is tested is that the same bits come out."""

from __future__ import annotations

from pathlib import Path

import torch


def save_autoencoder(folder: Path, channels: int = 4, downs: int = 1, seed: int = 0) -> Path:
    """An AutoencoderKL with a factor of 2^downs."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    blocks = downs + 1
    AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
    ).save_pretrained(folder)
    return folder


def save_clip(folder: Path, width: int = 16, projection: int | None = 12, seed: int = 0) -> Path:
    """A CLIPTextModelWithProjection with its tokenizer, or a CLIPTextModel where there is no projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    torch.manual_seed(seed)
    letters = list(bytes_to_unicode().values())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=[]).save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=projection or width, max_position_embeddings=32,
        bos_token_id=len(vocabulary) - 2, eos_token_id=len(vocabulary) - 1, pad_token_id=len(vocabulary) - 1,
    )  # fmt: skip
    model = CLIPTextModelWithProjection if projection is not None else CLIPTextModel
    model(config).save_pretrained(folder)
    return folder


def save_t5(folder: Path, width: int = 40, seed: int = 0) -> Path:
    """A T5EncoderModel with its tokenizer."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(seed)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((chr(97 + i), -2.0) for i in range(26))]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    config = T5Config(
        vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, is_encoder_decoder=False,
    )  # fmt: skip
    T5EncoderModel(config).save_pretrained(folder)
    return folder
