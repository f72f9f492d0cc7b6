"""Things a person names by ``package.module:function``."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from foundation.errors import UserError

MANY = 8  # names that a message lists, at most


def is_factory(text: str) -> bool:
    """Whether ``text`` has the form ``package.module:function``."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def look_in(folder: Path | None) -> None:
    """Let modules be found in ``folder`` before all others, as Python finds them in the folder it is started in."""
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def find_named(text: str) -> Any:
    """What ``package.module:Name`` names.

    Raises:
        UserError: no such module, or no such name in it.
    """
    module_name, _, name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name, None)
    except KeyboardInterrupt:  # a person's
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{text!r}: importing module {module_name!r} failed: {story(error)}") from error
        raise UserError(
            f"{text!r}: there is no module {error.name!r} here; run from the folder that holds it, or name that by --modules"
        ) from error
    except BaseException as error:  # a module of someone else's does anything
        raise UserError(f"{text!r}: importing module {module_name!r} failed: {story(error)}") from error
    if found is None:
        raise UserError(
            f"{text!r}: module {module_name!r} has no {name!r}; {_offered(vars(module), module_name)}"
        )
    return found


def _offered(members: Mapping[str, Any], module_name: str) -> str:
    """The functions and classes that a module itself defines, in words; of all else, which may be anything, nothing is asked."""
    own = sorted(
        name
        for name, member in members.items()
        if issubclass(type(member), (FunctionType, type)) and member.__module__ == module_name
    )
    public = [name for name in own if not name.startswith("_")][:MANY]
    return f"name one of its own: {', '.join(public)}" if public else "nothing is defined in it"


def find_factory(text: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Raises:
        UserError: no such module, no such function in it, or it cannot be called.
    """
    factory: Callable[..., Any] = find_named(text)
    if not callable(factory) or _is_network(factory):
        raise UserError(
            f"{text!r} is {article(factory)}, not a function; write a function that returns it and name that"
        )
    return factory


def _is_network(value: object) -> bool:
    torch = sys.modules.get("torch")  # without it nobody has made one
    return torch is not None and isinstance(value, torch.nn.Module)


def call(factory: Callable[..., Any], text: str, **options: Any) -> Any:
    """What a function gives that was named as ``text``, called with those of ``options`` that it takes.

    A function with ``**keywords`` gets the first of them too, under its name here.

    Raises:
        UserError: it needs more than ``options``, or raises; the message has its error and where that was.
    """
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # written in C
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {p.name for p in parameters if p.kind in kinds}
    fixed = (*kinds, inspect.Parameter.POSITIONAL_ONLY)
    lacking = [
        p.name
        for p in parameters
        if p.kind in fixed and p.default is p.empty and not (p.name in options and p.kind in kinds)
    ]
    if lacking:
        raise UserError(
            f"{text!r} needs {', '.join(map(repr, lacking))}; it is called with those of {', '.join(options)} that it takes, "
            "so give its other parameters defaults"
        )
    if any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters) and not names & options.keys():
        names.add(next(iter(options)))
    try:
        return factory(**{key: value for key, value in options.items() if key in names})
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{text!r} failed: {story(error)}") from error


def story(error: BaseException) -> str:
    """An error of someone else's code in one line: type, text, and the last line outside of installed packages."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # an error of someone else's may fail even at this
        lines = []
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    if isinstance(error, SyntaxError):  # says itself where
        place = ""
    said = (
        "".join(each if each.isprintable() else "?" for each in lines[0][:200])
        if lines
        else "no reason given"
    )
    return f"{type(error).__name__}: {said}{place}"


def article(value: object) -> str:
    """What a value is: ``a dict``, ``an int``."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"
