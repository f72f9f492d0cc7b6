"""Clock, governor and temperature of a CPU, as Linux tells them in files below ``/sys``.

A tree is those files as text by their path below ``/sys``: of this machine, of a board, or recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

Tree = Mapping[str, str]
CpuConditions = dict[str, float | str | None]

FREQUENCY = "devices/system/cpu/cpu{}/cpufreq/"
PATTERNS = (
    *(
        FREQUENCY.format("[0-9]*") + name
        for name in ("scaling_cur_freq", "scaling_governor", "cpuinfo_max_freq")
    ),
    "class/thermal/thermal_zone*/temp",
)
# Prints each as a line: its path, a space, its first line.
SCRIPT = f'cd /sys && for f in {" ".join(PATTERNS)}; do test -r "$f" && echo "$f $(head -n 1 "$f" 2>/dev/null)"; done; true'


def read_tree(root: Path = Path("/sys")) -> dict[str, str]:
    """The tree of this machine."""
    found = {}
    for file in (file for pattern in PATTERNS for file in root.glob(pattern)):
        try:
            found[str(file.relative_to(root))] = file.read_text().strip()
        except (OSError, UnicodeDecodeError):  # a sensor that is asleep
            continue
    return found


def parse_tree(text: str) -> dict[str, str]:
    """The tree that ``SCRIPT`` printed; lines that are none of its own are passed over."""
    pairs = (line.strip().partition(" ") for line in text.splitlines())
    return {path: value.strip() for path, _, value in pairs if path.startswith(("devices/", "class/"))}


def number(tree: Tree, path: str) -> float | None:
    """The number a file holds, None where it does not exist or holds none."""
    try:
        return float(tree[path])
    except (KeyError, ValueError):
        return None


def conditions(cpu: int, tree: Tree) -> CpuConditions:
    """Clock of a CPU in GHz, its governor, and the hottest sensor in degrees Celsius; None where the kernel does not tell."""
    folder = FREQUENCY.format(cpu)
    clock = number(tree, folder + "scaling_cur_freq")
    zones = (path for path in tree if path.startswith("class/thermal/"))
    heat = [value for zone in zones if (value := number(tree, zone)) is not None]
    return {
        "frequency_ghz": None if clock is None else clock / 1e6,
        "temperature_c": max(heat) / 1000 if heat else None,
        "governor": tree.get(folder + "scaling_governor") or None,
    }


def fastest_cpus(allowed: Sequence[int], tree: Tree) -> list[int]:
    """The allowed CPUs from the highest maximal clock, the big cores of a mixed chip, to the lowest; the last of equals first."""
    clocks = {cpu: number(tree, FREQUENCY.format(cpu) + "cpuinfo_max_freq") or 0.0 for cpu in allowed}
    return sorted(allowed, key=lambda cpu: (clocks[cpu], cpu), reverse=True)
