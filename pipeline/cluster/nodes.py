"""Which nodes of a Ray cluster measure, and which train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
