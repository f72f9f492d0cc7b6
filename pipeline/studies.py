"""`python -m pipeline.studies`: the studies of an output folder, also while a search runs: look at, compare, stop, copy, remove.

A STUDY is a name in the output folder (--out, by default runs) or a path, wherever its folder has been moved to.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.command import DONE, INCOMPLETE, REFUSED, Parser, main_guard, say, shell
from foundation.errors import UserError
from foundation.files import check_place, json_text, write_atomically
from foundation.show import aligned, counted, show_bytes, show_latency, show_seconds
from pipeline.study import paths

if TYPE_CHECKING:
    from pipeline.shelf.view import View

Result = tuple[int, dict[str, Any], str]
"""Exit status, the result as JSON, and as text."""


def main(argv: list[str] | None = None) -> int:
    """The command; see ``--help``."""
    args = _parser().parse_args(argv)
    todo: Callable[[argparse.Namespace], Result] = args.todo
    status, result, text = todo(args)
    print(json_text(result, indent=1) if args.format == "json" else text)
    return status


def list_studies(args: argparse.Namespace) -> Result:
    """every study in a line"""
    from pipeline.shelf.find import studies_in
    from pipeline.shelf.view import bytes_of, look

    rows = []
    for folder in studies_in(args.out):
        try:
            rows.append(_summary(look(folder)))
        except UserError as error:  # one that is damaged hides no other
            damaged = {"name": folder.name, "folder": str(folder), "state": "damaged", "why": str(error)}
            rows.append({**damaged, "disk_bytes": bytes_of(folder)})
    if not rows:
        begin = shell("pipeline.search", "--out", args.out)
        return DONE, {"out": str(args.out), "studies": []}, f"no studies in {args.out}; {begin} begins one"
    table: list[tuple[str, ...]] = [
        ("name", "model", "data", "trials", "state", "front", "best: error", "latency", "size", "on disk")
    ]
    table += [_columns(row) for row in rows]
    why = [f"{row['name']}: {row['why']}" for row in rows if row["state"] == "damaged"]
    return DONE, {"out": str(args.out), "studies": rows}, "\n".join([aligned(table), *why])


def show(args: argparse.Namespace) -> Result:
    """one study: what was asked, what was found, what to type"""
    from pipeline.review.fronts import front_table
    from pipeline.review.next_steps import next_steps
    from pipeline.shelf.find import others_like
    from pipeline.shelf.view import look
    from pipeline.study.decided import read_decisions, without_rejected
    from pipeline.study.settings import Settings
    from pipeline.study.unsent import unsent

    view = look(_found(args))
    usual = {**Settings().as_dict(), "name": view.name, "out": str(view.folder.parent)}
    asked = {key: value for key, value in view.settings.as_dict().items() if value != usual[key]}
    told = ", ".join(f"{key} {_value(value)}" for key, value in asked.items())
    decisions = read_decisions(view.folder)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(view.counts.items()))
    process = f", process {view.driver.pid}" if view.driver else ""
    lines = [
        f"study    {view.folder} ({view.state}{process})",
        f"asked    {told or 'nothing but what is usual'}",
        f"trials   {view.spent} of {view.settings.budget}: {counts or 'none has ended yet'}",
        "",
    ]
    if view.front["points"] or view.front["references"]:
        lines += [front_table(dict(view.front)), ""]
    lines += [f"decided  {name}: {one}" for name, one in decisions.items()]
    if view.front["points"]:
        left = without_rejected(view.front, decisions)
        lines.append(
            next_steps(
                view.settings,
                left,
                None,
                complete=view.state != "resumable",
                others=others_like(view.folder),
                unsent=unsent(view.folder),
            )
        )
    elif view.state == "resumable":
        lines.append(f"resume   {_resume(view.folder)}")
    if view.state == "running":
        lines.append(f"stop     {shell('pipeline.studies', 'stop', view.name, '--out', view.folder.parent)}")
    result = {
        **_summary(view),
        "settings": view.settings.as_dict(),
        "counts": dict(view.counts),
        "front": dict(view.front),
        "decisions": {name: dataclasses.asdict(one) for name, one in decisions.items()},
    }
    return DONE, result, "\n".join(lines)


def compare(args: argparse.Namespace) -> Result:
    """several fronts in one table, with hypervolumes, and in one picture"""
    from pipeline.shelf.compare import compared, text_of
    from pipeline.shelf.find import find_study
    from pipeline.shelf.view import look

    folders = [find_study(name, args.out) for name in args.studies]
    if twice := [folder.name for number, folder in enumerate(folders) if folder in folders[:number]]:
        raise UserError(f"{twice[0]} is named twice; name each study once")
    if args.picture:
        check_place(args.picture.parent, f"--picture {args.picture}")
        if args.picture.is_dir():
            raise UserError(f"--picture {args.picture}: is a folder; name a file")
    found = compared([look(folder) for folder in folders])
    text = text_of(found)
    if args.picture:
        from pipeline.shelf.picture import drawn

        write_atomically(args.picture, drawn(found, f"{datetime.now():%Y-%m-%d %H:%M}"))
        found["picture"], text = str(args.picture), f"{text}\n\npicture  {args.picture}"
    return DONE, found, text


def stop(args: argparse.Namespace) -> Result:
    """end a running search so that it can be gone on with"""
    from pipeline.shelf.driver import driver_of
    from pipeline.shelf.driver import stop as ask

    folder = _found(args)
    driver = driver_of(folder)
    result: dict[str, Any] = {
        "study": str(folder),
        "process": driver and driver.pid,
        "resume": _resume(folder),
    }
    if driver is None:
        text = f"nobody runs {folder} on this machine\nresume   {_resume(folder)}"
        return DONE, {**result, "stopped": False}, text
    say(f"process {driver.pid} is asked to end: {driver.command}")
    last = [0.0]

    def waiting(seconds: float) -> None:
        if seconds - last[0] >= 10:
            last[0] = seconds
            say(f"it closes what is open, for {show_seconds(seconds)} now")

    if not ask(folder, driver, args.patience, waiting):
        text = f"process {driver.pid} has not ended within {show_seconds(args.patience)}; it may still, or ask again"
        return INCOMPLETE, {**result, "stopped": False}, text
    text = f"stopped  {folder}; nothing that finished is lost\nresume   {_resume(folder)}"
    return DONE, {**result, "stopped": True}, text


def delete(args: argparse.Namespace) -> Result:
    """remove studies for good"""
    from pipeline.shelf.find import find_study
    from pipeline.shelf.room import delete as remove
    from pipeline.shelf.room import refuse_running
    from pipeline.shelf.view import bytes_of

    folders = [find_study(name, args.out) for name in dict.fromkeys(args.studies)]
    for folder in folders:
        refuse_running(folder)  # before anything is asked or removed
    told = ", ".join(f"{folder} ({show_bytes(bytes_of(folder))})" for folder in folders)
    if not _agreed(args, f"delete {told}, for good?"):
        return REFUSED, {"deleted": []}, "nothing was deleted"
    for folder in folders:
        remove(folder)
    text = f"deleted  {told}\nwhat MLflow has of {'it' if len(folders) == 1 else 'them'} stays there"
    return DONE, {"deleted": [str(folder) for folder in folders]}, text


def prune(args: argparse.Namespace) -> Result:
    """remove candidates that are on no front, and checkpoints that nothing needs"""
    from pipeline.shelf.find import find_study, studies_in
    from pipeline.shelf.room import prune as remove
    from pipeline.shelf.room import refuse_running, unneeded
    from pipeline.shelf.view import bytes_of, look

    folders = [find_study(name, args.out) for name in dict.fromkeys(args.studies)] or studies_in(args.out)
    for folder in folders:
        refuse_running(folder)
    rows, lines = [], []
    for folder in folders:
        found = unneeded(look(folder), args.keep)
        if not args.dry_run:
            remove(folder, found)
        left = bytes_of(folder) - (found.bytes if args.dry_run else 0)
        rows.append({
            "study": str(folder), "candidates": list(found.candidates), "folders": list(map(str, found.folders)),
            "freed_bytes": found.bytes, "left_bytes": left,
        })  # fmt: skip
        going = f"{counted(len(found.candidates), 'candidate')} and {counted(len(found.folders), 'folder')} of ended trials"
        lines.append(
            f"{folder}: {going}, {show_bytes(found.bytes)}; {show_bytes(left)} {'would be' if args.dry_run else 'is'} left"
        )
    return (
        DONE,
        {"removed": not args.dry_run, "studies": rows},
        "\n".join(lines) or f"no studies in {args.out}",
    )


def clone(args: argparse.Namespace) -> Result:
    """a copy of a study under another name"""
    from pipeline.shelf.room import clone as copied
    from pipeline.study.settings import named_folder

    old = _found(args)
    new = named_folder(args.new if "/" in args.new else str(old.parent / args.new))
    check_place(new.parent, args.new)
    copied(old, new)
    result = {"study": str(new), "of": str(old), "resume": _resume(new)}
    return DONE, result, f"study    {new}\ngo on    {_resume(new)}"


def rebuild(args: argparse.Namespace) -> Result:
    """a study again, from the copy that a search with --storage keeps"""
    from pipeline.shelf.backup import rebuild as rebuilt
    from pipeline.study.settings import named_folder
    from pipeline.study.storage import below, storage_at

    folder = named_folder(str(args.out / args.study))
    check_place(folder, f"--out {args.out}")
    said: list[str] = []
    count = rebuilt(below(storage_at(paths.storage(args.storage)), folder.name), folder, said.append)
    result = {"study": str(folder), "candidates": count, "left_out": said, "resume": _resume(folder)}
    lines = [*said, f"study    {folder}, {counted(count, 'candidate')}", f"go on    {_resume(folder)}"]
    return DONE, result, "\n".join(lines)


def send(args: argparse.Namespace) -> Result:
    """write to MLflow what it lacks of a study"""
    from pipeline.report.send import send as sent
    from pipeline.review.store import TrackingError, how_to_look

    folder = _found(args)
    try:
        tracker, count = sent(folder, args.tracking_uri)
    except TrackingError as error:
        again = f"{error}; the study has it all, and the same command tries again"
        return INCOMPLETE, {"study": str(folder), "sent": False, "why": str(error)}, again
    look = how_to_look(tracker.uri, tracker.front_page)
    result = {"study": str(folder), "sent": True, "store": tracker.uri, "trials": count}
    return DONE, result, f"MLflow has all of {folder}, {counted(count, 'trial')}\nMLflow   {look}"


def decide(args: argparse.Namespace) -> Result:
    """keep or reject a candidate: promote chooses no rejected one"""
    from pipeline.candidate.named import candidate_name
    from pipeline.study.decided import decide as decided

    folder = _found(args)
    name = candidate_name(folder, args.candidate)
    new = decided(folder, name, None if args.decision == "undecided" else args.decision, args.note)
    result = {
        "study": str(folder),
        "candidate": name,
        "decision": None,
        **(dataclasses.asdict(new) if new else {}),
    }
    problem = None if args.no_mlflow else _told_mlflow(folder, name, new.decision if new else "")
    text = f"{name} is {new or 'undecided again'}" + (f"\nMLflow was not told: {problem}" if problem else "")
    return DONE, {**result, "mlflow": problem or ("not told" if args.no_mlflow else "told")}, text


def _told_mlflow(folder: Path, candidate: str, decision: str) -> str | None:
    """Tag the candidate's run; why that failed, where it did: the folder holds the decision all the same."""
    from pipeline.review.store import TrackingError
    from pipeline.review.tracking import Tracker
    from pipeline.shelf.view import settings_of

    try:
        settings = settings_of(folder)
        Tracker(settings.tracking_uri, settings.out, settings.study_name).decide(candidate, decision)
    except (TrackingError, UserError) as error:
        return str(error)
    return None


def _found(args: argparse.Namespace) -> Path:
    from pipeline.shelf.find import find_study

    return find_study(args.study, args.out)


def _resume(folder: Path) -> str:
    return shell("pipeline.search", "--name", folder.name, "--out", folder.parent)


def _agreed(args: argparse.Namespace, question: str) -> bool:
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody can be asked here: give --yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _summary(view: View) -> dict[str, Any]:
    from pipeline.shelf.view import bytes_of

    return {
        "name": view.name,
        "folder": str(view.folder),
        "model": view.settings.model,
        "data": view.settings.data,
        "budget": view.settings.budget,
        "spent": view.spent,
        "state": view.state,
        "process": view.driver and view.driver.pid,
        "front_points": len(view.front["points"]),
        "images": view.front["images"],
        "best": view.best and dict(view.best),
        "last_trial": max((record.ended for record in view.records if record.ended), default=None),
        "disk_bytes": bytes_of(view.folder),
    }


def _columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    from pipeline.study.confidence import show_error

    if row["state"] == "damaged":
        return (row["name"], "-", "-", "-", "damaged", "-", "-", "-", "-", show_bytes(row["disk_bytes"]))
    best, state = row["best"] or {}, row["state"]
    if row["last_trial"]:
        state += f", {_ago(time.time() - row['last_trial'])}"
    kind, _, place = row["data"].partition(":")
    return (
        row["name"],
        row["model"],
        f"{kind}:{Path(place).name}" if place else kind,
        f"{row['spent']}/{row['budget']}",
        state,
        str(row["front_points"]),
        show_error(best.get("error"), row["images"], best.get("error_standard_error")),
        show_latency(best.get("latency_ms"), best.get("source")),
        show_bytes(best.get("size_bytes")),
        show_bytes(row["disk_bytes"]),
    )


def _ago(seconds: float) -> str:
    days = int(seconds // 86400)
    return f"{counted(days, 'day') if days else show_seconds(max(seconds, 0.0))} ago"


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _parser() -> Parser:
    description, _, rules = (__doc__ or "").partition("\n\n")
    parser = Parser(prog="python -m pipeline.studies", description=description, epilog=rules)
    inner = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def add(todo: Callable[[argparse.Namespace], Result], *places: str) -> argparse.ArgumentParser:
        name = todo.__name__.partition("_")[0]
        one: argparse.ArgumentParser = inner.add_parser(
            name, help=todo.__doc__, description=f"{todo.__doc__}.".capitalize()
        )
        for place in places:
            one.add_argument(place, metavar="STUDY", nargs="+" if place == "studies" else None)
        one.add_argument(
            "--out",
            type=paths.absolute,
            default="runs",
            metavar="DIR",
            help="folder of the studies (default %(default)s)",
        )
        one.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
        one.set_defaults(todo=todo)
        return one

    add(list_studies)
    add(show, "study")
    add(compare, "studies").add_argument(
        "--picture", type=paths.absolute, metavar="FILE.html", help="draw the fronts on one page"
    )
    add(stop, "study").add_argument(
        "--patience",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait (default %(default)g)",
    )
    pruned = add(prune)
    pruned.add_argument("studies", nargs="*", metavar="STUDY", help="(default: all of them)")
    pruned.add_argument(
        "--keep", choices=("front", "all"), default="front",
        help="which candidates stay (default %(default)s); what ended trials and killed processes left lying goes in any case",
    )  # fmt: skip
    pruned.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    add(clone, "study").add_argument("new", metavar="NEW", help="name of the copy, or where it is to lie")
    add(rebuild, "study").add_argument(
        "--storage", required=True, metavar="PLACE", help="the folder or URL that the search was given"
    )
    add(send, "study").add_argument(
        "--tracking-uri", type=paths.tracking_uri, metavar="URI", help="another MLflow store than the study's"
    )
    add(delete, "studies").add_argument("--yes", action="store_true", help="do not ask")
    choice = add(decide, "study")
    choice.add_argument("candidate", metavar="HASH", help="its beginning is enough")
    choice.add_argument("decision", choices=("keep", "reject", "undecided"))
    choice.add_argument("--note", default="", metavar="TEXT", help="why")
    choice.add_argument("--no-mlflow", action="store_true", help="write it into the study's folder alone")
    return parser


if __name__ == "__main__":
    sys.exit(main_guard(main))
