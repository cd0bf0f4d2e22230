"""Every name of TensorRT that dlcv uses exists: in TensorRT 11.4's published bindings, and in TensorRT-RTX here.

The code tells classes by the names of its variables, as VARIABLES says; this reads the code, and holds each
attribute of such a variable against the class.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dlcv.runtime.engines.tensorrt as package

NAMES = set((Path(__file__).parent / "tensorrt-11.4-names.txt").read_text().split())
VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "fault": "ParserError",
    "layer": "ILayer",
    "layer.type": "LayerType",
    "tensor": "ITensor",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timings": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
    "runtime_config": "IRuntimeConfig",
    "compiled": "IRuntimeCache",
}
FILES = (
    "api.py",
    "build.py",
    "execution_contexts.py",
    "engine.py",
    "inspector.py",
    "progress.py",
    "runner.py",
)
ONLY_RTX = {"ComputeCapability", "CudaGraphStrategy", "IRuntimeCache", "IRuntimeConfig"}
ONLY_RTX_NAMES = {
    "ICudaEngine.create_runtime_config",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}


def names_used(code: str) -> Iterator[str]:
    """Yield "Class" and "Class.attribute" for what the code uses of TensorRT."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value).removeprefix("self._")
        if owner == "trt":
            yield node.attr
        elif owner.startswith("trt."):
            yield f"{owner.removeprefix('trt.')}.{node.attr}"
        elif owner in VARIABLES:
            yield f"{VARIABLES[owner]}.{node.attr}"


def unknown(used: set[str]) -> list[str]:
    """Return the names that TensorRT 11.4 has not."""
    mine = {name for name in used if not name.endswith("__")}  # __version__, __init__
    rtx = {u for u in mine if u.partition(".")[0] in ONLY_RTX or u in ONLY_RTX_NAMES}
    return sorted(mine - rtx - NAMES)


@pytest.fixture(scope="module")
def used() -> set[str]:
    folder = Path(package.__file__).parent
    return {name for file in FILES for name in names_used((folder / file).read_text())}


def test_the_code_is_read(used: set[str]) -> None:
    assert len(used) > 60
    assert {
        "Builder.build_serialized_network",
        "BuilderFlag.TF32",
        "IExecutionContext.execute_async_v3",
        "ICudaEngine.get_tensor_profile_shape",
        "ParserError.node_operator",
        "ITimingCache.serialize",
        "IRuntimeCache.serialize",
    } <= used


def test_every_name_exists_in_tensorrt_11_4(used: set[str]) -> None:
    assert unknown(used) == []


def test_every_name_exists_in_tensorrt_rtx(used: set[str]) -> None:
    trt = pytest.importorskip("tensorrt_rtx")

    def exists(name: str) -> bool:
        thing: Any = trt
        for part in name.split("."):
            thing = getattr(thing, part, None)
        return thing is not None

    assert [name for name in sorted(used) if not exists(name)] == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("network.get_lyer(0)", "INetworkDefinition.get_lyer"),
        ("self._context.execute_async_v2(1)", "IExecutionContext.execute_async_v2"),
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16"),
        ("trt.IInt8Calibrator()", "IInt8Calibrator"),
        ("builder.platform_has_fast_fp16", "Builder.platform_has_fast_fp16"),
    ],
)
def test_a_wrong_name_is_found(code: str, wrong: str) -> None:
    assert unknown(set(names_used(code))) == [wrong]
