"""`python -m pipeline.export CANDIDATE --format state_dict|onnx`: a candidate for other software than this.

state_dict: every weight of a compressed layer is a value of its codebook, in fp32; what else the network holds is as it was
trained. The file is one of safetensors and loads with `network.load_state_dict(safetensors.torch.load_file(FILE))`, strictly,
into the network that was searched. Activations are not rounded there, as they are in the program: answers may differ from its.

onnx: the compiled network in the QDQ form, weights int8 and activations on the program's grid; images uint8 [N, H, W, C] in,
outputs float32 [N, K]. It is written when onnxruntime gives the same class as the integer reference for every image whose two
largest outputs are more than an output step apart, or the same boxes (exit status 1 where it does not). It needs
`pip install 'dgms-arm-search[onnx]'`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.command import DONE, REFUSED, Parser, is_quiet, main_guard
from foundation.errors import UserError
from foundation.files import json_text
from pipeline.study import paths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from deploy_arm.interchange.compare import Agreement
    from pipeline.candidate.folder import CandidateFolder
    from pipeline.datasets.images import Images
    from pipeline.detection.beside import BoxAgreement

FORMATS = {"state_dict": "safetensors", "onnx": "onnx"}
BATCH = 64


def state_dict(candidate: CandidateFolder) -> dict[str, Tensor]:
    """The state of the network that was searched, by its own names, with the candidate's weights.

    Raises:
        UserError: the network is not the one the candidate was made of.
    """
    from pipeline.networks.registry import load_model

    manifest = candidate.manifest
    model = load_model(manifest["model"], classes=len(manifest["classes"]), image_size=candidate.image_size)
    found = candidate.hardened().network.state_dict()
    missing = [name for name in model.state_dict() if name not in found]
    if missing:
        raise UserError(
            f"{manifest['model']} has {missing[0]!r}, which the candidate {candidate.folder} does not hold"
        )
    return {name: found[name].detach().clone().contiguous() for name in model.state_dict()}


def _parser() -> Parser:
    description, _, rules = (__doc__ or "").partition("\n\n")
    parser = Parser(prog="python -m pipeline.export", description=description, epilog=rules)
    parser.add_argument("candidate", type=paths.absolute, help="candidate folder")
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="state_dict", help="what to write (default %(default)s)"
    )
    parser.add_argument("--out", type=paths.absolute, metavar="FILE",
                        help="where to (default: MODEL-HASH.safetensors or .onnx here); what is there is replaced")  # fmt: skip
    parser.add_argument(
        "--data", type=paths.data, help="images to check an ONNX model on (default: the candidate's data set)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="check on N images only, drawn from the report half"
    )
    parser.add_argument("--print", choices=("text", "json"), default="text",
                        help="how to print what was done (default %(default)s)")  # fmt: skip
    parser.add_argument("--modules", type=paths.absolute, metavar="DIR",
                        help="folder of the module of a package.module:function")  # fmt: skip
    return parser


def onnx(
    candidate: CandidateFolder, spec: str | None, limit: int | None
) -> tuple[bytes, Agreement | BoxAgreement]:
    """The candidate's program as an ONNX model, and how it compares with the integer reference on the report half.

    Raises:
        UserError: onnx or onnxruntime is missing, the network has what ONNX has not, or the data is not the candidate's.
    """
    import torch

    from deploy_arm.blob.read import read_graph
    from deploy_arm.interchange.compare import answers, compare
    from deploy_arm.interchange.qdq import to_onnx
    from pipeline.datasets.registry import load_data
    from pipeline.detection.beside import compared_boxes
    from pipeline.detection.dataset import detection_data
    from pipeline.detection.decode import cells_of, decode
    from pipeline.networks.registry import find_network
    from pipeline.training.evaluation import limited

    graph = read_graph(candidate.blob.read_bytes())
    model = to_onnx(graph, candidate.manifest["hash"])
    data, size = spec or candidate.manifest["data"]["spec"], candidate.image_size
    detects = find_network(candidate.manifest["model"]).detects
    images: Images = limited((detection_data if detects else load_data)(data, size).report, limit)
    count = len(images)

    def batches() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, count, BATCH):
            yield images.batch(torch.arange(start, min(start + BATCH, count))).numpy()
            if sys.stderr.isatty() and not is_quiet():
                end = min(start + BATCH, count)
                print(f"\r{end}/{count} images", end="" if end < count else "\r", file=sys.stderr)

    if not detects:
        return model, compare(model, graph, batches())
    classes = len(candidate.manifest["classes"])
    seen = (
        [decode(cells_of(torch.from_numpy(part.copy()), classes, size)) for part in both]
        for both in answers(model, graph, batches())
    )
    return model, compared_boxes(pair for two in seen for pair in zip(*two, strict=True))


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: give 1 or more, or leave it out for all images")
    from foundation.factories import look_in
    from foundation.files import check_place, write_atomically
    from pipeline.candidate.folder import load_candidate

    look_in(args.modules)
    candidate = load_candidate(args.candidate)
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in candidate.manifest["model"])
    out = args.out or Path.cwd() / f"{name}-{candidate.manifest['hash']}.{FORMATS[args.format]}"
    check_place(out.parent, f"--out {out}")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    told: dict[str, Any] = {"candidate": candidate.manifest["hash"], "format": args.format, "file": str(out)}
    if args.format == "onnx":
        model, likeness = onnx(candidate, args.data, args.limit)
        told |= {"written": likeness.differing == 0, "check": dataclasses.asdict(likeness)}
        if told["written"]:
            write_atomically(out, model)
        text = f"{likeness}\n" + (f"{out}" if told["written"] else "nothing is written")
    else:
        from safetensors.torch import save

        state = state_dict(candidate)
        about = {"candidate": candidate.manifest["hash"], "model": candidate.manifest["model"],
                 "normalization": json_text(candidate.manifest["normalization"])}  # fmt: skip
        write_atomically(out, save(state, metadata=about))
        told |= {"written": True, "tensors": len(state)}
        text = f"{len(state)} tensors of {candidate.manifest['hash']} in {out}"
    print(json_text(told) if args.print == "json" else text)
    return DONE if told["written"] else REFUSED


if __name__ == "__main__":
    sys.exit(main_guard(main))
