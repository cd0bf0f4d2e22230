"""The manifest of a bundle: frozen, validated models of `manifest.json`.

`docs/bundle.md` is the specification. The JSON Schema in `docs/bundle.schema.json` is generated from `Manifest`
and its parts (`dlcv.runtime.bundle.schema`). Parsing refuses unknown keys, wrong types, unsafe paths, and
tensors that break the graph contract.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dlcv.runtime.bundle.contract import TASKS, check_contract, main_graph
from dlcv.runtime.bundle.schema import (
    Activation,
    ClassInfo,
    FileEntry,
    Graph,
    Metric,
    Model,
    Preprocessing,
    Provenance,
    Task,
)
from dlcv.runtime.errors import BundleError

SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)
CARD_FILE = "README.md"  # the model card
MAX_MANIFEST_BYTES = 4 * 2**20


class Manifest(Model, frozen=True):
    """The contents of `manifest.json`.

    files: every file of the bundle except `manifest.json` itself. tokenizer: for task caption, the file that
    maps tokens to words. activation: softmax, of which classes exclude each other; or sigmoid: a classifier's labels
    are independent of each other, and a segmenter has one of two classes. threshold: with sigmoid, the probability
    from which a label, or the second class, is given.
    """

    schema_version: Literal[1, 2]
    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    task: Task
    description: str
    licence: str
    classes: tuple[ClassInfo, ...]
    preprocessing: Preprocessing
    graphs: dict[str, Graph]
    golden: tuple[str, ...]
    metrics: tuple[Metric, ...]
    provenance: Provenance
    files: dict[str, FileEntry]
    tokenizer: str | None = None
    activation: Activation = "softmax"
    threshold: Annotated[float, Meta(gt=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        for path in self.files:
            _require_safe_path(path)
        variants = [v for graph in self.graphs.values() for v in graph.variants.values()]
        used = {v.file for v in variants} | {plan.file for v in variants for plan in v.plans}
        used |= {graph.any_size.file for graph in self.graphs.values() if graph.any_size}
        used |= {*self.golden, *([self.tokenizer] if self.tokenizer else [])}
        if missing := sorted(used - set(self.files)):
            raise ValueError(f"'files' does not list {missing[0]!r}, which the manifest uses")
        if not all(graph.variants for graph in self.graphs.values()):
            raise ValueError("a graph has no variants")
        if (self.tokenizer is None) == TASKS[self.task].has_tokenizer:
            what = "needs" if self.tokenizer is None else "has no use for"
            raise ValueError(
                f"task {self.task!r} {what} 'tokenizer', the file that turns tokens into words"
            )
        check_contract(
            self.graphs,
            task=self.task,
            classes=len(self.classes),
            preprocessing=self.preprocessing,
        )
        self._check_activation()
        self._check_any_size()

    def _check_activation(self) -> None:
        if (self.threshold is not None) != (self.activation == "sigmoid"):
            raise ValueError("'threshold' belongs to activation 'sigmoid', and to no other")
        if self.activation not in TASKS[self.task].activations:
            raise ValueError(f"task {self.task!r} has no activation {self.activation!r}")
        if self.activation == "sigmoid" and self.task == "segment" and len(self.classes) != 2:
            raise ValueError(
                f"a segmenter with activation 'sigmoid' has 2 classes, not {len(self.classes)}"
            )

    def _check_any_size(self) -> None:
        for name, graph in self.graphs.items():
            if graph.any_size is None:
                continue
            if name != self.main_graph:
                raise ValueError(f"graph {name!r} takes no images, so it has no 'any_size'")
            if graph.any_size.variant not in graph.variants:
                raise ValueError(
                    f"'any_size' is of the variant {graph.any_size.variant!r}, which the graph lacks"
                )

    @property
    def main_graph(self) -> str:
        """The graph that takes images."""
        return main_graph(self.task)


def _require_safe_path(path: str) -> None:
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path == "manifest.json"
        or "\\" in path
        or ":" in path
        or "\x00" in path
        or path != "/".join(parts)
        or any(part in ("..", ".", "/") for part in parts)
    ):
        raise ValueError(f"file path {path!r} is not a plain relative path inside the bundle")


def manifest_from_json(data: bytes) -> Manifest:
    """Parse and validate a manifest.

    Raises:
        BundleError: too large, not JSON, another schema version, or anything the models refuse.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"manifest.json has {len(data):,} bytes; at most {MAX_MANIFEST_BYTES:,} are allowed"
        )
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version not in READ_VERSIONS:
            raise BundleError(
                f"manifest.json has schema version {version}, this dlcv reads {' and '.join(map(str, READ_VERSIONS))}; "
                "export the bundle again, or use the dlcv that wrote it"
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise BundleError(f"manifest.json is not valid: {e}") from e


def json_from_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON of the current version, the same bytes for equal manifests."""
    current = msgspec.structs.replace(manifest, schema_version=SCHEMA_VERSION)
    return msgspec.json.format(msgspec.json.encode(current), indent=2) + b"\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of `manifest.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return schema | msgspec.json.schema(Manifest)


class _Version(msgspec.Struct):
    schema_version: int
