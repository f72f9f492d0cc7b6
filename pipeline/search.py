"""`python -m pipeline.search`: search how to compress a network for ARM CPUs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pipeline.config import Parser, Settings, main_guard, parse
from pipeline.progress import Progress, show_bytes, show_seconds

if TYPE_CHECKING:
    from pipeline.workspace import Workspace
    from search_spaces.space import Space


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m pipeline.search", description=__doc__)
    command = parser.add_argument_group("command")
    command.add_argument(
        "--dry-run", action="store_true", help="print what would be searched and train nothing"
    )
    command.add_argument("--format", choices=("text", "json"), default="text", help="how to print the result")
    settings, flags = parse(argv, parser)
    settings = settings.named()
    with Progress(settings.budget) as progress:
        run = dry_run if flags.dry_run else search
        result = run(settings, progress)
    print(json.dumps(result) if flags.format == "json" else result["text"])
    return 0


def dry_run(settings: Settings, progress: Progress) -> dict[str, Any]:
    """What would be searched and what it would cost, without training anything."""
    from pipeline.estimate import estimate

    progress.status("looking at the model and the data")
    workspace, space = opened(settings, progress, trained=False)
    return estimate(workspace, space)


def opened(settings: Settings, progress: Progress, trained: bool = True) -> tuple[Workspace, Space]:
    """Data, trained network and space; what cannot be compiled is refused before anything is trained."""
    from deploy_arm.compile import check_supported
    from deploy_arm.targets import TARGETS
    from pipeline.workspace import Workspace
    from quantizers.base import QUANTIZERS
    from search_spaces.layers import layers_of
    from search_spaces.space import Space

    TARGETS[settings.target], QUANTIZERS[settings.quantizer]  # an unknown name is refused here
    untrained = Workspace.open(settings, trained=False)
    check_supported(untrained.model, untrained.input_shape)
    layers = layers_of(untrained.model, untrained.input_shape)
    space = Space(tuple(layer.name for layer in layers), settings.bits, quantizer=settings.quantizer)
    workspace = Workspace.open(settings, progress.line) if trained else untrained
    return workspace, space


def search(settings: Settings, progress: Progress) -> dict[str, Any]:
    """The main job: open or resume the study, run trials until the budget is spent, publish the front."""
    import yaml

    from deploy_arm.program import build_program
    from pipeline import engine, publish
    from pipeline.files import write_atomically
    from pipeline.references import references
    from pipeline.study import Study
    from pipeline.tracking import Tracker
    from search_spaces.layers import layers_of

    progress.status("looking at the model and the data")
    workspace, space = opened(settings, progress)
    progress.status("building the kernel library")
    build_program(settings.target)
    identity = {
        "model": settings.model,
        "data": settings.data,
        "weights": settings.weights,
        "target": settings.target,
    }
    with Study(
        settings.folder,
        space,
        objectives=settings.objectives,
        identity=identity,
        sampler=settings.sampler,
        seed=settings.seed,
    ) as study:
        write_atomically(
            settings.folder / "settings.yaml", yaml.safe_dump(settings.as_dict(), sort_keys=False)
        )
        write_atomically(settings.folder / "split.json", json.dumps(workspace.data_record()))
        progress.line(start_line(settings, study))
        progress.status("profiling the references")
        compared = references(workspace, settings.folder / "references.json")
        progress.status("opening MLflow")
        weights = {
            layer.name: layer.parameters for layer in layers_of(workspace.model, workspace.input_shape)
        }
        tracker = Tracker(settings.tracking_uri, settings.out, settings.study_name, weights)
        tracker.start(settings.as_dict(), {"spec": settings.data, "name": workspace.data.name})
        finished = engine.run(settings, study, progress, lambda: tracker.sync(study.records()))
        front = publish.publish(settings, study, compared, tracker, complete=finished)
    front["text"] = "\n".join(
        [
            publish.front_table(front),
            "",
            f"report   {settings.folder / 'report.html'}",
            f"front    {settings.folder / 'front.json'}",
            f"MLflow   {tracker.how_to_look}",
            f"promote  {sys.executable} -m pipeline.promote {settings.study_name} --out {settings.out}",
        ]
    )
    return front
