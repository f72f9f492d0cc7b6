"""Searches as jobs of a Ray cluster, by its job API: each runs on the head node, whatever becomes of this process.

A job's name is the study's with a number; one that runs already is waited for, not started again. So a killed sweep that is
started once more finds its jobs. Only the cluster's head and this machine need to see the output folder.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from typing import Any

from foundation.command import INCOMPLETE
from foundation.errors import UserError
from pipeline.sweeps.asked import Asked

LOOKS = 2.0  # seconds between two questions about one job
UNKNOWN = 60.0  # seconds that the cluster may be silent before its jobs count as incomplete
ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
MARK = "sweep_study"  # the metadata by which a job is found again


class SearchJob:
    """One submitted search."""

    def __init__(self, client: Any, identity: str, address: str) -> None:
        self._client, self._identity = client, identity
        self.where = f"job {identity} of {address}"
        self._asked_at, self._heard = 0.0, time.monotonic()
        self._status: int | None = None
        self._why = ""

    def status(self) -> int | None:
        now = time.monotonic()
        if self._status is None and now - self._asked_at >= LOOKS:
            self._asked_at = now
            try:
                info = self._client.get_job_info(self._identity)
                self._heard = now
            except Exception as error:  # requests' errors, and RuntimeError for every answer that is not 200
                if now - self._heard > UNKNOWN:
                    self._status, self._why = INCOMPLETE, f"the cluster does not answer: {_line(error)}"
                return self._status
            if (word := str(getattr(info.status, "value", info.status))) in ENDED:
                code = info.driver_exit_code
                self._status = (
                    0 if word == "SUCCEEDED" else INCOMPLETE if code is None or code < 0 else int(code)
                )
                self._why = self._said(info.message)
        return self._status

    def stop(self, *, at_once: bool = False) -> None:
        try:
            self._client.stop_job(self._identity)
        except Exception as error:
            self._why = _line(error)

    def why(self) -> str:
        return self._why

    def _said(self, message: str | None) -> str:
        try:
            lines = [line for line in self._client.get_job_logs(self._identity).splitlines() if line.strip()]
        except Exception:
            lines = []
        said = next((line for line in reversed(lines) if line.startswith("error: ")), None)
        return (said or _line(message or "")).removeprefix("error: ")


class Jobs:
    """A cluster's job API.

    Args:
        address: such as ``http://head:8265``.
        python: the interpreter on the cluster's head that has this project.

    Raises:
        UserError: the parts of Ray for jobs are not installed, or nothing answers there, or the token is missing or another.
    """

    def __init__(self, address: str, sweep: str, python: str = sys.executable) -> None:
        if not re.match(r"https?://[^/]+", address):
            raise UserError(
                f"--jobs {address}: give the address of Ray's dashboard, such as http://HOST:8265"
            )
        try:
            from ray.job_submission import JobSubmissionClient

            self._client: Any = JobSubmissionClient(address)
            self._known = {job.submission_id: job for job in self._client.list_jobs() if job.submission_id}
        except Exception as error:
            raise UserError(f"--jobs {address}: {refusal(error)}") from error
        self._address, self._sweep, self._python = address, sweep, python

    def start(self, asked: Asked) -> SearchJob:
        mark = str(asked.settings.folder)
        mine = [name for name, job in self._known.items() if (job.metadata or {}).get(MARK) == mark]
        for name in mine:
            if str(getattr(self._known[name].status, "value", "")) not in ENDED:
                return SearchJob(self._client, name, self._address)
        identity = f"{asked.study}.{len(mine) + 1}"
        while identity in self._known:
            identity = f"{asked.study}.{int(identity.rpartition('.')[2]) + 1}"
        words = [self._python, "-m", "pipeline.search", *asked.flags()]
        try:
            self._client.submit_job(
                entrypoint=shlex.join(words),
                submission_id=identity,
                metadata={MARK: mark, "sweep": self._sweep},
            )
        except Exception as error:
            raise UserError(
                f"{asked.study} could not be submitted to {self._address}: {refusal(error)}"
            ) from error
        return SearchJob(self._client, identity, self._address)


def refusal(error: Exception) -> str:
    """Why a cluster's job API did not take us, and what to do, in a line."""
    text = _line(error)
    if isinstance(error, ImportError) or "ray[default]" in text:
        return 'the parts of Ray for jobs are missing here; pip install "ray[default]"'
    if "token" in text.lower() or "401" in text or "403" in text:
        return (
            f"the cluster asks for a token and did not take ours ({text[:200]}); copy ~/.ray/auth_token of the head node to this "
            "machine, or give it as RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
        )
    return f"Ray's job API does not answer ({text[:300]}); is the head started with --include-dashboard=true?"


def _line(error: object) -> str:
    return " ".join(str(error).split())
