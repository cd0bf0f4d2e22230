"""TensorRT-RTX builds graphs that resize by themselves, in every way, without a GPU."""

from collections.abc import Callable
from typing import Any

import pytest

from dlcv.export.any_size.compose import resizing_model
from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.any_size import LARGEST_PHOTO, any_size_tensors
from dlcv.runtime.bundle.onnx_protobuf import model_with_outputs
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.engines import EngineModel, EngineOptions, any_size_model
from dlcv.runtime.engines.tensorrt.api import TENSORRT_RTX
from dlcv.runtime.engines.tensorrt.build import BuiltPlan, plan_from_graph
from dlcv.runtime.engines.tensorrt.engine import build_request

pytest.importorskip("tensorrt_rtx")


def built(model: EngineModel) -> BuiltPlan:
    options = EngineOptions(batch_size=1)
    return plan_from_graph(build_request(TENSORRT_RTX, model, options, gpu=None))


@pytest.mark.parametrize("name", ["imagenet-lite0", "voc-deeplab"])
def test_a_bundle_that_ships_builds_for_photos_of_up_to_4096(
    any_size_bundle: Callable[[str], Bundle], name: str
) -> None:
    model = any_size_model(any_size_bundle(name), target="tensorrt")
    assert model.largest == LARGEST_PHOTO
    plan = built(model)
    assert plan.precision == "fp32"
    assert len(plan.data) > 10**6


@pytest.mark.parametrize(
    "way",
    [
        {"resize": "stretch", "size": (8, 8), "resample": "bicubic"},
        {"resize": "center_crop", "size": (8, 8), "crop_fraction": 0.875, "resample": "lanczos"},
        {"resize": "center_crop", "size": (8, 8), "crop_rounding": "down", "resample": "bicubic"},
        {"resize": "letterbox", "size": (8, 8), "pad": (114, 114, 114)},
        {"resize": "letterbox", "size": (8, 8), "pad_at": "end", "resample": "lanczos"},
        {"resize": "longest_side", "size": (64, 64), "multiple": 8, "resample": "bicubic"},
    ],
    ids=str,
)
def test_every_way_to_resize_builds(
    classify_bundle: Any, segment_bundle: Any, way: dict[str, Any]
) -> None:
    bundle = open_bundle(segment_bundle if way["resize"] == "longest_side" else classify_bundle)
    graph, tensors = bundle.graph(), any_size_tensors(bundle.graph())
    data = resizing_model(bundle.read("model.onnx"), graph, Preprocessing(**way))
    model = EngineModel(
        onnx=model_with_outputs(data, [spec.name for spec in graph.outputs]),
        tensors=tensors.inputs + tensors.outputs,
        largest=(2000, 3000),
    )
    assert len(built(model).data) > 1000
