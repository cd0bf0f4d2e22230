"""TensorRT's small parts: profiles, fields of a plan, precision read back, progress, the GPU."""

import json
from typing import Any

import pytest

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines.base import EngineModel, settings_from_text
from dlcv.runtime.engines.tensorrt.api import (
    TENSORRT,
    TENSORRT_RTX,
    Flavour,
    TensorRtRtxSettings,
    TensorRtSettings,
    require_gpu,
    sentence_from_log,
)
from dlcv.runtime.engines.tensorrt.compatibility import misfit, plan_fields
from dlcv.runtime.engines.tensorrt.inspector import (
    realised_precision,
    shares_from_inspector,
    words_from_shares,
)
from dlcv.runtime.engines.tensorrt.optimization_profile import (
    Profile,
    Range,
    profile_for,
    profile_from_text,
    range_from_text,
    require_in_profile,
)
from dlcv.runtime.engines.tensorrt.progress import PhaseShares
from dlcv.runtime.errors import (
    BundleError,
    EngineUnavailableError,
    InputError,
)
from dlcv.runtime.machine.gpu import Driver, Gpu

IMAGE = TensorSpec(name="image", dtype="uint8", shape=("batch", "height", "width", 3))
H100 = Gpu(index=0, name="NVIDIA H100", compute_capability=(9, 0), memory_bytes=80 * 2**30)
T4 = Gpu(index=0, name="Tesla T4", compute_capability=(7, 5), memory_bytes=16 * 2**30)


# Profiles


def test_a_profile_holds_the_batch_and_the_sides_of_a_graph_of_dynamic_size() -> None:
    model = EngineModel(onnx=b"", largest=(360, 480), multiple=8)
    profile = profile_for(model, batch="", batch_size=4)
    assert str(profile) == "batch 1,4,4; height 8,360,480; width 8,480,480"
    assert profile.shapes(IMAGE) == ((1, 8, 8, 3), (4, 360, 480, 3), (4, 480, 480, 3))
    assert profile_from_text(str(profile)) == profile


def test_a_profile_of_a_fixed_size_is_the_batch_alone() -> None:
    assert str(profile_for(EngineModel(onnx=b""), batch="1,8,32", batch_size=4)) == "batch 1,8,32"
    assert str(profile_for(EngineModel(onnx=b""), batch="", batch_size=None)) == "batch 1,8,8"


@pytest.mark.parametrize("text", ["", "8", "1,8", "8,1,32", "0,1,2", "1,2,x", "1,2,3,4", "1,-2,3"])
def test_a_profile_that_is_not_three_rising_numbers_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"such as 1,8,32, not '{text}'"):
        range_from_text(text)


def test_a_dimension_without_a_range_is_named() -> None:
    spec = TensorSpec(name="tokens", dtype="int64", shape=("batch", "words"))
    with pytest.raises(
        BundleError, match=r"input tokens: .* is dynamic in 'words'.*only for batch"
    ):
        profile_for(EngineModel(onnx=b""), batch="", batch_size=None).shapes(spec)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 32, 32, 3), "batch 9, the engine was built for 1 to 8; give a larger --batch"),
        ((1, 64, 32, 3), "height 64, the engine was built for 8 to 48; give --size"),
        ((1, 32, 4, 3), "width 4, the engine was built for 8 to 48; give --size"),
    ],
)
def test_a_size_outside_the_profile_is_refused_with_the_range(
    shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=f"'image' has {message}"):
        require_in_profile(IMAGE, shape, least=(1, 8, 8, 3), most=(8, 48, 48, 3))


# Fields


def fields(
    flavour: Flavour = TENSORRT, *, gpu: Gpu | None = H100, **changes: Any
) -> dict[str, str]:
    version = changes.pop("version", "11.4.0.106")
    batch = changes.pop("batch", "1,8,8")
    precision = changes.pop("precision", "fp32")
    return plan_fields(
        flavour,
        version,
        model=EngineModel(onnx=b"", precision=precision),
        settings=settings_from_text(flavour.settings, changes, engine=flavour.name),
        profile=Profile(ranges={"batch": range_from_text(batch)}),
        gpu=gpu,
    )


def test_the_fields_of_a_plan_are_everything_it_depends_on() -> None:
    made = fields(workspace_mib="512", version_compatible="true")
    assert made | {"system": "-"} == {
        "engine": "trt",
        "version": "11.4.0.106",
        "device": "NVIDIA H100, compute capability 9.0",
        "system": "-",
        "precision": "fp32",
        "profile": "batch 1,8,8",
        "flags": "hardware_compatible=false, tf32=false, version_compatible=true",
        "workspace": "512 MiB",
    }
    rtx = fields(TENSORRT_RTX, gpu=None)
    assert (rtx["device"], rtx["system"], rtx["flags"]) == ("any", "any", "tf32=false")


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (fields(), fields()),
        (fields(batch="1,8,32"), fields(batch="1,4,16")),
        (fields(workspace_mib="512"), fields()),
        (fields(hardware_compatible="true"), fields(hardware_compatible="true")),
        (
            fields(version_compatible="true", version="11.2.0.1"),
            fields(version_compatible="true"),
        ),
        (fields(TENSORRT_RTX, gpu=None), fields(TENSORRT_RTX)),
        (fields(TENSORRT_RTX, gpu=None, compute_capabilities="86,90"), fields(TENSORRT_RTX)),
    ],
)
def test_a_plan_that_covers_what_is_wanted_fits(
    made: dict[str, str], wanted: dict[str, str]
) -> None:
    assert misfit(made, wanted, gpu=H100) is None


@pytest.mark.parametrize(
    ("made", "wanted", "reason"),
    [
        (fields(version="11.2.0.1"), fields(), "its version is 11.2.0.1, not 11.4.0.106"),
        (
            fields(version_compatible="true", version="11.5.0.1"),
            fields(version_compatible="true"),
            "its version is 11.5.0.1, not 11.4.0.106",
        ),
        (
            fields(version_compatible="true", version="10.9.0.1"),
            fields(version_compatible="true"),
            "its version is 10.9.0.1",
        ),
        # A version-compatible plan holds code, so that it must be asked for.
        (
            fields(version_compatible="true"),
            fields(),
            "its flags is .*version_compatible=true, not",
        ),
        (fields(gpu=T4), fields(), "its device is Tesla T4, .* 7.5, not NVIDIA H100"),
        (fields(precision="fp16"), fields(), "its precision is fp16, not fp32"),
        (fields(batch="1,8,8"), fields(batch="1,8,16"), "its profile is batch 1,8,8, not"),
        (fields(tf32="true"), fields(), "its flags is .*tf32=true"),
        (fields(TENSORRT_RTX), fields(), "its engine is trt-rtx, not trt"),
        (
            fields(TENSORRT_RTX, compute_capabilities="86"),
            fields(TENSORRT_RTX),
            "its device is compute capability 8.6, not any",
        ),
        (fields() | {"system": "Windows AMD64"}, fields(), "its system is Windows AMD64, not"),
        (fields() | {"profile": "nonsense"}, fields(), "its profile is nonsense"),
        ({}, fields(), "its engine is unset, not trt"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_with_the_reason(
    made: dict[str, str], wanted: dict[str, str], reason: str
) -> None:
    found = misfit(made, wanted, gpu=H100)
    assert found is not None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(found)


def test_a_hardware_compatible_plan_does_not_run_before_ampere() -> None:
    made = fields(hardware_compatible="true")
    assert misfit(made, made | {"device": "Tesla T4, compute capability 7.5"}, gpu=T4) is not None


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TensorRtSettings, {"workspace_mib": "0"}, "workspace_mib must be 1 or more, not 0"),
        (TensorRtSettings, {"device": "x"}, "a setting of engine 'trt' does not fit"),
        (
            TensorRtRtxSettings,
            {"version_compatible": "true"},
            "has no setting 'version_compatible'",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(kind: Any, values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings_from_text(kind, values, engine="trt")


def test_compute_capabilities_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"numbers such as 86,89 for 8.6 and 8.9, not 'ampere'"):
        fields(TENSORRT_RTX, compute_capabilities="86,ampere")


# Precision. The inspector's JSON is made after the examples of TensorRT's documentation (Engine Inspector), the
# words "Datatype: Float" and the layer type "correlation" after the build log of TensorRT-RTX 1.7.


def convolution(datatype: str) -> dict[str, Any]:
    return {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [1, 8, 8, 3], "Format/Datatype": datatype}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 8, 8, 3], "Format/Datatype": datatype}],
        "ParameterType": "Convolution",
        "TacticName": "sm80_xmma_fprop_implicit_gemm",
    }


REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0",
    "LayerType": "Reformat",
    "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32 format"}],
    "TacticName": "",
}
CORRELATION = {
    "Name": "node_Conv_888_myl0_2",
    "LayerType": "correlation",
    "Inputs": [{"Name": "x", "Datatype": "Float", "Format": "(NHWC) Channel major format"}],
    "Constants": [{"Name": "w", "Datatype": "Float", "Format": "(NHWC) Channel major format"}],
    "TacticName": "__myelin_CASK_STUB",
}


@pytest.mark.parametrize(
    ("layers", "shares"),
    [
        ([], {}),
        ([REFORMAT], {}),
        (["only names, without details"], {}),
        ([convolution("Row major linear FP32 format"), REFORMAT], {"fp32": 1.0}),
        ([convolution("Channel major FP16 format where channel % 8 == 0")], {"fp16": 1.0}),
        ([convolution("Half"), convolution("BFloat16")], {"fp16": 0.5, "bf16": 0.5}),
        (
            [convolution("Thirty-two wide channel vectorized row major Int8 format")],
            {"int8": 1.0},
        ),
        ([{**convolution("FP16"), "Weights": {"Type": "Int8", "Count": 9}}], {"int8": 1.0}),
        ([CORRELATION], {"fp32": 1.0}),
    ],
)
def test_precision_is_read_from_the_inspector(layers: Any, shares: Any) -> None:
    assert shares_from_inspector(json.dumps({"Layers": layers, "Bindings": []})) == shares


def test_the_precision_asked_for_must_be_there() -> None:
    assert realised_precision("fp16", {"fp32": 0.9, "fp16": 0.1}, source="g") == "fp16"
    assert realised_precision("fp16", {}, source="g") == "fp16"
    assert realised_precision("fp32", {"fp16": 0.9, "bf16": 0.1}, source="g") == "fp16"
    with pytest.raises(BundleError, match=r"g: asked for fp16, but none .* \(fp32 100%\)"):
        realised_precision("fp16", {"fp32": 1.0}, source="g")


def test_shares_are_put_into_words() -> None:
    assert words_from_shares({"fp16": 0.96, "fp32": 0.04}) == "fp16 96%, fp32 4%"
    assert words_from_shares({}) == "no compute layers"


# Progress


def test_nested_phases_make_one_share_that_never_falls() -> None:
    shares = PhaseShares()
    seen = [shares.start("build", parent=None, steps=4)]
    seen += [shares.start("inner", parent="build", steps=2), shares.step("inner", 0)]
    seen += [shares.finish("inner"), shares.step("build", 0), shares.step("build", 2)]
    seen += [shares.step("unheard of", 3), shares.finish("build")]
    assert seen == [0.0, 0.0, 0.125, 0.125, 0.25, 0.75, 0.75, 1.0]


# The GPU


@pytest.mark.parametrize(
    ("found", "number", "message"),
    [
        (
            Driver(cuda=None, gpus=(), fault="no NVIDIA driver is here"),
            0,
            "no NVIDIA driver is here",
        ),
        (
            Driver(cuda=(12, 4), gpus=(H100,), fault=None),
            0,
            "driver too old: it supports CUDA 12.4, TensorRT needs 13.0; update the driver",
        ),
        (Driver(cuda=(13, 0), gpus=(H100,), fault=None), 1, "there is no GPU 1, only 0 to 0"),
        (Driver(cuda=(13, 0), gpus=(H100,), fault=None), -1, "there is no GPU -1"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_refused(found: Driver, number: int, message: str) -> None:
    with pytest.raises(EngineUnavailableError, match=message):
        require_gpu(found, number, flavour=TENSORRT)


def test_a_gpu_that_can_be_used_is_returned() -> None:
    found = Driver(cuda=(13, 0), gpus=(H100,), fault=None)
    assert require_gpu(found, 0, flavour=TENSORRT) == H100


def test_a_message_of_the_log_loses_codes_and_positions() -> None:
    log = (
        "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network must have at least one "
        "output. In validate at /_src/optimizer/api/network.cpp:3810)"
    )
    assert sentence_from_log(log) == ("API Usage Error (Network must have at least one output.)")


def test_a_range_covers_what_lies_inside() -> None:
    wide, narrow = Range(least=1, usual=8, most=32), Range(least=2, usual=4, most=8)
    assert wide.covers(narrow)
    assert not narrow.covers(wide)


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[1, 2]", '{"Layers": 3}', '{"Layers": [{"Name": "a\x01']
)
def test_inspector_text_that_is_no_json_says_nothing_and_stops_nothing(text: str) -> None:
    assert shares_from_inspector(text) == {}
    assert realised_precision("fp16", {}, source="a") == "fp16"


def test_control_characters_in_the_inspectors_json_do_no_harm() -> None:
    layer = '{"LayerType": "Convolution", "Name": "a\nb", "Inputs": [{"Format/Datatype": "Half"}]}'
    assert shares_from_inspector(f'{{"Layers": [{layer}]}}') == {"fp16": 1.0}
