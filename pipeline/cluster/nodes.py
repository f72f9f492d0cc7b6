"""Which nodes of a Ray cluster measure, and which train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.cluster.work import Wanted, WorkOutcome, describe

LABELS = {"arch": "aarch64"}
HOSTS = {key: f"!{value}" for key, value in LABELS.items()}  # as Ray selects the nodes that train


def arm_nodes() -> list[str]:
    """The ids of the cluster's living ARM nodes that offer an ``arm_cpu``."""
    import ray

    return [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("arm_cpu", 0) >= 1 and is_arm(node)
    ]


def arm_devices(wanted: Wanted, patience: float = 60.0) -> list[dict[str, str]]:
    """The devices of those nodes as a person sees them listed. What their times are is asked of each: a label says what a node
    is for, not what it is.

    Args:
        patience: seconds for all of them to answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes, ours = {node["NodeID"]: node for node in ray.nodes()}, arm_nodes()
    here = [NodeAffinitySchedulingStrategy(identity, soft=False) for identity in ours]
    task = ray.remote(describe)
    asked = [
        task.options(num_cpus=0, max_retries=0, scheduling_strategy=place).remote(wanted) for place in here
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=patience) if asked else ([], [])
    free = ray.state.available_resources_per_node()
    rows = []
    for identity, answer in zip(ours, asked):
        node = nodes[identity]
        row = {"name": node["NodeManagerHostname"], "source": "unknown", "state": "quarantine"}
        row["where"] = node["NodeManagerAddress"]
        outcome = WorkOutcome("busy", f"it did not say what it is within {patience:.0f} s")
        if answer in answered:
            try:
                outcome = ray.get(answer)
            except ray.exceptions.RayError as error:
                outcome = WorkOutcome("fault", str(error).strip().splitlines()[-1])
        if outcome.kind == "done":
            row["source"] = outcome.value[1]
            row["state"] = "free" if free.get(identity, {}).get("arm_cpu", 0) >= 1 else "busy"
        else:
            row["reason"] = str(outcome.value)
        rows.append(row)
    return rows


def host_nodes() -> dict[str, int]:
    """The living nodes that are no ARM boards, by id, with their processors."""
    import ray

    nodes = (node for node in ray.nodes() if node["Alive"] and not is_arm(node))
    return {node["NodeID"]: max(1, int(node["Resources"].get("CPU", 0))) for node in nodes}


def host_memory() -> list[float]:
    """Bytes of memory that Ray may give away on each living node that trains."""
    import ray

    return [
        float(node["Resources"].get("memory", 0.0))
        for node in ray.nodes()
        if node["Alive"] and not is_arm(node) and node["Resources"].get("CPU", 0) >= 1
    ]


def is_arm(node: Mapping[str, Any]) -> bool:
    """Whether a node, as ``ray.nodes()`` tells of it, is an ARM board: it measures, and nothing is trained there."""
    return all(node.get("Labels", {}).get(key) == value for key, value in LABELS.items())


def node_name(identity: str) -> str:
    """How a person calls a node: its host's name."""
    import ray

    found: Mapping[str, Any] = next((node for node in ray.nodes() if node["NodeID"] == identity), {})
    return str(found.get("NodeManagerHostname") or found.get("NodeManagerAddress") or identity[:8])
