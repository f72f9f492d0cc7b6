"""The examples of extending keep to what every entry of their kind must."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.datasets import DataConformance
from tests.conformance.devices import DeviceConformance
from tests.conformance.models import ModelConformance
from tests.conformance.quantizers import QuantizerConformance
from tests.conformance.samplers import SamplerConformance

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "extending"


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("sampler", ["metropolis:Metropolis"])
class TestMetropolis(SamplerConformance):
    """A walk that anyone could have written."""


@pytest.mark.parametrize("quantizer", ["ternary:Ternary"])
class TestTernary(QuantizerConformance):
    """A quantizer with an option of its own."""


@pytest.mark.parametrize("kind", ["downclocked:Downclocked"])
class TestDownclocked(DeviceConformance):
    """A core at a lower clock."""


@pytest.mark.parametrize("model", ["stripes:network"])
class TestNetwork(ModelConformance):
    """A network of one's own."""


@pytest.mark.parametrize("spec", ["stripes:images"])
class TestImages(DataConformance):
    """Images of one's own, for it."""


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_one_file_of_few_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 60
