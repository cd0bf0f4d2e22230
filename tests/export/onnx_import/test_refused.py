"""What cannot become a bundle is refused in one sentence that says what to do; nothing is written."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dlcv.export.onnx_import import ImportOptions, Scaling
from dlcv.export.writing import BundleOptions
from dlcv.runtime.errors import InputError, OutputError

make = helper.make_node
FLAT = make("Flatten", ["input:0"], ["out/scores"])
MAPS = make("Relu", ["input:0"], ["out/scores"])
CAFFE = Scaling(scale=1, mean=(104, 117, 123))

CAPTION: Any = "caption"
CONSTANTS: dict[str, Any] = {
    "first": np.array(0),
    "axis": np.array([1]),
    "many": np.zeros((65_537, 3, 1, 1), np.float32),
}

# name: how to write the file, options, what the sentence says
GRAPHS: dict[str, Any] = {
    "channels nowhere": ([FLAT], {"shape": ("N", 4, 8, 8)}, {}, "has neither 1 nor 3 channels"),
    "channels everywhere": ([FLAT], {"shape": ("N", 3, 8, 3)}, {}, "give --layout nchw or nhwc"),
    "wrong layout": ([FLAT], {}, {"layout": "nhwc"}, "neither 1 nor 3 channels by --layout nhwc"),
    "wrong channels": (
        [FLAT],
        {},
        {"channels": "grey"},
        "3 channels, which is not --channels grey",
    ),
    "mean of three": (
        [FLAT],
        {"shape": ("N", 1, 8, 8)},
        {"scaling": CAFFE},
        "give --mean and --std one number each",
    ),
    "vectors": ([FLAT], {"shape": ("N", 3)}, {}, "has 2 dimensions; a batch of images has 4"),
    "batch of 8": ([FLAT], {"shape": (8, 3, 8, 8)}, {}, "takes batches of 8 only"),
    "any size": ([FLAT], {"shape": ("N", 3, "H", "W")}, {}, "give --size HxW"),
    "half of a size": (
        [FLAT],
        {"shape": ("N", 3, 8, "W")},
        {"size": (9, 9)},
        "takes 8xany; --size differs",
    ),
    "another size": ([FLAT], {}, {"size": (9, 9)}, "takes 8x8 pixels only; leave --size out"),
    "longest side": (
        [FLAT],
        {},
        {"resize": "longest_side"},
        "give --resize letterbox, which keeps proportions too, or stretch",
    ),
    "crop": ([FLAT], {}, {"crop_fraction": 0.9}, "crop_fraction needs resize 'center_crop'"),
    "doubles": (
        [make("Cast", ["input:0"], ["out/scores"], to=TensorProto.FLOAT)],
        {"kind": TensorProto.DOUBLE, "gives": TensorProto.FLOAT},
        {},
        "is double; an image is float32, float16 or uint8",
    ),
    "scaled bytes": (
        [make("Cast", ["input:0"], ["out/scores"], to=TensorProto.FLOAT)],
        {"kind": TensorProto.UINT8, "gives": TensorProto.FLOAT},
        {},
        "give --scale 1 and neither --mean nor --std",
    ),
    "maps are no classes": (
        [MAPS],
        {},
        {"embedding": "out/scores"},
        "--task classify needs one score a class",
    ),
    "scores are no maps": ([FLAT], {}, {"task": "segment"}, "segmentation needs scores of classes"),
    "softmax of one channel": (
        [make("ReduceMean", ["input:0", "axis"], ["out/scores"], keepdims=1)],
        {},
        {"task": "segment", "activation": "softmax"},
        "leave out --activation softmax",
    ),
    "sigmoid of three channels": (
        [MAPS],
        {},
        {"task": "segment", "activation": "sigmoid"},
        "has 3 channels, one a class, and a pixel has one class; --activation sigmoid and",
    ),
    "threshold of three channels": (
        [MAPS],
        {},
        {"task": "segment", "threshold": 0.5},
        "are for one channel, leave them out",
    ),
    "more classes than 16 bits": (
        [make("Conv", ["input:0", "many"], ["out/scores"])],
        {"shape": ("N", 3, 2, 2)},
        {"task": "segment"},
        "a mask has at most 65,536 classes, the output has 65,537; name another tensor",
    ),
    "unknown output": (
        [FLAT],
        {},
        {"output": "logits"},
        "no tensor 'logits'; its last ones are out",
    ),
    "unknown embedding": (
        [FLAT],
        {},
        {"embedding": "features"},
        "--embedding: the graph computes no tensor 'features'",
    ),
    "two outputs": (
        [FLAT, make("Neg", ["out/scores"], ["other"])],
        {"outputs": ("out/scores", "other")},
        {},
        "has 2 outputs; name one by --output: out/scores, other",
    ),
    "decisions": (
        [make("ArgMax", ["input:0"], ["out/scores"], axis=1)],
        {"gives": TensorProto.INT64},
        {"task": "segment"},
        "is int64, not floats: scores are needed",
    ),
    "sums of softmax": (
        [make("GlobalAveragePool", ["input:0"], ["out/scores"])],
        {},
        {"logits": "no", "embedding": "out/scores", "scaling": Scaling(scale=1)},
        "(0..1, with a sum of 1 over the classes); give --logits yes or auto",
    ),
    "other operators": (
        [make("FusedConv", ["input:0"], ["out/scores"], domain="com.microsoft")],
        {"domain": "com.microsoft"},
        {},
        "has the operator FusedConv of com.microsoft, which other engines do not",
    ),
    "opset": (
        [FLAT],
        {"opset": 21},
        {"task": "embed", "opset": 20},
        "the file has opset 21; give --opset 21 or more",
    ),
    "batch that cannot be freed": (
        [
            make("Gather", ["input:0", "first"], ["image"], axis=0),
            make("Flatten", ["image"], ["out/scores"], axis=0),
        ],
        {"shape": (1, 3, 8, 8)},
        {"task": "embed"},
        "without a batch axis; export the graph again with a dynamic batch",
    ),
    "batch in arithmetic": (
        [make("Flatten", ["input:0"], ["flat"]), make("MatMul", ["flat", "flat"], ["out/scores"])],
        {"shape": (1, 1, 1, 1)},
        {"task": "embed", "layout": "nchw"},
        "does not work on several images at once",
    ),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_or_option_that_does_not_fit_is_refused(files, importing, tmp_path, case):
    nodes, written, options, message = GRAPHS[case]
    used = {name for node in nodes for name in node.input}
    values = [onnx.numpy_helper.from_array(CONSTANTS[n], n) for n in CONSTANTS if n in used]
    path = files.write(nodes, values=values, **written)
    with pytest.raises(InputError) as refused:
        importing(path, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it holds no graph"),
        (b"\x89PNG\r\n\x1a\n", "is not an ONNX file: "),
        (b"just words, and then some more of them", "is not an ONNX file: "),
    ],
)
def test_a_file_that_is_no_onnx_file_is_refused(importing, tmp_path, data, message):
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        importing(path)
    assert message in str(refused.value)


def test_a_missing_file_and_a_damaged_graph_are_refused(files, importing, tmp_path):
    with pytest.raises(InputError, match="no ONNX file at "):
        importing(tmp_path / "nothing.onnx")
    with pytest.raises(InputError, match="is not a valid ONNX graph: "):
        importing(files.write([make("Relu", ["nobody"], ["out/scores"])]))


def test_weights_in_other_files_are_refused(files, importing, tmp_path):
    path = files.means()
    model = onnx.load(path)
    where: dict[str, Any] = {
        "save_as_external_data": True,
        "location": "weights.bin",
        "size_threshold": 0,
    }
    onnx.save(model, tmp_path / "outside.onnx", **where)
    with pytest.raises(InputError, match=r"keeps weights in other files .* onnx\.save\(onnx\.load"):
        importing(tmp_path / "outside.onnx")


def test_several_inputs_are_refused(files, importing):
    path = files.means()
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("size", TensorProto.INT64, [2]))
    onnx.save(model, path)
    with pytest.raises(InputError, match="has one input, the image; this one has input:0, size"):
        importing(path)


def test_names_with_control_characters_are_refused(files, importing, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\nd\x1b[31mog\nbird\n")
    with pytest.raises(
        InputError, match=r"no line breaks and control characters.*; write it without"
    ):
        importing(files.means(), classes=names)


def test_names_that_are_too_few_are_refused(files, importing, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"has 3 classes, .*names\.txt names 2"):
        importing(files.means(), classes=names)
    table = tmp_path / "names.csv"
    table.write_text("index,label\n0,cat\n")
    with pytest.raises(InputError, match="has no column 'name' in its first line"):
        importing(files.means(), classes=table)


def test_what_is_there_is_not_replaced(files, importing):
    importing(files.means())
    with pytest.raises(OutputError, match="exists; choose another name or give --overwrite"):
        importing(files.means())
    importing(files.means(), writing=BundleOptions(overwrite=True))


@pytest.mark.parametrize(
    ("make_options", "message"),
    [
        (lambda: Scaling(mean=(1, 2)), "--mean takes one number or three, not 2"),
        (lambda: Scaling(std=(0.0,)), "--std must be above 0, not 0"),
        (lambda: Scaling(scale=0), "--scale must be above 0, such as 1/255 or 1, not 0"),
        (lambda: Scaling(mean=(104, 117, 123)), "is in units of 0..255, .*; give --scale 1"),
        (lambda: ImportOptions(task="classify", opset=17), "--opset must be 18 or more, not 17"),
        (
            lambda: ImportOptions(task="segment", embedding="x"),
            "--embedding is for --task classify, not segment; leave it out",
        ),
        (
            lambda: ImportOptions(task="embed", activation="sigmoid"),
            "--activation is for --task classify and segment, not embed; leave it out",
        ),
        (
            lambda: ImportOptions(task="embed", logits="yes"),
            "--logits is for --task classify and segment, not embed; leave it out",
        ),
        (
            lambda: ImportOptions(task="segment", resize="center_crop"),
            "--task segment answers for the whole image, .*; give stretch, letterbox or longest_side",
        ),
        (
            lambda: ImportOptions(task="classify", pad=(0,)),
            "--pad and --pad-at are for --resize letterbox, not stretch",
        ),
        (
            lambda: ImportOptions(task="classify", resize="letterbox", pad=(0, 256, 1.5)),
            "--pad takes a colour in 0..255, such as 114 or 0,0,0, not 0,256,1.5",
        ),
        (
            lambda: ImportOptions(task=CAPTION),
            "an ONNX file is imported for task classify, segment, embed, not 'caption'",
        ),
    ],
)
def test_options_that_contradict_themselves_are_refused(make_options, message):
    with pytest.raises(InputError, match=message):
        make_options()
