"""What a dimension is: one thing that can be chosen for a layer or for the whole network. Each is a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from foundation.errors import UserError
from foundation.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from foundation.codebook import Codebook

FOLDER = "search_spaces.dimensions"
NATURAL = "natural"  # how a person types that a value is to be absent
Value = Any  # whatever a dimension says; hashable, and None where it is absent


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer, as far as it is known: a space made of names knows no shapes.

    Attributes:
        name: as in ``model.named_modules()``.
        weight_shape: (out, in/groups, kh, kw) or (out, in); () where it is not known.
        parameters: weights and biases.
        macs: multiply-accumulates for one image.
        output_shape: of one image, (C, H, W) or (features,).
        groups: of a convolution.
        index, count: which of how many, in the model's order.
        producers: the layers that make its input for it alone, the nearest first: depthwise ones, then one of one group; none
            where something else makes it, or reads it too.
    """

    name: str
    kind: Literal["convolution", "depthwise", "linear", "unknown"] = "unknown"
    weight_shape: tuple[int, ...] = ()
    parameters: int = 0
    macs: int = 0
    output_shape: tuple[int, ...] = ()
    groups: int = 1
    index: int = 0
    count: int = 1
    producers: tuple[str, ...] = ()

    @property
    def first(self) -> bool:
        return self.index == 0

    @property
    def last(self) -> bool:
        return self.index == self.count - 1


class SuggestsParameters(Protocol):
    """What a space needs of a trial; Optuna's trials have it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None) -> float: ...


class Dimension(ABC):
    """One thing that can be chosen. The class says what a value is and does; an instance holds the values of one search.

    A dimension is a subclass in a file of ``search_spaces/dimensions``, or anywhere, named ``package.module:Name``. The least
    it says is ``values`` and ``check``. A value of None is absent: it stands in no plan. ``chosen`` is always what was
    chosen before for the same layer (of the dimensions in ``after``), or for the network.

    Attributes:
        name: the file's name; of a dimension from outside ``package.module:Name``. Plans, studies and commands call it so.
        values: what a search chooses from unless told otherwise, the plainest first.
        of_network: one value for the whole network instead of one for each layer.
        on_request: a search has it only where it is asked for (``--dimensions``).
        declared: whether it exists only with quantizers that declare it; others then refuse plans with it.
        harmless: but they take plans with a value of this one, which means nothing to them.
        after: the dimensions that are chosen before this one, and that ``chosen`` may hold.
        excludes: dimensions of which a layer with a value of this one has none.
        default: what a plan without it means. Only None keeps the hashes of plans that were written before it was there.
        title: heading of its column, short.
        noun: in a sentence, like ``share of zeros``.
        most: the largest number, where its column is drawn as a meter; None: the largest in the table.
        measured: which figure of a packed layer shows what became of it; empty where none does.
    """

    name: ClassVar[str] = ""
    values: Sequence[Value] = ()
    of_network: ClassVar[bool] = False
    on_request: ClassVar[bool] = False
    declared: ClassVar[bool] = False
    harmless: ClassVar[bool] = False
    after: ClassVar[tuple[str, ...]] = ("bits",)
    excludes: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[Value] = None
    title: ClassVar[str] = ""
    noun: ClassVar[str] = ""
    most: ClassVar[float | None] = None
    measured: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        folder, _, file = cls.__module__.rpartition(".")
        cls.name = file if folder == FOLDER else f"{cls.__module__}:{cls.__qualname__}"
        cls.title = cls.__dict__.get("title") or cls.__name__
        cls.noun = cls.__dict__.get("noun") or cls.title.lower()

    def __init__(self, values: Sequence[Value] | None = None) -> None:
        """The dimension with the values that a search is to choose from.

        Raises:
            UserError: none, one twice, or one that is none of this dimension's; the message names it.
        """
        self.values = tuple(self.values if values is None else values)
        if not self.values or len(set(self.values)) < len(self.values):
            given = ", ".join("natural" if one is None else str(one) for one in self.values) or "none"
            raise UserError(f"{self.name} {given}: give at least one value, and each once")

    # ---- what a value is

    @classmethod
    @abstractmethod
    def check(cls, value: Value, chosen: Mapping[str, Value]) -> None:
        """Refuse what is no value of this dimension for a layer with these other values.

        Raises:
            UserError: it is none; the message names it and what is allowed.
        """

    @classmethod
    def refuse(cls, value: Value, chosen: Mapping[str, Value]) -> None:
        """``check``, where what cannot even be compared is no value either.

        Raises:
            UserError: the value is none of this dimension's.
        """
        try:
            cls.check(value, chosen)
        except (TypeError, ValueError) as error:
            raise UserError(f"{cls.name} {value!r}: no {cls.noun} ({error})") from error

    @classmethod
    def record(cls, value: Value) -> Any:
        """The value as JSON holds it. Equal values have equal records."""
        return value

    @classmethod
    def parse(cls, record: Any) -> Value:
        """The inverse of ``record``; TypeError or ValueError where it is no record. ``check`` comes after."""
        return record

    @classmethod
    def typed(cls, text: str) -> Value:
        """The value that a person types."""
        if text == NATURAL:
            return None
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if number.is_integer() and "." not in text else number

    @classmethod
    def say(cls, value: Value, chosen: Mapping[str, Value]) -> str:
        """The value in a person's words, short."""
        return "-" if value is None else str(value)

    @classmethod
    def number(cls, value: Value) -> float | None:
        """The value as a number for meters and means, if it is one."""
        return value if isinstance(value, int | float) else None

    @classmethod
    def summary(cls, values: Sequence[Value]) -> dict[str, Any]:
        """Short flat figures of one plan: of the values of its layers (those absent left out), or of its one value."""
        if cls.of_network:
            return {cls.name: cls.record(values[0]) if values else ""}
        numbers = [number for number in map(cls.number, values) if number is not None]
        return {f"{cls.name}_layers": len(values), f"{cls.name}_mean": sum(numbers) / (len(numbers) or 1)}

    # ---- what a search chooses

    def applies(self, chosen: Mapping[str, Value], layer: Layer) -> bool:
        """Whether there is anything to choose here; otherwise the value is absent. ``layer`` of a network's is unnamed."""
        return True

    def choices(self, chosen: Mapping[str, Value], layer: Layer) -> Sequence[Value]:
        """What can be chosen here, each value once, the plainest first."""
        return self.values

    def starts(self, chosen: Mapping[str, Value], layer: Layer) -> Sequence[Value]:
        """Values worth a plan of their own among the first of a search."""
        return ()

    def plain(self, chosen: Mapping[str, Value], layer: Layer) -> Value:
        """What the first plans of a search have here."""
        choices = self.choices(chosen, layer)
        return None if None in choices else choices[0]

    def suggest(
        self, trial: SuggestsParameters, name: str, chosen: Mapping[str, Value], layer: Layer
    ) -> Value:
        """Draw a value; the parameters' names begin with ``name``."""
        return trial.suggest_categorical(self.parameter(name, chosen), self.choices(chosen, layer))

    def params(self, name: str, value: Value, chosen: Mapping[str, Value]) -> dict[str, Any]:
        """The parameters that make ``suggest`` return ``value``.

        Raises:
            UserError: none do.
        """
        return {self.parameter(name, chosen): value}

    def parameter(self, name: str, chosen: Mapping[str, Value]) -> str:
        """The parameter's name, which begins with ``name``. A study wants the same choices of a parameter in every trial, so it
        goes on with whatever of ``chosen`` changes them."""
        return name

    def within(self, others: Mapping[str, Dimension]) -> Dimension:
        """The same as far as the dimensions before it in a space leave it.

        Raises:
            UserError: they leave it without a value.
        """
        return self

    def describe(self) -> dict[str, Any]:
        """Plain values that name the choices: equal for equal ones. A study is resumed with equal ones only."""
        return {self.name: [None if value is None else self.record(value) for value in self.values]}

    # ---- what a value does

    @classmethod
    def apply(cls, weight: Tensor, value: Value) -> Tensor:
        """The layer's float weight (out, in/groups, kh, kw) or (out, in) as this value wants it: before the quantizer sees it,
        in training at every step. A new tensor; applied twice it is the same; the gradient passes by."""
        return weight

    @classmethod
    def partway(cls, value: Value, progress: float) -> Value:
        """What training at ``progress`` 0..1 hands to ``apply`` in place of the value, which it is at the end."""
        return value

    @classmethod
    def synthesize(
        cls, book: Codebook, weight: NDArray[np.float32], value: Value, generator: np.random.Generator
    ) -> Codebook:
        """An untrained layer's codebook as training with this value would leave it, as far as cost goes.

        Args:
            weight: the layer's float weights, of the shape of ``book.indices``.
        """
        return book


def _accepts(entry: Any) -> bool:
    """a subclass of foundation.dimension.Dimension"""
    return isinstance(entry, type) and issubclass(entry, Dimension)


DIMENSIONS: Registry[type[Dimension]] = Registry("dimension", FOLDER, _accepts)


def usual_dimensions() -> list[str]:
    """Names of the dimensions that a search has unless told otherwise."""
    return [name for name, entry in DIMENSIONS.sound() if not entry.on_request]
