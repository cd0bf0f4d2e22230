"""The captioning engine: encoder, decoder and beam search behind the `Engine` interface."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.caption.beam_search import SearchOptions, search
from dlcv.runtime.caption.vocabulary import Vocabulary, vocabulary_from_json
from dlcv.runtime.engines import Choice, load_engine
from dlcv.runtime.engines.base import DEFAULT_BATCH_SIZE, Arrays, Engine, EngineBase, EngineInfo
from dlcv.runtime.engines.stateful import State, stateful_runs
from dlcv.runtime.errors import BundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dlcv.runtime.bundle import Bundle
    from dlcv.runtime.caption.beam_search import Logits, Numbers
    from dlcv.runtime.engines.base import UInt8

_OUTPUTS = ("tokens", "log_probability", "attention")


@final
class CaptionEngine(EngineBase):
    """Answers images with captions: an `Engine` around the two graphs of a captioner.

    Outputs: `tokens` int32 (batch, words), `log_probability` float32 (batch,), and where attention was asked for
    `attention` float32 (batch, words, h, w); `words` is that of the longest caption of the batch. See `Found`.
    """

    def __init__(
        self, encoder: Engine, decoder: Engine, *, vocabulary: Vocabulary, options: SearchOptions
    ) -> None:
        """Put two loaded graphs together.

        Raises:
            BundleError: the tokenizer has another number of tokens than the decoder.
        """
        specs = {spec.name: spec for spec in (*decoder.inputs, *decoder.outputs)}
        known = specs["logits"].shape[1]
        if known != len(vocabulary):
            raise BundleError(
                f"{vocabulary.source} has {len(vocabulary):,} tokens, the decoder {known:,}; "
                "export the bundle again"
            )
        self._encoder = encoder
        self._decoder = decoder
        self._cache = specs["cache"].shape[1:]
        self.vocabulary = vocabulary
        self.options = options
        self._grid = specs["attention"].shape[1:] if "attention" in specs else None

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._encoder.info

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The one input: `image`."""
        return self._encoder.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, `attention` only if it was asked for."""
        shapes: dict[str, tuple[int | str, ...]] = {
            "tokens": ("batch", "words"),
            "log_probability": ("batch",),
        }
        if self._grid is not None:
            shapes["attention"] = ("batch", "words", *self._grid)
        return tuple(
            TensorSpec(name=name, dtype="int32" if name == "tokens" else "float32", shape=shape)
            for name, shape in shapes.items()
        )

    def infer(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Caption a batch of images; see `Engine.infer`."""
        memory = self._encoder.infer(feeds)["memory"]
        decoder = _Steps(self._decoder, memory, cache=self._cache, beams=self.options.beams)
        found = search(decoder, len(memory), vocabulary=self.vocabulary, options=self.options)
        arrays = {"tokens": found.tokens, "log_probability": found.log_probability}
        return arrays if found.attention is None else arrays | {"attention": found.attention}

    def host_memory(self, size: int) -> UInt8:
        """Return memory of the encoder's; see `Engine.host_memory`."""
        return self._encoder.host_memory(size)

    def close(self) -> None:
        """Free both graphs."""
        self._encoder.close()
        self._decoder.close()


@final
class _Steps:
    """A `Decoder` computed by an engine, which keeps the cache on its device if it can.

    memory: of each image. cache: the shape of the decoder's cache without the batch axis: (depth, 2, heads,
    length, d).
    """

    def __init__(
        self, engine: Engine, memory: Logits, *, cache: tuple[Any, ...], beams: int
    ) -> None:
        rows = np.repeat(memory, beams, axis=0) if beams > 1 else memory
        state = State(
            carried={"next_cache": "cache"},
            first={"cache": np.zeros((len(rows), *cache), np.float32)},
            held={"memory": rows},
        )
        self._runs = stateful_runs(engine, state)
        self._length = int(cache[3])

    @property
    def length(self) -> int:
        """The number of positions."""
        return self._length

    def step(self, tokens: Numbers, position: int) -> tuple[Logits, Logits | None]:
        """Append a token; see `Decoder.step`."""
        where = np.full(len(tokens), position, np.int32)
        outputs = self._runs.run({"token": tokens, "position": where})
        return outputs["logits"], outputs.get("attention")

    def reorder(self, rows: NDArray[np.intp]) -> None:
        """Replace the state of each row; see `Decoder.reorder`. All rows of an image share its memory."""
        self._runs.reorder(rows)


def load_caption_engine(
    bundle: Bundle,
    choice: Choice,
    *,
    outputs: Collection[str] | None = None,
    search: SearchOptions | None = None,
) -> CaptionEngine:
    """Load a captioner's graphs. outputs: None means all; only `attention` may be left out.

    Raises:
        InputError: the tokenizers library is not installed.
        BundleError: the tokenizer is damaged or does not fit, or the bundle lacks the precision or an output.
        EngineUnavailableError: the engine cannot start here.
    """
    options, found = choice.options, search or SearchOptions()
    if unknown := set(outputs or ()) - set(_OUTPUTS):
        raise BundleError(
            f"bundle {bundle.manifest.name!r} (caption) has no output {min(unknown)!r}, only {', '.join(_OUTPUTS)}"
        )
    vocabulary = vocabulary_of(bundle)
    looks = outputs is None or "attention" in outputs
    rows = (options.batch_size or DEFAULT_BATCH_SIZE) * found.beams
    load = partial(load_engine, bundle, choice.engine, precision=choice.precision)
    with ExitStack() as stack:
        encoder = stack.enter_context(load(graph="encoder", options=options))
        decoder = load(
            graph="decoder",
            outputs=None if looks else ("logits", "next_cache"),
            options=replace(options, batch_size=rows),
        )
        stack.enter_context(decoder)
        engine = CaptionEngine(encoder, decoder, vocabulary=vocabulary, options=found)
        stack.pop_all()  # they are closed with it
    return engine


def vocabulary_of(bundle: Bundle) -> Vocabulary:
    """Return a captioner's vocabulary.

    Raises:
        InputError: the tokenizers library is not installed.
        BundleError: the bundle is no captioner, or its tokenizer is damaged.
    """
    file = bundle.manifest.tokenizer
    if file is None:
        raise BundleError(
            f"bundle {bundle.manifest.name!r} ({bundle.manifest.task}) is no captioner; give another bundle with -m"
        )
    return vocabulary_from_json(bundle.read(file), source=f"{bundle.path}: {file}")
