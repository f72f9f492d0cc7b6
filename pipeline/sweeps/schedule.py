"""What starts a sweep again and again: units of systemd, a line of a crontab, a manifest of KubeRay. They are printed for a
person to install; each only starts the command, which goes on where it was.

Sources: systemd.service(5), systemd.timer(5), systemd.time(7), crontab(5), and KubeRay's RayCronJob, which is alpha since
1.6.0 and needs the operator's feature gate of that name.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from foundation.errors import UserError
from pipeline.sweeps.asked import Sweep

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class When:
    """A time of day, and the days (of ``DAYS``; none: every day)."""

    hour: int = 2
    minute: int = 0
    days: tuple[str, ...] = ()

    @classmethod
    def of(cls, at: str, on: str | None) -> When:
        """Of ``02:30`` and ``mon,thu``.

        Raises:
            UserError: neither a time nor days.
        """
        match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", at)
        if not match:
            raise UserError(f"--at {at}: give a time of day like 02:30")
        days = [day.strip().title() for day in (on or "").split(",") if day.strip()]
        if wrong := [day for day in days if day not in DAYS]:
            raise UserError(f"--on {on}: {wrong[0]!r} is no day; give some of {','.join(DAYS).lower()}")
        return cls(int(match[1]), int(match[2]), tuple(day for day in DAYS if day in days))

    def systemd(self) -> str:
        return f"{','.join(self.days)} *-*-* {self.hour:02d}:{self.minute:02d}:00".strip()

    def cron(self) -> str:
        days = ",".join(str(DAYS.index(day) + 1) for day in self.days) or "*"
        return f"{self.minute} {self.hour} * * {days}"


def words(sweep: Sweep, flags: Sequence[str]) -> list[str]:
    """The command."""
    return [sys.executable, "-m", "pipeline.sweep", str(sweep.file), *flags]


def systemd(sweep: Sweep, flags: Sequence[str], when: When) -> str:
    """A service and its timer, each below its file's name."""
    name = f"sweep-{sweep.name}"
    return f"""# ~/.config/systemd/user/{name}.service
[Unit]
Description=Sweep {sweep.name}

[Service]
Type=oneshot
WorkingDirectory={_path(sweep.file.parent)}
ExecStart={" ".join(map(_quoted, words(sweep, flags)))}
# 3: incomplete, the next start goes on. 1 (a gate said no) and 2 (a mistake) fail the unit, for somebody to see.
SuccessExitStatus=3
# The sweep ends its searches itself, in good order.
KillMode=mixed
TimeoutStopSec=10min

# ~/.config/systemd/user/{name}.timer
[Unit]
Description=Start of sweep {sweep.name}

[Timer]
OnCalendar={when.systemd()}
Persistent=true

[Install]
WantedBy=timers.target

# then: systemctl --user daemon-reload && systemctl --user enable --now {name}.timer
"""


def _plain(text: str) -> str:
    if not text.isprintable():
        raise UserError(f"{text!r}: no unit or crontab can hold this name; move the file to another folder")
    return text


def _quoted(word: str) -> str:
    """A word of ExecStart: % begins a specifier there and $ a variable."""
    text = _plain(word).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if re.search(r"[^\w@%+=:,./-]", text) else text


def _path(folder: Path) -> str:
    """WorkingDirectory takes the rest of the line; only specifiers are special."""
    return _plain(str(folder)).replace("%", "%%")


def cron(sweep: Sweep, flags: Sequence[str], when: When) -> str:
    """A line of a crontab. Two sweeps of one name never run at once: the later one says so and ends."""
    log = sweep.folder / "cron.log"
    command = f"mkdir -p {shlex.quote(str(sweep.folder))} && {shlex.join(words(sweep, flags))} >> {shlex.quote(str(log))} 2>&1"
    return f"{when.cron()} {_plain(command).replace('%', chr(92) + '%')}\n"


def kuberay(
    sweep: Sweep, flags: Sequence[str], when: When, image: str, claim: str, python: str = "python"
) -> str:
    """A RayCronJob: its head pod runs the sweep, and the searches train on the workers.

    Args:
        image: with this project and Ray installed.
        claim: the PersistentVolumeClaim (ReadWriteMany) that is mounted where the file's folder is here, and keeps the studies.
    """
    folder = str(sweep.file.parent)
    if not sweep.folder.is_relative_to(folder):
        raise UserError(
            f"out {sweep.folder.parent.parent}: give one below {folder}, which is what the pods share"
        )
    command = [python, "-m", "pipeline.sweep", str(sweep.file), *flags]

    def pod(name: str) -> dict[str, object]:
        container = {
            "name": name,
            "image": image,
            "resources": {
                "limits": {"cpu": "4", "memory": "16Gi"},
                "requests": {"cpu": "4", "memory": "16Gi"},
            },
            "volumeMounts": [{"name": "studies", "mountPath": _plain(folder)}],
        }
        volume = {"name": "studies", "persistentVolumeClaim": {"claimName": claim}}
        return {"spec": {"containers": [container], "volumes": [volume]}}

    workers = {
        "groupName": "trials",
        "replicas": 2,
        "minReplicas": 0,
        "maxReplicas": 10,
        "rayStartParams": {},
        "template": pod("ray-worker"),
    }
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": {"name": _dns(f"sweep-{sweep.name}")},
        "spec": {
            "schedule": when.cron(),
            "jobTemplate": {
                "entrypoint": shlex.join(command),
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 3600,
                "backoffLimit": 0,
                "rayClusterSpec": {
                    "rayVersion": version("ray"),
                    "authOptions": {"mode": "token"},
                    "headGroupSpec": {"rayStartParams": {}, "template": pod("ray-head")},
                    "workerGroupSpecs": [workers],
                },
            },
        },
    }
    head = (
        "# KubeRay 1.6 or newer, with the operator's feature gate RayCronJob=true. A start that leaves the sweep incomplete\n"
        "# (status 3) counts as a failed job, and the next one goes on. Fit replicas, cpu and memory to the cluster.\n"
    )
    return head + yaml.safe_dump(manifest, sort_keys=False)


def _dns(name: str) -> str:
    """A name as Kubernetes takes it (RFC 1123), short enough for what KubeRay adds."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-")
