"""What every model must keep to. For one of your own:

@pytest.mark.parametrize("model", ["my_module:network"])
class TestMyModel(ModelConformance):
    pass
"""

from __future__ import annotations

import pytest
import torch

from pipeline.datasets.normalization import checked
from pipeline.networks.base import ModelSpec
from pipeline.networks.registry import find_network, load_model
from pipeline.training.outputs import check_outputs
from search_spaces.layers import layers_of

CLASSES = 7


class ModelConformance:
    """Builds the network for a few classes and images of moderate size."""

    @pytest.fixture
    def spec(self, model: str) -> ModelSpec:
        return find_network(model)

    def side(self, spec: ModelSpec) -> int:
        return min(spec.image_size, 64)

    def test_declares_what_its_input_is(self, model: str, spec: ModelSpec) -> None:
        assert spec.name == model and spec.declared and spec.image_size >= 8
        assert checked(spec.normalization, model) == spec.normalization

    def test_answers_with_one_number_per_class(self, spec: ModelSpec) -> None:
        shape = (3, self.side(spec), self.side(spec))
        network = load_model(spec, classes=CLASSES, image_size=self.side(spec))
        assert not network.training and layers_of(network, shape)
        if not spec.detects:
            check_outputs(network, shape, CLASSES)

    def test_chance_is_the_seed_s_alone(self, spec: ModelSpec) -> None:
        before = torch.get_rng_state()
        states = [
            load_model(spec, classes=CLASSES, image_size=self.side(spec), seed=seed).state_dict()
            for seed in (3, 3)
        ]
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    def test_its_weights_can_be_kept(self, spec: ModelSpec) -> None:
        one, other = (
            load_model(spec, classes=CLASSES, image_size=self.side(spec), seed=seed) for seed in (1, 2)
        )
        other.load_state_dict(one.state_dict())
        image = torch.rand(2, 3, self.side(spec), self.side(spec))
        with torch.inference_mode():
            assert torch.equal(one(image), other(image))
