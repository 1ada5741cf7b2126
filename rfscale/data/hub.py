"""Networks on the Hugging Face hub: downloaded once, and one reason where that fails. Needs huggingface_hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfscale.names import RfscaleError
from rfscale.quoting import cut

TIMEOUT = 10.0
"""Seconds that the hub has to answer."""
_PIPELINE, _CONFIG = "model_index.json", "config.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


class HubError(RfscaleError, ValueError):
    """A network did not come from the hub; the message is a clause that says why."""


def downloaded(hub: Any, name: str, files: Sequence[str], inner: str = "", weights: bool = True) -> Path:
    """The folder of a repository, or of its folder `inner`, with the files of these patterns; of the cache where the
    hub cannot be asked. `hub`: the package; `weights`: whether some are to be in it. Raises HubError."""
    places = [inner]
    if "text_encoder" in inner:  # of a pipeline: its tokenizer lies beside it
        places.append(inner.replace("text_encoder", "tokenizer"))
    wanted = [f"{place}/{pattern}" if place else pattern for place in places for pattern in files]
    try:
        # snapshot_download has no time limit for its first question, so the question is asked here before.
        info = hub.HfApi().model_info(name, timeout=TIMEOUT)
        _check_there(name, [one.rfilename for one in info.siblings or ()], inner, weights)
        # Of the newest revision by its name and not by its hash: only then the cache is found again without a network.
        found = Path(hub.snapshot_download(name, allow_patterns=wanted, etag_timeout=TIMEOUT))
    except HubError:
        raise
    except Exception as error:  # the hub's client raises what its HTTP library, the disk and the parser raise
        before = _kept(hub, name, wanted)
        if before is None:
            raise HubError(_reason(hub, error)) from error
        found = before
    return found / inner


def _check_there(name: str, there: Sequence[str], inner: str, weights: bool) -> None:
    """Raises HubError where these files of a repository are not those of a network."""
    if not inner and _PIPELINE in there and _CONFIG not in there:
        raise HubError(f"it holds a pipeline of several networks: name one of them, such as {name}/vae")
    inside = [file for file in there if file.rpartition("/")[0] == inner]
    if inner and not inside:
        raise HubError(f"it has no folder {inner}")
    if weights and not any(file.endswith(".safetensors") for file in inside):
        pickled = next((file for file in inside if file.endswith(_PICKLES)), "")
        said = f"its weights are {pickled}" if pickled else "it has none"
        raise HubError(f"only weights in safetensors are read, and {said}: name another, or save them so")


def _kept(hub: Any, name: str, wanted: list[str]) -> Path | None:
    """The folder of a repository in the hub's cache, where it is there and whole."""
    try:
        return Path(hub.snapshot_download(name, local_files_only=True, allow_patterns=wanted))
    except (OSError, ValueError):  # not there, not whole; no name of a repository at all
        return None


def _reason(hub: Any, error: Exception) -> str:
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return "its owner asks for a login: accept the terms on its page, and give the command `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{endpoint} has no such repository, or shows it only after a login"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it is not in the cache here"
    if isinstance(error, errors.HFValidationError):
        return "it is no name of a repository, which is owner/name"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return f"{endpoint} answers {error.response.status_code}"
    lines = str(error).strip().splitlines() or ["no message"]
    said = f"{type(error).__name__}: {cut(lines[0], 120).rstrip(' .:')}"
    asked = any("httpx" in kind.__module__ for kind in type(error).__mro__)  # its HTTP library, whatever its version
    return f"{endpoint} cannot be reached ({said})" if asked else said
