"""A small aarch64 program whose executed instructions are known, for the profile tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# Three operations: a loop of 16 multiply-adds, a walk over 1 MiB in steps of a cache line, two dependent chains.
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FMLA(n) "fmla v" #n ".4s, v30.4s, v31.4s\n"
static char memory[1 << 20];

static void mark(int i) { syscall(SYS_getsid, -(1000000 + i)); }

static void multiply(long n)
{
    __asm__ volatile("1:\n" FMLA(0) FMLA(1) FMLA(2) FMLA(3) FMLA(4) FMLA(5) FMLA(6) FMLA(7) FMLA(16) FMLA(17) FMLA(18)
                     FMLA(19) FMLA(20) FMLA(21) FMLA(22) FMLA(23) "subs %0, %0, #1\nb.ne 1b\n"
                     : "+r"(n)::"cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20",
                       "v21", "v22", "v23", "v30", "v31");
}

static void chain(long n)
{
    __asm__ volatile("1:\n" FMLA(0) FMLA(0) "subs %0, %0, #1\nb.ne 1b\n" : "+r"(n)::"cc", "v0", "v30", "v31");
}

int main(int argc, char **argv)
{
    long n = argc > 1 ? atol(argv[1]) : 1000;
    int repeat = argc > 2 ? atoi(argv[2]) : 1, marks = argc < 4 || strcmp(argv[3], "silent") != 0;
    unsigned sum = 0;
    if (n < 0) {
        fprintf(stderr, "a negative number of rounds\n");
        return 3;
    }
    for (int r = 0; r < repeat; r++) {
        if (marks) mark(0);
        multiply(n);
        if (marks) mark(1);
        for (long i = 0; i < (long)sizeof memory; i += 64) sum += ((volatile char *)memory)[i];
        if (marks) mark(2);
        chain(n);
        if (marks) mark(3);
    }
    if (argc > 3 && strcmp(argv[3], "copy") == 0) {
        char buffer[4096];
        size_t size;
        while ((size = fread(buffer, 1, sizeof buffer, stdin)) > 0) fwrite(buffer, 1, size, stdout);
    }
    if (argc > 3 && strcmp(argv[3], "dot") == 0) {
        __asm__ volatile("sdot v0.4s, v1.16b, v2.16b" ::: "v0");
    }
    if (argc > 3 && strcmp(argv[3], "matrix") == 0) {
        __asm__ volatile("smmla v0.4s, v1.16b, v2.16b" ::: "v0");
    }
    if (argc > 3 && strcmp(argv[3], "forever") == 0) {
        for (;;) __asm__ volatile("nop");
    }
    return (int)(sum & 1);
}
"""


@pytest.fixture(scope="session")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built for aarch64: ``marked ROUNDS REPEAT [silent|copy|dot|matrix|forever]``."""
    folder = tmp_path_factory.mktemp("marked")
    source, program = folder / "marked.c", folder / "marked"
    source.write_text(SOURCE)
    if gcc := shutil.which("aarch64-linux-gnu-gcc"):
        compiler = [gcc]
    elif (clang := shutil.which("clang-19") or shutil.which("clang")) and Path(
        "/usr/aarch64-linux-gnu"
    ).is_dir():
        compiler = [clang, "--target=aarch64-linux-gnu"]
    else:
        pytest.skip("no C compiler for aarch64 (apt-get install gcc-aarch64-linux-gnu)")
    flags = ["-O2", "-static", "-march=armv8.2-a+dotprod+i8mm"]
    subprocess.run([*compiler, *flags, str(source), "-o", str(program)], check=True)
    return program


def need_qemu() -> None:
    if not (shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")):
        pytest.skip("qemu-user is not installed")
