"""How sure a figure of accuracy is: standard errors, and the interval of a difference between two networks on the same images.

The interval is the score interval of Tango ("Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17, 1998): the differences that a score test, with the other unknown at its most
likely value under that difference, does not reject. Unlike the simple one it holds with few images, and where the networks never
disagree. Counts need not be whole, so that it also says what more images of the same kind would show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from foundation.show import show_percent

Z = 1.959964  # standard normal: 95 % lie within
MOST_IMAGES = 10**9
Verdict = Literal["within", "beyond", "open"]


def standard_error(share: float, count: int) -> float:
    """Of a share of ``count`` images; where all or none are right, that of half an image more, for it is never 0."""
    kept = min(max(share, 0.5 / (count + 1)), 1 - 0.5 / (count + 1))
    return math.sqrt(kept * (1 - kept) / count)


def loss_error(loss: float, discordant: float, count: int) -> float:
    """Standard error of a difference between two networks' shares on the same ``count`` images, of which ``discordant`` is the
    share that exactly one of them gets right (as in McNemar's test); never 0, as ``standard_error``."""
    return math.sqrt(max(discordant - loss**2, 0.5 / (count + 1)) / count)


def error_spread(error: float | None, images: int | None, own: float | None = None) -> float | None:
    """The standard error of an error: its ``own`` where that is known, else of a share of so many images."""
    return standard_error(error, images) if own is None and error is not None and images else own


def show_error(error: float | None, images: int | None, own: float | None = None) -> str:
    """``8.4 +- 0.9 %``: no more decimals than the standard error leaves; ``8.36 %`` where the images are not known."""
    return show_percent(error, error_spread(error, images, own))


@dataclass(frozen=True)
class Paired:
    """A network beside the one it replaces, on the same images.

    Attributes:
        images: how many.
        both: on how many both are right.
        lost, gained: on how many only the old one is right, and only the new one.
    """

    images: int
    both: int
    lost: int
    gained: int

    @classmethod
    def of(cls, new: Any, old: Any, labels: Any) -> Paired:
        """From predicted classes [N] and labels, arrays or tensors of one kind, or one label of all."""
        right, was = new == labels, old == labels
        return cls(len(right), int((right & was).sum()), int((~right & was).sum()), int((right & ~was).sum()))

    @property
    def accuracy(self) -> float:
        """Share that the new one gets right."""
        return (self.both + self.gained) / self.images

    @property
    def before(self) -> float:
        """Share that the old one gets right."""
        return (self.both + self.lost) / self.images

    @property
    def loss(self) -> float:
        """By how much the new one's share is lower."""
        return (self.lost - self.gained) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the loss."""
        return loss_interval(self.lost, self.gained, self.images)

    def verdict(self, bound: float) -> Verdict:
        """Whether the loss is at most ``bound`` (a share): ``open`` where the interval does not say."""
        return _verdict(self.interval, bound)

    def images_to_settle(self, bound: float) -> int | None:
        """With about how many images, of which as many are lost and gained, the verdict would not be open.

        None: with no number, the loss is as good as the bound.
        """

        def settled(images: float) -> bool:
            times = images / self.images
            return _verdict(loss_interval(times * self.lost, times * self.gained, images), bound) != "open"

        low, high = self.images, self.images
        while not settled(high):
            low, high = high, 2 * high
            if high > MOST_IMAGES:
                return None
        while high - low > max(1, low // 1000):
            middle = (low + high) // 2
            low, high = (low, middle) if settled(middle) else (middle, high)
        return high


@dataclass(frozen=True)
class PairedScores:
    """The same, where each of the ``images`` has a score in place of a right or wrong answer: the networks' means, ``accuracy``
    and ``before``, and the ``standard_error`` of their difference."""

    images: int
    accuracy: float
    before: float
    standard_error: float

    @property
    def loss(self) -> float:
        """By how much the new one's mean is lower."""
        return self.before - self.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the loss, as of a mean of many images."""
        return self.loss - Z * self.standard_error, self.loss + Z * self.standard_error

    def verdict(self, bound: float) -> Verdict:
        """As ``Paired.verdict``."""
        return _verdict(self.interval, bound)

    def images_to_settle(self, bound: float) -> int | None:
        """As ``Paired.images_to_settle``."""
        gap = abs(bound - self.loss)
        wanted = self.images * (Z * self.standard_error / gap) ** 2 if gap else math.inf
        return math.ceil(wanted) if wanted <= MOST_IMAGES else None


def paired(new: Any, old: Any) -> Paired | PairedScores:
    """Two networks' scores of the same images, arrays or tensors [N] of one kind; where all are 0 or 1 they are counted."""
    binary = all(bool(((one == 0) | (one == 1)).all()) for one in (new, old))
    if binary:
        return Paired.of(new, old, 1)
    count, apart = len(new), float(((new - old) ** 2).mean())
    before, now = float(old.mean()), float(new.mean())
    return PairedScores(count, now, before, loss_error(before - now, apart, count))


def loss_interval(lost: float, gained: float, images: float) -> tuple[float, float]:
    """95 % interval of the share lost minus the share gained."""

    def score(difference: float) -> float:
        """How many standard deviations the counts lie above what ``difference`` lets expect; falls with it."""
        a, c = 2 * images, -gained * difference * (1 - difference)
        b = (2 * images - lost + gained) * difference - lost - gained
        share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (
            2 * a
        )  # gained, most likely, if the difference is this
        variance = images * (2 * share + difference * (1 - difference))
        return (lost - gained - images * difference) / math.sqrt(max(variance, 1e-12))

    return _root(lambda d: score(d) > Z), _root(lambda d: score(d) > -Z)


def _root(above: Callable[[float], bool]) -> float:
    """Where ``above`` changes from true to false between -1 and 1."""
    low, high = -1.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return (low + high) / 2


def _verdict(interval: tuple[float, float], bound: float) -> Verdict:
    low, high = interval
    return "beyond" if low > bound + 1e-9 else "within" if high <= bound + 1e-9 else "open"
