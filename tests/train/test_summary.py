import pytest
from typer.testing import CliRunner

from dlcv.cli.train.app import app
from dlcv.runtime.errors import RecipeError
from dlcv.train.models import build_model
from dlcv.train.summary import layer_rows


def test_every_layer_has_its_output_and_its_parameters():
    rows = layer_rows(build_model("small_cnn", num_classes=10).network, (32, 32))
    with_weights = {
        row.name.removeprefix("layers."): (row.output, row.parameters)
        for row in rows
        if row.parameters
    }
    assert with_weights == {
        "conv1": ("(1, 32, 32, 32)", 2_432),
        "conv2": ("(1, 64, 16, 16)", 51_264),
        "conv3": ("(1, 128, 8, 8)", 204_928),
        "linear1": ("(1, 64)", 131_136),
        "linear2": ("(1, 10)", 650),
    }


@pytest.mark.parametrize("name", ["fcn_mobilenet_v2", "vit_conv_stem"])
def test_parameters_are_counted_once(name):
    network = build_model(name, num_classes=7).network
    rows = layer_rows(network, (32, 32))
    own = {"pos_embed", "cls_token"}  # belong to no layer
    inside = sum(p.numel() for n, p in network.named_parameters() if n not in own)
    assert sum(row.parameters for row in rows) == inside


def test_a_size_that_the_network_does_not_take_is_one_sentence():
    with pytest.raises(RecipeError, match=r"does not take images of 33x7 .* give another --size"):
        layer_rows(build_model("small_cnn", num_classes=10).network, (33, 7))


def test_the_command_takes_models_and_recipes():
    for arguments in (["small_cnn", "--size", "32x32", "--classes", "10"], ["cifar10-basic-cnn"]):
        ran = CliRunner().invoke(app, ["summary", *arguments])
        assert ran.exit_code == 0, ran.output
        assert ran.output.endswith("390,410 parameters; input (1, 3, 32, 32)\n")
