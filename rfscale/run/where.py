"""On which machine of a Ray cluster a task ran, and why it failed there. Ray itself comes from `rfscale.run.launch`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from rfscale.failures import BAD_NODE, DIED, HOST_MEMORY, LOST_NODE
from rfscale.run.nodes import Nodes
from rfscale.run.room import Node
from rfscale.run.tasks import Problem


def _notes() -> Any:
    """Where a task leaves word of its machine, in Ray's head: asked for where its process dies."""
    return importlib.import_module("ray.experimental.internal_kv")


def not_on(nodes: Iterable[str]) -> dict[str, str]:
    """For Ray: any machine but these."""
    return {"ray.io/node-id": f"!in({','.join(nodes)})"}


def telling_where(ray: Any, task: Callable[..., Problem | None]) -> Callable[..., Any]:
    """The task, whose result says on which machine it ran. Ray carries this function there whole, and not by its name:
    so it also runs, and says so, where rfscale cannot be imported."""
    module, name = task.__module__, task.__qualname__
    here = None if "<locals>" not in name else task
    notes = _notes()

    def told(*given: Any) -> tuple[str, Any]:
        import contextlib
        import importlib

        context = ray.get_runtime_context()
        node = str(context.get_node_id())
        with contextlib.suppress(Exception):  # Ray's own business; asked for where the process dies
            notes._internal_kv_put(f"rfscale-{context.get_task_id()}", node)
        try:
            found = here or getattr(importlib.import_module(module), name)
        except Exception as error:
            return node, f"rfscale cannot be imported there ({type(error).__name__}: {error})"
        return node, found(*given)

    told.__name__ = told.__qualname__ = name  # the title of the process
    return told


def nodes_of(ray: Any, known: Nodes | None = None, leaving: Iterable[str] = ()) -> list[Node]:
    """What each machine has, but those that are leaving; of the `known` ones those that are left out do not count."""
    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    if known is not None:
        known.alive = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})" for node in alive}
        known.have = {node["NodeID"]: node["Resources"] for node in alive}
    return [node["Resources"] for node in alive if known is None or node["NodeID"] not in known.drained]


def leaving(ray: Any) -> frozenset[str]:
    """The machines that are taken away within seconds: a pod that Kubernetes ends, a node that an autoscaler or
    `ray drain-node` drains, a `ray start --block` that got SIGTERM. Ray gives them no task any more, and when the time
    is over it ends those that run there, without a word to them."""
    with suppress(Exception):  # Ray's own business: where a version does not tell, they end as by a kill
        return frozenset(ray._private.state.state.get_draining_nodes())
    return frozenset()


def taken_away() -> Problem:
    """What ended a trial that was told to leave its machine."""
    return Problem(("leaving",), "its machine was taken away", died=True, machine=True, failure=LOST_NODE)


def node_of(reference: Any) -> str:
    """The machine on which a process began a task that has not said so yet, "" where nobody knows."""
    with suppress(Exception):  # Ray's own business: without it, no machine is blamed for a death
        found = _notes()._internal_kv_get(f"rfscale-{reference.task_id().hex()}")
        return found.decode() if found else ""
    return ""


def problem_of(ray: Any, reference: Any) -> tuple[Problem | None, str]:
    """Why a task that has ended failed, None if it did not; and on which machine, where that is known."""
    try:
        node, found = ray.get(reference)
    except ray.exceptions.RayError as error:
        return _problem_of(ray, error), node_of(reference)
    if isinstance(found, str):
        return Problem(("import",), found, failure=BAD_NODE), node
    return found, node


def _problem_of(ray: Any, error: Any) -> Problem:
    """Of a task whose process could not say it."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return Problem.of(error.cause)
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        sentence = "its machine ran out of memory; set resources.memory_gb so that fewer trials share it"
        return Problem((type(error).__name__,), sentence, died=True, failure=HOST_MEMORY)
    if isinstance(error, ray.exceptions.NodeDiedError | ray.exceptions.LocalRayletDiedError):
        sentence = f"the machines that it ran on died again and again, before it went on ({type(error).__name__})"
        return Problem((type(error).__name__,), sentence, died=True, machine=True, failure=LOST_NODE)
    sentence = f"its process died again and again, before it wrote a newer checkpoint ({type(error).__name__})"
    return Problem((type(error).__name__,), sentence, died=True, failure=DIED)
