"""What a module computes, however it is called."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

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


PROBES = ((2, 8, 14, 14), (2, 8))  # shapes of what a module is shown
TRIES = 8  # what drops by chance may drop nothing


class InTraining(nn.Module):
    """A module that does something in training alone, such as a drop path: in evaluation its input comes back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if self.training else x


def acts_in_training_alone(module: nn.Module) -> bool:
    """Whether a module without parameters gives back its input in evaluation, and something else in training."""
    if next(module.parameters(), None) is not None or isinstance(module, CONTAINERS):
        return False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for shape in PROBES:
            x = 3 * torch.randn(shape)
            try:
                still = copy.deepcopy(module).eval()(x.clone())
                if not (isinstance(still, Tensor) and torch.equal(still, x)):
                    return False
                moving = copy.deepcopy(module).train()
                return any(not torch.equal(moving(x.clone()), x) for _ in range(TRIES))
            except Exception:  # not made for such a shape, or for one tensor
                continue
    return False


def is_torch_module(module: nn.Module) -> bool:
    """Whether a module computes what a class of ``torch.nn`` does, no hook or forward of its own beside it, and holds no
    others."""
    changed = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    sort = torch_class(module)
    return not changed and sort.__module__.startswith("torch.nn.") and not isinstance(module, CONTAINERS)
