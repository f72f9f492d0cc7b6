"""From an image file to a network's input: the loader, the bundle's Python and the bundle's C give the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from deploy_arm.target.host import host_compiler
from pipeline.datasets import preprocessing as image_module
from pipeline.datasets.images import ArrayImages, FileImages
from pipeline.datasets.preprocessing import Preprocessing
from pipeline.datasets.registry import load_data
from pipeline.review.bundle import SOURCES

DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include "image.h"
int main(int arguments, char **argument) {
    struct preprocessing how = {atoi(argument[1]), atoi(argument[2]), atoi(argument[3]), strtod(argument[4], NULL)};
    uint8_t *pixels = malloc((size_t)how.height * how.width * 3);
    for (int i = 5; i < arguments; i++) {
        const char *error = image_read(argument[i], &how, pixels);
        if (error) return free(pixels), fprintf(stderr, "%s\\n", error), 1;
        fwrite(pixels, 3, (size_t)how.height * how.width, stdout);
    }
    free(pixels);
    return 0;
}
"""


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A command around ``image.c``, for this machine, with every check of the compiler's that it has."""
    compiler = host_compiler() or pytest.skip("no C compiler for this machine")
    folder = tmp_path_factory.mktemp("image")
    (folder / "driver.c").write_text(DRIVER)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-ffp-contract=off", f"-I{SOURCES}"]
    sanitized = [] if "zig" in compiler[0] else ["-fsanitize=address,undefined", "-fno-sanitize-recover"]
    files = [str(folder / "driver.c"), str(SOURCES / "image.c"), "-lm", "-o", str(folder / "driver")]
    subprocess.run([*compiler, *flags, *sanitized, *files], check=True)
    return folder / "driver"


def run_c(command: Path, how: Preprocessing, files: list[Path]) -> NDArray[np.uint8]:
    flags = [str(how.height), str(how.width), str(int(how.fit == "crop")), repr(how.margin)]
    done = subprocess.run([command, *flags, *map(str, files)], capture_output=True)
    assert done.returncode == 0, done.stderr
    return np.frombuffer(done.stdout, np.uint8).reshape(len(files), how.height, how.width, 3)


@pytest.mark.parametrize(
    "how",
    [
        Preprocessing.cropping(24, 24),
        Preprocessing.cropping(17, 30),
        Preprocessing.cropping(130, 128),  # with a margin
        Preprocessing(21, 40, "stretch"),
    ],
    ids=str,
)
def test_c_and_pillow_resize_alike(in_c: Path, how: Preprocessing, tmp_path: Path) -> None:
    """Over shrinking, enlarging, one of each, sizes that fit already, one-pixel sides, odd margins."""
    generator = np.random.default_rng(how.height)
    sizes = [tuple(generator.integers(4, 400, 2)) for _ in range(30)]
    sizes += [(1, 1), (1, 7), (300, 2), (how.height, how.width), (how.height, 61), (61, how.width)]
    files = []
    for number, (height, width) in enumerate(sizes):
        noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        files.append(tmp_path / f"{number}.ppm")
        Image.fromarray(noise if number % 3 else np.where(noise > 127, 255, 0).astype(np.uint8)).save(
            files[-1]
        )
    found = run_c(in_c, how, files)
    assert np.array_equal(found, np.stack([how.read(file) for file in files]))


def test_grey_files_and_comments_in_c(in_c: Path, tmp_path: Path) -> None:
    how = Preprocessing(6, 5, "stretch")
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    (tmp_path / "grey.pgm").write_bytes(b"P5\n# a comment 9 9\n4 #another\n3\n255\n" + pixels.tobytes())
    assert np.array_equal(run_c(in_c, how, [tmp_path / "grey.pgm"])[0], how.read(tmp_path / "grey.pgm"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a binary PPM"),
        (b"P3\n1 1\n255\n1 2 3\n", "not a binary PPM"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a binary PPM"),
        (b"P6\n", "header is damaged"),
        (b"P6\n2 2\n65535\n" + bytes(24), "have not 8 bits"),
        (b"P6\n0 2\n255\n", "header is damaged"),
        (b"P6\n-1 2\n255\n", "header is damaged"),
        (b"P6\n99999999999999999999 2\n255\n", "longer than 32768"),
        (b"P6\n2 2\n255\n" + bytes(11), "ends before the last pixel"),
        (b"P6\n# no end", "header is damaged"),
        (b"P6\n1 32768\n255\n" + bytes(3 * 32768), "too long and narrow"),
    ],
)
def test_what_is_no_image_is_refused_in_c(in_c: Path, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "odd.ppm").write_bytes(content)
    done = subprocess.run([in_c, "8", "8", "1", "1.0", tmp_path / "odd.ppm"], capture_output=True, text=True)
    assert done.returncode == 1 and told in done.stderr, done.stderr


def bundled(folder: Path, how: Preprocessing | None) -> Path:
    """What ``image.py`` needs of a bundle."""
    folder.mkdir()
    (folder / "image.py").write_bytes(Path(image_module.__file__).read_bytes())
    (folder / "manifest.json").write_text(json.dumps({"preprocessing": how and how.as_dict()}))
    return folder


def run_python(bundle: Path, *files: Path) -> subprocess.CompletedProcess[bytes]:
    """``image.py`` from another folder, without the project."""
    command = [sys.executable, "-P", bundle / "image.py", *files]
    return subprocess.run(command, capture_output=True, cwd="/", env={"PATH": "/usr/bin:/bin"})


def test_a_bundles_python_makes_the_loaders_batches_of_image_files(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    names = ["a.jpg", "b.png", "grey.png", "tall.webp", "same.png"]
    for name, size in zip(
        names, [(200, 300, 3), (99, 64, 3), (50, 70), (400, 60, 3), (36, 36, 3)], strict=True
    ):
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / name)
    images = FileImages(tmp_path, names, torch.zeros(5), (36, 36))
    done = run_python(bundled(tmp_path / "bundle", images.preprocessing), *(tmp_path / n for n in names))
    assert done.returncode == 0, done.stderr
    assert done.stdout == images.batch(range(5)).numpy().tobytes()
    assert Preprocessing.of_manifest(tmp_path / "bundle" / "manifest.json") == images.preprocessing


@pytest.mark.parametrize("channels", [1, 3])
def test_images_from_arrays_too(tmp_path: Path, channels: int) -> None:
    """A data set of arrays that is resized: the same images as files give the same input."""
    pixels = np.random.default_rng(4).integers(0, 256, (3, 20, 28, channels), dtype=np.uint8)
    images = ArrayImages(torch.from_numpy(pixels), torch.zeros(3), (32, 24))
    assert images.preprocessing == Preprocessing(32, 24, "stretch")
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image if channels == 3 else image[..., 0]).save(file)
    done = run_python(bundled(tmp_path / "bundle", images.preprocessing), *files)
    assert done.stdout == images.batch(range(3)).numpy().tobytes(), done.stderr


def test_a_bundles_python_says_what_is_wrong(tmp_path: Path) -> None:
    bundle = bundled(tmp_path / "bundle", Preprocessing.cropping(8, 8))
    (tmp_path / "text.jpg").write_text("no image")
    for done, told in (
        (run_python(bundle), b"usage:"),
        (run_python(bundle, tmp_path / "absent.png"), b"absent.png"),
        (run_python(bundle, tmp_path / "text.jpg"), b"text.jpg"),
        (run_python(bundled(tmp_path / "own", None), tmp_path / "text.jpg"), b"has its own way"),
    ):
        assert done.returncode == 2 and told in done.stderr and b"Traceback" not in done.stderr, done.stderr


def test_every_data_set_by_name_says_how_its_files_become_input() -> None:
    assert load_data("digits").report.preprocessing == Preprocessing(32, 32, "stretch")
