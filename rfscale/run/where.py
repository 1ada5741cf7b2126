"""On which machine of a Ray cluster a task ran, and why it failed there. Ray itself comes from `rfscale.run.launch`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from rfscale.failures import BAD_NODE, DIED, HOST_MEMORY, LOST_NODE
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


def _node_of_dead(reference: Any) -> str:
    """The machine on which a process began a task and died, "" where nobody knows."""
    with suppress(Exception):  # Ray's own business: without it, no machine is blamed for a death
        found = _notes()._internal_kv_get(f"rfscale-{reference.task_id().hex()}")
        return found.decode() if found else ""
    return ""


def problem_of(ray: Any, reference: Any) -> tuple[Problem | None, str]:
    """Why a task that has ended failed, None if it did not; and on which machine, where that is known."""
    try:
        node, found = ray.get(reference)
    except ray.exceptions.RayError as error:
        return _problem_of(ray, error), _node_of_dead(reference)
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
