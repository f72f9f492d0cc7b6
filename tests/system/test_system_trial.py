"""Real trials on real Ray: co-tuned, compiled, checked bit for bit, profiled and written; one worker and two."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from ray._private.ray_constants import ENABLE_RAY_CLUSTERS_ENV_VAR

from deploy_arm.compiler.frontend import compile_graph
from deploy_arm.ir.reference import run as run_reference
from foundation.plan import LayerPlan, Plan
from pipeline.candidate.bench import Bench
from pipeline.candidate.folder import load_candidate
from pipeline.candidate.stages import CandidateRun
from pipeline.cluster import engine
from pipeline.cluster.node import Needs
from pipeline.cluster.ray_cluster import cluster
from pipeline.cluster.trial import CotuneTrial
from pipeline.evaluate import answering
from pipeline.networks.registry import load_model
from pipeline.study.checkpoints import Saved, forget, last_checkpoint, save_checkpoint, trial_folder
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.study.settings import Settings
from pipeline.study.storage import LocalStorage
from pipeline.study.study import Study
from pipeline.training.rung import Rung, best_of
from quantizers.network import layer_names
from search_spaces.space import Space
from tests.kept import Note


class Lines:
    def __init__(self) -> None:
        self.ended: list[TrialRecord] = []
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)

    def status(self, text: str | Callable[[], str]) -> None: ...

    def trial(self, record: TrialRecord, done: int) -> None:
        self.ended.append(record)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network's weights: what is tested does not depend on how well it classifies."""
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.manual_seed(0)
    torch.save(load_model("vgg_tiny", classes=10, image_size=(32, 32)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def one_cluster() -> Iterator[None]:
    """Of this machine, for all searches here; the user's is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        before = dict(os.environ)
        with cluster():
            yield
        # Nothing that only this cluster needs reaches what is started later: ``ray start`` would refuse other nodes.
        assert os.environ.get(ENABLE_RAY_CLUSTERS_ENV_VAR) == before.get(ENABLE_RAY_CLUSTERS_ENV_VAR)


@pytest.fixture
def settings(weights: Path, tmp_path: Path) -> Settings:
    return Settings(
        model="vgg_tiny",
        name="study",
        out=tmp_path,
        weights=str(weights),
        budget=3,
        epochs_per_trial=0.5,
        rungs=2,
        batch_size=64,
        max_concurrent=2,
    )


def plans(settings: Settings) -> list[Plan]:
    names = layer_names(load_model("vgg_tiny", classes=10, image_size=(32, 32)))
    mixed = {name: LayerPlan(2, 4, zero_share=0.7) for name in names}
    mixed[names[0]], mixed[names[-1]] = LayerPlan(8), LayerPlan(3, 6)
    return [
        Plan.uniform(names, LayerPlan(8)),
        Plan(mixed, activation_bits=7),
        Plan.uniform(names, LayerPlan(4, 9)),
    ]


def search(settings: Settings, chosen: list[Plan], **rest: Any) -> tuple[bool, Study, Lines]:
    lines = Lines()
    space = Space(tuple(chosen[0].layers))
    with Study(settings.folder, space, identity={}, warm_starts=chosen) as study:
        references = [Reference("fp32", Figures(0.01))]
        complete = engine.run(settings, study, lines, references=references, **rest)
    return complete, study, lines


@pytest.mark.usefixtures("one_cluster")
def test_candidates_are_trained_compiled_checked_and_written(settings: Settings) -> None:
    chosen = plans(settings)
    # What is damaged of a trial that died costs it a rung, not its end.
    damaged = trial_folder(settings.folder, chosen[2]) / "checkpoint-0001.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a checkpoint")
    complete, study, lines = search(settings, chosen)
    assert complete and study.spent == 3 and len(lines.ended) == 3
    said = f"{damaged} is damaged: its checksum is another; the trial goes on from what is whole"
    assert said in lines.said
    records = {record.hash: record for record in study.records()}
    for plan in chosen:
        record = records[plan.hash]
        assert record.status == "finished", record.reason
        assert [(rung.stage, rung.epochs) for rung in record.curve] == [
            ("rebuilt", 0),
            ("held", 0),
            ("free", 0.5),
        ]
        # The digits' search half is judged whole at every rung; the candidate is the best of its rungs.
        best = record.curve[best_of(record.curve)]
        assert (record.figures.error, record.figures.divergence) == (best.error, best.divergence)
        # Where it ran and what was profiled when: before training, and as it is deployed.
        kinds = Counter(piece.kind for piece in record.work)
        assert kinds["trial"] >= 1 and kinds["profile"] == 2 and kinds["run"] == 1, record.work
        assert {p.place for p in record.work if p.kind == "trial"} <= {f"worker {n}" for n in range(1, 9)}
        assert all((record.figures.device or "?") in p.place for p in record.work if p.kind != "trial")
        assert record.started is not None and record.ended is not None
        first, last = min(p.begun for p in record.work), max(p.ended for p in record.work)
        assert record.started - 1 <= first < last <= record.ended + 1, (record.started, record.work)
        candidate = load_candidate(settings.folder / "candidates" / plan.hash)
        assert candidate.plan == plan
        assert candidate.blob.stat().st_size == record.figures.size_bytes
        assert candidate.manifest["figures"]["latency"]["source"] == record.figures.source
        bench_images = np.random.default_rng(0).integers(
            0, 256, (3, *candidate.image_size, 3), dtype=np.uint8
        )
        graph = compile_graph(candidate.hardened(), (3, *candidate.image_size), candidate.mean, candidate.std)
        expected = run_reference(graph, bench_images)
        with answering(candidate, "arm") as answer:
            assert answer(bench_images).tobytes() == expected.tobytes()
    small, large = (records[plan.hash].figures.size_bytes for plan in (chosen[1], chosen[0]))
    assert small is not None and large is not None and small < large / 2
    assert not (settings.folder / "trials" / chosen[0].hash).exists()  # nothing is kept of what is told


@pytest.mark.usefixtures("one_cluster")
def test_killed_while_it_starts_trains_and_writes_a_trial_is_never_lost(
    settings: Settings, capfd: pytest.CaptureFixture[str], fault: Note
) -> None:
    chosen = plans(settings)[1:2]
    candidates = settings.folder / "candidates"
    moments = {
        "starts": lambda: True,
        "trains": lambda: any(trial_folder(settings.folder, chosen[0]).glob("checkpoint-*")),
        "writes": lambda: candidates.is_dir() and any(candidates.iterdir()),
    }
    settings = dataclasses.replace(settings, budget=1, max_concurrent=1)
    killer = Killer(moments)
    complete, study, lines = search(settings, chosen)
    killer.ended.set()
    killer.join()
    assert complete and not moments, f"not killed while it {' and '.join(moments)}"
    [record] = study.records()
    assert record.status == "finished" and len(record.curve) == 3, record.reason
    assert study.spent == 1 and len(lines.ended) == 1
    load_candidate(candidates / chosen[0].hash)
    assert not [path for path in candidates.iterdir() if path.name != chosen[0].hash]
    deaths = [line for line in lines.said if "queued again" in line]
    assert "raylet" not in "".join(capfd.readouterr())
    # A process that dies before it has taken its work on is replaced by Ray itself.
    assert 2 <= len(deaths) <= 3 and all(
        line.startswith(f"{chosen[0].hash} lost its process") for line in deaths
    )
    fault(
        "SIGKILL of a trial's process while it starts, trains, writes",
        "it finished with all its rungs, counted once; nothing half-written is left",
    )


class Killer(threading.Thread):
    """Kills the trial's process, from outside, once at each moment; a moment is left out once it was used."""

    def __init__(self, moments: dict[str, Callable[[], bool]]) -> None:
        super().__init__(daemon=True)
        self.moments, self.ended = moments, threading.Event()
        self.start()

    def run(self) -> None:
        killed: set[int] = set()
        while self.moments and not self.ended.wait(0.005):
            name, comes = next(iter(self.moments.items()))
            if not comes():
                continue
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    # Tune's name of the class while it works, ours while it is made.
                    named = {"ResourceTrainable", "CotuneTrial"} & set(
                        re.findall(r"\w+", " ".join(process.cmdline()))
                    )
                    if process.pid not in killed and named:
                        killed.add(process.pid)
                        process.kill()
                        self.moments.pop(name, None)


def test_a_retried_candidate_goes_on_from_its_checkpoint(settings: Settings) -> None:
    """Stage by stage without Ray: an interrupted run ends exactly as an uninterrupted one."""
    settings.folder.mkdir(parents=True)
    bench, plan = Bench(settings), plans(settings)[1]
    device = _Local(settings.folder)
    whole = CandidateRun(bench, plan, 0, device)
    known = whole.profile()
    found = settings.stages
    rungs = [whole.reach(place, stage) for place, stage in enumerate(found)]
    record = whole.finish()
    kept = {path.name for path in trial_folder(settings.folder, plan).iterdir()}
    assert record.curve == tuple(rungs) and kept == {"record.json"}
    # What is known before training is what comes out, to within a few per cent: equal tables are stored once, and an
    # untrained network has more of them than a trained one.
    assert known.size_bytes == pytest.approx(record.figures.size_bytes, rel=0.05)
    assert known.latency_ms == pytest.approx(record.figures.latency_ms, rel=0.05)
    blob = (settings.folder / "candidates" / plan.hash / "weights.blob").read_bytes()

    first = CandidateRun(bench, plan, 1, device)
    first.reach(0, found[0])
    second = CandidateRun(bench, plan, 2, device)
    assert len(second.curve) == 1
    for place, stage in enumerate(found):
        assert second.reach(place, stage) is second.curve[place]
    again = second.finish()
    assert again.number == 2 and again.figures == record.figures
    assert (settings.folder / "candidates" / plan.hash / "weights.blob").read_bytes() == blob
    error = [(rung.epochs, rung.error, rung.loss) for rung in again.curve]
    assert error == [(rung.epochs, rung.error, rung.loss) for rung in rungs]


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (OSError(28, "No space left on device"), {"phase": "died", "trouble": "OSError: [Errno 28] No space left on device"}),
        (ValueError("this plan\nis bad"), {"phase": "ended", "status": "failed", "reason": "ValueError: this plan is bad"}),
    ],
)  # fmt: skip
def test_what_is_around_a_trial_is_told_from_what_is_wrong_with_it(
    settings: Settings, error: Exception, kept: dict[str, str]
) -> None:
    class Failing:
        def profile(self, *given: Any, **rest: Any) -> Any:
            raise error

        def taken(self) -> list[Any]:
            return []

    trial, plan = object.__new__(CotuneTrial), plans(settings)[1]
    given = {"number": 0, "plan": plan.to_json(), "stages": [], "devices": Failing(), "references": {}}
    trial._begin({"needs": Needs(settings, "word"), **given})
    result = trial.step()
    trial.cleanup()
    found = {**result, **(json.loads(result["record"]) if "record" in result else {})}
    assert result["done"] and {key: found[key] for key in kept} == kept
    assert (
        type(error).__name__ in result["story"] and "profile" in result["story"]
    )  # the whole of it, for the log


@pytest.mark.slow
@pytest.mark.usefixtures("one_cluster")
def test_two_workers_train_one_trial_together(settings: Settings) -> None:
    settings = dataclasses.replace(
        settings, workers_per_trial=2, budget=1, rungs=1, epochs_per_trial=0.2, max_concurrent=1
    )
    plan = plans(settings)[1]
    complete, study, _ = search(settings, [plan])
    [record] = study.records()
    assert complete and record.status == "finished", record.reason
    load_candidate(settings.folder / "candidates" / plan.hash)
    log = json.loads((settings.folder / "candidates" / plan.hash / "manifest.json").read_text())
    assert log["hash"] == plan.hash


def test_checkpoints_hold_state_and_curve(tmp_path: Path, fault: Note) -> None:
    class Run:
        def state_dict(self) -> dict[str, Any]:
            return {"weight": torch.arange(3.0), "step": 7}

    rungs = (Rung(0.5, 0.2, 1.0, 3.0), Rung(1.0, 0.1, 0.5, 6.0))
    storage, plan = LocalStorage(tmp_path), Plan.uniform(("conv1", "fc"), LayerPlan(2))
    for reached in (1, 2, 2, 3):  # a rung that is reached again takes its own place
        save_checkpoint(storage, plan, Run(), (*rungs, rungs[-1])[:reached])  # type: ignore[arg-type]
    two, three = sorted(trial_folder(tmp_path, plan).iterdir())
    saved = last_checkpoint(storage, plan)
    assert saved.curve == (*rungs, rungs[-1]) and saved.state is not None and saved.state["step"] == 7
    assert torch.equal(saved.state["weight"], torch.arange(3.0)) and not saved.damaged
    # One bit anywhere, or a missing end, is noticed, and the rung before it is taken.
    whole, chance = three.read_bytes(), random.Random(0)
    for _ in range(24):
        bit = chance.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        three.write_bytes(chance.choice([flipped, flipped[: bit // 8]]))
        saved = last_checkpoint(storage, plan)
        assert saved.curve == rungs and saved.damaged == (f"{three} is damaged: its checksum is another",)
    two.write_bytes(b"")
    assert last_checkpoint(storage, plan).state is None and len(last_checkpoint(storage, plan).damaged) == 2
    forget(tmp_path, storage, plan)
    assert last_checkpoint(storage, plan) == Saved()
    fault("24 checkpoints with a bit flipped or cut short", "each was noticed, and the rung before it taken")


def test_nothing_is_left_of_a_candidate_that_was_half_written(tmp_path: Path) -> None:
    plans = [Plan.uniform(("conv1", "fc"), LayerPlan(bits)) for bits in (2, 8)]
    mine, other = (tmp_path / "candidates" / f".{plan.hash}.0123456789abcdef" for plan in plans)
    for folder in (mine, other, tmp_path / "candidates" / plans[0].hash):
        folder.mkdir(parents=True)
    forget(tmp_path, LocalStorage(tmp_path), plans[0])
    assert sorted((tmp_path / "candidates").iterdir()) == sorted(
        [other, tmp_path / "candidates" / plans[0].hash]
    )


class _Local:
    """This machine's device, used directly."""

    def __init__(self, folder: Path) -> None:
        from deploy_arm.devices.kinds import open_device

        self.device, self.folder = open_device("a76"), folder

    def profile(
        self, program: bytes, blob: bytes, image: Any, layers: Any = (), *, urgent: bool = False
    ) -> Any:
        return self.device.profile(*self._paths(program, blob), image, layers=layers)

    def run(self, program: bytes, blob: bytes, images: Any) -> Any:
        return self.device.run(*self._paths(program, blob), images)

    def _paths(self, program: bytes, blob: bytes) -> tuple[Path, Path]:
        paths = self.folder / "program", self.folder / "blob"
        paths[0].write_bytes(program)
        paths[0].chmod(0o755)
        paths[1].write_bytes(blob)
        return paths
