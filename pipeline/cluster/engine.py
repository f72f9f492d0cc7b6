"""Ray Tune as the executor of a study: a Searcher and a TrialScheduler that only translate.

Every decision is the conductor's (``pipeline.study.conductor``); Tune places trials and reuses their processes. The study is
written by this process alone. Tune's own state, under ``tune/`` in the study's folder, is thrown away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from foundation.command import interruptible
from foundation.errors import UserError
from pipeline.candidate.folder import candidate_path, fetch_candidate
from pipeline.cluster.measured import TrialMemory
from pipeline.cluster.node import needs_of
from pipeline.cluster.nodes import HOSTS, is_arm, node_name
from pipeline.cluster.places import Workers, on_worker
from pipeline.cluster.pool import DevicePool
from pipeline.cluster.ray_cluster import cluster
from pipeline.cluster.ray_internals import KILLED, deaths_for_memory_survived
from pipeline.cluster.trial import CotuneTrial
from pipeline.cluster.work import DeviceError
from pipeline.study.checkpoints import forget, forget_ended, trial_folder
from pipeline.study.conductor import DIED, ENDED, UNSEEN, WAITED, Conductor, Listener, Outlook, nothing_left
from pipeline.study.halving import Rungs, always
from pipeline.study.memory import Death, kernel_kills, last_seen, total_memory
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.storage import DamagedFile, LocalStorage
from pipeline.study.study import Study
from pipeline.study.work import Piece
from pipeline.training.rung import Rung
from pipeline.training.stages import places

if TYPE_CHECKING:
    from pipeline.candidate.workspace import Workspace


CAPACITY_SECONDS = 5.0  # after which the cluster is asked again what it has


class _Unsaved:
    """Tune pickles its parts in order to restore an experiment. Ours is resumed from the study, so nothing is saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Unsaved:
        return self


class StudySearcher(_Unsaved, Searcher):
    """Tune's questions to the conductor."""

    def __init__(
        self, conductor: Conductor, context: dict[str, Any], guard: Guard, memory: TrialMemory
    ) -> None:
        super().__init__()
        self._conductor, self._context, self._guard, self.memory = conductor, context, guard, memory
        self.numbers: dict[str, int] = {}
        self._workers = Workers(ray.get_runtime_context().get_node_id(), node_name)
        self.killed: dict[str, bool] = {}  # whether Ray says that it killed a trial's process for memory
        self._kills = kernel_kills()

    def set_search_properties(self, metric: str | None, mode: str | None, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        with self._guard:
            candidate = self._conductor.propose()
            if candidate is not None:
                number = self.numbers[trial_id] = candidate.number
                inherits = next(r.inherits for r in self._conductor.study.running() if r.number == number)
                asked = {"number": number, "plan": candidate.plan.to_json(), "inherits": inherits}
                return {**self._context, **asked}
        done = self._conductor.closing and not self._conductor.study.running()
        return Searcher.FINISHED if done or self._conductor.stop.is_set() else None

    def on_trial_complete(  # Tune calls it so
        self,
        trial_id: str,
        result: Any = None,
        error: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        with self._guard:
            number, phase = self.numbers[trial_id], (result or {}).get("phase")
            self.memory.note((result or {}).get("held", 0))
            if not error and phase in (ENDED, DIED):  # others were noted when they came
                self.note_work(number, result)
            if phase == WAITED:
                raise UserError(
                    f"no device to profile on: {result['reason']}. Nothing that ended is lost; the same command goes on when "
                    "there is one"
                )
            if error or phase == DIED:
                found = result if result and phase == DIED else {}
                self._note(number, found)
                killed = self.killed.pop(trial_id, False)
                self._conductor.died(
                    number, self._death(number, found.get("asked"), found.get("trouble"), killed=killed)
                )
            else:
                record = TrialRecord.from_json(result["record"]) if phase == ENDED else None
                self._note(number, result or {})
                lost = self._fetch(record) if record is not None and record.status == "finished" else None
                if lost is None:
                    self._conductor.end(number, record)
                else:
                    self._conductor.died(number, Death(trouble=lost))

    def note_work(self, number: int, result: dict[str, Any]) -> None:
        """Note where a step of a trial was done, and what devices did for it, if whoever ran it says so."""
        if "worker" not in result:
            return
        node, process, seconds = json.loads(result["worker"])
        running = {record.number for record in self._conductor.study.running()}
        own = on_worker(self._workers.name(number, node, process, running), seconds, time.time())
        self._conductor.worked(number, [own, *map(Piece.of_list, json.loads(result["work"]))])

    def _note(self, number: int, result: dict[str, Any]) -> None:
        """Keep the whole story of a failure, for whoever wants to know more than its reason; where the disk is full, that is all
        there is."""
        if "story" in result:
            name = next((r.hash for r in self._conductor.study.running() if r.number == number), "")
            with (
                contextlib.suppress(OSError),
                (self._conductor.study.folder / "failures.log").open("a") as stream,
            ):
                stream.write(f"candidate {name}\n{result['story']}\n")

    def _fetch(self, record: TrialRecord) -> str | None:
        """Fetch what a node that does not see the study's folder has made. If that fails, why; it is to be made again."""
        folder, storage = self._conductor.study.folder, self._conductor.storage
        try:
            fetch_candidate(storage, candidate_path(folder, record.plan))
        except (DamagedFile, UserError, OSError) as error:
            forget(folder, storage, record.plan)
            return f"its candidate did not arrive: {error}"
        if isinstance(storage, LocalStorage) and storage.folder == folder:
            (folder / "candidates" / f"{record.hash}.tar").unlink(missing_ok=True)
        return None

    def _death(self, number: int, asked: str | None, trouble: str | None, *, killed: bool) -> Death:
        if trouble is not None:
            return Death(trouble=trouble)
        study = self._conductor.study
        plan = next((record.plan for record in study.running() if record.number == number), None)
        held, total = (plan and last_seen(trial_folder(study.folder, plan))) or (None, total_memory())
        kills, self._kills = self._kills, kernel_kills()
        return Death(killed or asked is not None or self._kills > kills, asked, held, total)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth. Tune wants a file."""
        Path(checkpoint_path).write_bytes(b"")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search is resumed from its study."""


class StudyScheduler(_Unsaved, FIFOScheduler):
    """The conductor's judgement as Tune's decision."""

    def __init__(self, conductor: Conductor, searcher: StudySearcher, guard: Guard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._conductor, self._searcher, self._guard = conductor, searcher, guard

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with self._guard:
            figures = Figures(**json.loads(result["figures"]))
            rung = Rung(**json.loads(result["rung"])) if "rung" in result else None
            number = self._searcher.numbers[trial.trial_id]
            self._searcher.memory.note(result.get("held", 0))
            self._searcher.note_work(number, result)
            for text in result.get("damaged", ()):
                self._conductor.progress.line(f"{text}; the trial goes on from what is whole")
            if not self._conductor.judge(number, result["phase"], figures, rung):
                return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        with self._guard:
            # Tune's own way to ask for it looks where it is copied to later.
            text = Path(trial.error_file).read_text() if trial.error_file else ""
            self._searcher.killed[trial.trial_id] = KILLED in text


class Guard:
    """Tune only logs what its searcher and scheduler raise. This keeps the first exception and ends the search, so that it
    can be raised where the search was started."""

    def __init__(self, stop: threading.Event) -> None:
        self.error: BaseException | None = None
        self._stop = stop

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            self.error = self.error or error
            self._stop.set()
            return True
        return False


class _StopAll(_Unsaved, Stopper):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.is_set()


def run(
    settings: Settings,
    study: Study,
    progress: Listener,
    after_trial: Callable[[], None] = lambda: None,
    *,
    references: Sequence[Reference] = (),
    outlook: Outlook = UNSEEN,
    workspace: Workspace | None = None,
    program: Path | None = None,
    trainable: type[tune.Trainable] = CotuneTrial,
    decides: type[Conductor] = Conductor,
) -> bool:
    """Run trials until the budget is spent, the time is up, or someone interrupts.

    Args:
        after_trial: called after every trial that ended, in this process.
        references: the fp32 network's error is the best that is hoped for; all go into the candidates' manifests.
        outlook: what is known before a trial; the error that is hoped for is taken from the references.
        workspace, program: go to the nodes, where they are open here already; without, every trial's process opens its own.
        trainable: what runs a trial, stage by stage as ``CotuneTrial`` does.
        decides: what proposes and judges trials.

    Returns:
        Whether the search is complete; if not, the same command resumes it.

    Raises:
        ValueError: the output folder is relative; trials run in folders of their own.
        UserError: the devices' figures would not be comparable with those the study holds, or resources are missing.
    """
    if not settings.out.is_absolute():
        raise ValueError(
            f"the output folder {settings.out} is relative, and trials run in folders of their own"
        )
    fp32 = next((r.figures.error for r in references if r.name == "fp32"), None)
    at_least = always(settings.budget, len(study.warm_starts), settings.halving)
    rungs = Rungs(places(settings.stages), settings.rungs, at_least=at_least)
    deadline = time.monotonic() + settings.time_budget if settings.time_budget else None
    forget_ended(study.folder, LocalStorage(study.folder), study.records())
    if nothing_left(study, settings.budget):
        return True
    stop = threading.Event()
    progress.status("starting Ray")
    with cluster(), interruptible(_asks(stop, progress)), ExitStack() as ended:
        devices = start_devices(settings, study, progress)
        capacity, resources = placement(settings)
        memory = TrialMemory(progress.line)
        needs = ended.enter_context(needs_of(settings, workspace, program))
        conductor = decides(
            study,
            rungs,
            settings.budget,
            lambda: memory.limited(capacity()),
            progress,
            after_trial,
            deadline=deadline,
            outlook=dataclasses.replace(outlook, hoped_error=fp32),
            stop=stop,
            storage=needs.storage,
        )
        context = {
            "needs": needs,
            "settings": settings,
            "stages": list(rungs.places),
            "devices": devices,
            "references": {r.name: dataclasses.asdict(r.figures) for r in references},
        }
        guard = Guard(stop)
        searcher = StudySearcher(conductor, context, guard, memory)
        shutil.rmtree(settings.folder / "tune", ignore_errors=True)
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=StudyScheduler(conductor, searcher, guard),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(settings.folder.absolute()),
                verbose=0,
                stop=_StopAll(stop),
                failure_config=tune.FailureConfig(max_failures=0),  # the conductor starts it again
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        try:
            with deaths_for_memory_survived():
                tuner.fit()
            with contextlib.suppress(OSError):  # it costs room alone
                forget_ended(study.folder, conductor.storage, study.records())
        finally:
            study.release()
    if guard.error is not None:
        raise guard.error
    return conductor.complete


def start_devices(settings: Settings, study: Study, progress: Listener) -> DevicePool:
    """The device pool; refused when its figures are of another kind than those the study already holds."""
    try:
        devices = DevicePool.start(settings.target, settings.devices, settings.modules)
    except DeviceError as error:
        raise UserError(f"no device to profile on: {error}") from error
    source = devices.source
    before = {r.figures.source for r in study.records() if r.figures.source}
    if before - {source}:
        raise UserError(
            f"this study's latencies are {', '.join(sorted(str(b) for b in before))}, but the devices here give {source} "
            "ones, which cannot stand in one front; resume where the same kind of device is at hand, or choose another name"
        )
    found = Counter(device["name"] for device in devices.devices())
    names = ", ".join(name if count == 1 else f"{count} x {name}" for name, count in found.items())
    kind = f"latencies are {source}"
    if source == "modelled" and settings.devices is None:
        kind = f"no ARM CPU in the cluster: {kind}"
    progress.line(f"devices: {names} ({kind})")
    return devices


def placement(settings: Settings) -> tuple[Callable[[], int], tune.PlacementGroupFactory]:
    """How many trials the connected cluster has room for, asked again as nodes join and leave, and what one asks Tune for.

    Raises:
        UserError: not even one trial fits into the cluster as it is.
    """
    cpus, gpus, largest = _offered()
    workers, wanted = settings.workers_per_trial, settings.gpus_per_trial
    if cpus < workers:
        raise UserError(f"{workers} workers per trial: the cluster has {cpus} CPUs, one per worker is needed")
    if wanted > gpus:
        raise UserError(f"{wanted:g} GPUs per trial: the cluster has {gpus:g}")
    concurrency = _fit(settings, cpus, gpus, float(workers))
    if workers > 1:
        # The workers ask for their own CPUs and GPUs; the actor that starts them mostly waits. Tune insists on something.
        share, resources = float(workers), _on_a_host({"CPU": 0.0, "memory": 2.0**26})
    else:
        share = float(max(1, min(cpus // concurrency, largest)))
        resources = _on_a_host({"CPU": share, **({"GPU": wanted} if wanted else {})})
    known, asked = concurrency, time.monotonic()

    def capacity() -> int:
        nonlocal known, asked
        if time.monotonic() - asked > CAPACITY_SECONDS:
            there, accelerators, _ = _offered()
            known, asked = _fit(settings, there, accelerators, share), time.monotonic()
        return known

    return capacity, resources


def _offered() -> tuple[int, float, int]:
    """CPUs and GPUs of the living nodes that train, and the CPUs of the largest."""
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"] and not is_arm(node)]
    cpus, gpus = (sum(node.get(kind, 0.0) for node in hosts) for kind in ("CPU", "GPU"))
    return int(cpus), gpus, max((int(node.get("CPU", 0)) for node in hosts), default=0)


def _fit(settings: Settings, cpus: int, gpus: float, share: float) -> int:
    """How many trials of so many CPUs each, as far as they are wanted."""
    wanted = settings.gpus_per_trial
    fits = min(int(cpus / share), int(gpus / wanted) if wanted else cpus)
    return min(settings.max_concurrent or fits, fits)


def _on_a_host(bundle: dict[str, float]) -> tune.PlacementGroupFactory:
    """These resources of any node but an ARM board, whatever that offers: it measures."""
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[dict(HOSTS)])


def _asks(stop: threading.Event, progress: Listener) -> Callable[[int, Any], None]:
    """What the first Ctrl-C or SIGTERM does: end the search in good order. The second ends it at once."""

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        text = f"{signal.Signals(number).name}: ending the search in good order; once more to end it at once"
        # A thread of its own, since the signal may have come while this one writes a line.
        threading.Thread(target=progress.line, args=(text,)).start()

    return ask
