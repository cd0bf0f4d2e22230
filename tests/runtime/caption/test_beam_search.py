"""Greedy and beam search over decoders whose probabilities are known, against counting all captions."""

import itertools

import numpy as np
import pytest

from dlcv.runtime.caption.beam_search import SearchOptions, log_softmax, search
from dlcv.runtime.caption.vocabulary import vocabulary_from_captions
from dlcv.runtime.errors import InputError

WORDS = 3
TOKENS = 4 + WORDS


@pytest.fixture(scope="module")
def vocabulary():
    return vocabulary_from_captions(["a b c"], size=TOKENS)


class TableDecoder:
    """The next token depends on the image, the position and the last token. Rows remember their tokens."""

    def __init__(self, table, *, images, beams=1):
        self.table = table  # (images, length, tokens, tokens)
        self.image = np.repeat(np.arange(images), beams)
        self.length = table.shape[1]
        self.said = np.zeros((images * beams, 0), np.int32)
        self.steps = 0

    def step(self, tokens, position):
        assert self.said.shape[1] == position
        self.said = np.concatenate([self.said, tokens[:, None]], axis=1)
        self.steps += 1
        attention = np.broadcast_to(tokens[:, None, None], (len(tokens), 1, 2)).astype(np.float32)
        return self.table[self.image, position, tokens], attention

    def reorder(self, rows):
        self.said = self.said[rows]


def random_table(*, images=2, length=4, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (images, length, TOKENS, TOKENS)).astype("f4")


def every_caption(table, vocabulary):
    """Yield each possible caption with its log-probability; the end is forced at the last position."""
    words = range(4, TOKENS)
    for count in range(len(table)):
        for caption in itertools.product(words, repeat=count):
            said = [vocabulary.start, *caption, vocabulary.end]
            logs = [
                log_softmax(table[position, token][None])[0, following]
                for position, (token, following) in enumerate(itertools.pairwise(said))
            ]
            yield caption, sum(logs)


def caption(found, number, vocabulary):
    return tuple(int(token) for token in found.tokens[number] if token != vocabulary.pad)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_enough_beams_find_the_best_of_all_captions(seed, penalty, vocabulary):
    table = random_table(seed=seed)
    options = SearchOptions(beams=40, length_penalty=penalty)
    decoder = TableDecoder(table, images=2, beams=40)
    found = search(decoder, 2, vocabulary=vocabulary, options=options)
    for image in range(2):
        scores = {
            words: log / ((5 + len(words) + 1) / 6) ** penalty
            for words, log in every_caption(table[image], vocabulary)
        }
        best = max(scores, key=lambda words: scores[words])
        assert caption(found, image, vocabulary) == best
        log = dict(every_caption(table[image], vocabulary))[best]
        assert found.log_probability[image] == pytest.approx(log, abs=1e-5)


def test_greedy_takes_the_likeliest_word_and_stops_at_the_end(vocabulary):
    table = random_table(images=1, length=6)
    said, likely = [vocabulary.start], 0.0
    for position in range(6):
        logs = log_softmax(table[0, position, said[-1]][None])[0]
        allowed = logs.copy()
        allowed[list(vocabulary.unsaid)] = -np.inf
        following = vocabulary.end if position == 5 else int(allowed.argmax())
        likely += logs[following]
        if following == vocabulary.end:
            break
        said.append(following)
    decoder = TableDecoder(table, images=1)
    found = search(decoder, 1, vocabulary=vocabulary, options=SearchOptions())
    assert caption(found, 0, vocabulary) == tuple(said[1:])
    assert found.log_probability[0] == pytest.approx(likely, abs=1e-5)
    assert decoder.steps == len(said)


def test_images_of_a_batch_do_not_mind_each_other(vocabulary):
    table = random_table(images=3, length=5, seed=7)
    options = SearchOptions(beams=3)
    together = search(
        TableDecoder(table, images=3, beams=3), 3, vocabulary=vocabulary, options=options
    )
    for image in range(3):
        alone = search(
            TableDecoder(table[image : image + 1], images=1, beams=3),
            1,
            vocabulary=vocabulary,
            options=options,
        )
        assert caption(alone, 0, vocabulary) == caption(together, image, vocabulary)


@pytest.mark.parametrize("beams", [1, 3])
def test_attention_belongs_to_its_word_and_rows_to_their_beams(beams, vocabulary):
    table = random_table(images=2, length=5, seed=3)
    decoder = TableDecoder(table, images=2, beams=beams)
    found = search(decoder, 2, vocabulary=vocabulary, options=SearchOptions(beams=beams))
    for image in range(2):
        words = caption(found, image, vocabulary)
        # The toy looks at the number of the token before: at the start first, then at each word.
        assert found.attention is not None
        looked = found.attention[image, :, 0, 0].tolist()
        expected = [vocabulary.start, *words][: len(words)]
        assert looked == expected + [0] * (found.tokens.shape[1] - len(words))


def test_unsaid_marks_are_never_said_however_likely(vocabulary):
    table = random_table(images=1, length=6)
    table[..., list(vocabulary.unsaid)] = 50
    found = search(TableDecoder(table, images=1), 1, vocabulary=vocabulary, options=SearchOptions())
    assert not set(caption(found, 0, vocabulary)) & set(vocabulary.unsaid)


def test_a_caption_has_at_most_so_many_words(vocabulary):
    table = random_table(images=1, length=6)
    table[..., vocabulary.end] = -50  # it would never end by itself
    for most in (1, 3, None):
        options = SearchOptions(max_length=most)
        found = search(TableDecoder(table, images=1), 1, vocabulary=vocabulary, options=options)
        assert len(caption(found, 0, vocabulary)) == (most or 5)
    with pytest.raises(InputError, match="max length 6 is more than the 5 words"):
        search(
            TableDecoder(table, images=1),
            1,
            vocabulary=vocabulary,
            options=SearchOptions(max_length=6),
        )


def test_an_empty_caption_is_a_caption(vocabulary):
    table = random_table(images=1, length=3)
    table[..., vocabulary.end] = 50
    found = search(TableDecoder(table, images=1), 1, vocabulary=vocabulary, options=SearchOptions())
    assert caption(found, 0, vocabulary) == ()
    assert found.tokens.shape == (1, 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"beams": 0}, "beams must be 1 or more, not 0"),
        ({"max_length": 0}, "max length must be 1 or more, not 0"),
        ({"length_penalty": -0.5}, "length penalty must be 0 or more, not -0.5"),
    ],
)
def test_search_options_have_limits(options, sentence):
    with pytest.raises(InputError, match=sentence):
        SearchOptions(**options)
