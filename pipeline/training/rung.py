"""What is known of a training run at one point of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """One point of a trial's curve: after ``epochs`` of co-tuning."""

    epochs: float
    error: float
    loss: float
    seconds: float
