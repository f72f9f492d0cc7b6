"""A study whose kernel library has changed: its candidates are compiled and profiled anew, and nothing is trained again.

One candidate after another gets the new program, blob and figures in one move of its folder, which says by its program's
checksum that it is done; when all are, the study takes the new figures at once. A kill in between leaves the study as it was,
and the next start goes on with the candidates that are not done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from foundation.errors import UserError
from foundation.files import sha256
from foundation.show import counted
from pipeline.candidate.bench import Bench, ProgramDiffers
from pipeline.candidate.devices import Devices
from pipeline.candidate.folder import candidate_path, load_candidate, replace_compiled
from pipeline.candidate.stages import CandidateRun
from pipeline.study.checkpoints import save_record, unheard
from pipeline.study.pruned import read_pruned
from pipeline.study.records import Figures, Reference, TrialRecord
from pipeline.study.storage import LocalStorage
from pipeline.study.study import Study


def announcement(study: Study) -> str:
    """What will be done, for whoever waits for it."""
    count = len(_costly(study))
    return (
        f"kernel library changed since the study began: {counted(count, 'candidate')} {'is' if count == 1 else 'are'} "
        "compiled and profiled anew, nothing is trained again"
    )


def renew(
    study: Study,
    bench: Bench,
    devices: Devices,
    references: Sequence[Reference],
    status: Callable[[str], None] = lambda text: None,
) -> Path:
    """Bring an outdated study, and the folders of its candidates, to the kernel library of ``bench``.

    Args:
        references: already those of the new library; the candidates' manifests hold them too.
        status: is told which candidate is at work.

    Returns:
        Where the study lies as it was.

    Raises:
        UserError: a candidate's folder is not complete, or its program differs from the reference with the new library.
    """
    records, pruned = _costly(study), read_pruned(study.folder)
    figures: dict[int, Figures] = {}
    for done, record in enumerate(records, 1):
        status(f"compiling and profiling anew: {record.hash}, {done} of {len(records)}")
        if record.status == "finished" and record.hash not in pruned:
            figures[record.number] = _recompiled(record, bench, devices, references)
        else:  # its weights are gone: its cost is what counts
            figures[record.number] = CandidateRun(bench, record.plan, record.number, devices).profile()
    storage = LocalStorage(study.folder)
    for record in unheard(study.folder):  # finished, but the study was not told any more
        found = _recompiled(record, bench, devices, references)
        save_record(storage, dataclasses.replace(record, figures=found))
    return study.renew(figures)


def _costly(study: Study) -> list[TrialRecord]:
    """The trials that others are compared with."""
    return [record for record in study.records() if record.status in ("finished", "stopped")]


def _recompiled(
    record: TrialRecord, bench: Bench, devices: Devices, references: Sequence[Reference]
) -> Figures:
    folder = candidate_path(bench.settings.folder, record.plan)
    try:
        candidate = load_candidate(folder)
        done = candidate.manifest["files"].get("program") == sha256(bench.program)
        if done and candidate.figures.source == devices.source:
            return candidate.figures
        compiled = bench.checked(candidate.hardened(), devices, record.figures, references)
    except UserError as error:
        raise UserError(
            f"candidate {record.hash} cannot be compiled anew: {error}. Restore its folder from a copy and resume again, or "
            "search anew under another --name; what is done stays done"
        ) from error
    except ProgramDiffers as error:
        raise UserError(
            f"candidate {record.hash}: with the kernel library and compiler found here {error}. It was left as it was; resume "
            "where the compiler is another one (python -m deploy_arm.toolchain shows which is found)"
        ) from error
    replace_compiled(candidate, compiled)
    return compiled.figures
