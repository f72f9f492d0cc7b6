"""Things a person names by ``package.module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from quantizers.errors import UserError


def is_factory(text: str) -> bool:
    """Whether ``text`` has the form ``package.module:function``."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find_factory(text: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Raises:
        UserError: no such module, no such function in it, or it cannot be called.
    """
    module_name, _, name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports itself is not
        raise UserError(
            f"{text!r}: there is no module {error.name!r} here; run from the folder that holds it, or add that to PYTHONPATH"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise UserError(f"{text!r}: module {module_name!r} has no function {name!r}")
    return factory
