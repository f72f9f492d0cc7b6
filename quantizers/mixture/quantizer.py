"""One Gaussian mixture per layer: the mixture is the codebook, its zero component prunes (DGMS).

Dong et al., "Finding the Task-Optimal Low-Bit Sub-Distribution in Deep Neural Networks", ICML 2022. Component 0 has its mean
pinned at 0. In evaluation a weight is the mean of its most probable component, as an int8 level times one scale per tensor. In
training it is that mean too (form ``straight``), or its soft assignment (``posterior``, ``paper``), or first this and then that
(``hard_finish``); in all forms the gradients are those of the soft assignment (``soft_weight``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import ParametrizationList

from foundation.codebook import Codebook
from foundation.errors import UserError
from foundation.plan import DIMENSIONS
from quantizers.core.base import QUANTIZERS, WeightQuantizer
from quantizers.core.levels import integer_levels
from quantizers.mixture.forms import FORMS
from quantizers.mixture.kmeans import kmeans
from quantizers.mixture.regions import Regions, regions
from quantizers.mixture.sample import Sample, most_weighty_half, sample_of, shift_for_share
from quantizers.mixture.soft_weight import LookUp, is_small, look_ups, soft_weight

if TYPE_CHECKING:
    from foundation.plan import LayerPlan, TemperatureSchedule

PAPER_TEMPERATURE = 0.01
HARD_FROM = 0.8  # progress from which the form ``hard_finish`` sees hard weights
RAMP_END = 0.4  # progress at which a zero-share target is reached
REVIVE_EVERY = 0.02  # progress between two looks for dead components
SCALE_FLOOR = 0.01  # least scale of a component, in standard deviations of the layer's weights at the start


@QUANTIZERS.register("gaussian_mixture")
class GaussianMixture(WeightQuantizer):
    """The mixture of one layer.

    Parameters: ``mean`` [K - 1]; ``raw_scale`` [K], scale = unit * (floor + softplus(raw_scale)); ``prior`` [K], logits of a
    softmax, or for ``form="paper"`` weights normalised by the sum of their magnitudes. Buffers: ``unit`` (the weights' standard
    deviation at the start), ``temperature``, ``progress``, ``revived`` (progress at the last look for dead components),
    ``zero_shift`` (added to the zero component's log prior) and ``natural_share`` (zeros right after initialisation).

    With a ``zero_share`` target the zero component's prior is shifted so that its share of the current weights is the wanted
    one; the wanted share moves from the natural one to the target over the first ``RAMP_END`` of training, fast at first (Zhu
    and Gupta, 2017). Nothing is masked: a weight that grows past the threshold is back.
    """

    dimensions = DIMENSIONS

    def __init__(
        self,
        components: int,
        bits: int,
        zero_share: float | None,
        temperature: TemperatureSchedule,
        form: str,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise UserError(f"form {form!r}: allowed are {', '.join(FORMS)}")
        self.bits, self.zero_share, self.schedule, self.form = bits, zero_share, temperature, form
        self.mean = nn.Parameter(torch.linspace(-1, 1, components - 1))
        self.raw_scale = nn.Parameter(torch.zeros(components))
        self.prior = nn.Parameter(torch.ones(components) / components)
        for name, value in (
            ("unit", 1.0),
            ("temperature", PAPER_TEMPERATURE if form == "paper" else temperature.at(0.0)),
            ("progress", 0.0),
            ("revived", 0.0),
            ("zero_shift", 0.0),
            ("natural_share", 0.0),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self._due = False  # progress moved since the last training step
        self._soft_form = (
            "paper" if form == "paper" else "posterior"
        )  # of the soft weights that give the gradients
        self._straight = form == "straight"  # now; plain, since reading ``progress`` would wait for the GPU
        self._hard: tuple[tuple[object, ...], Tensor] | None = None
        self._ready: tuple[tuple[object, ...], LookUp] | None = None

    unit: Tensor
    temperature: Tensor
    progress: Tensor
    revived: Tensor
    zero_shift: Tensor
    natural_share: Tensor

    @classmethod
    def for_layer(
        cls,
        weight: Tensor,
        layer: LayerPlan,
        temperature: TemperatureSchedule,
        form: str,
        *,
        initialise: bool,
    ) -> GaussianMixture:
        if layer.components is None:
            raise UserError("a Gaussian mixture needs components; 8 bits are plain int8")
        mixture = cls(layer.components, layer.bits, layer.zero_share, temperature, form)
        if initialise:
            mixture.initialise(weight)
        return mixture.to(weight.device)

    @torch.no_grad()
    def initialise(self, weight: Tensor) -> None:
        """k-means with one centre at 0. When there are fewer distinct weights than components, the rest start beyond them."""
        clusters = kmeans(weight.detach().cpu().numpy(), self.raw_scale.numel(), pin_zero=True)
        assert clusters.pinned is not None
        order = [clusters.pinned, *(i for i in range(len(clusters.centres)) if i != clusters.pinned)]
        means, deviations, counts = (
            a[order] for a in (clusters.centres, clusters.deviations, clusters.counts)
        )
        unit = float(weight.detach().double().std(correction=0)) or float(weight.detach().abs().max()) or 1.0
        spare = self.raw_scale.numel() - len(means)
        if spare:
            outermost = float(np.abs(means).max()) or unit
            means = np.concatenate([means, outermost * (1 + np.arange(1, spare + 1) / spare)])
            deviations, counts = (np.concatenate([a, np.zeros(spare)]) for a in (deviations, counts))
        self.unit.fill_(unit)
        share = torch.from_numpy((counts + 1) / (counts + 1).sum())
        relative = torch.from_numpy(deviations / unit).clamp(min=2 * SCALE_FLOOR) - SCALE_FLOOR
        self.mean.copy_(torch.from_numpy(means[1:]))
        self.raw_scale.copy_(relative.expm1().log())  # the inverse of softplus
        self.prior.copy_(share if self.form == "paper" else share.log())
        self.natural_share.fill_(self._share(sample_of(weight)))

    # ---- the mixture

    def means(self) -> Tensor:
        """[K], the first 0."""
        return F.pad(self.mean, (1, 0))

    def scales(self) -> Tensor:
        """[K], positive."""
        return _scales(self.unit, self.raw_scale)

    def log_priors(self) -> Tensor:
        """[K], normalised, then the zero component's shift added."""
        return _log_priors(self.prior, self.form == "paper", self.zero_shift)

    def shares(self) -> Tensor:
        """[K] priors without the shift; they sum to 1."""
        return (self.log_priors() - F.pad(self.zero_shift.reshape(1), (0, self.prior.numel() - 1))).exp()

    @torch.no_grad()
    def components(self) -> list[tuple[float, float, float]]:
        return list(zip(self.shares().tolist(), self.means().tolist(), self.scales().tolist()))

    def regions(self) -> Regions:
        """Which component wins where."""
        return regions(self.means().detach(), self.scales().detach(), self.log_priors().detach())

    # ---- use

    @torch.compiler.disable  # a compiled network calls it as it is
    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return self._hard_weight(weight)
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] == self._state(weight):
            return ready[1](weight)
        self._keep_house(weight)
        mean, scale, log_prior, temperature = (part[0] for part in _stacked([self]))
        return soft_weight(weight, mean, scale, log_prior, temperature, self._soft_form, self._straight)

    def set_progress(self, progress: float) -> None:
        self.progress.fill_(progress)
        self.temperature.fill_(PAPER_TEMPERATURE if self.form == "paper" else self.schedule.at(progress))
        self._due = True
        self._straight = self.form == "straight" or (self.form == "hard_finish" and progress >= HARD_FROM)

    @torch.no_grad()
    def codebook(self, weight: Tensor) -> Codebook:
        levels, scale, owner = self._deployed(weight.detach())
        unique, index = torch.unique(levels, return_inverse=True)
        return Codebook(
            index[owner].to(torch.uint8).cpu().numpy(),
            unique.to(torch.int8).cpu().numpy(),
            scale.reshape(1).cpu().numpy(),
            self.bits,
        )

    def _deployed(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int8 level of each component (as int64 [K]), the tensor's scale (float32 []), and each weight's component."""
        if self.zero_share is not None:
            self._meet_target(sample_of(weight))
        means, owner = self.means(), self.regions().assign(weight)
        counts = torch.bincount(owner.flatten(), minlength=len(means))
        return *integer_levels(means, counts), owner

    def _hard_weight(self, weight: Tensor) -> Tensor:
        """The deployed weight, computed once until the weight or the mixture changes."""
        key = self.state_key(weight, self.mean, self.raw_scale, self.prior, self.progress)
        if self._hard is None or self._hard[0] != key:
            with torch.no_grad():
                levels, scale, owner = self._deployed(weight)
                self._hard = (key, (levels.float() * scale).to(weight.dtype)[owner])
        return self._hard[1]

    # ---- housekeeping between steps

    def _wanted_share(self) -> float | None:
        """Zero share wanted at this progress."""
        if self.zero_share is None:
            return None
        left = 1 - min(float(self.progress) / RAMP_END, 1.0)
        return self.zero_share + (float(self.natural_share) - self.zero_share) * left**3

    def _share(self, sample: Sample) -> float:
        """Share of the sample that component 0 wins."""
        zero = self.regions().assign(sample.values) == 0
        return float(sample.counts[zero].sum() / sample.counts.sum())

    def _meet_target(self, sample: Sample) -> None:
        wanted = self._wanted_share()
        if wanted is not None:
            self.zero_shift.fill_(0.0)
            shift = shift_for_share(sample, self.means(), self.scales(), self.log_priors(), wanted)
            self.zero_shift.copy_(shift)

    def _state(self, weight: Tensor) -> tuple[object, ...]:
        """What soft weights depend on."""
        mixture = (self.mean, self.raw_scale, self.prior, self.temperature, self.zero_shift)
        return (self._straight, *self.state_key(weight, *mixture))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}  # part of one forward pass, which no copy goes on with

    @torch.no_grad()
    def _keep_house(self, weight: Tensor) -> None:
        """What is due once when progress has moved."""
        if not self._due:
            return
        self._due = False
        look = float(self.progress) - float(self.revived) >= REVIVE_EVERY
        if self.zero_share is None and not look:
            return
        sample = sample_of(weight)
        self._meet_target(sample)
        if look:
            self.revived.copy_(self.progress)
            self._revive(sample)

    def _revive(self, sample: Sample) -> None:
        """Give each component that holds no weight half of the non-zero cluster with the largest squared error."""
        owner = self.regions().assign(sample.values)
        held = torch.zeros_like(self.unit.new_zeros(self.prior.numel())).index_add_(0, owner, sample.counts)
        for dead in (held == 0).nonzero().squeeze(1).tolist():
            if dead == 0:
                continue
            found = most_weighty_half(sample, owner, self.means().double())
            if found is None:
                return
            donor, centre, members = found
            owner[members] = dead
            self.mean[dead - 1] = centre
            self.raw_scale[dead] = self.raw_scale[donor]
            if self.form == "paper":
                self.prior[donor] *= 0.5
                self.prior[dead] = self.prior[donor]
            else:
                self.prior[donor] -= np.log(2.0)
                self.prior[dead] = self.prior[donor]


def _scales(unit: Tensor, raw_scale: Tensor) -> Tensor:
    """Scales [..., K] of units [...]."""
    return unit[..., None].to(raw_scale.dtype) * (SCALE_FLOOR + F.softplus(raw_scale))


def _log_priors(prior: Tensor, paper: bool, zero_shift: Tensor) -> Tensor:
    """Log priors [..., K], the zero component's shifted by [...]."""
    if paper:
        magnitude = prior.abs().clamp(min=1e-12)
        logs = (magnitude / magnitude.sum(-1, keepdim=True)).log()
    else:
        logs = prior.log_softmax(-1)
    return logs + F.pad(zero_shift[..., None].to(logs.dtype), (0, prior.shape[-1] - 1))


def _stacked(mixtures: Sequence[GaussianMixture]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means, scales, log priors [L, K] and temperatures [L] of mixtures of one kind."""
    mean, raw_scale, prior, unit, shift, temperature = (
        torch.stack([getattr(mixture, name) for mixture in mixtures])
        for name in ("mean", "raw_scale", "prior", "unit", "zero_shift", "temperature")
    )
    paper = mixtures[0].form == "paper"
    # But in the published form a constant more or less in all log priors of a layer is the same.
    if paper or mixtures[0].zero_share is not None:
        prior = _log_priors(prior, paper, shift)
    return F.pad(mean, (1, 0)), _scales(unit, raw_scale), prior, temperature


def prepare(network: nn.Module, inputs: Any = None) -> None:
    """Prepare the mixtures of a network in training for its next forward pass, as a forward pre-hook of the network: many layers'
    tables together cost hardly more operations than one layer's. A layer that is called by itself makes its own."""
    if network.training:
        _prepare(network)


@torch.compiler.disable  # a compiled network calls it as it is
def _prepare(network: nn.Module) -> None:
    groups: dict[Any, list[tuple[GaussianMixture, Tensor]]] = defaultdict(list)
    for module in network.modules():
        if isinstance(module, ParametrizationList) and isinstance(module[0], GaussianMixture):
            mixture, weight = module[0], module.original
            mixture._keep_house(weight)
            kind = (len(mixture.prior), mixture._soft_form, mixture._straight, mixture.zero_share is None)
            groups[(*kind, weight.dtype, weight.device)].append((mixture, weight))
    for (components, form, straight, *_), group in groups.items():
        weights = [weight for _, weight in group]
        if is_small(sum(weight.numel() for weight in weights), components):
            continue
        parts = _stacked([mixture for mixture, _ in group])
        found = look_ups(weights, *parts, form, straight)
        for (mixture, weight), look_up in zip(group, found):
            mixture._ready = (mixture._state(weight), look_up)
