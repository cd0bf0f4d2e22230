"""Tiny random networks, and sources and bundles made of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from tritonclient.grpc import model_config_pb2

from dlcv.export.bundle import export_bundle
from dlcv.export.sources import ExportSource
from dlcv.export.triton import TritonOptions, triton_repository
from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.schema import ClassInfo, Preprocessing
from dlcv.train.models import build_model

CLASSES = 5
CONFIG: Any = model_config_pb2  # made at import: a type checker sees nothing in it


class TinySegmenter(nn.Module):
    """Like torchvision's: half the resolution inside, logits of the input's size in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.body(x).relu())
        return {"out": F.interpolate(logits, size=x.shape[-2:], mode="bilinear")}


def tiny_vit(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
    }
    settings |= {"num_classes": CLASSES, **options}
    model = VisionTransformer(**settings)
    for name, parameter in model.named_parameters():
        if name.startswith("blocks") and parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.3)  # or every patch would have the same weight
    return model.eval()


def tiny_cnn(*, channels: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=4, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(channels, CLASSES),
    ).eval()


def tiny_segmenter() -> nn.Module:
    torch.manual_seed(0)
    return TinySegmenter().eval()


def cifar_resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_model("cifar_resnet20", num_classes=CLASSES).network.eval()


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "vit": tiny_vit,
    "cnn": tiny_cnn,
    "segmenter": tiny_segmenter,
    "cifar_resnet": cifar_resnet,
}


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """Builds a tiny network by name."""
    return lambda name, **options: BUILDERS[name](**options)


@pytest.fixture(scope="session")
def make_source(build) -> Callable[..., ExportSource]:
    """Makes a source of a tiny network by name; options replace the source's fields."""

    def make(name: str, *, model: nn.Module | None = None, **changes: Any) -> ExportSource:
        segment = name == "segmenter"
        source = ExportSource(
            model=model or build(name),
            name=f"tiny-{name}",
            task="segment" if segment else "classify",
            classes=tuple(ClassInfo(name=f"class {i}") for i in range(CLASSES)),
            preprocessing=Preprocessing(resize="stretch", size=(32, 48) if segment else (32, 32)),
            mean=(0.4, 0.5, 0.6),
            std=(0.2, 0.3, 0.25),
            description="A tiny random network.",
            licence="none needed",
            origin="a test",
            data="None.",
            remake=(f"dlcv-export bundle {name}",),
        )
        return replace(source, **changes)

    return make


@pytest.fixture(scope="session")
def bundles(make_source, tmp_path_factory) -> Callable[[str], Bundle]:
    """Exports a tiny network by name, once a session."""
    folder: Path = tmp_path_factory.mktemp("bundles")
    made: dict[str, Bundle] = {}

    def bundle(name: str) -> Bundle:
        if name not in made:
            made[name] = export_bundle(make_source(name), folder / name)
        return made[name]

    return bundle


def triton_config(model: Path) -> Any:
    """The configuration of a model in a Triton repository."""
    text = (model / "config.pbtxt").read_text(encoding="ascii")
    return text_format.Parse(text, CONFIG.ModelConfig())


def write_triton(path: Path, *bundles: str | Path, **options: Any) -> tuple[Path, ...]:
    """Write bundles to a Triton repository below a folder."""
    opened = [open_bundle(bundle) for bundle in bundles]
    return triton_repository(opened, path / "repository", options=TritonOptions(**options))


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The Triton models of bundles that ship, by name. Read only."""
    names = ("imagenet-lite0", "voc-deeplab", "camvid-lraspp")
    return dict(zip(names, write_triton(tmp_path_factory.mktemp("triton"), *names), strict=True))


def triton_session(model: Path, version: int = 1) -> Any:
    """ONNX Runtime with the graph of a model in a Triton repository."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model / str(version) / "model.onnx", options)
