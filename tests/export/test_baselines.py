"""PyTorch as a baseline gives what the wrapper gives, so that both do the same work."""

from typing import Any

import numpy as np
import pytest

from dlcv.export.baselines import TorchEngine, torch_baselines
from dlcv.export.bundle import parts_of_source
from dlcv.export.sources import SourceOptions, load_source
from dlcv.runtime.errors import InputError

SOURCES = {
    "probabilities": ("torchvision:mobilenet_v3_small", (32, 32)),
    "mask": ("torchvision:lraspp_mobilenet_v3_large", (64, 64)),
}


@pytest.mark.parametrize("output", SOURCES)
def test_eager_gives_the_reference_answer_and_nothing_else(output: str) -> None:
    name, size = SOURCES[output]
    source = load_source(name, SourceOptions(random=True, size=size))
    image = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    expected = parts_of_source(source).reference(image)[output]
    contestants = {c.label: c for c in torch_baselines(source, threads=1)}
    assert list(contestants)[:2] == ["torch eager fp32", "torch compile fp32"]
    with contestants["torch eager fp32"].open() as engine:
        received = engine.infer({"image": image})
    assert set(received) == {output}
    assert received[output].dtype == expected.dtype
    if output == "mask":
        assert (received[output] == expected).mean() > 0.99
    else:
        np.testing.assert_allclose(received[output], expected, atol=1e-4)


def test_a_precision_of_its_own_leaves_the_source_as_it_was() -> None:
    source = load_source(
        "torchvision:mobilenet_v3_small", SourceOptions(random=True, size=(64, 64))
    )
    made: Any = TorchEngine(source, precision="fp16", kind="eager", threads=1)
    assert made.info.precision == "fp16"
    assert {str(p.dtype) for p in source.model.parameters()} == {"torch.float32"}


def test_a_task_without_a_baseline_is_an_error() -> None:
    source: Any = type("Source", (), {"task": "embed"})()
    with pytest.raises(InputError, match="no baseline for task 'embed'; leave --checkpoint away"):
        torch_baselines(source, threads=None)
