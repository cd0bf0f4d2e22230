"""The caption metrics BLEU and CIDEr, over a whole data set.

Libraries that have both need PyTorch or 100 MB of Java, so dlcv has short versions of its own. Tests check them
against torchmetrics and against figures of pycocoevalcap 1.2. Captions are split into words by
`dlcv.runtime.caption.vocabulary.words_of`; pycocoevalcap uses a tokenizer written in Java.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

Words: TypeAlias = Sequence[str]
NGram: TypeAlias = tuple[str, ...]

_LONGEST = 4
_SIGMA = 6.0  # sigma of the Gaussian length penalty of CIDEr-D, in words


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return BLEU-4 in 0..1 of a data set (Papineni et al. 2002, https://aclanthology.org/P02-1040), unsmoothed.

    candidates: one caption per image. references: several human captions per image. The reference length is
    that of the reference nearest in length.
    """
    matched, proposed = [0] * _LONGEST, [0] * _LONGEST
    candidate_length = reference_length = 0
    for candidate, accepted in zip(candidates, references, strict=True):
        candidate_length += len(candidate)
        reference_length += min(
            (len(words) for words in accepted), key=lambda n: (abs(n - len(candidate)), n)
        )
        for size in range(1, _LONGEST + 1):
            counts = _ngrams(candidate, size)
            most: Counter[NGram] = Counter()
            for words in accepted:
                most |= _ngrams(words, size)
            matched[size - 1] += (counts & most).total()
            proposed[size - 1] += counts.total()
    if not all(matched):
        return 0.0
    precision = sum(math.log(m / p) for m, p in zip(matched, proposed, strict=True)) / _LONGEST
    return math.exp(precision + min(0.0, 1 - reference_length / candidate_length))


def cider(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return CIDEr-D of a data set (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 6).

    Document frequencies are counted in the references of the data set itself. 1 and more is good; 10 is
    perfect.
    """
    documents = Counter(
        ngram for accepted in references for ngram in set().union(*map(_all_ngrams, accepted))
    )
    rarity = {ngram: math.log(len(references) / count) for ngram, count in documents.items()}
    never = math.log(len(references))
    scores = []
    for candidate, accepted in zip(candidates, references, strict=True):
        own = _weighted(candidate, rarity, never=never)
        alike = [
            _alike(own, _weighted(words, rarity, never=never), len(candidate) - len(words))
            for words in accepted
        ]
        scores.append(10 * sum(alike) / len(alike))
    return sum(scores) / len(scores)


def _ngrams(words: Words, size: int) -> Counter[NGram]:
    return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def _all_ngrams(words: Words) -> Counter[NGram]:
    return sum((_ngrams(words, size) for size in range(1, _LONGEST + 1)), Counter())


def _weighted(
    words: Words, rarity: dict[NGram, float], *, never: float
) -> list[dict[NGram, float]]:
    """Return TF-IDF weights of n-grams, by length of the n-gram."""
    return [
        {n: count * rarity.get(n, never) for n, count in _ngrams(words, size).items()}
        for size in range(1, _LONGEST + 1)
    ]


def _alike(
    candidate: list[dict[NGram, float]], reference: list[dict[NGram, float]], difference: int
) -> float:
    """Return the mean over n-gram lengths of clipped cosine similarities. difference: of the lengths in words."""
    total = 0.0
    for own, other in zip(candidate, reference, strict=True):
        norms = math.hypot(*own.values()) * math.hypot(*other.values())
        product = sum(min(weight, other[n]) * other[n] for n, weight in own.items() if n in other)
        total += product / norms if norms else 0.0
    return total / _LONGEST * math.exp(-(difference**2) / (2 * _SIGMA**2))
