"""Cells of the accuracy table in slices of time, several at once: training that stops at a checkpoint, and processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from foundation.errors import UserError

if TYPE_CHECKING:
    from pipeline.training.cotuning import Cotuning

STEPS = 16  # taken between looks at the clock; a multiple of those between an accelerator's checks costs no waiting
SAVE_SECONDS = 60.0  # at most so much training is lost when a process is cut off

Task = TypeVar("Task")
Result = TypeVar("Result")


class TimeIsUp(Exception):
    """A cell has stopped at a checkpoint; the text says where."""


def is_over(deadline: float | None) -> bool:
    """Whether the time is up; ``deadline`` is on ``time.monotonic``'s clock, which all processes of a machine share."""
    return deadline is not None and time.monotonic() > deadline


def train_in_slices(run: Cotuning, epochs: float, checkpoint: Path | None, deadline: float | None) -> None:
    """Take the steps that are left up to ``epochs``, from the checkpoint if there is one, and keep the state there.

    A run that was cut off takes the same steps as one that was not.

    Args:
        checkpoint: where the state is kept, at least once a minute and at the end; None keeps nothing.
        deadline: when to stop, on ``time.monotonic``'s clock; None does not stop.

    Raises:
        TimeIsUp: the deadline passed; the state is kept.
        UserError: the checkpoint cannot be read, or is another run's.
        Diverged: see ``Loop.run_until``.
    """
    from pipeline.study.checkpoints import read_checkpoint, write_checkpoint
    from pipeline.study.storage import DamagedFile, LocalStorage

    if checkpoint is not None and checkpoint.is_file():
        try:
            run.load_state_dict(read_checkpoint(LocalStorage(checkpoint.parent), checkpoint.name).state or {})
        except DamagedFile as error:
            raise UserError(f"{error}; remove it to train from the start") from error
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(
                f"{checkpoint} is of another run or another version ({error}); remove it to train from the start"
            ) from error
    target, saved = run.step_of(epochs), time.monotonic()
    while run.step < target:
        run.run_until(min(run.step + STEPS, target) / run.steps_per_epoch)
        over = is_over(deadline) and run.step < target
        if checkpoint is not None and (over or run.step == target or time.monotonic() - saved > SAVE_SECONDS):
            write_checkpoint(LocalStorage(checkpoint.parent), checkpoint.name, run, ())
            saved = time.monotonic()
        if over:
            raise TimeIsUp(f"stopped at step {run.step} of {target}")


def side_by_side(
    work: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, as they get done, by so many processes with an equal share of this process's threads; with one
    process, here and in order. ``work``, tasks and results must pickle.

    Raises:
        UserError: a process died (not enough memory?); or as ``work`` does. Tasks that were not begun are left out then.
    """
    if processes == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, work(task)
        return
    import torch

    threads = max(1, torch.get_num_threads() // processes)
    # A forked process could not use an accelerator that this one has touched.
    pool = ProcessPoolExecutor(
        min(processes, len(tasks)), multiprocessing.get_context("spawn"), _begin, (threads,)
    )
    try:
        futures = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process died, maybe for want of memory; give fewer with --parallel: the same command goes on"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(threads: int) -> None:
    """What every process does first."""
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the first process says that it was interrupted
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    """End with the first process, however that ends: nobody would take the result."""
    parent.join()
    os._exit(1)
