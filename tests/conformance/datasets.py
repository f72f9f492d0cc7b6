"""What every data set and every augmentation must keep to. For those of your own:

@pytest.mark.parametrize("spec", ["my_module:images"])
class TestMyImages(DataConformance):
    pass

@pytest.mark.parametrize("augmentation", ["my_module:tilted"])
class TestTilted(AugmentationConformance):
    pass
"""

from __future__ import annotations

import pytest
import torch

from pipeline.datasets.augmentations.base import augment
from pipeline.datasets.base import ImageData, split_manifest
from pipeline.datasets.registry import load_data

SPLITS = ("train", "search", "report")


class DataConformance:
    """Loads the data set, in sizes of its own and of others."""

    @pytest.fixture
    def data(self, spec: str) -> ImageData:
        return load_data(spec)

    def test_images_are_bytes_with_labels_of_its_classes(self, data: ImageData) -> None:
        for split in SPLITS:
            images = getattr(data, split)
            few = images.batch(torch.arange(min(5, len(images))))
            assert few.dtype == torch.uint8 and few.shape[1:] == (*data.image_size, 3)
            assert images.labels.dtype == torch.int64 and len(images.labels) == len(images) > 0
            assert int(images.labels.min()) >= 0 and int(images.labels.max()) < len(data.classes)

    def test_no_image_both_guides_and_reports(self, data: ImageData) -> None:
        search, report = set(data.search.names()), set(data.report.names())
        assert not search & report and len(search) == len(data.search) and len(report) == len(data.report)

    def test_it_is_the_same_each_time(self, data: ImageData, spec: str) -> None:
        again = load_data(spec)
        assert split_manifest(again) == split_manifest(data)
        assert torch.equal(again.train.batch([0, 1]), data.train.batch([0, 1]))

    def test_it_comes_in_the_size_that_is_asked_for(self, spec: str) -> None:
        assert load_data(spec, (12, 20)).train.batch([0]).shape == (1, 12, 20, 3)


class AugmentationConformance:
    """Varies a few images."""

    def test_keeps_type_and_shape_and_its_input(self, augmentation: str) -> None:
        pixels = torch.randint(0, 256, (6, 12, 20, 3), dtype=torch.uint8)
        before = pixels.clone()
        varied = augment(pixels, augmentation, torch.Generator().manual_seed(0))
        assert varied.dtype == torch.uint8 and varied.shape == pixels.shape
        assert torch.equal(pixels, before)

    def test_the_generator_decides_everything(self, augmentation: str) -> None:
        pixels = torch.randint(0, 256, (6, 12, 20, 3), dtype=torch.uint8)
        first, again = (augment(pixels, augmentation, torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(first, again)
