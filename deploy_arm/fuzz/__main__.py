"""Fuzzes the blob loader under sanitizers with libFuzzer, or compares all kernels on valid blobs with hostile numbers.

    python -m deploy_arm.fuzz --minutes 30               starts from the kept corpus, prints a line of CSV with what was done
    python -m deploy_arm.fuzz --minutes 30 --keep        also keeps the smallest corpus that reaches all that was reached
    python -m deploy_arm.fuzz --minutes 30 --log FILE    also appends the line to a log (benchmarks/results/blob_fuzzing.csv)
    python -m deploy_arm.fuzz --networks 2000            that many random valid networks of extreme numbers: plain C against the
                                                         vector kernels against threads, for aarch64 under sanitizers (gcc; QEMU)
    python -m deploy_arm.fuzz --networks 2000 --first 5000     others than the first ones

What the loader accepts is also run, where that takes at most about a million steps. ``--seeds FOLDER`` adds blobs to start from.
Stops at the first finding: its file is written to the working directory as ``finding-...``. Exit status: 0 nothing found, 1 a
finding, 2 wrong usage or no fuzzer here.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy_arm.fuzz.build import CLANGS, ENVIRONMENT, build_fuzzer, pack_corpus, unpack_corpus
from deploy_arm.fuzz.compare import compare
from deploy_arm.target.host import tail
from deploy_arm.target.kernel_sources import KERNELS
from deploy_arm.target.toolchain import version_of
from foundation.command import Parser, main_guard
from foundation.errors import UserError
from foundation.files import write_atomically

MOST_BYTES = 450_000  # of the kept corpus
OPTIONS = (
    "-max_len=16384",
    "-rss_limit_mb=4096",
    "-timeout=20",
    "-print_final_stats=1",
    "-artifact_prefix=finding-",
)


def statistics(log: str) -> dict[str, int]:
    """Executions, edges and features covered, and files of the corpus, from libFuzzer's log.

    Raises:
        UserError: the log has none, since the fuzzer did not start.
    """
    progress = re.findall(r"^#(\d+)\s.*cov: (\d+) ft: (\d+) corp: (\d+)/", log, re.MULTILINE)
    if not progress:
        raise UserError(f"the fuzzer did not start:\n{tail(log)}")
    done = re.findall(r"number_of_executed_units: (\d+)", log)
    executions, edges, features, files = (int(value) for value in progress[-1])
    return {
        "executions": int(done[-1]) if done else executions,
        "edges": edges,
        "features": features,
        "corpus_files": files,
    }


def sources_digest() -> str:
    """What was fuzzed: the beginning of the SHA-256 of the C sources of the program and of the fuzzer."""
    digest = hashlib.sha256()
    for path in sorted([*KERNELS.glob("*.[ch]"), *Path(__file__).parent.glob("*.[ch]")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log, none where it is not there yet.

    Raises:
        UserError: the file is something else.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--log {path} cannot be read: {error}") from error
    if not {"executions", "cpu_minutes", "findings"} <= set(reader.fieldnames or ()):
        raise UserError(f"--log {path} is not a log of this command; name another file")
    return rows


def as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV; a column that only some have is empty in the others."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def fuzz(minutes: float, seeds: Path | None, *, keep: bool) -> dict[str, object]:
    """One run of one process; the row that is printed."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        fuzzer = str(build_fuzzer(folder / "fuzzer"))
        found, start, small = folder / "found", folder / "start", folder / "small"
        for made in (found, start, small):
            made.mkdir()
        unpack_corpus(start)
        folders = [str(found), str(start), *([str(seeds)] if seeds else [])]
        environment = {**os.environ, **ENVIRONMENT}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [fuzzer, f"-max_total_time={max(1, round(60 * minutes))}", *OPTIONS, *folders]
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        row: dict[str, object] = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "sources": sources_digest(),
            "compiler": next((text for name in CLANGS if (text := version_of((name,)))), ""),
            "sanitizers": "address undefined",
            "options": " ".join(OPTIONS),
            "cpu_minutes": round(
                (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60, 1
            ),
            **statistics(run.stderr),
            "findings": int(run.returncode != 0),
        }
        if run.returncode != 0:
            print(tail(run.stderr, 60), file=sys.stderr)
        elif keep:
            merge = [fuzzer, "-set_cover_merge=1", *OPTIONS[:3], str(small), *folders]
            subprocess.run(merge, env=environment, capture_output=True, check=True)
            row["kept_files"] = pack_corpus(small.iterdir(), MOST_BYTES)
        return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m deploy_arm.fuzz", description="Fuzzes the blob loader.")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default %(default)g)")
    parser.add_argument("--networks", type=int, metavar="N", help="compare the kernels on N networks instead")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first of them (default %(default)d)"
    )
    parser.add_argument("--seeds", type=Path, metavar="FOLDER", help="more blobs to start from")
    parser.add_argument("--keep", action="store_true", help="keep what was reached as the new corpus")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append what is printed to this CSV file")
    options = parser.parse_args(arguments)
    try:
        if not 0 < options.minutes <= 1e5:
            raise UserError(f"--minutes {options.minutes:g}: give a number above 0")
        if options.networks is not None and (options.networks < 1 or options.first < 0):
            raise UserError(
                f"--networks {options.networks} --first {options.first}: give numbers from 1 and from 0 on"
            )
        if options.networks is not None and (options.seeds or options.keep):
            raise UserError("--networks makes its blobs itself: leave --seeds and --keep out")
        if options.seeds and not options.seeds.is_dir():
            raise UserError(f"--seeds {options.seeds}: not a folder; name one with blobs in it")
        if options.log:
            read_log(options.log)
        if options.networks is not None:
            row = {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "sources": sources_digest(),
                **compare(options.first, options.networks, Path.cwd()),
            }
        else:
            row = fuzz(options.minutes, options.seeds, keep=options.keep)
        if options.log:
            write_atomically(options.log, as_csv([*read_log(options.log), row]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    sys.stdout.write(as_csv([row]))
    return 1 if row["findings"] else 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
