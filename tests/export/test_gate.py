"""The gate catches each way in which a graph can be wrong, and lists all of them."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from dlcv.export.bundle import export_bundle, parts_of_source
from dlcv.export.gate import gate_batches, golden_batches, images_from, runs_from
from dlcv.export.reference import Reference
from dlcv.export.writing import prove
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.errors import InputError, ParityError
from dlcv.runtime.images.samples import sample_paths

FIXED = Preprocessing(resize="stretch", size=(32, 32))
DYNAMIC = Preprocessing(resize="longest_side", size=(64, 48), multiple=16)


@pytest.fixture(scope="module")
def parts(make_source):
    """Source, wrapper, graph and runs of networks, made once."""
    made = {}

    def make(name, **options):
        key = (name, *options.items())
        if key not in made:
            source = make_source(name, **options)
            ready = parts_of_source(source)
            made[key] = (source, ready.wrapper, ready.graph())
        return made[key]

    return make


def runs_of(source, wrapper):
    dynamic = source.task == "segment"
    batches = gate_batches(sample_paths()[:3], source.preprocessing, dynamic=dynamic)
    return runs_from(Reference(source, wrapper), batches)


def changed(graph, change):
    model = onnx.load_from_string(graph.model)
    change(model.graph)
    return replace(graph, model=model.SerializeToString())


def nudge_largest_weight(graph):
    tensor = max(graph.initializer, key=lambda t: np.prod(t.dims))
    array = numpy_helper.to_array(tensor).copy()
    array += np.float32(0.01) * np.sign(array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


@pytest.mark.parametrize("name", ["vit", "cnn", "cifar_resnet", "segmenter"])
def test_a_right_graph_passes(parts, name):
    source, wrapper, graph = parts(name)
    words = Reference(source, wrapper).words
    report = prove(graph, runs_of(source, wrapper), reference=words, images="samples")
    assert set(report.outputs) == {spec.name for spec in graph.outputs}
    assert {shape[0] for shape in report.input_shapes} == {1, 2}
    sizes = {shape[1:3] for shape in report.input_shapes}
    assert sizes == ({(32, 48), (48, 32)} if name == "segmenter" else {(32, 32)})
    assert report.reference == f"PyTorch {torch.__version__.partition('+')[0]} fp32 cpu"
    assert report.engine.startswith("ort ")


@pytest.mark.parametrize("name", ["vit", "cnn", "segmenter"])
def test_a_changed_weight_is_caught(parts, name):
    source, wrapper, graph = parts(name)
    wrong = changed(graph, nudge_largest_weight)
    with pytest.raises(ParityError, match=r"'\w+' has a largest difference of .*, allowed is"):
        prove(wrong, runs_of(source, wrapper), reference="PyTorch", images="samples")


@pytest.mark.parametrize(
    ("name", "output"), [("cnn", "probabilities"), ("segmenter", "confidence")]
)
def test_wrong_normalisation_is_caught(parts, name, output):
    source, wrapper, graph = parts(name)
    trained_otherwise = replace(source, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with pytest.raises(ParityError, match=f"'{output}' has a largest difference"):
        prove(graph, runs_of(trained_otherwise, wrapper), reference="PyTorch", images="samples")


def swap_first_two_outputs(graph):
    """Exchange which tensors the graph gives under its first two names."""
    a, b = (value.name for value in graph.output[:2])
    names = {a: b, b: a}
    for node in graph.node:
        node.output[:] = [names.get(n, n) for n in node.output]
        node.input[:] = [names.get(n, n) for n in node.input]


def test_swapped_outputs_of_equal_shape_are_caught(parts, build):
    source, wrapper, graph = parts("cnn", model=build("cnn", channels=5))
    assert [s.shape for s in graph.outputs[:2]] == [("batch", 5), ("batch", 5)]
    wrong = changed(graph, swap_first_two_outputs)
    with pytest.raises(ParityError) as caught:
        prove(wrong, runs_of(source, wrapper), reference="PyTorch", images="samples")
    assert caught.match("'probabilities' has a largest difference")
    assert caught.match("'embedding' has a least cosine similarity")


def test_all_failures_are_listed_and_then_counted(parts):
    source, wrapper, graph = parts("vit")
    with pytest.raises(ParityError) as caught:
        prove(
            changed(graph, nudge_largest_weight),
            runs_of(source, wrapper),
            reference="PyTorch",
            images="samples",
        )
    lines = str(caught.value).splitlines()
    assert "nothing was written" in lines[0]
    assert any("batch 1x32x32x3" in line for line in lines)
    assert any("batch 2x32x32x3" in line for line in lines)


class OtherWhenExported(nn.Module):
    """A network that does something else while it is exported, as a wrong export would."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x):
        logits = self.conv(x)
        return {"out": logits.flip(1) if torch.compiler.is_exporting() else logits}


def test_nothing_is_left_on_disk_after_a_failure(make_source, tmp_path):
    torch.manual_seed(0)
    source = make_source("segmenter", model=OtherWhenExported().eval())
    with pytest.raises(ParityError, match="'mask' has a least agreement"):
        export_bundle(source, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_images_come_from_files_and_folders(tmp_path):
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (folder / name).touch()
    (tmp_path / "c.jpg").touch()
    found = images_from([tmp_path / "photos", tmp_path / "c.jpg"])
    assert [path.name for path in found] == ["a.PNG", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_are_refused(tmp_path, count):
    for i in range(count):
        (tmp_path / f"{i}.jpg").touch()
    with pytest.raises(InputError, match=f"needs two images or more, received {count}"):
        images_from([tmp_path])


def test_an_image_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no image or folder .*nowhere"):
        images_from([tmp_path / "nowhere"])


def test_batches_have_two_lengths_and_where_dynamic_two_sizes():
    photos = sample_paths()[:5]
    fixed = [b.image.shape for b in gate_batches(photos, FIXED, dynamic=False)]
    assert fixed == [(1, 32, 32, 3), (4, 32, 32, 3)]
    two = [b.image.shape[0] for b in gate_batches(photos[:2], FIXED, dynamic=False)]
    assert two == [1, 2]
    dynamic = [b.image.shape[:3] for b in gate_batches(photos, DYNAMIC, dynamic=True)]
    assert dynamic == [(1, 64, 48), (4, 64, 48), (1, 48, 64), (2, 48, 64)]
    square = Preprocessing(resize="longest_side", size=(64, 64), multiple=16)
    assert {b.image.shape[1:3] for b in gate_batches(photos, square, dynamic=True)} == {
        (64, 64),
        (64, 48),
    }


def test_golden_cases_are_of_one_and_two_images():
    batches = golden_batches(sample_paths(), FIXED, dynamic=False)
    assert [b.image.shape for b in batches] == [(1, 32, 32, 3), (2, 32, 32, 3)]
    batches = golden_batches(sample_paths(), DYNAMIC, dynamic=True)
    assert [b.image.shape for b in batches] == [(1, 192, 256, 3), (2, 256, 192, 3)]
