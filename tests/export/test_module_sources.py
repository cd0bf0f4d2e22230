"""Networks of the user's own: from a Python file or in memory to a bundle that answers."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dlcv
from dlcv.export import export_model, sources
from dlcv.export.bundle import export_bundle
from dlcv.export.sources import ExportSource, ImageOptions, SourceOptions, load_source
from dlcv.export.sources.module import ModuleFacts, source_from_module
from dlcv.export.writing import BundleOptions
from dlcv.runtime import Classification, Embedding, Segmentation
from dlcv.runtime.errors import InputError

UNET = '''
import torch
from torch import nn
from blocks import block

class UNet(nn.Module):
    """Down, up, and a skip."""

    def __init__(self, classes, width=4):
        super().__init__()
        self.down, self.inner, self.up = block(3, width), block(width, 2 * width), block(3 * width, width)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, classes, 1)

    def forward(self, x):
        skip = self.down(x)
        inner = nn.functional.interpolate(self.inner(self.pool(skip)), scale_factor=2.0)
        return self.head(self.up(torch.cat([skip, inner], 1)))

def broken():
    raise RuntimeError("no weights\\nhere")

def number():
    return 3

answer = 42
'''
BLOCKS = """
from torch import nn

def block(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
"""


@pytest.fixture
def unet(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "unet.py").write_text(UNET)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    (tmp_path / "names.txt").write_text("sky\nroad\ntree\n")
    yield tmp_path / "unet.py"
    sys.modules.pop("blocks", None)


def options(**changes: Any) -> SourceOptions:
    return SourceOptions(
        **{"task": "segment", "size": (64, 64), "settings": {"classes": "3"}} | changes
    )


def test_a_network_of_a_python_file_becomes_a_bundle_that_gives_its_masks(
    unet: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = load_source(f"py:{unet}:UNet", options(random=True)).model
    state = {f"module.{k}": v for k, v in made.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "w.pth")
    said: list[str] = []
    chosen = options(
        weights=tmp_path / "w.pth",
        classes=tmp_path / "names.txt",
        images=ImageOptions(mean=(0.5, 0.5, 0.5), std=(0.25,)),
        on_note=said.append,
    )
    source = load_source(f"py:{unet}:UNet", chosen)
    assert said == ["took 'state_dict' of w.pth; stripped 'module.'"]
    assert source.remake[0].endswith(
        "--weights w.pth --classes names.txt --task segment --mean 0.5,0.5,0.5 --std 0.25"
        " --set classes=3 --size 64x64"
    )
    bundle = export_bundle(source, tmp_path / "bundle")
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with dlcv.load(bundle) as model:
        (result,) = model(photo)
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        mask = made.eval()((pixels - 0.5) / 0.25).argmax(1)[0].numpy()
    assert isinstance(result, Segmentation)
    assert [info.name for info in result.classes] == ["sky", "road", "tree"]
    assert (result.mask == mask).mean() > 0.999


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        ("py:{}", {}, r"py: takes FILE\.py:FUNCTION, such as py:unet\.py:UNet, not "),
        ("py:{}:UNet", {"random": False}, r"needs --weights FILE .* or --random"),
        ("py:gone.py:UNet", {}, r"no Python file gone\.py"),
        ("py:{}:Net", {}, r"has no function or class 'Net'; there are UNet, block, broken, number"),
        ("py:{}:answer", {}, r"has no function or class 'answer'"),
        (
            "py:{}:UNet",
            {"settings": {}},
            r"cannot be called \(.*'classes'\); give arguments with --set",
        ),
        ("py:{}:broken", {"settings": {}}, r"broken in .* fails: no weights here$"),
        ("py:{}:number", {"settings": {}}, r"number in .* returns int, not an nn\.Module"),
        (
            "py:{}:UNet",
            {"size": (63, 64)},
            r"fails on float32 \(2, 3, 63, 64\) .*; give another --size",
        ),
        ("py:{}:UNet", {"task": "caption"}, r"for task classify, segment, embed, not 'caption'"),
        (
            "py:{}:UNet",
            {"task": "classify"},
            r"must give \(batch, classes\); .* it gave \(2, 3, 64, 64\)",
        ),
        (
            "py:{}:UNet",
            {"images": ImageOptions(mean=(0.5, 0.5))},
            r"mean takes one number, or 3, one for each channel, not 2",
        ),
        ("timm:resnet10t", {"size": None}, r"--task is for networks that do not say it"),
        (
            "swin:NAME",
            {},
            r"give a checkpoint folder, or one of timm:\.\.\., torchvision:\.\.\., smp:\.\.\., hf:\.\.\., py:\.\.\.",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    unet: Path, spec: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load_source(spec.format(unet), options(**{"random": True} | changes))
    assert "\n" not in str(raised.value)


def test_a_file_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import no_such_package\n")
    with pytest.raises(InputError, match=r"bad\.py fails when it is run: No module named"):
        load_source(f"py:{tmp_path / 'bad.py'}:Net", options(random=True))


def test_names_of_another_count_are_refused(unet: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match="the network has 3 classes, 2 are named"):
        load_source(f"py:{unet}:UNet", options(random=True, classes=tmp_path / "names.txt"))


class Answers(nn.Module):
    """Gives what a function makes of its features."""

    def __init__(self, channels: int, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, channels, 3, padding=1)
        self.make = make

    def forward(self, pixels: Tensor) -> Any:
        return self.make(self.features(pixels))


@pytest.fixture
def quick(tmp_path: Path) -> BundleOptions:
    torch.manual_seed(0)
    return BundleOptions()


def test_one_channel_is_two_classes_by_a_sigmoid(tmp_path: Path, quick: BundleOptions) -> None:
    network = Answers(1, lambda maps: maps)
    bundle = export_model(network, tmp_path / "b", options=quick, task="segment", size=(64, 64))
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with dlcv.load(bundle) as model:
        (result,) = model(photo)
    with torch.inference_mode():
        logit = network(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)[0, 0]
    assert isinstance(result, Segmentation)
    assert [info.name for info in result.classes] == ["background", "foreground"]
    assert (result.mask == (logit > 0).numpy()).mean() > 0.999
    assert result.confidence is not None
    np.testing.assert_allclose(result.confidence, logit.abs().sigmoid().numpy(), atol=1e-4)


def test_smaller_logits_are_up_sampled_and_dicts_understood(
    tmp_path: Path, quick: BundleOptions
) -> None:
    network = Answers(3, lambda maps: {"loss": None, "logits": maps[:, :, ::4, ::4]})
    bundle = export_model(
        network,
        tmp_path / "b",
        options=quick,
        task="segment",
        size=(64, 96),
        classes=["a", "b", "c"],
    )
    with dlcv.load(bundle) as model:
        (result,) = model(np.zeros((64, 96, 3), np.uint8))
    assert isinstance(result, Segmentation)
    assert result.graph_mask.shape == (64, 96)


def test_a_module_in_memory_becomes_a_classifier_or_an_embedder(
    tmp_path: Path, quick: BundleOptions
) -> None:
    vectors = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )
    photo = np.zeros((40, 40, 3), np.uint8)
    classes = export_model(vectors, tmp_path / "c", options=quick, size=(32, 32), classes=4)
    with dlcv.load(classes) as model:
        (result,) = model(photo)
    assert isinstance(result, Classification)
    assert [info.name for info in result.classes] == [f"class {n}" for n in range(4)]
    embeds = export_model(vectors, tmp_path / "e", options=quick, size=(32, 32), task="embed")
    with dlcv.load(embeds) as model:
        (embedded,) = model(photo)
    assert isinstance(embedded, Embedding)
    with pytest.raises(InputError, match=r"has no such fact: .*'classess'"):
        export_model(vectors, tmp_path / "x", classess=4)
    with pytest.raises(InputError, match=r"an nn\.Module is exported, not int"):
        export_model(3, tmp_path / "x")  # type: ignore[arg-type]


def test_code_that_cannot_become_a_graph_is_named_with_its_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flow.py").write_text(
        "from torch import nn\n"
        "class Flow(nn.Conv2d):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x if x.sum() > 0 else -x)\n"
    )
    chosen = options(
        random=True, settings={"in_channels": "3", "out_channels": "2", "kernel_size": "1"}
    )
    source = load_source(f"py:{tmp_path / 'flow.py'}:Flow", chosen)
    with pytest.raises(InputError, match=r"torch\.export cannot turn .* at .*flow\.py, line 4 \("):
        export_bundle(source, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_size_that_the_gate_cannot_halve_is_a_sentence(tmp_path: Path) -> None:
    def picky(maps: Tensor) -> Tensor:
        if maps.shape[3] < 64:
            raise RuntimeError("Output size is too small")
        return maps

    with pytest.raises(
        InputError, match=r"fails on images of 64x32, on which .* give a larger --size"
    ):
        export_model(Answers(2, picky), tmp_path / "b", task="segment", size=(64, 64))


def test_timm_without_classes_becomes_an_embedder() -> None:
    import timm

    name = "resnet10t"
    network = timm.create_model(name, num_classes=0)
    assert network.num_classes == 0
    source = load_source("timm:vit_small_patch14_dinov2", SourceOptions(random=True, size=(28, 28)))
    assert (source.task, source.classes) == ("embed", ())
    assert source.description.startswith("Image embedder ")


def source_of_another_package(rest: str, options: SourceOptions) -> ExportSource:
    """What a third party writes to add a source."""
    return source_from_module(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, int(rest))),
        ModuleFacts(task="classify", size=(8, 8), name=f"other-{rest}"),
    )


def test_another_package_adds_a_source_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    value = f"{__name__}:source_of_another_package"
    entry = EntryPoint(name="other", value=value, group=sources.GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[source_of_another_package.__module__])
    monkeypatch.setattr(
        sources,
        "entry_points",
        lambda group, name=None: (
            [entry] if group == sources.GROUP and name in (None, "other") else []
        ),
    )
    source = load_source("other:5")
    assert (source.name, len(source.classes)) == ("other-5", 5)
    with pytest.raises(InputError, match=r"one of timm:\.\.\., .*, other:\.\.\."):
        load_source("nowhere")
