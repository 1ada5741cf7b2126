"""What a trial takes of a cluster, in Ray's words, and how many such trials its nodes hold. No Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rfscale.spec.sweep import Resources

Node = Mapping[str, float]
"""What a node has, or a process takes: CPU, GPU, and bytes of memory."""


def bundle(need: Resources) -> dict[str, float]:
    """What one process of a trial takes."""
    memory = {"memory": float(int(need.memory_gb * 2**30))} if need.memory_gb else {}
    return {"CPU": need.cpus, **({"GPU": need.gpus} if need.gpus else {}), **memory}


def slots(need: Resources, nodes: Sequence[Node]) -> int:
    """How many such trials these nodes run at once: a process runs on one node, those of a trial on several."""
    taken = bundle(need)
    processes = sum(min(int(node.get(key, 0) / amount + 1e-9) for key, amount in taken.items()) for node in nodes)
    return processes // need.processes


def too_large(need: Resources, nodes: Sequence[Node]) -> str:
    """The sentence for a trial that no such cluster can run."""
    memory = f" and {need.memory_gb:g} GB of memory" if need.memory_gb else ""
    asked, lacking = f"{need.cpus:g} CPUs, {need.gpus:g} GPUs{memory}", "no node of the Ray cluster has that"
    if need.processes > 1:
        asked = f"{need.processes} processes with {asked} each"
        lacking = "the nodes of the Ray cluster have no room for so many"
    sizes = {
        f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs and {n.get('memory', 0) / 2**30:.0f} GB" for n in nodes
    }
    return (
        f"one trial asks for {asked}, and {lacking} (they have {'; '.join(sorted(sizes))}); "
        "lower `resources` in the sweep, or add larger nodes"
    )
