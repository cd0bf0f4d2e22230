"""Few-shot classification by prototypes: each class is the mean of its support embeddings.

Snell et al. 2017, https://arxiv.org/abs/1703.05175. Distances are in `dlcv.runtime.fewshot.distance`.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final
from zipfile import BadZipFile, is_zipfile

import msgspec
import numpy as np

from dlcv.runtime.bundle.schema import ClassInfo, Preprocessing
from dlcv.runtime.errors import BundleError, InputError
from dlcv.runtime.fewshot.distance import BundleDistance, averageable
from dlcv.runtime.fewshot.support import Support, SupportImages, support_images
from dlcv.runtime.images import source_of
from dlcv.runtime.machine.atomic_files import write_atomically
from dlcv.runtime.machine.closing import Closing
from dlcv.runtime.results import Classification, Embedding, Float32, Refused, Result, name_of
from dlcv.runtime.running.pipeline import windows
from dlcv.runtime.running.predictor import ONE_IMAGE, none_refused

if TYPE_CHECKING:
    from dlcv.runtime.images import Source
    from dlcv.runtime.running.predictor import Predictor

_UNREADABLE = (ValueError, KeyError, OSError, EOFError, BadZipFile, msgspec.MsgspecError)


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Identifies the bundle that prototypes were made with. graphs: SHA-256 of each graph as exported."""

    bundle: str
    graphs: dict[str, str]
    preprocessing: Preprocessing


class _About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The metadata in a file of prototypes: classes, with the number of images of each, in order."""

    made_with: Identity
    classes: tuple[tuple[str, int], ...]


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@final
@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """One prototype vector per class.

    names: of the classes. counts: images averaged per class. vectors: float32 (classes, D). made_with: the
    bundle that the embeddings come from; use with another bundle is refused.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    vectors: Float32
    made_with: Identity

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise InputError(
                f"few-shot classification needs two or more different classes, not {list(self.names)}"
            )
        if self.vectors.dtype != np.float32 or self.vectors.ndim != 2:
            raise ValueError(f"prototypes are float32 (classes, D), not {self.vectors.dtype}")
        if not len(self.names) == len(self.counts) == len(self.vectors):
            raise ValueError(f"{len(self.vectors)} prototypes for {len(self.names)} classes")
        if not np.isfinite(self.vectors).all():
            raise ValueError("prototypes hold values that are not finite")

    @classmethod
    def fit(
        cls, predictor: Predictor, support: Support, *, on_refused: Callable[[str], object] = _warn
    ) -> Self:
        """Compute prototypes from support images.

        support: a folder, ZIP or tar with one folder per class, or images by class name. on_refused: called
        with one sentence for each image that cannot be read.

        Raises:
            InputError: there are fewer than two classes, or a class has no readable image.
            BundleError: the bundle gives no embeddings.
        """
        made_with = identity_of(predictor)
        return cls(**_fitted(predictor, support_images(support), on_refused), made_with=made_with)

    def extended(
        self, predictor: Predictor, support: Support, *, on_refused: Callable[[str], object] = _warn
    ) -> Self:
        """Return these prototypes with further classes added. Arguments as for `fit`.

        Raises:
            InputError: a class is there already, or has no readable image; or this is another bundle than theirs.
        """
        self.require_made_with(predictor)
        images = support_images(support)
        if known := next((name for name in images if name in self.names), None):
            raise InputError(f"class {known!r} has a prototype already; take it out of the support")
        new = _fitted(predictor, images, on_refused)
        return type(self)(
            names=self.names + new["names"],
            counts=self.counts + new["counts"],
            vectors=np.concatenate([self.vectors, new["vectors"]]),
            made_with=self.made_with,
        )

    def predict(
        self, predictor: Predictor, images: Source | Iterable[Source]
    ) -> list[Classification]:
        """Classify every image, in order. Probabilities are over these classes.

        Raises:
            InputError: this is another bundle than theirs.
            ImageError: an image cannot be read.
        """
        with PrototypeClassifier(predictor, self) as classifier:
            return classifier(images)

    def require_made_with(self, predictor: Predictor) -> None:
        """Check that these prototypes were made with a predictor's bundle.

        Raises:
            InputError: they are not.
        """
        now = identity_of(predictor)
        if (now.graphs, now.preprocessing) == (self.made_with.graphs, self.made_with.preprocessing):
            return
        raise InputError(
            f"the prototypes were made with bundle {self.made_with.bundle!r} ({_digest(self.made_with)}), not with"
            f" {now.bundle!r} ({_digest(now)}); give that bundle with -m, or fit them anew with --support"
        )

    def save(self, path: str | Path) -> None:
        """Save to one NPZ file without pickle: `prototypes`, and `about` as JSON text.

        Raises:
            OutputError: it cannot be written.
        """
        classes = tuple(zip(self.names, self.counts, strict=True))
        about = msgspec.json.encode(_About(made_with=self.made_with, classes=classes)).decode()
        arrays: dict[str, Any] = {"prototypes": self.vectors, "about": np.array(about)}
        write_atomically(Path(path), partial(np.savez, allow_pickle=False, **arrays))

    @classmethod
    def load(cls, file: str | Path | bytes) -> Self:
        """Load a file that `save` wrote, or its bytes.

        Raises:
            InputError: there is no such file, or it is something else.
        """
        path = f"<{len(file)} bytes>" if isinstance(file, bytes) else file
        if isinstance(file, bytes):
            is_npz = is_zipfile(io.BytesIO(file))
        else:
            is_npz = is_zipfile(file) or not Path(file).is_file()
        if not is_npz:
            raise InputError(f"{path} is not a file of prototypes, which is an NPZ file")
        try:
            source = io.BytesIO(file) if isinstance(file, bytes) else file
            with np.load(source, allow_pickle=False) as arrays:
                about = msgspec.json.decode(str(arrays["about"]), type=_About)
                vectors = arrays["prototypes"]
            return cls(
                names=tuple(name for name, _ in about.classes),
                counts=tuple(count for _, count in about.classes),
                vectors=vectors,
                made_with=about.made_with,
            )
        except FileNotFoundError as e:
            raise InputError(f"there are no prototypes at {path}") from e
        except (*_UNREADABLE, TypeError, AttributeError) as e:
            reason = " ".join(str(e).split())
            raise InputError(f"{path} is not a file of prototypes: {reason}") from e


@final
class PrototypeClassifier(Closing):
    """Classifies images by the nearest prototype. Used like a `Predictor`, which the caller still closes."""

    def __init__(self, predictor: Predictor, prototypes: Prototypes) -> None:
        """Load the bundle's distance, where it has one, on the predictor's engine.

        Raises:
            InputError: the prototypes are of another bundle.
        """
        prototypes.require_made_with(predictor)
        self.prototypes = prototypes
        self.workers, self.batch_size = predictor.workers, predictor.batch_size
        self._predictor = predictor
        self._classes = tuple(ClassInfo(name=name) for name in prototypes.names)
        self._distance = BundleDistance(predictor)

    def __call__(self, images: Source | Iterable[Source]) -> list[Classification]:
        """Classify every image, in order. A single image may be given without a list.

        Raises:
            ImageError: an image cannot be read; `stream` skips and reports such images instead.
        """
        several = [images] if isinstance(images, ONE_IMAGE) else images
        return none_refused(self.stream(several))

    def stream(self, sources: Iterable[Source | Refused]) -> Iterator[Classification | Refused]:
        """Yield the classes of every source, in order; memory does not depend on their number."""
        for results in windows(self._predictor.stream(sources), self.batch_size):
            embedded = [r for r in results if not isinstance(r, Refused)]
            answers = iter(self.answers(embedded))
            for result in results:
                yield result if isinstance(result, Refused) else next(answers)

    def description(self) -> dict[str, Any]:
        """Return what runs, for `run.json`."""
        digest = hashlib.sha256(self.prototypes.vectors.tobytes())
        digest.update("\n".join(self.prototypes.names).encode())
        return self._predictor.description() | {"prototypes": digest.hexdigest()}

    def close(self) -> None:
        """Free the distance graph."""
        self._distance.close()

    def answers(self, results: Sequence[Result]) -> list[Classification]:
        """Return the classes of images whose results have embeddings."""
        if not results:
            return []
        vectors = np.stack([vector_of(result) for result in results])
        probabilities = _softmax(self._distance(vectors, self.prototypes.vectors))
        return [
            Classification(
                source=result.source,
                frame=result.frame,
                engine=result.engine,
                decode=result.decode,
                note=result.note,
                classes=self._classes,
                probabilities=row,
                embedding=vector,
            )
            for result, row, vector in zip(results, probabilities, vectors, strict=True)
        ]


def identity_of(predictor: Predictor) -> Identity:
    """Return the bundle identity that prototypes depend on. Lower precisions of a graph count as the same."""
    bundle = predictor.bundle
    graphs = {
        name: bundle.manifest.files[bundle.variant(graph=name, precision=None).file].sha256
        for name in bundle.manifest.graphs
    }
    return Identity(
        bundle=bundle.manifest.name, graphs=graphs, preprocessing=predictor.preprocessing
    )


def _fitted(
    predictor: Predictor, support: SupportImages, on_refused: Callable[[str], object]
) -> dict[str, Any]:
    """Return names, counts and vectors of the classes."""
    counts, vectors = [], []
    for name, images in support.items():
        found, reasons = [], []
        results = predictor.stream(source_of(image.name, image.read) for image in images)
        for image, result in zip(images, results, strict=True):
            if isinstance(result, Refused):
                reasons.append(f"{image.name}: {result.reason}")
            else:
                found.append(vector_of(result))
        if not found:
            raise InputError(
                f"class {name!r}: none of its {len(images)} images can be read ({reasons[0]})"
            )
        for reason in reasons:
            on_refused(f"left out of class {name!r}: {reason}")
        counts.append(len(found))
        vectors.append(averageable(np.stack(found), predictor.bundle).mean(axis=0))
    return {
        "names": tuple(support),
        "counts": tuple(counts),
        "vectors": np.stack(vectors) if vectors else np.empty((0, 0), np.float32),
    }


def vector_of(result: Result) -> Float32:
    """Return the embedding of a result, float32 (D,).

    Raises:
        BundleError: it has none.
    """
    vector = result.vector if isinstance(result, Embedding) else getattr(result, "embedding", None)
    if vector is None:
        raise BundleError(
            f"what the bundle says of {name_of(result.source)} has no embedding; load it with"
            ' outputs=("embedding",), or give a bundle of task embed or classify'
        )
    return np.asarray(vector)


def _softmax(scores: Float32) -> Float32:
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def _digest(identity: Identity) -> str:
    height, width = identity.preprocessing.size
    first = next(iter(identity.graphs.values()))
    return f"graph {first[:12]}…, {height}x{width}"
