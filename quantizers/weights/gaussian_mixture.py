"""One Gaussian mixture per layer: the mixture is the codebook, its zero component prunes (DGMS).

Dong et al., "Finding the Task-Optimal Low-Bit Sub-Distribution in Deep Neural Networks", ICML 2022. Component 0 has its mean
pinned at 0, unless components are few and nobody asks for zeros (``Options.pinned``). In evaluation a weight is the mean of its
most probable component, as an int8 level times one scale per tensor. In training it is that mean too (form ``straight``), or its
soft assignment (``posterior``, ``paper``), or first this and then that (``hard_finish``); in all forms the gradients are those of
the soft assignment (``quantizers.mixture.soft_weight``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foundation.codebook import Codebook
from foundation.errors import UserError
from foundation.plan import LayerPlan, TemperatureSchedule
from quantizers.core.base import RATE, Rebuilding, WeightQuantizer
from quantizers.core.grid import WeightGrid
from quantizers.core.levels import integer_levels
from quantizers.core.uncompiled import uncompiled
from quantizers.core.zero_ramp import share_at
from quantizers.mixture.forms import FORMS
from quantizers.mixture.held import component_of, held_weight
from quantizers.mixture.regions import Regions, regions
from quantizers.mixture.sample import WeightSample, most_weighty_half, sample_of, shift_for_share
from quantizers.mixture.soft_weight import LookUp, is_small, look_ups, soft_weight
from quantizers.mixture.start import clustered, evenly_spaced

PAPER_TEMPERATURE = 0.01
HARD_FROM = 0.8  # progress from which the form ``hard_finish`` sees hard weights
SHARE_TOLERANCE = 1e-3  # of the share of zeros that is wanted
FEW = 4  # components, of which one at 0 would be missed elsewhere
PRUNED = 0.01  # share of exact zeros from which weights were pruned by somebody, who wants them kept; or a whole channel is zero
SCALE_FLOOR = 0.01  # least scale of a component, in standard deviations of the layer's weights at the start


class GaussianMixture(WeightQuantizer):
    """The mixture of one layer.

    Parameters: ``mean`` [K - 1], or [K] where none is pinned; ``raw_scale`` [K], scale = unit * (floor + softplus(raw_scale));
    ``prior`` [K], logits of a softmax, or for ``form="paper"`` weights normalised by the sum of their magnitudes. Buffers:
    ``unit`` (the weights' standard deviation at the start), ``temperature``, ``progress``, ``revived`` (progress at the last look
    for dead components), ``zero_shift`` (added to the zero component's log prior), ``natural_share`` (zeros right after
    initialisation) and ``anchor`` (while components are held, where the latent weights of each lie; else infinite).

    With a ``zero_share`` target the zero component's prior is shifted so that its share of the current weights is the wanted
    one; the wanted share moves from the natural one to the target over the first part of training (``ramp_end``), fast at first
    (Zhu and Gupta, 2017). Nothing is masked: a weight that grows past the threshold is back.

    With ``coded_bits`` the means start evenly spaced, so that the indices have that entropy (``quantizers.mixture.start``), and
    components that hold no weight stay so.
    """

    dimensions = frozenset({"components", "zero_share", "coded_bits", "temperature"})

    @dataclass(frozen=True)
    class Options(WeightQuantizer.Options):
        """How mixtures are trained.

        Attributes:
            temperature: of the soft assignment; the plan's.
            form: what training sees, one of ``quantizers.mixture.forms.FORMS``.
            ramp_end: progress at which a target share of zeros is reached; 0 is from the first step on.
            revive_every: progress between two looks for components that hold no weight; None lets them be.
            rate: learning rate of mixtures in units of the weights'; 0 leaves them as k-means found them.
            pinned: whether component 0 stays at 0. None lets it go where there are few components and nothing asks for zeros: no
                share of them, no structure, no pruned weights, nor the published form.
        """

        temperature: TemperatureSchedule = TemperatureSchedule()
        form: str = "straight"
        ramp_end: float = 0.4
        revive_every: float | None = 0.02
        rate: float = RATE
        pinned: bool | None = None

        def __post_init__(self) -> None:
            if self.form not in FORMS:
                raise UserError(f"form {self.form!r}: allowed are {', '.join(FORMS)}")
            if not 0 <= self.ramp_end <= 1:
                raise UserError(f"ramp_end {self.ramp_end!r}: give a number from 0 to 1")
            if not 0 <= self.rate < math.inf:
                raise UserError(f"rate {self.rate!r}: give a number of at least 0")
            if self.pinned is not None and not isinstance(self.pinned, bool):
                raise UserError(f"pinned {self.pinned!r}: give true or false, or None for the usual")
            if self.revive_every is not None and not self.revive_every > 0:
                raise UserError(
                    f"revive_every {self.revive_every!r}: give a number above 0, or None for never"
                )

    options: Options
    unit: Tensor
    temperature: Tensor
    progress: Tensor
    revived: Tensor
    zero_shift: Tensor
    natural_share: Tensor
    anchor: Tensor

    def __init__(self, layer: LayerPlan, shape: torch.Size, options: Options) -> None:
        super().__init__(layer, shape, options)
        if layer.components is None:
            raise UserError("a Gaussian mixture needs components; 8 bits are plain int8")
        self.zero_share: float | None = layer.zero_share
        self.coded_bits: float | None = layer["coded_bits"]
        self.paper = options.form == "paper"
        self.pinned = True
        self.mean = nn.Parameter(torch.linspace(-1, 1, layer.components - 1))
        self.raw_scale = nn.Parameter(torch.zeros(layer.components))
        self.prior = nn.Parameter(torch.ones(layer.components) / layer.components)
        for name, value in (
            ("unit", 1.0),
            ("temperature", self._temperature_at(0.0)),
            ("progress", 0.0),
            ("revived", 0.0),
            ("zero_shift", 0.0),
            ("natural_share", 0.0),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("anchor", torch.full((layer.components,), math.inf))
        self._held = False  # plain, as is ``_straight``
        self._component: tuple[tuple[object, ...], Tensor] | None = None
        self._regions: tuple[tuple[object, ...], Regions] | None = None
        self._due = False  # progress moved since the last training step
        # Plain, since reading ``progress`` would wait for the GPU.
        self._straight = options.form == "straight"
        self._hard: tuple[tuple[object, ...], Tensor] | None = None
        self._ready: tuple[tuple[object, ...], LookUp] | None = None
        # What else a plan says of a layer may ask for zeros.
        self._wanted = self.paper or bool(layer.values.keys() - {"bits", "components"})
        usual = layer.components > FEW if options.pinned is None else options.pinned
        self._pin(zero=self._wanted or usual)

    @torch.no_grad()
    def _pin(self, *, zero: bool) -> None:
        """Whether component 0 stays at 0; the parameter stays the same object, for whoever trains it."""
        if zero != self.pinned:
            self.mean.data = self.means()[1:].clone() if zero else self.means().clone()
            self.pinned = zero

    def start(self, weight: Tensor) -> None:
        """k-means, with one centre at 0 where it is pinned. What is exactly zero, as where blocks are left out, tells nothing of
        the others."""
        there = weight[weight != 0]
        whole_channels = bool((weight.flatten(1) == 0).all(1).any()) if weight.ndim > 1 else False
        if whole_channels or there.numel() < (1 - PRUNED) * weight.numel():
            self._pin(zero=True)
        weight = there if 0 < there.numel() < weight.numel() else weight
        components = self.raw_scale.numel()
        if self.coded_bits is None:
            found = clustered(weight.cpu().numpy(), components, pin_zero=self.pinned)
        else:
            found = evenly_spaced(weight.cpu().numpy(), components, self.coded_bits)
        unit = float(weight.double().std(correction=0)) or float(weight.abs().max()) or 1.0
        # Of evenly spaced means each weight takes the nearest.
        counts = np.ones(components) if self.coded_bits is not None else found.counts + 1
        share = torch.from_numpy(counts / counts.sum())
        relative = torch.from_numpy(found.deviations / unit).clamp(min=2 * SCALE_FLOOR) - SCALE_FLOOR
        self.unit.fill_(unit)
        self.mean.copy_(torch.from_numpy(found.means[self.pinned :]))
        self.raw_scale.copy_(relative.expm1().log())  # the inverse of softplus
        self.prior.copy_(share if self.paper else share.log())
        self.natural_share.fill_(self._share(sample_of(weight)))

    # ---- the mixture

    def means(self) -> Tensor:
        """[K], the first 0 where it is pinned."""
        return F.pad(self.mean, (1, 0)) if self.pinned else self.mean

    def scales(self) -> Tensor:
        """[K], positive."""
        return _scales(self.unit, self.raw_scale)

    def log_priors(self) -> Tensor:
        """[K], normalised, then the zero component's shift added."""
        return _log_priors(self.prior, paper=self.paper, zero_shift=self.zero_shift)

    def shares(self) -> Tensor:
        """[K] priors without the shift; they sum to 1."""
        return (self.log_priors() - F.pad(self.zero_shift.reshape(1), (0, self.prior.numel() - 1))).exp()

    @torch.no_grad()
    def components(self) -> list[tuple[float, float, float]]:
        return list(zip(self.shares().tolist(), self.means().tolist(), self.scales().tolist()))

    def regions(self) -> Regions:
        """Which component wins where; solved once until the mixture changes."""
        key = self.state_key(self.mean, self.raw_scale, self.prior, self.unit, self.zero_shift)
        if self._regions is None or self._regions[0] != key:
            parts = (part.detach() for part in (self.means(), self.scales(), self.log_priors()))
            self._regions = (key, regions(*parts))
        return self._regions[1]

    # ---- use

    @uncompiled  # a compiled network calls it as it is
    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            return self._hard_weight(weight)
        if self._held:
            return held_weight(
                self.means(), self._held_components(weight), weight, self.raw_scale, self.prior
            )
        ready, self._ready = self._ready, None
        if ready is not None and ready[0] == self._state(weight):
            return ready[1](weight)
        self._keep_house(weight)
        mean, scale, log_prior, temperature = (part[0] for part in _stacked([self]))
        form = "paper" if self.paper else "posterior"  # of the soft weights that give the gradients
        return soft_weight(weight, mean, scale, log_prior, temperature, form, straight=self._straight)

    def set_progress(self, progress: float) -> None:
        self.progress.fill_(progress)
        self.temperature.fill_(self._temperature_at(progress))
        self._due = True
        form = self.options.form
        self._straight = form == "straight" or (form == "hard_finish" and progress >= HARD_FROM)

    def _temperature_at(self, progress: float) -> float:
        return PAPER_TEMPERATURE if self.paper else self.options.temperature.at(progress)

    @property
    def rate(self) -> float:
        return self.options.rate

    @torch.no_grad()
    def assigned(self, latent: Tensor) -> Tensor:
        return self._deployed(latent.detach())[2].to(torch.uint8)

    @torch.no_grad()
    def hold(self, latent: nn.Parameter) -> bool:
        if not self._held:
            self._snap(latent, self._deployed(latent.detach())[2])
            self.anchor.copy_(self.means())
            self._held = True
        return True

    @torch.no_grad()
    def release(self, latent: nn.Parameter, towards: Tensor | None = None) -> None:
        if not self._held:
            return
        component = self._held_components(latent)
        self._snap(latent, component)
        self.anchor.fill_(math.inf)
        self._held = False
        if towards is not None:
            inside = self.regions().inside(towards.to(latent.dtype), component)
            moved = (latent + inside) / 2
            # Of two components at one place a weight may be nobody's; it stays where it is.
            latent.copy_(torch.where(self.regions().assign(moved) == component, moved, latent))

    def _held_components(self, weight: Tensor) -> Tensor:
        key = self.state_key(weight, self.anchor)
        if self._component is None or self._component[0] != key:
            self._component = (key, component_of(weight.detach(), self.anchor))
        return self._component[1]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        found, count = getattr(state_dict.get(f"{prefix}mean"), "shape", None), len(self.prior)
        if found in ((count - 1,), (count,)):
            self._pin(zero=self._wanted or found == (count - 1,))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._held, self._component = bool(self.anchor.isfinite().all()), None

    def reconstruction(self, latent: nn.Parameter) -> Rebuilding:
        return Rebuilding([latent, self.mean], [self.raw_scale, self.prior])

    @torch.no_grad()
    def suit(self, wanted: Tensor) -> None:
        """Weights that make up for the layers before them can be several times as large: their indices would be long ones."""
        if self.coded_bits is not None:
            self.start(wanted)

    def grid(self, latent: Tensor) -> WeightGrid:
        means = self.means().detach().double()
        scale = torch.ones(1, len(latent), dtype=torch.float64, device=means.device)
        # Levels that follow their weights draw others near, and indices grow longer from turn to turn.
        free: Literal["levels", "at last"] = "levels" if self.coded_bits is None else "at last"
        return WeightGrid(means, scale, free, zero=0 if self.pinned else -1).sorted()[0]

    @torch.no_grad()
    def adopt(self, latent: nn.Parameter, grid: WeightGrid, owner: Tensor) -> None:
        others = [place for place in range(len(grid.levels)) if place != grid.zero]
        self.mean.copy_(grid.levels[others])
        self._snap(latent, _placed(owner, grid, others).view_as(latent))

    def _snap(self, latent: nn.Parameter, component: Tensor) -> None:
        """Lay each weight at the mean of its component, and give components equal scales and priors, so that it is the nearest
        that a weight belongs to."""
        latent.copy_(self.means()[component])
        self.raw_scale.fill_(float(self.raw_scale.mean()))
        self.prior.fill_(1 / len(self.prior) if self.paper else 0.0)
        self.zero_shift.fill_(0.0)
        self.revived.fill_(0.0)
        self.natural_share.fill_(float((component == 0).double().mean()))

    @property
    def zero_target(self) -> float | None:
        return self.zero_share

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
        if self.zero_share is not None and not self._held:
            self._meet_target(sample_of(weight))
        means = self.means()
        owner = self._held_components(weight) if self._held else self.regions().assign(weight)
        if self.pinned:
            owner = owner.masked_fill(weight == 0, 0)  # stays zero wherever components have moved
        counts = torch.bincount(owner.flatten(), minlength=len(means))
        return *integer_levels(means, counts), owner

    def _hard_weight(self, weight: Tensor) -> Tensor:
        """The deployed weight, computed once until the weight or the mixture changes."""
        key = self.state_key(weight, self.mean, self.raw_scale, self.prior, self.progress, self.anchor)
        if self._hard is None or self._hard[0] != key:
            with torch.no_grad():
                levels, scale, owner = self._deployed(weight)
                self._hard = (key, (levels.float() * scale).to(weight.dtype)[owner])
        return self._hard[1]

    @classmethod
    def prepare(cls, layers: Sequence[tuple[GaussianMixture, Tensor]]) -> None:
        """The tables of many layers together cost hardly more operations than one layer's."""
        groups: dict[Any, list[tuple[GaussianMixture, Tensor]]] = defaultdict(list)
        for mixture, weight in layers:
            if mixture._held:
                continue
            mixture._keep_house(weight)
            kind = (mixture.paper, mixture._straight, mixture.zero_share is None, mixture.pinned)
            groups[(len(mixture.prior), *kind, weight.dtype, weight.device)].append((mixture, weight))
        for (components, paper, straight, *_), group in groups.items():
            weights = [weight for _, weight in group]
            if is_small(sum(weight.numel() for weight in weights), components):
                continue
            parts = _stacked([mixture for mixture, _ in group])
            found = look_ups(weights, *parts, "paper" if paper else "posterior", straight=straight)
            for (mixture, weight), look_up in zip(group, found):
                mixture._ready = (mixture._state(weight), look_up)

    # ---- housekeeping between steps

    def _wanted_share(self) -> float | None:
        """Zero share wanted at this progress."""
        if self.zero_share is None:
            return None
        end, natural = self.options.ramp_end, float(self.natural_share)
        return share_at(float(self.progress), end, natural, self.zero_share)

    def _share(self, sample: WeightSample) -> float:
        """Share of the sample that component 0 wins."""
        zero = self.regions().assign(sample.values) == 0
        return float(sample.counts[zero].sum() / sample.counts.sum())

    def _meet_target(self, sample: WeightSample) -> None:
        wanted = self._wanted_share()
        if wanted is not None and not self._is_held(sample, wanted):
            self.zero_shift.fill_(0.0)
            shift = shift_for_share(sample, self.means(), self.scales(), self.log_priors(), wanted)
            self.zero_shift.copy_(shift)

    def _is_held(self, sample: WeightSample, wanted: float) -> bool:
        """Whether the share of an adopted solution is still right. Then it is left alone: among weights that lie at one value a
        shift could only take all or none."""
        started = float(self.natural_share) - (self.zero_share or 0.0)
        return abs(started) <= SHARE_TOLERANCE and abs(self._share(sample) - wanted) <= SHARE_TOLERANCE

    def _state(self, weight: Tensor) -> tuple[object, ...]:
        """What soft weights depend on."""
        mixture = (self.mean, self.raw_scale, self.prior, self.temperature, self.zero_shift)
        return (self._straight, *self.state_key(weight, *mixture))

    def __getstate__(self) -> dict[str, Any]:
        kept_for_a_pass = ("_ready", "_component", "_regions")  # which no copy goes on with
        return {**self.__dict__, **dict.fromkeys(kept_for_a_pass)}

    @torch.no_grad()
    def _keep_house(self, weight: Tensor) -> None:
        """What is due once when progress has moved."""
        if not self._due:
            return
        self._due = False
        every = self.options.revive_every
        if float(self.progress) < float(self.revived):  # a training that begins anew
            self.revived.copy_(self.progress)
        # Evenly spaced means may be without weights, which makes indices short.
        look = (
            every is not None
            and self.coded_bits is None
            and float(self.progress) - float(self.revived) >= every
        )
        if self.zero_share is None and not look:
            return
        sample = sample_of(weight)
        self._meet_target(sample)
        if look:
            self.revived.copy_(self.progress)
            self._revive(sample)

    def _revive(self, sample: WeightSample) -> None:
        """Give each component that holds no weight half of the cluster with the largest squared error, but that at zero."""
        owner = self.regions().assign(sample.values)
        held = torch.zeros_like(self.unit.new_zeros(self.prior.numel())).index_add_(0, owner, sample.counts)
        for dead in (held == 0).nonzero().squeeze(1).tolist():
            if dead == 0 and self.pinned:
                continue
            found = most_weighty_half(sample, owner, self.means().double(), pinned=self.pinned)
            if found is None:
                return
            donor, centre, members = found
            owner[members] = dead
            self.mean[dead - self.pinned] = centre
            self.raw_scale[dead] = self.raw_scale[donor]
            if self.paper:
                self.prior[donor] *= 0.5
                self.prior[dead] = self.prior[donor]
            else:
                self.prior[donor] -= np.log(2.0)
                self.prior[dead] = self.prior[donor]


def _placed(owner: Tensor, grid: WeightGrid, others: list[int]) -> Tensor:
    """The component of each weight, where 0 is the zero level and the others follow in their order."""
    component = torch.zeros(len(grid.levels), dtype=torch.int64, device=owner.device)
    first = len(grid.levels) - len(others)
    component[others] = torch.arange(first, first + len(others), device=owner.device)
    return component[owner]


def _scales(unit: Tensor, raw_scale: Tensor) -> Tensor:
    """Scales [..., K] of units [...]."""
    return unit[..., None].to(raw_scale.dtype) * (SCALE_FLOOR + F.softplus(raw_scale))


def _log_priors(prior: Tensor, *, paper: bool, zero_shift: Tensor) -> Tensor:
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
    paper = mixtures[0].paper
    # But in the published form a constant more or less in all log priors of a layer is the same.
    if paper or mixtures[0].zero_share is not None:
        prior = _log_priors(prior, paper=paper, zero_shift=shift)
    mean = F.pad(mean, (1, 0)) if mixtures[0].pinned else mean
    return mean, _scales(unit, raw_scale), prior, temperature
