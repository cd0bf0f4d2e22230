"""Adds to a bundle its graph with the resize inside, if that gives what the way over the host gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from dlcv.export.any_size.compose import resizing_model
from dlcv.export.any_size.gate import proved
from dlcv.export.gate import images_from
from dlcv.export.model_card import card_with_any_size
from dlcv.export.onnx_import.read import opset_of
from dlcv.export.writing import words_for
from dlcv.runtime.bundle import Bundle, open_bundle, save_bundle
from dlcv.runtime.bundle.manifest import CARD_FILE
from dlcv.runtime.bundle.onnx_protobuf import model_with_outputs
from dlcv.runtime.bundle.schema import AnySize, FileEntry
from dlcv.runtime.engines import why_unavailable
from dlcv.runtime.errors import OutputError
from dlcv.runtime.images.samples import sample_paths


def _silent(_: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class AnySizeOptions:
    """How to add the graph.

    images: files and folders for the parity gate; empty means dlcv's sample photos. out: write a copy instead of changing the
    bundle. progress, warn: called with progress messages and with warnings.
    """

    images: tuple[Path, ...] = ()
    out: Path | None = None
    progress: Callable[[str], None] = _silent
    warn: Callable[[str], None] = _silent


def add_any_size(path: str | Path, options: AnySizeOptions) -> Bundle:
    """Return the bundle with an any-size graph of its default variant. Nothing is written unless the parity gate passes.

    An any-size graph that it has already is replaced.

    Raises:
        BundleError: the bundle is damaged, or its graph takes no resize in front.
        InputError: the images do not do.
        OutputError: the bundle may not be changed, or `out` exists.
        ParityError: the graph does not give what the way over the host gives.
    """
    bundle = open_bundle(path)
    target = _target(bundle, options.out)
    paths = images_from(options.images) if options.images else sample_paths()
    options.progress("putting the resize in front of the graph")
    variant = bundle.variant_name()
    own = bundle.read(bundle.variant().file)
    with_pixels = resizing_model(own, bundle.graph(), bundle.manifest.preprocessing)
    if why_unavailable("openvino") is not None:
        options.warn(
            "OpenVINO is not installed, so the gate runs on ONNX Runtime only; get it with pip install 'dlcv[openvino]'"
        )
    options.progress(f"comparing it with the host's resize on {len(paths)} photos")
    parity = proved(bundle, with_pixels, paths, images=words_for(options.images))
    model = model_with_outputs(with_pixels, [spec.name for spec in bundle.graph().outputs])
    made = AnySize(
        file=f"{bundle.manifest.main_graph}.any-size.onnx",
        opset=opset_of(onnx.load_from_string(model)),
        variant=variant,
        parity=parity,
    )
    options.progress("writing the bundle")
    return _saved(bundle, target, made=made, model=model)


def _target(bundle: Bundle, out: Path | None) -> Path:
    """Return the folder to write to, checked before the work."""
    if out is not None:
        if out.exists():
            raise OutputError(f"{out} exists; choose another name")
        return out
    if bundle.ships_with_dlcv:
        raise OutputError(
            "a bundle that ships with dlcv is not changed; write a copy with -o FOLDER"
        )
    return bundle.path


def _saved(bundle: Bundle, target: Path, *, made: AnySize, model: bytes) -> Bundle:
    manifest, name = bundle.manifest, bundle.manifest.main_graph
    replaced = bundle.graph().any_size
    if made.file in manifest.files and (replaced is None or replaced.file != made.file):
        raise OutputError(f"the bundle has a file {made.file} of another kind; it stays")
    graph = msgspec.structs.replace(bundle.graph(), any_size=made)
    files = {file: bundle.read(file) for file in manifest.files} | {made.file: model}
    manifest = msgspec.structs.replace(
        manifest, graphs={**manifest.graphs, name: graph}, files=_entries(files)
    )
    card = card_with_any_size(files.get(CARD_FILE, b"").decode(), manifest)
    files[CARD_FILE] = card.encode()
    changed = msgspec.structs.replace(manifest, files=_entries(files))
    return save_bundle(target, changed, files=files, overwrite=True)


def _entries(files: dict[str, bytes]) -> dict[str, FileEntry]:
    """Return entries that `save_bundle` fills in."""
    return {name: FileEntry(sha256="0" * 64, size_bytes=len(data)) for name, data in files.items()}
