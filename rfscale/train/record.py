"""trial.json: what was asked of a trial; of each attempt at it when, where and with what code, and how it failed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch

from rfscale.environment import describe
from rfscale.spec.trial import Trial
from rfscale.store import StoreError, TrialFolder, read_json, write_json
from rfscale.train.fits import shape_of
from rfscale.train.placement import Placement


@dataclass(frozen=True, slots=True)
class Before:
    """What the attempt before this one came to, where it could not say so itself, and notes that follow from it."""

    failure: str = ""  # one of `rfscale.failures.FAILURES`
    reason: str = ""
    notes: tuple[str, ...] = ()


def record_attempt(
    trial: Trial, folder: TrialFolder, placement: Placement, found: Mapping[str, str], before: Before
) -> None:
    """trial.json: what was asked and what it is derived to, and for each attempt when, with what code and on what.

    `found`: sentences on what was damaged, each with its class.
    """
    device, earlier = placement.device, read_json(folder.record) or {}
    attempts = earlier.get("attempts", [])
    if attempts and before.failure:
        attempts[-1] |= {"failure": before.failure, "reason": before.reason}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} thread(s)"
    name += f", {placement.label}" if placement.label else ""
    attempt = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **describe(name),
        "kind": placement.kind,
        "shape": shape_of(trial, placement.asked),
        "microbatch": placement.microbatch or len(placement.ranks.rows(trial.training.batch)),
        "device_share": placement.share,
        "notes": [*found, *before.notes],
        "mended": [failure for failure in found.values() if failure],
    }
    record = {
        "trial_id": trial.trial_id,
        "trial": trial.model_dump(mode="json"),
        "identity": trial.identity_record(),
        "parameters": trial.parameters(),
        "attempts": [*attempts, attempt],
    }
    write_json(folder.record, record)


def went_on(folder: TrialFolder, step: int) -> None:
    """The present attempt goes on after this step: what an earlier one did beyond it is done again."""
    record = read_json(folder.record) or {}
    record["attempts"][-1]["step"] = step
    write_json(folder.record, record)


def note(folder: TrialFolder, notes: list[str], mended: str = "") -> None:
    """Add to the notes of the present attempt; `mended`: the class of what was found damaged."""
    record = read_json(folder.record) or {}
    attempt = record["attempts"][-1]
    attempt["notes"] += notes
    if mended:
        attempt["mended"] = [*attempt.get("mended", []), mended]
    write_json(folder.record, record)


def failed(folder: TrialFolder, failure: str, reason: str) -> dict[str, str]:
    """What result.json has of the class; the present attempt has it too, wherever it can still be written."""
    with suppress(StoreError, OSError, LookupError):
        record = read_json(folder.record) or {}
        record["attempts"][-1] |= {"failure": failure, "reason": reason}
        write_json(folder.record, record)
    return {"failure": failure}
