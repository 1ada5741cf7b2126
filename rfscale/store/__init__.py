"""The store: what is finished, who trains what, what was measured. The truth, of which MLflow is the mirror; no torch.

    <store>/trials/<trial_id>/
        trial.json           what was asked: every field, everything derived, versions and commit of each attempt
        journal.jsonl        what was measured: one line per point, appended, never rewritten; MLflow is its mirror
        checkpoint-<step>/   the two newest resumable states (written under a temporary name, then renamed), each with
                             the SHA-256 of its files in manifest.json: where the newest is damaged, the other serves
        model.safetensors    final weights as trained          ema.safetensors    final EMA weights
        ema-<step>.safetensors   EMA weights along the way, where the sweep asks for them
        samples.png          a few images of the finished model
        quality/             what judges saw: a grid of images for each setting, and judges.json, who they were,
                             and forgotten.json, from where in the journal their scores count
        log.txt              for people: every attempt, its steps and warnings, and the traceback of an error
        result.json          how it ended: finished, diverged, failed or interrupted, with the reason, and the size and
                             the SHA-256 of each file of weights
        <file>.damaged       what could not be read and was made anew
        lease.json           who holds it, with the epoch (`rfscale.store.lease`); .lease.json~<n> are its versions
        lock                 held while a process trains it: who that is, and when it last gave a sign of life
    <store>/trunks/                          the steps that trials of several lengths share, while one still needs them
    <store>/store.json                       the id of the store, by which it knows its own runs in MLflow
    <store>/ledger.jsonl                     which trials people left out or had trained again: who, when and why
    <store>/fits/                            the microbatch that fits a shape of trial on a kind of device
    <store>/sweeps/                          what each name of a sweep means here, and requests to stop it
    <store>/forecasts.jsonl                  losses predicted before they were measured, and forecasts.head.json
    <store>/judges/                          what a judge trains or computes once
    <store>/mlflow.db, <store>/artifacts/    MLflow, unless MLFLOW_TRACKING_URI points elsewhere
    <store>/reports/<sweep>/                 report.html, figures, tables

A store by URL (`rfscale.store.remote`) has the same files in a folder of each node.

"Finished" is a verified artifact: the last step reached, a finite val/loss, weights of the recorded size; and, where
`run`, `report` and whoever loads the weights ask for it, of the recorded SHA-256.
"""

from rfscale.store.files import DamagedError, StoreError, read_json, write_json
from rfscale.store.folder import State, TrialFolder
from rfscale.store.journal import Journal, Point
from rfscale.store.lease import ClaimedError, LostError
from rfscale.store.store import Store, default_store, trial_at

__all__ = [
    "ClaimedError",
    "DamagedError",
    "Journal",
    "LostError",
    "Point",
    "State",
    "Store",
    "StoreError",
    "TrialFolder",
    "default_store",
    "read_json",
    "trial_at",
    "write_json",
]
