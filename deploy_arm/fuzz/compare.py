"""Runs valid networks of hostile numbers through every implementation there is, for aarch64 under sanitizers."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy_arm.fuzz.build import build_compare
from deploy_arm.fuzz.hostile import hostile_blobs
from deploy_arm.target.host import tail
from deploy_arm.target.toolchain import is_arm
from foundation.files import write_atomically

THREADS = 3
BATCH = 100  # networks of one start of the emulator
CORES = ("max", "cortex-a76")  # in turn: with matrix products, and without
# Leaks are looked for by tracing the process, which an emulator does not let it do.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0"}


def compare(first: int, count: int, findings: Path) -> dict[str, object]:
    """``count`` networks from number ``first`` on; the row that is printed. Stops at the first finding and writes its blob to the
    folder ``findings``.

    Raises:
        UserError: what it takes is not installed (``build_compare``).
    """
    command = build_compare()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    compared = found = 0
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        for number, start in enumerate(range(first, first + count, BATCH)):
            seeds = range(start, min(start + BATCH, first + count))
            paths = [Path(name, f"{seed}.blob") for seed in seeds]
            for path, blob in zip(paths, hostile_blobs(start, len(seeds)), strict=True):
                path.write_bytes(blob)
            core = [] if is_arm() else ["-cpu", CORES[number % len(CORES)]]
            done = subprocess.run(
                [command[0], *core, *command[1:], str(THREADS), *map(str, paths)],
                env={**os.environ, **ENVIRONMENT},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            tried = [line for line in done.stderr.splitlines() if line in set(map(str, paths))]
            compared += len(tried)
            if done.returncode != 0:
                found = 1
                print(tail(done.stderr + done.stdout, 60), file=sys.stderr)
                if tried:
                    content = Path(tried[-1]).read_bytes()
                    write_atomically(
                        findings / f"finding-{hashlib.sha256(content).hexdigest()[:16]}.blob", content
                    )
                break
            for path in paths:
                path.unlink()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "compiler": "gcc for aarch64",
        "sanitizers": "address alignment bounds shift",
        "options": f"networks {first} to {first + count - 1}, threads 1 to {THREADS}",
        "cpu_minutes": round((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60, 1),
        "executions": compared,
        "findings": found,
    }
