"""`python -m pipeline.sweep FILE.yaml`: run the searches of a file, say what changed and what might be promoted.

FILE.yaml has the keys name, defaults, searches and below them the flags of pipeline.search; the lists of a matrix multiply:

    name: nightly
    defaults: {data: "npz:cifar10.npz", budget: 40}
    searches:
      - {model: resnet20, weights: resnet20.th}
      - {model: mobilenet_v2_cifar, epochs-per-trial: 1, matrix: {seed: [0, 1], target: [a76, x2]}}

Relative paths are relative to the file's folder, also that of the output (runs, unless out says otherwise). Studies have fixed
names, so that the same command goes on after anything; a search that is complete is left alone until the file asks it for more
(--again asks them all, which renews what another kernel library has made old). Everything lies in OUT/sweeps/NAME: the table,
sweep.html, each search's log. The best candidate of a model goes through the gates of pipeline.promote; only --promote-if-better
moves a champion.

Exit status: 0 all complete, and the gates would let the candidates pass; 1 some gate said no; 2 a mistake, in the file or in a
search; 3 some search is incomplete, and the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from foundation.command import DONE, INCOMPLETE, Parser, main_guard, say
from foundation.errors import UserError
from foundation.files import check_place, json_text, write_atomically
from foundation.show import counted
from pipeline.study import paths
from pipeline.sweeps.asked import Asked, Sweep, read_sweep

PAGE = "sweep.html"


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    sweep = read_sweep(args.file)
    flags = ["--allow-modelled"] * args.allow_modelled + ["--strict"] * args.strict
    flags += ["--limit", str(args.limit)] if args.limit else []
    if args.print:
        print(_printed(sweep, args, flags), end="")
        return DONE
    check(sweep, say)
    if args.dry_run:
        asked = _asked(sweep)
        print(json_text(asked) if args.format == "json" else _listed(asked))
        return DONE
    from pipeline.study.lock import lock

    sweep.folder.mkdir(parents=True, exist_ok=True)
    with lock(sweep.folder, "sweep"):
        results, status = run(sweep, args, flags)
    if args.format == "json":
        print(json_text({**results, "status": status}))
    else:
        print(_told(sweep, results))
    return status


def run(sweep: Sweep, args: Any, flags: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Run what is not complete, then ask the gates; the table and the page are written after every search."""
    from pipeline.promote import registered_name
    from pipeline.sweeps.here import Here
    from pipeline.sweeps.jobs import Jobs
    from pipeline.sweeps.results import RESULTS, begin, changes, complete, row_of
    from pipeline.sweeps.run import Runner, SearchEnd, overall, run_all

    before, last = begin(sweep)
    runner: Runner = Jobs(args.jobs, sweep.name, args.job_python) if args.jobs else Here(sweep.folder, say)
    outcomes: dict[str, SearchEnd] = {}
    if not args.again:
        outcomes = {one.study: SearchEnd(one.study, DONE) for one in sweep.searches if complete(one, before)}
    results: dict[str, Any] = {
        "sweep": sweep.name,
        "file": str(sweep.file),
        "started": _now(),
        "ended": None,
        "gates": {},
    }

    def keep() -> None:
        results["rows"] = [
            row_of(one, registered_name(one.settings), outcomes.get(one.study)) for one in sweep.searches
        ]
        results["changes"] = changes(results, last)
        write_atomically(sweep.folder / RESULTS, json_text(results, indent=1))
        write_page(sweep, results)

    if outcomes:
        say(f"{len(outcomes)} of {len(sweep.searches)} searches complete already")
    todo = [one for one in sweep.searches if one.study not in outcomes]
    results["gates"] = before.get("gates", {})  # so that a run that is killed keeps what was asked
    keep()
    for outcome in run_all(todo, runner, args.at_a_time, say):
        outcomes[outcome.study] = outcome
        keep()
    results["gates"] = ask_gates(
        sweep, results["rows"], before.get("gates", {}), flags, move=args.promote_if_better
    )
    status = overall(
        [*(row["status"] for row in results["rows"]), *(one["status"] for one in results["gates"].values())]
    )
    results["ended"] = _now()
    keep()
    return results, status


def ask_gates(
    sweep: Sweep,
    rows: Sequence[Mapping[str, Any]],
    before: Mapping[str, Any],
    flags: Sequence[str],
    *,
    move: bool,
) -> dict[str, Any]:
    """Each model's champion, and what the gates say of the best candidate of its complete studies."""
    from pipeline.review.champions import Champions
    from pipeline.review.store import TrackingError
    from pipeline.review.tracking import Tracker
    from pipeline.sweeps.gates import judged, run_promote

    asked = {one.study: one for one in sweep.searches}
    found = {}
    for name in dict.fromkeys(row["registered"] for row in rows):
        mine = [row for row in rows if row["registered"] == name]
        settings = asked[mine[0]["study"]].settings
        log = sweep.folder / "logs" / f"promote-{Champions.safe(name)}.log"
        try:
            champion = champions = None
            if any(row["front"] for row in mine):
                say(f"{name}: asking the registry and the gates; log {log}")
                champions = Champions(Tracker(settings.tracking_uri, settings.out, settings.study_name), name)
                champion = champions.told()
            found[name] = judged(
                name, mine, champion, before.get(name, {}), flags, log, run_promote, move=move
            )
            if champions and found[name].get("promoted"):
                found[name]["champion"] = champions.told()
        except TrackingError as error:
            found[name] = {
                "registered": name, "champion": None, "candidate": None, "why": f"{error}; the same command asks again",
                "status": INCOMPLETE, "gates": [],
            }  # fmt: skip
    return found


def check(sweep: Sweep, say: Callable[[str], None]) -> None:
    """See that every search names what there is, before the first is started.

    Raises:
        UserError: some does not; the text says of each what.
    """
    problems: list[str] = []
    seen: set[str] = set()
    for one in sweep.searches:
        for problem in _problems(one):
            if problem not in seen:
                problems.append(f"{one.study}: {problem}")
            seen.add(problem)
    if problems:
        raise UserError(
            f"{sweep.file}: {counted(len(problems), 'problem')}, so nothing is started: {'; '.join(problems)}"
        )


def _problems(asked: Asked) -> list[str]:
    from deploy_arm.devices.kinds import DEVICES
    from deploy_arm.target.targets import TARGETS
    from foundation.factories import is_factory, look_in
    from pipeline.datasets.registry import find_data
    from pipeline.networks.registry import find_network
    from quantizers import QUANTIZERS
    from search_spaces.dimensions import asked as further
    from search_spaces.samplers.base import SAMPLERS

    settings, found = asked.settings, []
    look_in(settings.modules)
    _, _, place = settings.data.partition(":")
    questions: list[Callable[[], Any]] = [
        lambda: find_network(settings.model),
        lambda: settings.data.startswith(f"{paths.OF_DETECTORS}:") or find_data(settings.data),
        lambda: TARGETS[settings.target],
        lambda: QUANTIZERS[settings.quantizer],
        lambda: SAMPLERS[settings.sampler],
        lambda: DEVICES[settings.devices] if settings.devices else None,
        lambda: further(settings.dimensions),
        lambda: check_place(settings.folder, f"out {settings.out}"),
    ]
    for question in questions:
        try:
            question()
        except UserError as error:
            found.append(str(error))
    if place and not is_factory(settings.data) and not Path(place).exists():
        found.append(f"data {settings.data}: there is no {place}")
    if settings.weights and "/" in settings.weights and not Path(settings.weights).is_file():
        found.append(f"weights {settings.weights}: there is no such file")
    return found


def write_page(sweep: Sweep, results: Mapping[str, Any]) -> None:
    from pipeline.sweeps.page import render_sweep

    page = render_sweep(sweep.name, results, results["changes"], f"{datetime.now():%Y-%m-%d %H:%M}")
    write_atomically(sweep.folder / PAGE, page)


def _told(sweep: Sweep, results: Mapping[str, Any]) -> str:
    from pipeline.sweeps.gates import lines
    from pipeline.sweeps.results import table

    parts = [table(results["rows"]), "\n".join(results["changes"]), "\n".join(lines(results["gates"]))]
    return "\n\n".join([*parts, f"page     {sweep.folder / PAGE}"])


def _asked(sweep: Sweep) -> dict[str, Any]:
    """What would be run."""
    from pipeline.sweeps.results import RESULTS, complete, read_results

    before = read_results(sweep.folder / RESULTS)
    searches = [
        {"study": one.study, "complete": complete(one, before), "config": one.config()}
        for one in sweep.searches
    ]
    return {"sweep": sweep.name, "folder": str(sweep.folder), "searches": searches}


def _listed(asked: dict[str, Any]) -> str:
    """``_asked`` as lines."""
    shown = [
        f"{'complete' if one['complete'] else 'to run':<9} {one['study']}: "
        + " ".join(
            f"{key}={value}" for key, value in one["config"].items() if key in ("model", "data", "budget")
        )
        for one in asked["searches"]
    ]
    return "\n".join([f"sweep {asked['sweep']} in {asked['folder']}", *shown])


def _printed(sweep: Sweep, args: Any, flags: Sequence[str]) -> str:
    """What starts this very command on a schedule."""
    from pipeline.sweeps import schedule

    when = schedule.When.of(args.at, args.on)
    more = [*flags, *(["--promote-if-better"] if args.promote_if_better else [])]
    more += ["--at-a-time", str(args.at_a_time)] if args.at_a_time > 1 else []
    if args.print == "k8s":
        if not (args.image and args.claim):
            raise UserError(
                "--print k8s: name the container image with this project (--image) and the claim that keeps the studies (--claim)"
            )
        return schedule.kuberay(sweep, more, when, args.image, args.claim)
    more += ["--jobs", args.jobs, "--job-python", args.job_python] if args.jobs else []
    return {"systemd": schedule.systemd, "cron": schedule.cron}[args.print](sweep, more, when)


def _now() -> str:
    return f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}"


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{text}: give a whole number of at least 1")
    return int(text)


def _parser() -> Parser:
    from argparse import RawDescriptionHelpFormatter

    description, _, rules = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog="python -m pipeline.sweep",
        description=description,
        epilog=rules,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=paths.absolute, metavar="FILE.yaml")
    parser.add_argument(
        "--dry-run", action="store_true", help="check the file and list its searches; start nothing"
    )
    parser.add_argument(
        "--at-a-time", type=_at_least_one, default=1, metavar="N", help="searches at a time (default 1)"
    )
    parser.add_argument("--again", action="store_true", help="ask also the searches that are complete")
    parser.add_argument(
        "--jobs",
        metavar="URL",
        help="run the searches as jobs of the Ray cluster whose dashboard is at URL (http://HOST:8265)",
    )
    parser.add_argument(
        "--job-python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter of the cluster's head (default: this one's path)",
    )
    gates = parser.add_argument_group("gates, as those of pipeline.promote")
    gates.add_argument(
        "--promote-if-better",
        action="store_true",
        help="promote the best candidate of each model if it is better than the champion and passes every gate",
    )
    gates.add_argument(
        "--allow-modelled", action="store_true", help="accept a latency that no ARM CPU has measured"
    )
    gates.add_argument(
        "--strict", action="store_true", help="refuse where the images do not settle the accuracy"
    )
    gates.add_argument(
        "--limit", type=_at_least_one, metavar="N", help="judge on N images only, drawn from the report half"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
    timer = parser.add_argument_group("a schedule")
    timer.add_argument(
        "--print",
        choices=("systemd", "cron", "k8s"),
        help="print what starts this command on a schedule: units of systemd, a crontab line, a KubeRay RayCronJob",
    )
    timer.add_argument("--at", default="02:00", metavar="HH:MM", help="time of day (default 02:00)")
    timer.add_argument("--on", metavar="DAYS", help="days, like mon,thu (default every day)")
    timer.add_argument("--image", metavar="IMAGE", help="for k8s: container image with this project")
    timer.add_argument(
        "--claim",
        metavar="NAME",
        help="for k8s: PersistentVolumeClaim, mounted where FILE.yaml's folder is here",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main_guard(main))
