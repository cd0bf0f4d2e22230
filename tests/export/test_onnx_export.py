"""An exported graph has the promised tensors, is dynamic where it says so, and tells nothing else."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dlcv.export.bundle import parts_of_source
from dlcv.export.writing import OPSET
from dlcv.runtime.bundle.schema import Preprocessing
from dlcv.runtime.engines.base import EngineModel, EngineOptions
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.errors import InputError


def engine_from(graph):
    return OrtEngine(EngineModel(onnx=graph.model), EngineOptions(threads=1))


@pytest.fixture(scope="module")
def graphs(make_source):
    made = {}
    for name in ("vit", "segmenter"):
        source = make_source(name)
        made[name] = parts_of_source(source).graph()
    return made


def test_tensors_are_those_of_the_contract(graphs):
    assert [str(s) for s in engine_from(graphs["vit"]).outputs] == [
        "probabilities: float32 (batch, 5)",
        "embedding: float32 (batch, 32)",
        "explanation: float32 (batch, 4, 4)",
        "attention: float32 (batch, 2, 4, 4)",
    ]
    engine = engine_from(graphs["segmenter"])
    assert [str(s) for s in (*engine.inputs, *engine.outputs)] == [
        "image: uint8 (batch, height, width, 3)",
        "mask: uint8 (batch, height, width)",
        "confidence: float32 (batch, height, width)",
    ]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batch_is_dynamic(graphs, batch):
    outputs = engine_from(graphs["vit"]).infer({"image": np.zeros((batch, 32, 32, 3), np.uint8)})
    assert {len(array) for array in outputs.values()} == {batch}


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (17, 23)])
def test_height_and_width_of_a_segmenter_are_dynamic(graphs, size):
    image = np.zeros((2, *size, 3), np.uint8)
    outputs = engine_from(graphs["segmenter"]).infer({"image": image})
    assert outputs["mask"].shape == outputs["confidence"].shape == (2, *size)


def test_another_size_than_the_graphs_is_refused(graphs):
    with pytest.raises(InputError, match=r"\(batch, 32, 32, 3\); received uint8 \(1, 48, 48, 3\)"):
        engine_from(graphs["vit"]).infer({"image": np.zeros((1, 48, 48, 3), np.uint8)})


def test_the_file_holds_no_trace_of_this_machine(graphs):
    for graph in graphs.values():
        assert b"/home" not in graph.model
        assert b"/tmp" not in graph.model
        assert b".py" not in graph.model
        model = onnx.load_from_string(graph.model)
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_the_cast_comes_first(graphs):
    for graph in graphs.values():
        model = onnx.load_from_string(graph.model)
        readers = [node.op_type for node in model.graph.node if "image" in node.input]
        assert "Cast" in readers
        assert set(readers) <= {"Cast", "Shape"}


def test_only_the_default_domain_is_used(graphs):
    for graph in graphs.values():
        model = onnx.load_from_string(graph.model)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
        assert not model.functions


def test_exporting_twice_gives_the_same_bytes(make_source, graphs):
    source = make_source("vit")
    again = parts_of_source(source).graph()
    assert again.model == graphs["vit"].model


def test_sizes_in_multiples_only_are_still_height_and_width(make_source):
    class Halving(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 5, 4, stride=4), nn.Upsample(scale_factor=4)

        def forward(self, x):
            return self.up(self.down(x)) + x.mean(1, keepdim=True)

    torch.manual_seed(0)
    preprocessing = Preprocessing(resize="longest_side", size=(32, 48), multiple=4)
    source = make_source("segmenter", model=Halving().eval(), preprocessing=preprocessing)
    engine = engine_from(parts_of_source(source).graph())
    assert str(engine.inputs[0]) == "image: uint8 (batch, height, width, 3)"
    outputs = engine.infer({"image": np.zeros((1, 44, 20, 3), np.uint8)})
    assert outputs["mask"].shape == (1, 44, 20)
