"""Promotion of real candidates: real programs under emulation, real figures, a real registry."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from deploy_arm.devices.base import Profile
from deploy_arm.devices.kinds import open_device
from deploy_arm.runtime.program import build_program
from deploy_arm.target.host import host_compiler
from deploy_arm.target.targets import TARGETS
from deploy_arm.target.toolchain import choose_compiler, is_arm
from foundation.errors import UserError
from foundation.files import sha256
from foundation.plan import LayerPlan, Plan
from pipeline import devices
from pipeline.promote import main, registered_name
from pipeline.review import bundle as bundle_tools
from pipeline.review.champions import Champions
from pipeline.review.tracking import Tracker
from pipeline.study.records import Figures
from pipeline.study.settings import Settings
from tests.pipeline.bundle_user import built_by_cmake, built_by_hand, classify, found_by_cmake
from tests.pipeline.json_page import section
from tests.system.own_folder import command_here

MODELLED = Profile(2.0, 1.8, 2.3, "modelled", "emulated a76", 1000, 4096, 512)
LAYERS = ("0", "3", "8")


def have_tools() -> bool:
    try:
        choose_compiler()
        open_device("a76")
    except UserError:
        return False
    return True


needs_tools = pytest.mark.skipif(
    not have_tools(), reason="no ARM tool chain: python -m deploy_arm.toolchain --install"
)


def test_a_registered_name_is_the_model_the_data_and_the_target() -> None:
    assert (
        registered_name(Settings(model="resnet20", data="cifar10:/a/b", target="x1")) == "resnet20-cifar10-x1"
    )
    assert registered_name(Settings(model="p.m:net", data="npz:/tmp/eyes.npz")) == "p.m-net-npz-eyes-a76"


# ---- the command, on a study of two candidates of a network that was trained here


def trained(path: Path) -> None:
    from promote_networks import tiny

    from pipeline.datasets.images import normalize
    from pipeline.datasets.registry import load_data
    from pipeline.networks.registry import find_network

    torch.manual_seed(0)
    data, network = load_data("digits"), tiny()
    mean, std = find_network("promote_networks:tiny").normalization
    images = normalize(data.train.batch(torch.arange(len(data.train))), mean, std)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(120):
        rows = torch.arange(step * 64, step * 64 + 64) % len(images)
        loss = torch.nn.functional.cross_entropy(network(images[rows]), data.train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(network.state_dict(), path)


def candidate(folder: Path, settings: Settings, plan: Plan) -> dict[str, Any]:
    """Writes the candidate of an untuned plan; returns its point on the front."""
    from deploy_arm.blob.write import write_blob
    from deploy_arm.compiler.frontend import compile_graph
    from pipeline.candidate.bench import figures_of
    from pipeline.candidate.folder import Compiled, Origin, write_candidate
    from pipeline.candidate.workspace import Workspace
    from pipeline.datasets.images import normalize
    from pipeline.review.fronts import point
    from pipeline.training.evaluation import error_of
    from quantizers.network import harden, quantize

    workspace = Workspace.open(settings)
    data = workspace.data
    calibration = normalize(data.train.batch(torch.arange(128)), workspace.mean, workspace.std)
    hardened = harden(quantize(workspace.model, plan, calibration))
    graph = compile_graph(hardened, workspace.input_shape, workspace.mean, workspace.std)
    blob, program = write_blob(graph), build_program("a76")
    (folder / "scratch.blob").write_bytes(blob)
    layers = [operation.layer for operation in graph.operations]
    image = data.search.batch(torch.tensor([0])).numpy()[0]
    profile = open_device("a76").profile(program, folder / "scratch.blob", image, layers=layers)
    error = error_of(hardened.network, data.search, workspace.mean, workspace.std)
    figures = figures_of(Figures(error), profile)
    write_candidate(
        folder / "candidates" / plan.hash,
        Origin(
            settings.model,
            "a76",
            data.classes,
            data.image_size,
            workspace.mean,
            workspace.std,
            workspace.data_record(),
        ),
        plan,
        hardened,
        Compiled(program, blob, figures, profile),
    )
    return {"hash": plan.hash, **point(figures), "candidate": f"candidates/{plan.hash}"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study ``tiny``: ``good`` (int8) is right, ``bad`` (2 bits, untuned) is not."""
    out = tmp_path_factory.mktemp("runs")
    folder = out / "tiny"
    folder.mkdir()
    trained(out / "tiny.pt")
    settings = Settings(model="promote_networks:tiny", weights=str(out / "tiny.pt"), name="tiny", out=out)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings.as_dict()))
    good = candidate(folder, settings, Plan.uniform(LAYERS, LayerPlan(8)))
    better = candidate(folder, settings, Plan.uniform(LAYERS, LayerPlan(8), activation_bits=7))
    bad = candidate(folder, settings, Plan.uniform(LAYERS, LayerPlan(2, 2)))
    references = [{"name": "fp32", "error": good["error"]}]
    shown = {"objectives": ["error", "latency", "size"], "references": references}
    (folder / "front.json").write_text(json.dumps({**shown, "points": [good, bad, better]}))
    (folder / "names.json").write_text(json.dumps([good["hash"], better["hash"], bad["hash"]]))
    return folder


@pytest.fixture
def again(study: Path, tmp_path: Path) -> Path:
    """A copy to spoil, with an empty registry."""
    shutil.copytree(study, tmp_path / "tiny")
    return tmp_path / "tiny"


def run(folder: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(["tiny", "--out", str(folder.parent), "--format", "json", *flags])
    return status, json.loads(printed.getvalue())


def champions(folder: Path) -> Champions:
    return Champions(Tracker(None, folder.parent, "tiny"), "promote_networks-tiny-digits-a76")


def failed(result: dict[str, Any]) -> set[str]:
    return {gate["name"] for gate in result["gates"] if not gate["passed"]}


def answers_as_its_program_does(registry: Champions, folder: Path) -> None:
    """MLflow's own loader gives what the ARM program gives, bit for bit, and unpickles nothing."""
    import mlflow

    from pipeline.datasets.registry import load_data

    images = load_data("digits").report.batch(torch.arange(3)).numpy()
    given = open_device("a76").run(folder / "program", folder / "weights.blob", images)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.tracker.uri)
    try:
        network = mlflow.pyfunc.load_model(f"models:/{registry.name}@champion")
        place = Path(mlflow.artifacts.download_artifacts(f"models:/{registry.name}@champion"))
    finally:
        mlflow.set_tracking_uri(before)
    np.testing.assert_array_equal(network.predict(images), given)
    with pytest.raises(mlflow.exceptions.MlflowException):  # the signature keeps what is no image out
        network.predict(images.astype(np.float32))
    names = {path.name for path in place.rglob("*")}
    assert "mlflow_model.py" in names and not [name for name in names if name.endswith((".pkl", ".pt"))]


@needs_tools
def test_promote_again_and_roll_back(again: Path, tmp_path: Path) -> None:
    good, better, _ = json.loads((again / "names.json").read_text())
    status, first = run(again, "--allow-modelled", "--candidate", good[:5])
    assert (status, first["promoted"], first["version"], first["previous"]) == (0, True, "1", None), first
    assert (
        first["figures"]["accuracy"]["images"] == 299 and first["figures"]["latency"]["source"] == "modelled"
    )
    bundle = Path(first["bundle"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["files"]) >= {
        "program",
        "weights.blob",
        "plan.json",
        "usage.c",
        "README.md",
        "labels.txt",
        "libnetwork.so",
        "network.py",
        "runtime/network.h",
    }
    assert all(sha256(bundle / name) == digest for name, digest in manifest["files"].items())
    assert manifest["processor"]["features"] == list(TARGETS["a76"].features)
    text = (bundle_tools.SOURCES / "Containerfile").read_text()
    copied = re.search(r"^COPY (.*) /network/$", text, re.M)
    assert copied and set(copied[1].split()) <= {*manifest["files"], "manifest.json"}
    assert manifest["hash"] == good and manifest["figures"]["accuracy"]["source"].startswith(
        "the program on emulated a76"
    )
    status, second = run(
        again,
        "--allow-modelled",
        "--candidate",
        better,
        "--bundle",
        str(tmp_path / "bundle"),
        "--limit",
        "50",
    )
    assert (status, second["version"], second["previous"]) == (0, "2", "1")
    assert (tmp_path / "bundle" / "program").stat().st_mode & 0o111
    version = champions(again).version()
    assert version is not None and version.candidate == better
    tags = champions(again).client.get_model_version(version.name, "2").tags
    assert tags["latency_source"] == "modelled" and tags["images"] == "50" and tags["gate"] == "passed"
    assert tags["evidence"] == "weak" and tags["accuracy_loss_interval"].count(" to ") == 1
    status, back = run(again, "--rollback", "--bundle", str(tmp_path / "back"))
    assert (status, back["champion"]["candidate"], back["before"]["candidate"]) == (0, good, better)
    assert all((tmp_path / "back" / name).stat().st_mode & 0o111 for name in bundle_tools.EXECUTABLE)
    assert sha256(tmp_path / "back" / "weights.blob") == sha256(again / "candidates" / good / "weights.blob")
    assert {path.name for path in (tmp_path / "back").iterdir()} == {path.name for path in bundle.iterdir()}
    answers_as_its_program_does(champions(again), again / "candidates" / good)
    shown = champions(again).client.get_model_version(version.name, "1").description
    assert good in shown and "299 images it was never chosen on" in shown and "uint8 [N, 32, 32, 3]" in shown
    assert f"models:/{version.name}@champion" in shown and "| 0 |" in shown and "dgms-arm-search" in shown
    with pytest.raises(UserError, match="first champion"):
        run(again, "--rollback")


@needs_tools
def test_a_dry_run_by_path_changes_nothing_and_two_promotions_give_the_same_bytes(again: Path) -> None:
    good = json.loads((again / "names.json").read_text())[0]

    def there() -> set[Path]:
        return set(again.parent.rglob("*"))

    def by_path(*flags: str) -> tuple[int, dict[str, Any]]:
        done = command_here("promote", f"tiny/candidates/{good}", "--allow-modelled", "--limit", "20", "--format", "json", *flags,
                            cwd=again.parent)  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    before = there()
    status, told = by_path("--dry-run")
    assert (status, told["promoted"], told["would"]["champion"]) == (0, False, None)
    assert told.keys() | told["would"].keys() <= section("promote")
    assert there() == before and told["would"]["bundle"] == str(again / "promoted" / good)
    archives = []
    for _ in range(2):
        status, told = by_path()
        assert (status, told["version"], told["candidate"]) == (0, "1", good)
        assert told.keys() <= section("promote")
        archives.append(Path(told["archive"]).read_bytes())
        Path(told["archive"]).unlink()
    assert archives[0] == archives[1]
    assert {gate["name"] for gate in told["gates"]} >= {
        "decision",
        "checksums",
        "images",
        "accuracy",
        "latency",
        "device",
    }
    assert by_path("--dry-run")[1]["would"]["stays"]
    tracker = champions(again).tracker
    version = tracker.client.get_model_version("promote_networks-tiny-digits-a76", "1")
    assert version.tags["promoted.by"].count("@") == 1 and "right on" in version.tags["gate.accuracy"]
    lines = [json.loads(line) for line in (again / "promotions.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["promoted", "promoted"]
    assert (
        lines[-1]["figures"]["accuracy"]["images"] == 20
        and lines[-1]["sha256"] == version.tags["bundle.sha256"]
    )
    tracker.client.create_run(
        tracker.experiment, tags={"kind": "trial", "study_id": tracker.identity, "candidate": good}
    )
    tracker.decide(good, "reject")
    status, told = by_path()
    assert status == 1 and failed(told) == {"decision"}
    last = json.loads((again / "promotions.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["candidate"]) == ("refused", good)
    status, told = by_path(
        "--dry-run", "--max-latency-ms", "0.0001"
    )  # all that is wrong, not what is found first
    assert status == 1 and failed(told) == {"decision", "latency"}


@needs_tools
def test_a_refusal_says_why_and_changes_nothing(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, _, bad = json.loads((again / "names.json").read_text())
    assert main(["tiny", "--out", str(again.parent), "--candidate", good, "--limit", "20"]) == 1
    assert "FAIL  source" in capsys.readouterr().out
    for flags, why in (
        (["--candidate", bad, "--allow-modelled"], {"accuracy"}),
        (
            ["--candidate", good, "--allow-modelled", "--max-latency-ms", "0.0001", "--limit", "20"],
            {"latency"},
        ),
        (["--allow-modelled", "--max-latency-ms", "0.0001"], {"choice"}),
        # A few images cannot settle one point; where they need not, they are taken, and marked.
        (["--candidate", good, "--allow-modelled", "--limit", "3", "--strict"], {"evidence"}),
    ):
        status, result = run(again, *flags)
        assert (status, failed(result)) == (1, why) and not result["promoted"] and result["reasons"]
    assert champions(again).version() is None and not (again / "promoted").exists()


@needs_tools
def test_without_a_name_the_choice_is_made(again: Path) -> None:
    good, better, _ = json.loads((again / "names.json").read_text())
    status, result = run(again, "--allow-modelled", "--limit", "20", "--max-accuracy-drop", "3")
    assert status == 0 and result["candidate"] in (good, better) and "equally fast" in result["chosen"]
    # The search's last lines and its report say the same, by the same rule.
    from pipeline.review.recommendation import recommend

    found = recommend(json.loads((again / "front.json").read_text()), 3.0)
    assert (result["candidate"], result["chosen"]) == (found.hash, found.why)
    told = result["figures"]["accuracy"]
    assert told["evidence"] == "weak" and told["loss_low"] <= told["loss"] <= told["loss_high"]
    assert "weak evidence" in Path(result["bundle"], "README.md").read_text()


@needs_tools
def test_damaged_files_and_other_images_are_refused(again: Path) -> None:
    good = json.loads((again / "names.json").read_text())[0]
    path = again / "candidates" / good / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["data"]["splits"]["report"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    status, result = run(again, "--candidate", good, "--allow-modelled", "--limit", "20")
    assert (status, failed(result)) == (1, {"images"})
    with (path.parent / "program").open("r+b") as program:  # must not even be started
        program.seek(1000)
        program.write(b"\xff" * 64)
    status, result = run(again, "--candidate", good, "--allow-modelled")
    assert (status, failed(result)) == (1, {"checksums"})
    assert [gate["name"] for gate in result["gates"]] == ["decision", "checksums"]
    assert champions(again).version() is None


def test_the_container_file_runs_classify_on_arm() -> None:
    """Looked at as text: no container is built here."""
    text = (bundle_tools.SOURCES / "Containerfile").read_text()
    steps = [line.split() for line in text.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    assert steps[0][:2] == ["FROM", "--platform=linux/arm64"]
    copied = next(step[1:-1] for step in steps if step[0] == "COPY")
    assert set(copied) >= {"program", "weights.blob", "classify", "image.py", "manifest.json"}
    assert next(step for step in steps if step[0] == "USER")[1] not in ("root", "0")
    assert json.loads(steps[-1][1]) == ["/network/classify"] and steps[-1][0] == "ENTRYPOINT"


@needs_tools
def test_what_the_bundle_shows_of_c_and_python_answers_as_the_program(again: Path, tmp_path: Path) -> None:
    """From an image file to the scores, by each way that the bundle's README shows."""
    from pipeline.candidate.folder import load_candidate
    from pipeline.datasets.preprocessing import Preprocessing
    from pipeline.datasets.registry import load_data
    from pipeline.review.bundle import write_bundle

    good = json.loads((again / "names.json").read_text())[0]
    result = run(again, "--candidate", good, "--allow-modelled", "--limit", "20")[1]
    bundle = Path(result["bundle"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    candidate = load_candidate(again / "candidates" / good)
    how = load_data("digits").report.preprocessing
    assert (
        how and manifest["preprocessing"] == how.as_dict() and str(how) in (bundle / "README.md").read_text()
    )
    assert candidate.manifest["data"]["preprocessing"] == how.as_dict()
    for other, shown in (
        (
            Preprocessing.cropping(224, 192),
            ".height = 224, .width = 192, .crop = 1, .margin = 1.1428571428571428}",
        ),
        (None, ".height = 32, .width = 32, .crop = 0, .margin = 1.0}"),
    ):
        place = write_bundle(
            tmp_path / "other", candidate, bundle / "libnetwork.so", result["figures"], [], "tiny", other
        )
        assert shown in (place / "usage.c").read_text()
        assert ("by code of its own" in (place / "README.md").read_text()) == (other is None)
    photo = tmp_path / "photo.ppm"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(photo)
    image = how.read(photo)[None]
    device = open_device("a76")
    scores = device.run(bundle / "program", bundle / "weights.blob", image)
    classes = manifest["classes"]
    shares = np.exp(scores[0].astype(np.float64) - scores[0].max())
    shares /= shares.sum()
    order = np.argsort(-scores[0], kind="stable")
    best = [f"{100 * shares[i]:5.1f} %  {classes[i]}" for i in order[:5]]
    for name in bundle_tools.EXECUTABLE:
        assert (bundle / name).stat().st_mode & 0o111
    # classify, from another folder, of two images of which one is damaged; as text and as JSON, under emulation.
    runner = [] if is_arm() else ["--runner", "qemu-aarch64 -cpu cortex-a76"]
    (tmp_path / "text.jpg").write_text("no image")
    done = classify(bundle, *runner, "photo.ppm", "text.jpg", cwd=tmp_path)
    assert done.returncode == 2 and "text.jpg" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines() == ["photo.ppm", *(f"  {line}" for line in best)]
    done = classify(bundle, *runner, "--top", "10", "--format", "json", "photo.ppm", cwd=tmp_path)
    (told,) = json.loads(done.stdout)
    assert done.returncode == 0 and told["file"] == "photo.ppm"
    assert [line["index"] for line in told["classes"]] == list(order)
    assert np.allclose([line["probability"] for line in told["classes"]], shares[order], rtol=1e-12)
    # Both C sources and the library's, for ARM, as the head of usage.c says, or of CMakeLists.txt where there is CMake.
    usage = built_by_cmake(bundle, tmp_path / "static") or built_by_hand(bundle, tmp_path / "usage")
    arguments = [bundle / "weights.blob", bundle / "labels.txt", photo]
    assert device.execute(usage, [*map(str, arguments)], b"", 60.0).decode().splitlines() == best
    # A project of one's own that finds the package in an unpacked bundle and takes its shared library.
    with tarfile.open(result["archive"]) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    if not is_arm():
        found = found_by_cmake(unpacked, tmp_path / "found", [str(arguments[0]), str(photo)])
        assert found is None or found == scores.tobytes()
    # image.py, piped into the program.
    environment = {"PATH": "/usr/bin:/bin"}
    piped = subprocess.run(
        [sys.executable, bundle / "image.py", photo],
        capture_output=True,
        check=True,
        cwd="/",
        env=environment,
    )
    assert piped.stdout == image.tobytes()
    options = [
        "classify",
        str(bundle / "weights.blob"),
        "--top",
        "10",
        "--labels",
        str(bundle / "labels.txt"),
    ]
    lines = device.execute(bundle / "program", options, piped.stdout, 60.0).decode().splitlines()
    assert [line.split("\t")[3] for line in lines] == [classes[i] for i in order]
    # The README's Python, run in the bundle without the project; on this machine's processor from the bundle's sources.
    if not is_arm():
        compiler = host_compiler() or pytest.skip("no C compiler for this machine")
        flags = ["-O1", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"]
        sources = map(str, sorted((bundle / "runtime").glob("*.c")))
        subprocess.run([*compiler, *flags, *sources, "-o", str(bundle / "libnetwork.so")], check=True)
    python = re.search(r"^    from image import.*?^$", (bundle / "README.md").read_text(), re.M | re.S)
    assert python
    script = textwrap.dedent(python[0]).replace('"photo.jpg"', repr(str(photo)))
    script += "import sys; sys.stdout.buffer.write(scores.tobytes()); assert 'deploy_arm' not in sys.modules"
    answered = subprocess.run(
        [sys.executable, "-c", script], cwd=bundle, env=environment, check=True, capture_output=True
    )
    assert answered.stdout == scores.tobytes()


@needs_tools
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--candidate", "zzz"], "not a candidate"),
        (["--candidate", ""], "several candidates"),
        (["--max-latency-ms", "-1"], "above 0"),
        (["--max-accuracy-drop", "nan"], "number"),
        (["--rollback"], "no champion"),
        (["--tracking-uri", "http://127.0.0.1:9"], "no MLflow server"),
    ],
)
def test_mistakes_are_explained(study: Path, flags: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run(study, *flags)


@needs_tools
def test_a_candidate_is_profiled_on_a_device(study: Path, tmp_path: Path) -> None:
    good = json.loads((study / "names.json").read_text())[0]
    printed: list[str] = []
    folder = str(study / "candidates" / good)
    assert devices.main(["--profile", folder, "--format", "json"], printed.append) == 0
    profile = Profile.from_json("".join(printed))
    assert profile.size_bytes == (study / "candidates" / good / "weights.blob").stat().st_size
    # For another CPU class it is compiled anew: never this one's figure under another's name.
    printed.clear()
    assert devices.main(["--profile", folder, "--target", "x2", "--format", "json"], printed.append) == 0
    other = Profile.from_json("".join(printed))
    assert other.device == "emulated x2" and other.latency_ms < profile.latency_ms
    assert other.size_bytes == profile.size_bytes
    with pytest.raises(UserError, match="unknown target 'x3'"):
        devices.main(["--profile", folder, "--target", "x3"])
    with pytest.raises(UserError, match="not a candidate folder"):
        devices.main(["--profile", str(tmp_path)])


def test_a_person_is_told_of_a_measurement_that_is_not_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = {"frequency_ghz": 1.8, "temperature_c": 84.0}
    details = {"repetitions": 212, "narrow": True, "steady": True, "after": hot,
               "before": {"frequency_ghz": 2.4, "temperature_c": None}}  # fmt: skip
    profile = dataclasses.replace(MODELLED, source="measured", device="board cpu3", details=details)
    monkeypatch.setattr(devices, "profile_candidate", lambda *_: profile)
    printed: list[str] = []
    devices.main(["--profile", "anything"], printed.append)
    text = printed.pop()
    assert "2.00 ms (1.80..2.30 ms) measured on board cpu3" in text and "warning" not in text
    assert "212 repetitions, 2.4 GHz to 1.8 GHz, 84 degrees Celsius" in text
    told = {"before_ms": 0.1, "after_ms": 0.125, "allowed": 0.03, "attempts": 3}
    details.update(steady=False, narrow=False, canary=told)
    devices.main(["--profile", "anything"], printed.append)
    text = printed.pop()
    assert (
        "warning: not steady: a fixed network took 0.1 ms before and 0.125 ms after, more than 3% apart"
        in text
    )
    assert "warning: the interval did not become narrow" in text


@pytest.mark.parametrize(
    ("error", "flags"), [(0.105, ["--allow-modelled"]), (0.2, ["--max-accuracy-drop", "10"])]
)
def test_the_line_that_a_search_prints_is_taken_as_printed(error: float, flags: list[str]) -> None:
    from pipeline import promote
    from pipeline.review.next_steps import next_steps

    row = {"error": error, "latency_ms": 1.0, "low": 0.9, "high": 1.1, "source": "modelled", "size_bytes": 5}
    front = {
        "references": [{"name": "fp32", "error": 0.1}],
        "points": [{"hash": "abc", "candidate": "candidates/abc", **row}],
    }
    settings = Settings(name="a-study", out=Path("/some where/runs"))
    lines = next_steps(settings, front, "mlflow", complete=True).splitlines()
    (line,) = (line for line in lines if line.startswith("promote"))
    words = shlex.split(line.removeprefix("promote"))
    assert words[:3] == [sys.executable, "-m", "pipeline.promote"]
    args = promote._parser().parse_args(words[3:])
    assert (args.study, args.out, args.allow_modelled) == ("a-study", settings.out, True)
    assert set(flags) <= set(words)
    for flag in flags[::2]:  # each flag's reason is told below
        assert any(other.strip().startswith(flag) for other in lines[lines.index(line) + 1 :])
    assert lines[0].startswith("best     abc: " if error < 0.11 else "best     none: ")
    # Where a search was cut off before it had any candidate, there is nothing to promote.
    begun = next_steps(settings, {**front, "points": []}, "mlflow", complete=False)
    assert "none: the front is empty" in begun and "promote" not in begun and "resume " in begun


def test_a_study_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.yaml").write_text("{}")
    with pytest.raises(UserError, match=r"no study 'tiny'.*there are: other"):
        main(["tiny", "--out", str(tmp_path)])
    with pytest.raises(UserError, match=r"front\.json"):
        main(["other", "--out", str(tmp_path)])
