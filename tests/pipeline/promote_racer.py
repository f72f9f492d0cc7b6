"""One of two processes that promote at the same time: racer.py OUT NAME COUNT."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.review.champions import Champions
from pipeline.review.tracking import Tracker

out, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
champions = Champions(Tracker(None, out, "raced"), "raced")
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    with champions.alone():
        champions.promote(f"{name}{number}", "d", out / "bundle", {}, "")
