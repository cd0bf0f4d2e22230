"""Photos to calibrate on, and an engine builder for graphs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.images.samples import sample_paths


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of twenty small cuts of the sample photos."""
    folder: Path = tmp_path_factory.mktemp("photos")
    for number in range(20):
        paths = sample_paths()
        with Image.open(paths[number % len(paths)]) as photo:
            left = 40 * (number // len(paths))
            photo.convert("RGB").crop((left, left, left + 128, left + 128)).save(
                folder / f"{number:02d}.png"
            )
    return folder


@pytest.fixture(scope="session")
def tensorrt_faults() -> Callable[[bytes, tuple[int, int]], list[str]]:
    """Parses and builds a graph with TensorRT-RTX, no GPU needed; returns what went wrong."""
    trt = pytest.importorskip("tensorrt_rtx")

    def faults(data: bytes, size: tuple[int, int]) -> list[str]:
        builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
        if not parser.parse(data):
            return [str(parser.get_error(i)) for i in range(parser.num_errors)]
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        profile.set_shape("image", *((n, *size, 3) for n in (1, 2, 4)))
        config.add_optimization_profile(profile)
        return [] if builder.build_serialized_network(network, config) else ["no engine"]

    return faults


@pytest.fixture(scope="session")
def noise_images() -> np.ndarray:
    """Two random images, uint8 (2, 32, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
