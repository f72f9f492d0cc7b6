"""Whether a neighbour of a trained plan does better from that plan's weights than from rebuilt ones (AMED, arXiv:2205.15437).

    python -m benchmarks.inherited_weights --data npz:CIFAR10.npz --weights RESNET20.th --steps 24 --incumbent-steps 100

The incumbent is 2 bits throughout but for the ends, rebuilt, then trained with free weights. Its neighbours are what
``metropolis`` proposes from there: one to three layers a step up or down. Each is trained for as many steps twice: rebuilt
before, as in a trial (``rebuilt``), and with the weights, levels, norms and activation steps of the incumbent in every layer
that has the same choice (``inherited``). Errors and divergences are of images by which nothing was chosen, before that training
and after it; the difference is paired, image by image. A row is appended when its neighbour is done; a neighbour that the file
has is passed over.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import append, read
from foundation.command import Parser, main_guard
from foundation.plan import LayerPlan, Plan

if TYPE_CHECKING:
    from pipeline.training.cotuning import Cotuning

RESULT = Path(__file__).parent / "results" / "inherited_weights.csv"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module's text."""
    import torch

    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network, load_model
    from pipeline.training.cotuning import Cotuning
    from pipeline.training.evaluation import predictions
    from pipeline.training.incumbent import Incumbent, state_of
    from pipeline.training.judges import Judge
    from pipeline.training.settings import TrainSettings
    from pipeline.training.stages import FREE, REBUILT, Stage
    from search_spaces.layers import layers_of
    from search_spaces.samplers.base import Context
    from search_spaces.samplers.metropolis import Metropolis
    from search_spaces.space import Space

    parser = Parser(
        prog="python -m benchmarks.inherited_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--neighbours", type=int, default=8)
    parser.add_argument("--steps", type=int, default=24, help="of each neighbour, with free weights")
    parser.add_argument("--incumbent-steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    network, data = find_network(args.network), load_data(args.data)
    mean, std = network.normalization
    model = load_model(
        args.network, classes=len(data.classes), image_size=data.image_size, weights=args.weights
    )
    space = Space(layers_of(model, (3, *data.image_size)))
    names = [place.name for place in space.places]
    layers = dict.fromkeys(names, LayerPlan(2, 4)) | dict.fromkeys((names[0], names[-1]), LayerPlan(8))
    plan = space.warm_starts()[0].replace(layers=layers)
    settings = TrainSettings(epochs=1.0, seed=args.seed)
    half = data.report
    judge = Judge(model, half, torch.arange(len(half)), mean, std, 256)

    def rebuilt(plan: Plan) -> Cotuning:
        run = Cotuning(model, plan, data, settings, mean, std)
        run.reach(Stage(REBUILT))
        return run

    def trained(run: Cotuning, steps: int) -> None:
        run.total_steps = steps
        run.reach(Stage(FREE, steps / run.steps_per_epoch))

    def judged(run: Cotuning) -> tuple[Any, Any]:
        hardened = run.hardened().network
        return judge(hardened), (predictions(hardened, half, mean, std) == half.labels).double()

    have = {(row["network"], row["seed"], row["steps"], row["neighbour"]) for row in read(args.out)}
    first = rebuilt(plan)
    trained(first, args.incumbent_steps)
    found, _ = judged(first)
    print(f"incumbent: {100 * found.error:.2f} % wrong, {found.divergence:.4f} nats", flush=True)
    incumbent = Incumbent(plan, state_of(first.network))
    walk, rng = Metropolis(Context(space, ("error",), lambda: [], args.seed)), random.Random(args.seed)
    for number in range(args.neighbours):
        near = walk.step(plan, rng)
        key = (args.network, str(args.seed), str(args.steps), str(number))
        if key in have:
            continue
        changed = [name for name in names if near.layers[name] != plan.layers[name]]
        row = dict(zip(("network", "seed", "steps", "neighbour"), key))
        row |= {
            "incumbent_steps": str(args.incumbent_steps), "incumbent_error": f"{found.error:.5f}",
            "changed": " ".join(f"{name}:{near.layers[name].bits}" for name in changed),
        }  # fmt: skip
        right = {}
        runs = {"rebuilt": rebuilt(near), "inherited": Cotuning(model, near, data, settings, mean, std)}
        own = state_of(runs["rebuilt"].network)
        runs["inherited"].network.load_state_dict(incumbent.given_to(near, own))
        for how, run in runs.items():
            before, _ = judged(run)
            trained(run, args.steps)
            after, right[how] = judged(run)
            row |= {
                f"{how}_error_before": f"{before.error:.5f}", f"{how}_error": f"{after.error:.5f}",
                f"{how}_divergence": f"{after.divergence:.5f}",
            }  # fmt: skip
        gain = right["inherited"] - right["rebuilt"]
        row |= {
            "gain": f"{float(gain.mean()):.5f}", "gain_standard_error": f"{float(gain.std() / len(half) ** 0.5):.5f}",
            "images": str(len(half)), "torch": torch.__version__,
        }  # fmt: skip
        append(args.out, row)
        print(*row.values(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
