"""Captions from a decoder that says how likely each next token is: greedy, and beam search."""

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
    """How captions are searched for.

    beams: so many captions of an image are pursued at once; 1 is greedy: always the likeliest word.
    length_penalty: 0 compares captions by their probability, which favours short ones; more favours longer ones
    (Wu et al. 2016, https://arxiv.org/abs/1609.08144, section 7). max_length: words of a caption at most; None:
    as many as the decoder has room for.
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
    """Captions begun, one a row, that go on token by token. A Protocol: an engine, or PyTorch in training.

    length: positions that there are.
    """

    @property
    def length(self) -> int: ...

    def step(self, tokens: Numbers, position: int) -> tuple[Logits, Logits | None]:
        """Put a token at the end of each row, int32 (rows,).

        Returns the logits (rows, V) of the next one, and where the decoder looked for it, (rows, h, w), or None.
        """
        ...

    def reorder(self, rows: NDArray[np.intp]) -> None:
        """Let each row go on from what row `rows[i]` holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Found:
    """The captions of N images.

    tokens: int32 (N, T), `pad` behind the end of a caption; marks are left out. log_probability: float32 (N,), of
    all words and the end. attention: float32 (N, T, h, w) where a decoder looked for each
    word, zeros behind the end, or None.
    """

    tokens: Numbers
    log_probability: Logits
    attention: Logits | None


def search(
    decoder: Decoder, images: int, *, vocabulary: Vocabulary, options: SearchOptions
) -> Found:
    """Search for the captions of images; the decoder has `options.beams` rows for each, side by side.

    A beam that has ended stays as it is and competes, by penalised probability, with those that go on.

    Raises:
        InputError: captions are to be longer than the decoder has room for.
    """
    steps = _most_words(decoder, options) + 1  # one more for the end
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
    """Return the logarithms of probabilities (rows, V)."""
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
    """The captions pursued: rows (images x beams), those of an image side by side."""

    def __init__(
        self, images: int, options: SearchOptions, *, vocabulary: Vocabulary, steps: int
    ) -> None:
        rows = images * options.beams
        self.images = images
        self.options = options
        self.vocabulary = vocabulary
        self.steps = steps
        self.tokens = np.full((rows, steps), vocabulary.pad, np.int32)
        self.lengths = np.zeros(rows, np.int64)  # the end included
        self.ended = np.zeros(rows, bool)
        # At first the beams of an image are all the same, so only one of them counts.
        self.scores: NDArray[np.float64] = np.tile(
            np.where(np.arange(options.beams), -np.inf, 0.0), images
        )
        self.attention: Logits | None = None

    def last_tokens(self, position: int) -> Numbers:
        """Return the token that each row goes on from, int32 (rows,)."""
        if position == 0:
            return np.full(len(self.tokens), self.vocabulary.start, np.int32)
        return self.tokens[:, position - 1].copy()

    def extend(
        self, scores: NDArray[np.float64], position: int, *, attention: Logits | None
    ) -> NDArray[np.intp]:
        """Keep the best continuations, and return the row that each comes from. scores: (rows, V), logarithms."""
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
        """Return scores (rows, V) in which what must not follow is impossible, also where beams outnumber the rest."""
        count = scores.shape[1]
        allowed = scores.copy()
        allowed[:, list(self.vocabulary.unsaid)] = -np.inf
        if position == self.steps - 1:  # no room for another word
            allowed[:, np.arange(count) != self.vocabulary.end] = -np.inf
        allowed[self.ended] = -np.inf
        allowed[self.ended, self.vocabulary.end] = 0.0  # the one way to stay as it is
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
