"""Bundle folders: open and verify a bundle, read its graphs and golden cases, save it atomically."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import msgspec

from dlcv.runtime.bundle.contract import TASKS
from dlcv.runtime.bundle.manifest import (
    CARD_FILE,
    MAX_MANIFEST_BYTES,
    Manifest,
    json_from_manifest,
    manifest_from_json,
)
from dlcv.runtime.bundle.onnx_protobuf import foreign_domains, has_external_data, has_loop
from dlcv.runtime.bundle.ready import how_to_get, is_ready_folder, ready_folder, ready_names
from dlcv.runtime.bundle.schema import (
    FileEntry,
    Graph,
    Precision,
    Target,
    Variant,
    VariantName,
)
from dlcv.runtime.bundle.variants import variant_for
from dlcv.runtime.errors import BundleError, OutputError
from dlcv.runtime.machine.atomic_files import replace_folder

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.json"
_CHUNK_BYTES = 2**20
# What a foreign NPZ makes of numpy and zipfile: RuntimeError where it is encrypted, TypeError where it is an NPY.
_NPZ_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    MemoryError,
    BadZipFile,
    OSError,
    EOFError,
)


@dataclass(frozen=True, kw_only=True)
class GoldenCase:
    """A recorded input, with the outputs that PyTorch gave for it.

    inputs, outputs: arrays by tensor name, dtypes and shapes as in the graph's specs.
    """

    name: str
    inputs: dict[str, np.ndarray[Any, Any]]
    outputs: dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle: every listed file has the SHA-256 that the manifest gives."""

    path: Path
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """The SHA-256 of the manifest as exported, without scores that were recorded later and the model card, which shows them.

        The manifest lists the SHA-256 of every other file, so this covers all that a bundle computes with.
        """
        return hashlib.sha256(json_from_manifest(_without_records(self.manifest))).hexdigest()

    @property
    def ships_with_dlcv(self) -> bool:
        """Whether this is a built-in bundle, or one of another package. These are never changed."""
        return is_ready_folder(self.path)

    def graph(self, name: str | None = None) -> Graph:
        """Return a graph by name; by default the one that takes images.

        Raises:
            BundleError: the bundle has no such graph.
        """
        try:
            return self.manifest.graphs[name or self.manifest.main_graph]
        except KeyError:
            names = ", ".join(self.manifest.graphs)
            raise BundleError(
                f"bundle {self.manifest.name!r} has no graph {name!r}, only {names}"
            ) from None

    def variant(
        self,
        precision: Precision | None = None,
        *,
        graph: str | None = None,
        target: Target = "cpu",
    ) -> Variant:
        """Return a graph's variant in `precision` for the engines of `target`; by default in its default precision.

        Raises:
            BundleError: the bundle has no such precision, or not for the target.
        """
        return self.graph(graph).variants[self.variant_name(precision, graph=graph, target=target)]

    def variant_name(
        self,
        precision: Precision | None = None,
        *,
        graph: str | None = None,
        target: Target = "cpu",
    ) -> VariantName:
        """Return the name of the variant that `variant` returns. Raises as it does."""
        described = self.graph(graph)
        chosen = precision or described.default_precision
        name = variant_for(described.variants, chosen, target=target)
        if name is not None:
            return name
        if chosen in described.precisions:
            raise BundleError(
                f"bundle {self.manifest.name!r} has an int8 graph for CPUs only, whose zero points TensorRT refuses; "
                f"add the other with dlcv-export precision {self.path} --to int8 --for tensorrt --calibrate IMAGES"
            )
        raise BundleError(
            f"bundle {self.manifest.name!r} has no {chosen} graph, only {', '.join(described.variants)}"
        )

    def require_one_graph(self, what: str) -> None:
        """Check that the bundle's answer comes from a single graph.

        what: the feature that needs this, in words, for the message.

        Raises:
            BundleError: it does not.
        """
        if sum(contract.required for contract in TASKS[self.manifest.task].graphs.values()) > 1:
            raise BundleError(
                f"{what} is for bundles whose answer is one graph's; {self.manifest.name!r} ({self.manifest.task}) "
                "needs several, so name another bundle"
            )

    def read(self, file: str) -> bytes:
        """Return the bytes of a file of the bundle, verified against the manifest.

        Raises:
            BundleError: the file is missing, outside the folder, or not what was exported.
        """
        data = _listed_path(self.path, file).read_bytes()
        _require_equal(self.path, file, hashlib.sha256(data).hexdigest(), self.manifest.files[file])
        return data

    def golden(self, graph: str | None = None) -> Iterator[GoldenCase]:
        """Yield the golden cases of a graph (those with its inputs), in the manifest's order."""
        wanted = {spec.name for spec in self.graph(graph).inputs}
        for file in self.manifest.golden:
            case = self._golden_case(file)
            if set(case.inputs) == wanted:
                yield case

    def _golden_case(self, file: str) -> GoldenCase:
        import numpy as np

        try:
            with np.load(io.BytesIO(self.read(file)), allow_pickle=False) as arrays:
                inputs = {k[6:]: arrays[k] for k in arrays if k.startswith("input.")}
                outputs = {k[7:]: arrays[k] for k in arrays if k.startswith("output.")}
        except (*_NPZ_ERRORS, zlib.error) as e:
            raise BundleError(f"{self.path}: {file} is not a readable NPZ: {e}") from e
        return GoldenCase(name=Path(file).stem, inputs=inputs, outputs=outputs)


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle folder, or one of the bundles that are ready by name, and verify every file.

    Raises:
        BundleError: not a bundle, or malformed, incomplete or altered; the sentence says where.
    """
    folder = _existing_folder(path)
    try:
        manifest = manifest_from_json(_read_manifest(folder))
    except BundleError as e:
        raise BundleError(f"{folder}: {e}") from e.__cause__
    graphs = {v.file for graph in manifest.graphs.values() for v in graph.variants.values()}
    graphs |= {graph.any_size.file for graph in manifest.graphs.values() if graph.any_size}
    for file, entry in manifest.files.items():
        if file not in graphs:
            _require_equal(folder, file, _sha256(_listed_path(folder, file)), entry)
    bundle = Bundle(path=folder, manifest=manifest)
    for file in sorted(graphs):  # each is read once: they are large
        _require_safe(bundle.read(file), name=f"{folder}: {file}")
    return bundle


def save_bundle(
    folder: Path, manifest: Manifest, *, files: Mapping[str, bytes], overwrite: bool = False
) -> Bundle:
    """Write a bundle to a temporary folder, verify it there, and rename it into place.

    `manifest.files` is filled in from `files`. Nothing is left behind on failure, and an existing
    bundle is replaced only with `overwrite`, and only when the new one is complete. Files in its folder that are not of
    the bundle stay.

    Raises:
        OutputError: the folder exists, or cannot be written.
        BundleError: what was written does not verify.
    """
    folder = folder.absolute()
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder} exists; choose another name or give --overwrite")
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise OutputError(f"{folder} is a folder but not a bundle; it will not be overwritten")
    entries = {name: _entry_from_bytes(data) for name, data in sorted(files.items())}
    manifest = msgspec.convert(
        msgspec.to_builtins(msgspec.structs.replace(manifest, files=entries)), Manifest
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as e:
        raise OutputError(f"cannot write a bundle to {folder.parent}: {e.strerror or e}") from e
    try:
        for name, data in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(data)
        (temporary / MANIFEST).write_bytes(json_from_manifest(manifest))
        temporary.chmod(0o755)
        open_bundle(temporary)
        _keep_other_files(folder, temporary)
        replace_folder(temporary, folder)
    except OSError as e:
        raise OutputError(f"cannot write the bundle {folder}: {e.strerror or e}") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(path=folder, manifest=manifest)


def _require_safe(graph: bytes, *, name: str) -> None:
    """Check that a graph reads no other file, comes to an end, and has operators that every engine may run.

    Raises:
        BundleError: it does not.
    """
    if has_external_data(graph):
        raise BundleError(
            f"{name} keeps tensors outside the file (ONNX external data), which a bundle must not; "
            "export it again as a single file"
        )
    if domains := foreign_domains(graph):
        raise BundleError(
            f"{name} has operators of {', '.join(sorted(domains))}, which not every engine runs; a bundle has those of "
            "ONNX's default domain only, so export the network without them"
        )
    if has_loop(graph):
        raise BundleError(
            f"{name} has the operator Loop, which may never end and which a bundle must not have; "
            "export the network with the loop unrolled"
        )


def _without_records(manifest: Manifest) -> Manifest:
    """Return the manifest as exported. Scores that were recorded later do not change a bundle's identity.

    The model card, which shows them, is left out.
    """
    replace = msgspec.structs.replace
    graphs = {
        name: replace(
            graph, variants={p: replace(v, deployed=()) for p, v in graph.variants.items()}
        )
        for name, graph in manifest.graphs.items()
    }
    files = {name: entry for name, entry in manifest.files.items() if name != CARD_FILE}
    return replace(manifest, graphs=graphs, files=files)


def _keep_other_files(old: Path, new: Path) -> None:
    """Copy what lies in an existing bundle's folder and is not of the bundle, so that replacing it loses nothing.

    Raises:
        OutputError: such a file has the name of one of the new bundle's.
    """
    if not old.is_dir():
        return
    try:
        own = {MANIFEST, *manifest_from_json(_read_manifest(old)).files}
    except BundleError:  # damaged: what the new one has too is taken for the old one's
        own = {path.relative_to(new).as_posix() for path in new.rglob("*")}
    for path in old.rglob("*"):
        name = path.relative_to(old).as_posix()
        if name in own or (path.is_dir() and not path.is_symlink()):
            continue
        if os.path.lexists(new / name):
            raise OutputError(
                f"{path} is in the way: it is not of the bundle, and the new one has a file of this name; move it away"
            )
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, new / name, follow_symlinks=False)


def _existing_folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.exists():
        folder = ready_folder(str(path)) or folder
    if not folder.exists():
        raise BundleError(
            how_to_get(str(path))
            or f"no bundle at {path}; give a bundle folder, or one of those that are ready: {', '.join(ready_names())}"
        )
    if not folder.is_dir():
        raise BundleError(f"{path} is a file; a bundle is a folder that holds {MANIFEST}")
    return folder.resolve()


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"not a bundle: it holds no {MANIFEST}")
    if path.is_symlink():
        raise BundleError(f"{MANIFEST} is a link; a bundle holds plain files")
    with path.open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _listed_path(folder: Path, file: str) -> Path:
    path = folder / file
    if not os.path.lexists(path):
        raise BundleError(f"{folder}: {file} is missing; copy the whole bundle again")
    if path.resolve() != path or not path.is_file():
        raise BundleError(
            f"{folder}: {file} is a link or not a plain file; a bundle holds its files"
        )
    return path


def _require_equal(folder: Path, file: str, sha256: str, entry: FileEntry) -> None:
    if sha256 != entry.sha256:
        raise BundleError(
            f"{folder}: {file} is not the file that was exported "
            f"(SHA-256 {sha256[:12]}…, the manifest says {entry.sha256[:12]}…); copy or export it again"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _entry_from_bytes(data: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
