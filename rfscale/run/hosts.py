"""Before anything is trained on a cluster of several machines: does each of them reach what all of them need?

A machine is an address of a Ray node: several raylets at one address are one machine, with one disk. Ray itself comes
from `rfscale.run.launch`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.table.store import is_database, keeps_files_itself
from rfscale import names
from rfscale.run.queue import LaunchError
from rfscale.run.tasks import SEEN_SECONDS, appears
from rfscale.store import Store, StoreError
from rfscale.store.objects import ObjectPort
from rfscale.store.remote import given_url

ANSWER_SECONDS = 60.0
"""For all machines together. One that says nothing until then is not judged: it may be starting, or full."""
SHOWN = 3  # machines that a sentence names


def check_hosts(ray: Any, store: Store, uri: str) -> None:
    """Refuse what only one of several machines could use; with one machine everything goes.

    `uri`: of MLflow. Nothing remains in the store. Raises LaunchError.
    """
    hosts = {str(node["NodeManagerAddress"]): str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
    if len(hosts) < 2:
        return
    if not keeps_files_itself(uri) and not (is_database(uri) and not uri.lower().startswith("sqlite")):
        raise LaunchError(
            f"the cluster has {len(hosts)} machines ({_some(sorted(hosts))}), and MLflow's database would be a file of "
            "one of them; start a server for all, such as cluster/mlflow-server.sh on PostgreSQL, and set "
            "MLFLOW_TRACKING_URI=http://HOST:5000"
        )
    with _marker(store) as marker:
        found = _asked(ray, hosts, store.place, marker)
    if blind := {host: why for host, why in found.items() if why}:
        why = next(iter(blind.values()))
        raise LaunchError(
            f"{len(blind)} of the cluster's {len(hosts)} machines cannot use the store {store.address} "
            f"({_some(sorted(blind))}: {why}); give one that all of them reach, such as a shared folder or --store "
            "s3://bucket/prefix, or take these machines out of the cluster"
        )


def _asked(ray: Any, hosts: dict[str, str], place: str, marker: str) -> dict[str, str]:
    """Address -> why that machine cannot use the store, "" where it can."""
    on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        task.options(scheduling_strategy=on(node_id=node, soft=False)).remote(place, marker): host
        for host, node in hosts.items()
    }
    answered = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)[0]
    found = {}
    for reference in answered:
        try:
            found[asked[reference]] = str(ray.get(reference))
        except ray.exceptions.RayTaskError as error:  # it could not even load the task
            found[asked[reference]] = names.one_line(error.cause, 200)
        except ray.exceptions.RayError:
            continue  # it died meanwhile: the launcher knows what to do with those
    return found


def look(place: str, marker: str) -> str:
    """On a machine of the cluster: why it cannot use the store, "" where it can.

    `place`: as of `Store.place`; `marker`: a folder that the launcher has just made in a store that is a folder.
    """
    if (url := given_url(place)) is not None:
        try:
            port, key = ObjectPort(url, patience=ANSWER_SECONDS / 3), f"probe/{uuid.uuid4().hex}"
            port.put(key, b"")
            port.delete([key])
        except StoreError as error:
            return names.one_line(error, 200)
        return ""
    if not appears(Path(marker).is_dir, SEEN_SECONDS):
        return "its files are not there"
    try:
        descriptor, _ = tempfile.mkstemp(dir=marker)
        os.close(descriptor)
    except OSError as error:
        return f"nothing can be written there, {str(error.strerror).lower()}"
    return ""


@contextmanager
def _marker(store: Store) -> Iterator[str]:
    """A folder that others can be asked to see, in the store, or above it where it is yet to be made; "" for a URL.

    Raises StoreError where it cannot be written.
    """
    if store.remote is not None:
        yield ""
        return
    above = store.root.resolve()
    while not above.exists():
        above = above.parent
    try:
        folder = tempfile.mkdtemp(prefix=".probe-", dir=above)
        os.chmod(folder, 0o777)
    except OSError as error:
        why = f"cannot write the store {store.root}: {error.strerror}; choose another with --store"
        raise StoreError(why) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _some(hosts: list[str]) -> str:
    more = f" and {len(hosts) - SHOWN} more" if len(hosts) > SHOWN else ""
    return ", ".join(hosts[:SHOWN]) + more
