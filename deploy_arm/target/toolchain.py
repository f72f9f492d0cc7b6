"""Finds the tools that compile and run ARM programs, and installs them.

    python -m deploy_arm.toolchain             what is found, what is missing, the command that installs it
    python -m deploy_arm.toolchain --install   installs what is missing

There are two routes. ``apt``: clang (or the cross gcc), QEMU and LLVM's analyser from Debian packages; on an ARM machine the
native compiler, and no emulator is needed. ``pip``: ziglang and unicorn from PyPI, where packages cannot be installed. The
environment variable ``DGMS_ARM_ROUTE`` (``apt`` or ``pip``) allows one route only; otherwise apt wins where it is complete.
Exit status: 0 when a complete route exists, 1 when none does, 2 for wrong usage.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from foundation.command import DONE, REFUSED, Parser, main_guard, say, shell
from foundation.errors import UserError
from foundation.files import json_text

Route = Literal["apt", "pip"]
ROUTES: tuple[Route, ...] = ("apt", "pip")
ROUTE_VARIABLE = "DGMS_ARM_ROUTE"
PIP_REQUIREMENTS = ("ziglang==0.17.1", "unicorn==2.1.4")  # the extra "arm-pip" of pyproject.toml
LLVM_SUFFIXES = ("-19", "", "-20", "-18", "-17", "-16", "-15", "-14")
CROSS_LIBRARY = Path("/usr/aarch64-linux-gnu/lib/libc.a")
CROSS_PACKAGES = ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user")


@dataclass(frozen=True)
class Tool:
    """One thing a route needs. ``command`` is empty when it is missing; ``optional`` tools only make figures better."""

    route: Route
    purpose: str
    name: str
    command: tuple[str, ...] = ()
    version: str = ""
    optional: bool = False

    @property
    def found(self) -> bool:
        return bool(self.command)


def is_arm() -> bool:
    """Whether this machine runs the programs itself."""
    return platform.machine() in ("aarch64", "arm64") and sys.platform == "linux"


def allowed_routes() -> tuple[Route, ...]:
    """Both routes, or the one that the environment allows.

    Raises:
        UserError: the environment variable names no route.
    """
    wanted = os.environ.get(ROUTE_VARIABLE, "")
    if not wanted:
        return ROUTES
    for route in ROUTES:
        if wanted == route:
            return (route,)
    raise UserError(f"{ROUTE_VARIABLE}={wanted!r}; allowed: apt, pip, or leave it unset to use what is there")


@functools.cache
def version_of(command: tuple[str, ...]) -> str:
    """What a tool says about itself: the first line of ``--version`` with a number in it, empty when it does not run."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if re.search(r"\d\.\d", line)]
    return lines[0] if done.returncode == 0 and lines else ""


def _first(
    route: Route, purpose: str, names: Sequence[str], *, optional: bool = False, usable: bool = True
) -> Tool:
    """The first of ``names`` on the PATH that runs; a missing tool is called by the first name."""
    for name in names:
        path = shutil.which(name) if usable else None
        if path and (version := version_of((path,))):
            return Tool(route, purpose, name, (path,), version, optional)
    return Tool(route, purpose, names[0], optional=optional)


def _module(purpose: str, name: str, distribution: str, command: tuple[str, ...]) -> Tool:
    if importlib.util.find_spec(name) is None:
        return Tool("pip", purpose, name)
    return Tool("pip", purpose, name, command, f"{distribution} {metadata.version(distribution)}")


def find_compiler(route: Route) -> Tool:
    """The C compiler of a route: clang (19 preferred) over gcc, since it allocates the kernels' registers better."""
    purpose = "C compiler for aarch64"
    if route == "pip":
        return _module(purpose, "ziglang", "ziglang", (sys.executable, "-m", "ziglang", "cc"))
    clangs = [f"clang{suffix}" for suffix in LLVM_SUFFIXES]
    if is_arm():
        return _first(route, purpose, [*clangs, "gcc", "cc"])
    # The cross gcc brings the linker and libgcc that clang needs too.
    return _first(
        route, purpose, [*clangs, "aarch64-linux-gnu-gcc"], usable=bool(shutil.which("aarch64-linux-gnu-gcc"))
    )


def find_tools(route: Route) -> list[Tool]:
    """Everything a route needs, found or missing."""
    tools = [find_compiler(route)]
    if route == "pip":
        if not is_arm():
            tools.append(_module("emulator", "unicorn", "unicorn", ("unicorn",)))
        return tools
    if not is_arm():
        library = Tool(route, "C library for aarch64", str(CROSS_LIBRARY))
        if CROSS_LIBRARY.exists():
            library = Tool(route, library.purpose, library.name, (str(CROSS_LIBRARY),), "static")
        tools += [library, _first(route, "emulator", ("qemu-aarch64", "qemu-aarch64-static"))]
    for name, purpose in (("llvm-mca", "cycle analyser"), ("llvm-objdump", "disassembler")):
        tools.append(_first(route, purpose, [name + suffix for suffix in LLVM_SUFFIXES], optional=is_arm()))
    return tools


def is_complete(tools: Sequence[Tool]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(tool.found or tool.optional for tool in tools)


def choose_compiler() -> Tool:
    """The compiler to build programs with: of the first allowed complete route, else of any that has one.

    Raises:
        UserError: none is installed; the message has the command that installs one.
    """
    routes = allowed_routes()
    for route in routes:
        if is_complete(tools := find_tools(route)):
            return tools[0]
    for route in routes:
        compiler = find_compiler(route)
        if compiler.found and (route == "pip" or is_arm() or CROSS_LIBRARY.exists()):
            return compiler
    raise UserError(
        "no compiler for ARM programs is installed; install one with\n"
        f"    {shell('deploy_arm.toolchain', '--install')}\n"
        f"or by hand with\n    {install_command(preferred_route())}"
    )


def apt_usable() -> bool:
    """Whether Debian packages can be installed from here: apt-get exists and we are root."""
    return bool(shutil.which("apt-get")) and os.geteuid() == 0


def preferred_route() -> Route:
    """The route that ``--install`` takes first."""
    routes = allowed_routes()
    return "apt" if "apt" in routes and (apt_usable() or routes == ("apt",)) else "pip"


def apt_packages() -> list[str]:
    """Debian packages of the apt route, with the newest known LLVM that the package lists offer."""
    for suffix in LLVM_SUFFIXES:
        packages = [f"clang{suffix}", f"llvm{suffix}"]
        shown = subprocess.run(["apt-cache", "show", *packages], capture_output=True, check=False)
        if shown.returncode == 0:
            break
    else:  # the lists are empty until apt-get update
        packages = ["clang", "llvm"]
    if is_arm():
        return [*packages, "libc6-dev"]
    return [*packages, *CROSS_PACKAGES, "gcc", "libc6-dev"]


def install_command(route: Route) -> str:
    """What a person would type to install a route."""
    if route == "pip":
        return shell("pip", "install", *PIP_REQUIREMENTS)
    packages = apt_packages() if shutil.which("apt-cache") else ["clang", "llvm", *CROSS_PACKAGES]
    return "apt-get install -y --no-install-recommends " + " ".join(packages)


def install(route: Route) -> bool:
    """Installs a route, showing what is run; whether it ended well."""
    if route == "pip":
        commands = [[sys.executable, "-m", "pip", "install", "--quiet", *PIP_REQUIREMENTS]]
    else:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        commands = [["apt-get", "install", "-y", "-qq", "--no-install-recommends", *apt_packages()]]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in commands:
        say(f"installing: {' '.join(command)}")
        if subprocess.run(command, env=environment, check=False, stdout=sys.stderr).returncode != 0:
            return False
    importlib.invalidate_caches()
    version_of.cache_clear()
    return True


def complete_route() -> Route | None:
    """The first allowed route with nothing missing."""
    return next((route for route in allowed_routes() if is_complete(find_tools(route))), None)


def report(form: str = "text") -> bool:
    """Prints every tool of the allowed routes; whether one route is complete."""
    routes = {route: find_tools(route) for route in allowed_routes()}
    complete = complete_route()
    if form == "json":
        told = {
            route: {
                "complete": is_complete(tools),
                "tools": [{**asdict(tool), "found": tool.found} for tool in tools],
                "install": install_command(route),
            }
            for route, tools in routes.items()
        }
        print(json_text({"complete": complete, "native": is_arm(), "routes": told}, indent=1))
        return complete is not None
    for route, tools in routes.items():
        print(f"route {route}: {'complete' if is_complete(tools) else 'not complete'}")
        for tool in tools:
            state = "found  " if tool.found else "missing"
            where = " ".join(tool.command) or tool.name
            print(f"  {state}  {tool.purpose:<22} {where}" + (f"  ({tool.version})" if tool.version else ""))
        if not is_complete(tools):
            print(f"  install with: {install_command(route)}")
    if is_arm():
        print("this is an ARM machine: programs run natively")
    return complete is not None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="python -m deploy_arm.toolchain", description="Shows, and installs, the tools for ARM programs."
    )
    parser.add_argument(
        "--install", action="store_true", help="install what is missing (apt-get as root, else pip)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print")
    options = parser.parse_args(arguments)
    if options.install and complete_route() is None:
        routes = [preferred_route()]
        if routes == ["apt"] and "pip" in allowed_routes():
            routes.append("pip")
        for route in routes:
            if install(route) and is_complete(find_tools(route)):
                break
            print(f"the {route} route could not be completed", file=sys.stderr)
    return DONE if report(options.format) else REFUSED


if __name__ == "__main__":
    sys.exit(main_guard(main))
