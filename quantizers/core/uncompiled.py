"""Functions that a compiled network calls as they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch._compile import _disable_dynamo

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def uncompiled(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """As ``torch.compiler.disable``, which loads the whole compiler at once: more than a second of every process, though hardly
    one of them compiles."""
    disabled = _disable_dynamo(function)  # loads it when it is called

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        return disabled(*args, **kwargs) if torch.compiler.is_compiling() else function(*args, **kwargs)

    return call
