"""Files that other people published: each becomes a bundle, and its graph still gives what they recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from dlcv.export.onnx_import import ImportOptions, Scaling, import_bundle
from dlcv.export.onnx_import.heads.activation import Activation
from dlcv.export.onnx_import.heads.segmenter import SegmenterHead
from dlcv.export.onnx_import.image_input import entry_of
from dlcv.export.onnx_import.intermediates import output_tap
from dlcv.export.onnx_import.normalise import core_from_model
from dlcv.export.onnx_import.read import model_from_file
from dlcv.export.onnx_import.session import Session
from dlcv.export.onnx_import.wrap import wrapped
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.engines import load_engine
from dlcv.runtime.engines.base import EngineModel, EngineOptions
from dlcv.runtime.engines.ort import OrtEngine

IMAGENET = Scaling(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CAFFE = Scaling(scale=1, mean=(104, 117, 123))
HALF = Scaling(mean=(0.5,), std=(0.5,))
CIFAR10 = Scaling(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
SINET = Scaling(mean=(0.4035, 0.4363, 0.4953), std=(62.93, 62.82, 66.36))
CROP: dict[str, Any] = {"resize": "center_crop", "crop_fraction": 0.875}

FILES: dict[str, dict[str, Any]] = {
    "mobilenetv2-12-int8": {"task": "classify", "scaling": IMAGENET, **CROP},
    "mbv2_cifar10_int8": {"task": "classify", "scaling": CIFAR10},
    "SqueezeNet_fp16": {"task": "classify", "scaling": CAFFE, "channels": "bgr", **CROP},
    "ImageClassifier": {"task": "classify", "scaling": HALF},
    "mnist": {"task": "classify", "scaling": Scaling(scale=1)},
    "selfie_segmentation": {"task": "segment"},
    "SINet_Softmax_simple": {"task": "segment", "scaling": SINET, "channels": "bgr"},
    "deeplabv3_mnv2_voc": {"task": "segment", "scaling": HALF},
    "light_squeezenet": {"task": "classify", "scaling": CAFFE, "channels": "bgr"},
    "light_shufflenet": {"task": "classify", "scaling": CAFFE, "channels": "bgr"},
    "light_inception_v1": {"task": "classify", "scaling": CAFFE, "channels": "bgr"},
    "light_resnet50": {"task": "classify", "scaling": CAFFE, "channels": "bgr"},
    "light_densenet121": {"task": "classify", "scaling": CAFFE, "channels": "bgr"},
    "light_vgg19": {"task": "classify", "scaling": CAFFE, "channels": "bgr"},
}
IMPORTED = (
    "mbv2_cifar10_int8",
    "SqueezeNet_fp16",
    "ImageClassifier",
    "mnist",
    "selfie_segmentation",
)
# other CPUs differ in the last quantisation step, and half precision in its last bits
TOLERANCES = {"mobilenetv2-12-int8": 0.5, "mbv2_cifar10_int8": 0.5, "SqueezeNet_fp16": 1e-3}


@pytest.fixture(scope="module")
def folder(data_root: Path) -> Path:
    found = data_root / "weights" / "onnx"
    if not found.is_dir():
        pytest.skip(f"no ONNX files at {found}")
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_core_gives_what_was_recorded_also_in_a_batch(folder, name):
    options = ImportOptions(**FILES[name])
    model = model_from_file(folder / f"{name}.onnx")
    entry, tap = entry_of(model, options), output_tap(model, None)
    core = core_from_model(model, entry, taps=(tap,), opset=None)
    height, width = entry.size
    shape = [int(n) for n in entry.shape(1, height=height, width=width)]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(entry.kind)
    image = np.random.RandomState(0).rand(*shape).astype(dtype)
    batch = np.concatenate([image, np.zeros_like(image)])
    (found,) = Session(core).run(entry.name, batch, outputs=[tap.name])
    expected = recorded(folder, name, tap.tensor)
    flat = found[0].reshape(-1)
    thinned = flat[:: max(1, flat.size // 20000)] if expected.size < flat.size else flat
    tolerance = TOLERANCES.get(name, 1e-4)
    np.testing.assert_allclose(thinned, expected.reshape(-1), atol=tolerance, rtol=1e-3)


def recorded(folder: Path, name: str, tensor: str) -> np.ndarray[Any, Any]:
    pb = folder / f"{name}_output_0.pb"
    if pb.exists():
        return onnx.numpy_helper.to_array(onnx.load_tensor(pb))
    with np.load(folder / f"{name}.out.npz") as arrays:
        array: np.ndarray[Any, Any] = arrays[tensor.replace("/", "|")]
        return array


@pytest.mark.parametrize("name", IMPORTED)
def test_a_file_becomes_a_bundle(folder, tmp_path, name):
    made = import_bundle(folder / f"{name}.onnx", tmp_path / "b", ImportOptions(**FILES[name]))
    with load_engine(open_bundle(made.path), "ort") as engine:
        assert engine.inputs[0].shape[0] == "batch"


def test_the_threshold_of_a_mask_of_one_channel_moves_its_border(folder, data_root, tmp_path):
    with Image.open(data_root / "segmentation" / "voc_examples" / "bird_segmentation.png") as file:
        image = np.array(file.convert("RGB").resize((256, 256)))[None]
    outputs = []
    for threshold in (0.5, 0.2):
        options = ImportOptions(task="segment", threshold=threshold)
        made = import_bundle(
            folder / "selfie_segmentation.onnx", tmp_path / f"{threshold}", options
        )
        assert (made.manifest.activation, made.manifest.threshold) == ("sigmoid", threshold)
        with load_engine(made, "ort") as engine:
            outputs.append(engine.infer({"image": image}))
    half, fifth = outputs
    sure = np.where(half["mask"] == 1, half["confidence"], 1 - half["confidence"])
    np.testing.assert_array_equal(fifth["mask"] == 1, sure >= np.float32(0.2))
    assert fifth["mask"].sum() > half["mask"].sum() > 0


def test_deeplab_finds_the_bird(folder, data_root):
    options = ImportOptions(**FILES["deeplabv3_mnv2_voc"])
    model = model_from_file(folder / "deeplabv3_mnv2_voc.onnx")
    entry, tap = entry_of(model, options), output_tap(model, None)
    core = core_from_model(model, entry, taps=(tap,), opset=None)
    head = SegmenterHead(
        shape=(21, 513, 513),
        layout="nchw",
        activation=Activation(name="softmax", is_added=True),
        threshold=None,
    )
    graph = wrapped(core, entry=entry, taps=(tap,), head=head)
    examples = data_root / "segmentation" / "voc_examples"
    with Image.open(examples / "bird_segmentation_mask.png") as file:
        truth = np.array(file) == 3
    with Image.open(examples / "bird_segmentation.png") as file:
        image = np.array(file.convert("RGB"))[None]
    with OrtEngine(EngineModel(onnx=graph.model), EngineOptions()) as engine:
        bird = engine.infer({"image": image})["mask"][0] == 3
    assert (truth & bird).sum() / (truth | bird).sum() == pytest.approx(0.90, abs=0.01)
