"""`python -m pipeline.export CANDIDATE --format state_dict`: a candidate's weights for one's own PyTorch network.

Every weight of a compressed layer is a value of its codebook, in fp32; what else the network holds is as it was trained. The
file is one of safetensors and loads with `network.load_state_dict(safetensors.torch.load_file(FILE))`, strictly, into the network
that was searched. Activations are not rounded there, as they are in the program: answers may differ from its.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import json_text
from pipeline.study import paths

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.candidate.folder import CandidateFolder

FORMATS = ("state_dict",)


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
        "--format", choices=FORMATS, default="state_dict", help="what to write (default %(default)s)"
    )
    parser.add_argument("--out", type=paths.absolute, metavar="FILE",
                        help="where to (default: MODEL-HASH.safetensors here); what is there is replaced")  # fmt: skip
    parser.add_argument("--modules", type=paths.absolute, metavar="DIR",
                        help="folder of the module of a package.module:function")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    from foundation.factories import look_in
    from foundation.files import check_place, write_atomically
    from pipeline.candidate.folder import load_candidate

    look_in(args.modules)
    candidate = load_candidate(args.candidate)
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in candidate.manifest["model"])
    out = args.out or Path.cwd() / f"{name}-{candidate.manifest['hash']}.safetensors"
    check_place(out.parent, f"--out {out}")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    from safetensors.torch import save

    state = state_dict(candidate)
    about = {"candidate": candidate.manifest["hash"], "model": candidate.manifest["model"],
             "normalization": json_text(candidate.manifest["normalization"])}  # fmt: skip
    write_atomically(out, save(state, metadata=about))
    print(f"{len(state)} tensors of {candidate.manifest['hash']} in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
