"""The registry of promoted networks: which version is champion, which was before, and the way back."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.errors import UserError
from foundation.files import cache_directory, folder_atomically
from pipeline.review import served
from pipeline.review.bundle import make_executable
from pipeline.review.store import TrackingError, allowed, explained
from pipeline.review.tags import KEEP, PROMOTED
from pipeline.review.tracking import Tracker
from pipeline.study.lock import held

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Version:
    """A registered version; ``replaces`` is the version that was champion when this one was promoted."""

    name: str
    number: str
    candidate: str
    replaces: str | None
    digest: str


class Champions:
    """The registry: alias ``champion`` is the promoted version, ``previous`` the one before.

    The champion changes in one call of the registry, and every version remembers in a tag whom it replaced. So a kill
    between two calls leaves the old or the new champion, never none, and ``previous`` can always be set right again.

    Promotions of one model from one machine follow one another (``alone``). Against those from other machines, which a registry
    cannot lock out, the champion is compared before the alias is set and after.
    """

    def __init__(self, tracker: Tracker, name: str) -> None:
        self.tracker, self.name = tracker, self.safe(name)

    @property
    def client(self) -> MlflowClient:
        """The tracker's."""
        return self.tracker.client

    @staticmethod
    def safe(name: str) -> str:
        """The name as every registry, and a file system, takes it."""
        return re.sub(r"[^A-Za-z0-9._ -]+", "-", name)

    @contextmanager
    def alone(self, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Nobody else on this machine promotes or rolls back this model meanwhile; waits for who does."""
        name = hashlib.sha256(f"{self.tracker.uri}\n{self.name}".encode()).hexdigest()[:32]
        file = self.tracker.file
        place = (
            cache_directory("locks") / name
            if file is None
            else file.with_name(f".{file.name}.{name[:8]}.lock")
        )
        with held(place, lambda: say(f"another process is promoting {self.name}: waiting for it")):
            yield

    def version(self, alias: str = "champion") -> Version | None:
        """The version behind an alias."""
        with explained("reading the registry"):
            aliases = self._aliases()
            number = aliases.get(alias)
            return (
                None if number is None else self._read(self.client.get_model_version(self.name, str(number)))
            )

    def told(self, alias: str = "champion") -> dict[str, str] | None:
        """The tags of the version behind an alias, its figures among them; None where there is none."""
        with explained("reading the registry"):
            number = self._aliases().get(alias)
            return (
                None if number is None else dict(self.client.get_model_version(self.name, str(number)).tags)
            )

    def promote(
        self, candidate: str, digest: str, bundle: Path, tags: Mapping[str, str], note: str
    ) -> Version:
        """Register the bundle as a version and make it champion; the former champion becomes ``previous``.

        Args:
            digest: what tells two bundles of the same candidate apart. A bundle that is champion already stays it,
                and a version that a killed promotion left behind is used.
            tags: what the check has found; a version that was there before gets those of the last check.
        """
        champion = self.version()
        with explained("promoting"):
            if champion is None or (champion.candidate, champion.digest) != (candidate, digest):
                former = champion.number if champion else None
                found = self._left_behind(candidate, digest, former)
                if found:
                    self._tell(found, tags, note)
                chosen = found or self._register(candidate, digest, bundle, tags, note, former)
                while (now := self._number()) != former:  # promoted from another machine meanwhile
                    former, chosen = now, self._replacing(chosen, now)
                self.client.set_registered_model_alias(self.name, "champion", chosen.number)
                self._check_ours(chosen)
                champion = chosen
            else:
                self._tell(champion, tags, note)
            self._set_previous(champion)
        self._decided(champion.candidate, PROMOTED)
        return champion

    def rollback(self) -> tuple[Version, Version]:
        """Make the version before champion again; returns (champion now, champion before).

        Raises:
            UserError: there is no champion, or none before it.
        """
        champion = self.version()
        if champion is None:
            raise UserError(f"{self.name!r} has no champion: nothing was promoted in {self.tracker.uri}")
        if champion.replaces is None:
            raise UserError(
                f"{self.name!r} version {champion.number} is the first champion: nothing to go back to"
            )
        with explained("rolling back"):
            before = None
            with allowed("RESOURCE_DOES_NOT_EXIST"):
                before = self._read(self.client.get_model_version(self.name, champion.replaces))
            if before is None:
                raise UserError(
                    f"{self.name!r} version {champion.replaces}, which version {champion.number} replaced, was deleted from the "
                    "registry: nothing to go back to"
                )
            self.client.set_registered_model_alias(self.name, "champion", before.number)
            self._check_ours(before)
            self._set_previous(before)
        self._decided(before.candidate, PROMOTED)
        self._decided(champion.candidate, KEEP)
        return before, champion

    def fetch(self, version: Version, folder: Path) -> Path:
        """Copy a version's bundle from the registry to ``folder``, which is replaced whole."""
        with explained("fetching the bundle"), folder_atomically(folder) as new:
            source = self.client.get_model_version(version.name, version.number)
            local = self.client.download_artifacts(str(source.run_id), "bundle", str(new))
            for path in Path(local).iterdir():
                path.rename(new / path.name)
            Path(local).rmdir()
            for name in served.FILES:  # MLflow's own, of no bundle
                (new / name).unlink(missing_ok=True)
            make_executable(new)
        return folder

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Further tags of a version."""
        with explained("writing tags"):
            for key, value in tags.items():
                self.client.set_model_version_tag(self.name, version.number, key, value)

    def _decided(self, candidate: str, decision: str) -> None:
        """Say so beside the candidate, where it is one of this study's."""
        self.tracker.decide(candidate, decision)

    def _number(self) -> str | None:
        number = self._aliases().get("champion")
        return None if number is None else str(number)

    def _check_ours(self, chosen: Version) -> None:
        now = self._number()
        if now != chosen.number:
            raise TrackingError(
                f"version {chosen.number} ({chosen.candidate}) of {self.name!r} is not champion: another promotion made version "
                f"{now} it at the same time"
            )

    def _replacing(self, version: Version, former: str | None) -> Version:
        """The version as one that took the place of another."""
        if former is None:
            self.client.delete_model_version_tag(self.name, version.number, "replaces")
        else:
            self.client.set_model_version_tag(self.name, version.number, "replaces", former)
        return replace(version, replaces=former)

    def _aliases(self) -> dict[str, str]:
        if self.tracker.absent:
            return {}
        with allowed("RESOURCE_DOES_NOT_EXIST"):
            return dict(self.client.get_registered_model(self.name).aliases)
        return {}

    def _set_previous(self, champion: Version) -> None:
        if champion.replaces is not None:
            self.client.set_registered_model_alias(self.name, "previous", champion.replaces)
        elif "previous" in self._aliases():
            self.client.delete_registered_model_alias(self.name, "previous")

    def _tell(self, version: Version, tags: Mapping[str, str], note: str) -> None:
        """Tags and note of a check that comes after the version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, version.number, key, value)
        self.client.update_model_version(self.name, version.number, note)

    def _left_behind(self, candidate: str, digest: str, former: str | None) -> Version | None:
        versions = self.client.search_model_versions(f"name = '{self.name}'")
        known = (self._read(version) for version in versions)
        same = (v for v in known if (v.candidate, v.digest, v.replaces) == (candidate, digest, former))
        return next(same, None)

    def _register(
        self,
        candidate: str,
        digest: str,
        bundle: Path,
        tags: Mapping[str, str],
        note: str,
        former: str | None,
    ) -> Version:
        tracker = self.tracker
        interrupted = f"tags.study_id = '{tracker.identity}' and tags.kind = 'promotion' and attributes.status = 'RUNNING'"
        for run in tracker.runs(interrupted):
            self.client.set_terminated(run.info.run_id, status="KILLED")
        marks = {"kind": "promotion", "study_id": tracker.identity, "mlflow.parentRunId": tracker.parent}
        marks |= {"study": tracker.study, "candidate": candidate}
        info = self.client.create_run(tracker.experiment, tags=marks, run_name=f"promotion {candidate}").info
        self.client.log_artifacts(info.run_id, str(bundle), "bundle")
        self._make_loadable(info.run_id, bundle)
        self.client.set_terminated(info.run_id)
        with allowed("RESOURCE_ALREADY_EXISTS"):
            self.client.create_registered_model(self.name)
        kept = {**tags, "candidate": candidate, "digest": digest, "study": tracker.study}
        if former is not None:
            kept["replaces"] = former
        made = self.client.create_model_version(
            self.name, f"{info.artifact_uri}/bundle", run_id=info.run_id, tags=kept, description=note
        )
        return self._read(made)

    def _make_loadable(self, run: str, bundle: Path) -> None:
        """Lay beside the bundle what ``mlflow.pyfunc.load_model`` asks for."""
        blob = bundle / served.BLOB
        if not blob.is_file():
            return
        with tempfile.TemporaryDirectory() as place:
            served.write_model(Path(place), blob.read_bytes(), run)
            self.client.log_artifacts(run, place, "bundle")

    def _read(self, version: ModelVersion) -> Version:
        tags = version.tags
        return Version(
            self.name,
            str(version.version),
            tags.get("candidate", ""),
            tags.get("replaces"),
            tags.get("digest", ""),
        )
