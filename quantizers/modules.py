"""What a module computes, however it is called."""

from __future__ import annotations

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Attributes that a class may have without computing anything else than the class that it derives from.
SETUP = frozenset(
    {"__init__", "__module__", "__doc__", "__annotations__", "__constants__", "__dict__", "__weakref__"}
    | {"__qualname__", "__firstlineno__", "__static_attributes__", "__orig_bases__", "__parameters__"}
    | {"__repr__", "__slots__", "__init_subclass__", "__class_getitem__", "__abstractmethods__", "_abc_impl"}
    | {"reset_parameters", "extra_repr", "from_config", "_version"}
)


def torch_class(module: nn.Module) -> type[nn.Module]:
    """The class of ``torch.nn`` that computes what ``module`` does: its own, or the one it derives from without overriding
    anything that runs. Else the module's own class."""
    changed: set[str] = set()
    for sort in type(module).__mro__:
        if sort.__module__.startswith("torch.nn.") and not sort.__module__.endswith(".parametrize"):
            same = sort is not nn.Module and not any(hasattr(sort, name) for name in changed - SETUP)
            return sort if same else type(module)
        changed |= vars(sort).keys()
    return type(module)


def is_torch_module(module: nn.Module) -> bool:
    """Whether a module computes what a class of ``torch.nn`` does and holds no others."""
    return torch_class(module).__module__.startswith("torch.nn.") and not isinstance(module, CONTAINERS)
