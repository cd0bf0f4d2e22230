"""Networks of the user's own Python file, and checkpoints that keep it."""

import re

import msgspec
import pytest
import torch

from dlcv.runtime.errors import OutputError, RecipeError
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.fit import fit
from dlcv.train.models import build_model
from dlcv.train.models.python_file import source_files
from dlcv.train.recipe import load_recipe, yaml_from_recipe
from dlcv.train.tasks import task_kind

NET = """
from torch import nn
from blocks import block

def build(num_classes, width=4):
    return nn.Sequential(block(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

class Small(nn.Module):
    def __init__(self, classes, form="alone"):
        super().__init__()
        self.form, self.block, self.last = form, block(4), nn.Conv2d(4, classes, 1)
    def forward(self, x):
        y = self.last(self.block(x))
        return {"alone": y, "logits": {"logits": y}, "tuple": (y, x), "none": None}[self.form]

def fixed():
    return build(7)

def of_ten(num_classes):
    return build(10)
"""
BLOCKS = """
from torch import nn
import layers.conv

def block(width):
    return nn.Sequential(layers.conv.conv(width), nn.BatchNorm2d(width), nn.ReLU())
"""
CONV = """
from torch import nn
def conv(width):
    return nn.Conv2d(3, width, 3, stride=2, padding=1)
"""


@pytest.fixture
def net(tmp_path):
    """Return a Python file that imports its neighbours."""
    folder = tmp_path / "mine"
    (folder / "layers").mkdir(parents=True)
    (folder / "net.py").write_text(NET)
    (folder / "blocks.py").write_text(BLOCKS)
    (folder / "layers/__init__.py").write_text("")
    (folder / "layers/conv.py").write_text(CONV)
    (folder / "unused.py").write_text("")
    return folder / "net.py"


def run(recipe, root, out, **options):
    with torch.random.fork_rng():
        return fit(recipe, root, out=out, **options)


def test_a_checkpoint_keeps_the_file_and_what_it_imports(net, new_recipe, toy_data, tmp_path):
    model = {"name": f"py:{net}:build", "options": {"width": 6}}
    run(new_recipe(model=model, epochs=1), toy_data, tmp_path / "run")
    before = load_checkpoint(tmp_path / "run")
    for file in source_files(net):
        (net.parent / file).write_text("raise RuntimeError('the copy is used')")
    (tmp_path / "run").rename(tmp_path / "moved")
    checkpoint = load_checkpoint(tmp_path / "moved")
    assert checkpoint.recipe.model.name == "py:net.py:build"  # no path of this machine
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(checkpoint.model(pixels), before.model(pixels))
    assert not (tmp_path / "moved/unused.py").exists()
    (tmp_path / "moved/net.py").unlink()
    with pytest.raises(RecipeError, match=r"moved has no net\.py, by which its network is built"):
        load_checkpoint(tmp_path / "moved")


def test_a_recipe_finds_a_file_beside_it(net, new_recipe, tmp_path):
    text = yaml_from_recipe(new_recipe(model={"name": "py:net.py:build"}))
    (net.parent / "mine.yaml").write_text(text)
    recipe = load_recipe(net.parent / "mine.yaml")
    assert task_kind("classify").network(recipe).head == ("3.",)
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"no Python file net\.py"):
        task_kind("classify").network(load_recipe(tmp_path / "other.yaml"))


@pytest.mark.parametrize("form", ["alone", "logits", "tuple"])
def test_a_segmenters_smaller_logits_are_up_sampled_in_each_form(form, net, new_recipe):
    model = {"name": f"py:{net}:Small", "options": {"form": form}}
    spec = task_kind("segment").network(new_recipe("segment", model=model))
    assert all(module.training for module in spec.network.modules())
    assert spec.network.eval()(torch.zeros(2, 3, 40, 48)).shape == (2, 3, 40, 48)


def test_a_run_is_resumed_with_the_file_that_it_began_with(net, new_recipe, toy_data, tmp_path):
    recipe = new_recipe(model={"name": f"py:{net}:build"}, epochs=1)
    run(recipe, toy_data, tmp_path / "run")
    own = load_recipe(tmp_path / "run/recipe.yaml")
    assert run(own, toy_data, tmp_path / "run", resume=True)["epoch"] == 1
    net.write_text(NET + "\n")
    with pytest.raises(RecipeError, match=r"net\.py is another file than when the run in .* began"):
        run(recipe, toy_data, tmp_path / "run", resume=True)
    with pytest.raises(OutputError, match="already holds a run"):
        run(recipe, toy_data, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("build", {"depth": 3}, r"cannot be called \(.*'depth'\); give arguments with --set NAME="),
        ("gone", {}, r"has no function or class 'gone'; there are Small, block, build"),
        ("Small", {"form": "none"}, "the network returns no tensor of answers; return logits, or"),
        (
            "Small",
            {},
            r"for task classify a network gives \(batch, classes\).* gives \(2, 3, 16, 1",
        ),
        ("fixed", {}, r"and 3 classes \(2, 3\); py:.*fixed gives \(2, 7\); take another network"),
        ("of_ten", {}, r"gives \(2, 10\); take another network, or mend its number of classes"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    name, options, message, net, new_recipe, toy_data, tmp_path
):
    model = {"name": f"py:{net}:{name}", "options": options}
    with pytest.raises(RecipeError, match=message) as raised:
        run(new_recipe(model=model), toy_data, tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_a_text_without_function_is_refused():
    with pytest.raises(RecipeError, match=r"py: takes FILE\.py:FUNCTION, such as py:unet\.py:UNet"):
        build_model("py:net.py", num_classes=2)


def test_two_checkpoints_with_files_of_the_same_name_do_not_mix(net, new_recipe, tmp_path):
    pixels = torch.zeros(1, 3, 32, 32)
    recipe = new_recipe(model={"name": f"py:{net}:Small"})
    first = build_model(recipe.model.name, {}, num_classes=3).network
    other = tmp_path / "other"
    other.mkdir()
    (other / "net.py").write_text(NET)
    (other / "blocks.py").write_text(
        "from torch import nn\ndef block(width): return nn.Conv2d(3, width, 5)"
    )
    model = msgspec.structs.replace(recipe.model, name=f"py:{other / 'net.py'}:Small")
    second = build_model(model.name, {}, num_classes=3).network
    assert first(pixels).shape != second(pixels).shape
    assert re.search("Conv2d.*kernel_size=\\(5, 5\\)", str(second))
