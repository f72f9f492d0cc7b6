"""The progress of a search as plain lines on standard output, for a process that reads them one by one."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.study.records import TrialRecord


class Lines:
    """Progress as plain lines on stdout."""

    def line(self, text: str) -> None:
        print(text, flush=True)

    def status(self, text: str | Callable[[], str]) -> None:
        pass

    def trial(self, record: TrialRecord, done: int) -> None:
        print("ended", record.hash, record.status, done, flush=True)
