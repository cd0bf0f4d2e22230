"""Greedy and beam search over a caption decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from dlcv.runtime.errors import InputError
from dlcv.runtime.running.tasks import TaskOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dlcv.runtime.caption.vocabulary import Vocabulary

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"
Logits: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"


@dataclass(frozen=True, kw_only=True)
class SearchOptions(TaskOptions):
    """Settings of the search.

    beams: captions kept per image during the search; 1 is greedy search. length_penalty: 0 compares captions by
    probability, which favours short ones; larger values favour longer ones (Wu et al. 2016,
    https://arxiv.org/abs/1609.08144, section 7). max_length: most words of a caption; None means as many as the
    decoder allows.
    """

    beams: int = 1
    length_penalty: float = 0.6
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name in ("beams", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name.replace('_', ' ')} must be 1 or more, not {value}")
        if self.length_penalty < 0:
            raise InputError(f"length penalty must be 0 or more, not {self.length_penalty:g}")


class Decoder(Protocol):
    """A stateful decoder that extends captions, one per row, token by token.

    A Protocol: implemented by an engine, and by PyTorch in training.

    length: number of positions.
    """

    @property
    def length(self) -> int: ...

    def step(self, tokens: Numbers, position: int) -> tuple[Logits, Logits | None]:
        """Append a token to each row, int32 (rows,).

        Returns the logits (rows, V) of the next token, and the attention for it, (rows, h, w), or None.
        """
        ...

    def reorder(self, rows: NDArray[np.intp]) -> None:
        """Replace the state of each row by that of row `rows[i]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Found:
    """The captions of N images.

    tokens: int32 (N, T) without marks; `pad` after the end of a caption. log_probability: float32 (N,), of all
    words and the end. attention: float32 (N, T, h, w), where the decoder looked for each word, zeros after the
    end; or None.
    """

    tokens: Numbers
    log_probability: Logits
    attention: Logits | None


def search(
    decoder: Decoder, images: int, *, vocabulary: Vocabulary, options: SearchOptions
) -> Found:
    """Search for the captions of images. The decoder has `options.beams` adjacent rows per image.

    A beam that has ended is kept and competes, by penalised probability, with those that continue.

    Raises:
        InputError: captions are to be longer than the decoder has room for.
    """
    steps = _most_words(decoder, options) + 1  # plus one for the end
    beams = _Beams(images, options, vocabulary=vocabulary, steps=steps)
    for position in range(steps):
        logits, attention = decoder.step(beams.last_tokens(position), position)
        rows = beams.extend(log_softmax(logits), position, attention=attention)
        if beams.ended.all():
            break
        if options.beams > 1:
            decoder.reorder(rows)
    return beams.best()


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Return log-probabilities of logits (rows, V)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def _most_words(decoder: Decoder, options: SearchOptions) -> int:
    room = decoder.length - 1
    if options.max_length is not None and options.max_length > room:
        raise InputError(
            f"max length {options.max_length} is more than the {room} words that this captioner can write"
        )
    return options.max_length or room


class _Beams:
    """The captions in progress: rows (images x beams), with those of an image adjacent."""

    def __init__(
        self, images: int, options: SearchOptions, *, vocabulary: Vocabulary, steps: int
    ) -> None:
        rows = images * options.beams
        self.images = images
        self.options = options
        self.vocabulary = vocabulary
        self.steps = steps
        self.tokens = np.full((rows, steps), vocabulary.pad, np.int32)
        self.lengths = np.zeros(rows, np.int64)  # including the end
        self.ended = np.zeros(rows, bool)
        # All beams of an image are equal at first, so only one of them counts.
        self.scores: NDArray[np.float64] = np.tile(
            np.where(np.arange(options.beams), -np.inf, 0.0), images
        )
        self.attention: Logits | None = None

    def last_tokens(self, position: int) -> Numbers:
        """Return the last token of each row, int32 (rows,)."""
        if position == 0:
            return np.full(len(self.tokens), self.vocabulary.start, np.int32)
        return self.tokens[:, position - 1].copy()

    def extend(
        self, scores: NDArray[np.float64], position: int, *, attention: Logits | None
    ) -> NDArray[np.intp]:
        """Keep the best continuations, and return the row that each comes from.

        scores: log-probabilities (rows, V).
        """
        allowed = self._allowed(scores, position)
        parents, tokens = self._chosen(allowed)
        if attention is not None:
            self._look(attention, position)
        ended = self.ended[parents]
        self.scores = self.scores[parents] + allowed[parents, tokens]
        self.lengths = self.lengths[parents] + ~ended
        self.tokens = self.tokens[parents]
        self.tokens[:, position] = np.where(ended, self.vocabulary.pad, tokens)
        if self.attention is not None:
            self.attention = self.attention[parents]
        self.ended = ended | (tokens == self.vocabulary.end)
        return parents

    def best(self) -> Found:
        """Return the best caption of each image."""
        beams = self.options.beams
        ranked = (self.scores / self._penalty(self.lengths)).reshape(self.images, beams)
        rows = np.arange(self.images) * beams + ranked.argmax(axis=1)
        tokens = self.tokens[rows]
        said = (tokens != self.vocabulary.pad) & (tokens != self.vocabulary.end)
        longest = max(1, int(said.sum(axis=1).max(initial=0)))
        said = said[:, :longest]
        attention = None
        if self.attention is not None:
            attention = self.attention[rows][:, :longest] * said[:, :, None, None]
        return Found(
            tokens=np.where(said, tokens[:, :longest], self.vocabulary.pad).astype(np.int32),
            log_probability=self.scores[rows].astype(np.float32),
            attention=attention,
        )

    def _allowed(self, scores: NDArray[np.float64], position: int) -> NDArray[np.float64]:
        """Return scores (rows, V) in which forbidden continuations are impossible, also for surplus beams."""
        count = scores.shape[1]
        allowed = scores.copy()
        allowed[:, list(self.vocabulary.unsaid)] = -np.inf
        if position == self.steps - 1:  # no room for another word
            allowed[:, np.arange(count) != self.vocabulary.end] = -np.inf
        allowed[self.ended] = -np.inf
        allowed[self.ended, self.vocabulary.end] = 0.0  # a finished caption stays as it is
        return allowed

    def _chosen(self, allowed: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows and tokens of the best `beams` continuations of each image."""
        beams, count = self.options.beams, allowed.shape[1]
        lengths = self.lengths + ~self.ended
        ranked = (self.scores[:, None] + allowed) / self._penalty(lengths)[:, None]
        by_image = ranked.reshape(self.images, beams * count)
        order = np.argpartition(-by_image, beams - 1, axis=1)[:, :beams]
        parents = order // count + np.arange(self.images)[:, None] * beams
        return parents.ravel(), (order % count).ravel()

    def _look(self, attention: Logits, position: int) -> None:
        if self.attention is None:
            shape = (len(self.tokens), self.steps, *attention.shape[1:])
            self.attention = np.zeros(shape, np.float32)
        self.attention[:, position] = attention

    def _penalty(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.power((5 + lengths) / 6, self.options.length_penalty, dtype=np.float64)
