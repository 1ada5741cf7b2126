"""The frozen networks, read by diffusers and transformers from folders in their own formats. Loads torch when asked.

A folder is one that `save_pretrained` wrote, or a name on the hub. What decides what a network gives, its weights,
configuration and tokenizer, is known by one SHA-256, wherever it lies.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale.data.base import DataError
from rfscale.data.encoded.layout import CLIP, T5
from rfscale.data.hub import HubError, downloaded
from rfscale.paths import expanded
from rfscale.quoting import cut

if TYPE_CHECKING:
    from torch import Tensor

DECODED = 8
"""Latents that are decoded at once: an autoencoder's memory grows with the pixels."""
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")  # of a model: no pickle, no code
_AUTOENCODER = "AutoencoderKL"
_CLASSES = {
    CLIP: ("CLIPTextModelWithProjection", "CLIPTextModel", "CLIPModel"),
    T5: ("T5EncoderModel", "T5ForConditionalGeneration", "T5Model"),
}
_MODEL_TYPES = {CLIP: ("clip_text_model", "clip"), T5: ("t5",)}


def folder_of(path: str, what: str, weights: bool = True) -> Path:
    """The folder of a network: itself where it is one, otherwise of the hub, or of its cache. Raises DataError.

    On the hub `owner/name`, or `owner/name/vae` of a pipeline. `weights`: not only a tokenizer.
    """
    local = expanded(path, what)
    if local.is_dir():
        return local
    if path.startswith((".", "/", "~")) or path.count("/") > 2:
        raise DataError(
            f"{what}: there is no folder {path}: give one that save_pretrained wrote, or a name on the hub."
        )
    owner, _, rest = path.partition("/")
    name, _, inner = rest.partition("/")
    try:
        return downloaded(
            require("huggingface_hub", what), f"{owner}/{name}" if name else owner, _FILES, inner, weights
        )
    except HubError as error:
        raise DataError(
            f"{what}: {path} is no folder here and did not come from the hub ({error}): correct the name, or download "
            "it where there is a network and give its folder."
        ) from error


def require(package: str, what: str) -> Any:
    """The imported package. Raises DataError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f"{what} needs the package {package}, which cannot be imported: pip install 'rfscale[encode]'."
        ) from error


def content(*folders: Path) -> str:
    """SHA-256 of the names and contents of the files that decide what a network gives. Raises DataError."""
    digest = hashlib.sha256()
    for folder in dict.fromkeys(folders):
        for path in sorted({path for pattern in _FILES for path in folder.glob(pattern)}):
            digest.update(
                f"{path.name}\n{_file_content(path, path.stat().st_size, path.stat().st_mtime_ns)}\n".encode()
            )
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_content(path: Path, size: int, mtime: int) -> str:
    """Of a file as it was at that time."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): make it readable.") from error


def config_of(folder: Path, what: str) -> dict[str, Any]:
    """config.json. Raises DataError."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{what}: {folder} holds no config.json that can be read ({cut(str(error))}): give a folder that "
            "save_pretrained wrote."
        ) from error


# --- the autoencoder --------------------------------------------------------------------------------------------------


def autoencoder_folder(path: str) -> Path:
    """Of an `AutoencoderKL`, or the `vae` inside the folder of a pipeline. Raises DataError."""
    folder = folder_of(path, "the autoencoder")
    inner = folder / "vae"
    folder = inner if not (folder / "config.json").exists() and inner.is_dir() else folder
    kind = config_of(folder, "the autoencoder").get("_class_name")
    if kind != _AUTOENCODER:
        raise DataError(
            f"the autoencoder: {folder} holds a network of the kind {cut(str(kind or 'transformers'))}, not an "
            f"{_AUTOENCODER} of diffusers: give the folder of one."
        )
    return folder


def autoencoder(folder: Path, device: str = "cpu") -> Any:
    """The network, for inference in float32. Raises DataError."""
    return _autoencoder(folder, content(folder), device)


@lru_cache(maxsize=2)
def _autoencoder(folder: Path, sha256: str, device: str) -> Any:
    diffusers = require("diffusers", "an autoencoder")
    _quiet(diffusers)
    try:
        model, info = diffusers.AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    except Exception as error:  # anything: safetensors, the file system, diffusers itself
        raise _cannot_load("the autoencoder", folder, error) from error
    _check_whole("the autoencoder", folder, info)
    return model.eval().requires_grad_(False).to(device)


def checked_autoencoder(path: str, expected: str) -> Path:
    """The folder of the autoencoder that data were encoded by. Raises DataError where it is another one."""
    folder = autoencoder_folder(path)
    if content(folder) != expected:
        raise DataError(
            f"the autoencoder {folder} is not the one that the data were encoded by: give its folder as "
            "data.autoencoder, or encode the data again."
        )
    return folder


def encode_pixels(folder: Path, pixels: Tensor, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Mean and log variance (b, c, h, w) of pixels (b, 3, H, W) in [-1, 1]."""
    import torch

    with torch.inference_mode():
        found = autoencoder(folder, device).encode(pixels.to(device)).latent_dist
        return found.mean.float().cpu(), found.logvar.float().cpu()


def decode_latents(folder: Path, latents: Tensor) -> Tensor:
    """Pixels (b, 3, H, W) in [-1, 1], on the device of the latents."""
    import torch

    network = autoencoder(folder, str(latents.device))
    with torch.no_grad():
        parts = [network.decode(part.float()).sample for part in latents.split(DECODED)]  # type: ignore[no-untyped-call]
    return torch.cat(parts).clamp(-1, 1)


# --- text encoders ----------------------------------------------------------------------------------------------------


def text_folders(kind: str, path: str, tokenizer: str | None, what: str) -> tuple[Path, Path]:
    """(of the network, of its tokenizer): the same, or neighbours as in a pipeline of diffusers. Raises DataError."""
    folder = folder_of(path, what)
    config = config_of(folder, what)
    if "_class_name" in config or config.get("model_type") not in _MODEL_TYPES[kind]:
        found = config.get("_class_name") or config.get("model_type") or "another kind"
        raise DataError(
            f"{what}: {folder} holds a network of the kind {cut(str(found))}, not a text encoder of the kind {kind}: "
            "give the folder of one."
        )
    if tokenizer is not None:
        return folder, folder_of(tokenizer, f"the tokenizer of {what}", weights=False)
    beside = folder.parent / folder.name.replace("text_encoder", "tokenizer")
    own = any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", "spiece.model"))
    if not own and not (beside != folder and beside.is_dir()):
        raise DataError(f"{what}: {folder} holds no tokenizer, nor is one beside it: name its folder as `tokenizer`.")
    return folder, folder if own else beside


def text_shape(kind: str, folder: Path, what: str) -> tuple[int, int]:
    """(width of a token vector, width of the pooled vector, 0 where there is none). Raises DataError."""
    config = config_of(folder, what)
    inner = config.get("text_config") or config
    try:
        if kind == T5:
            return int(config["d_model"]), 0
        width = int(inner["hidden_size"])
        projected = "WithProjection" in _class_of(kind, config)
        return width, int(config.get("projection_dim") or inner["projection_dim"]) if projected else width
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{what}: {folder}/config.json says no width ({error}): give the folder of a {kind}."
        ) from error


def _class_of(kind: str, config: dict[str, Any]) -> str:
    """What is read of a folder: of a whole CLIP or T5 the text encoder, and of a CLIP with its projection."""
    if kind == T5:
        return "T5EncoderModel"
    named = (config.get("architectures") or ["CLIPTextModel"])[0]
    return "CLIPTextModel" if named == "CLIPTextModel" else "CLIPTextModelWithProjection"


class PretrainedEncoder:
    """One frozen text encoder: captions -> token sequences and pooled vectors. Raises DataError.

    CLIP: the hidden states before the last layer (`penultimate`) or after the final norm (`last`), and the projected
    vector of the end of the text, or that vector itself of a network without a projection. T5: the last hidden states,
    and no pooled vector. No attention mask is given for padding, as in the code of SD3.
    """

    def __init__(self, kind: str, folders: tuple[Path, Path], length: int, layer: str, device: str = "cpu") -> None:
        self.kind, self.length, self.layer, self.device = kind, length, layer, device
        folder, tokenizer = folders
        what = f"the text encoder {kind}"
        transformers = require("transformers", what)
        _quiet(transformers)
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                tokenizer, local_files_only=True, trust_remote_code=False
            )
            model, info = getattr(transformers, _class_of(kind, config_of(folder, what))).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        except DataError:
            raise
        except Exception as error:  # anything: JSON, safetensors, the file system, transformers itself
            raise _cannot_load(what, folder, error) from error
        _check_whole(what, folder, info)
        self._model = model.float().eval().requires_grad_(False).to(device)
        if self._tokenizer.pad_token is None:
            raise DataError(f"{what}: the tokenizer in {tokenizer} has no token for padding: give the encoder's own.")
        positions = getattr(model.config, "max_position_embeddings", None)
        if kind == CLIP and positions is not None and length > positions:
            raise DataError(f"{what}: {folder} reads {positions} tokens, and length is {length}: lower it.")

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(b, length, width) and (b, pooled), zeros for an empty caption."""
        import torch

        tokens = self._tokenizer(
            list(captions), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).input_ids.to(self.device)
        with torch.inference_mode():
            if self.kind == T5:
                states = self._model(input_ids=tokens).last_hidden_state
                pooled = states.new_zeros(len(captions), 0)
            else:
                found = self._model(input_ids=tokens, output_hidden_states=True)
                states = found.hidden_states[-2] if self.layer == "penultimate" else found.last_hidden_state
                pooled = found.text_embeds if hasattr(found, "text_embeds") else found.pooler_output
            kept = torch.tensor([bool(caption.strip()) for caption in captions], device=self.device)
            states, pooled = states * kept.view(-1, 1, 1), pooled * kept.view(-1, 1)
            return states.float().cpu(), pooled.float().cpu()

    def truncated(self, captions: Sequence[str]) -> int:
        """How many captions have more tokens than `length` and lose their end."""
        return sum(len(found) > self.length for found in self._tokenizer(list(captions)).input_ids) if captions else 0


def text_encoder(kind: str, folders: tuple[Path, Path], length: int, layer: str, device: str) -> PretrainedEncoder:
    """One per process: a worker encodes one shard after the other."""
    return _text_encoder(content(*folders), kind, folders, length, layer, device)


@lru_cache(maxsize=8)
def _text_encoder(
    sha256: str, kind: str, folders: tuple[Path, Path], length: int, layer: str, device: str
) -> PretrainedEncoder:
    return PretrainedEncoder(kind, folders, length, layer, device)


# --- what both share --------------------------------------------------------------------------------------------------


def _quiet(package: Any) -> None:
    logging = getattr(package.utils, "logging", None)
    if logging is not None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _cannot_load(what: str, folder: Path, error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or ["no message"]
    return DataError(
        f"{what}: {folder} cannot be loaded ({type(error).__name__}: {cut(lines[0], 200).rstrip(' .:')}): check that "
        "it is complete and of the right kind."
    )


def _check_whole(what: str, folder: Path, info: dict[str, Any]) -> None:
    """Weights that are missing would be random ones. Raises DataError."""
    lacking = sorted(map(str, [*info.get("missing_keys", ()), *info.get("mismatched_keys", ())]))
    if lacking:
        raise DataError(
            f"{what}: {folder} lacks {len(lacking)} weights, such as {lacking[0]}: give the folder of a whole network."
        )
