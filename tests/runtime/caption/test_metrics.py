"""BLEU and CIDEr against torchmetrics, the paper's example, and figures of pycocoevalcap 1.2 (`BleuScorer`, `CiderScorer`)."""

import numpy as np
import pytest

from dlcv.runtime.caption.metrics import bleu, cider

REFERENCES = [
    [
        "a black dog leaps over a log",
        "a grey dog is leaping over a fallen tree",
        "a large black dog leaps a fallen log",
        "a mottled black and grey dog in a blue collar jumping over a fallen tree",
        "the black dog jumped the tree stump",
    ],
    [
        "two brown dogs are creating large splashes as they run in a river",
        "two brown dogs in the water",
        "two brown dogs running through water",
        "two brown dogs runs through the water",
        "two dogs splash through the water",
    ],
    [
        "the girl is climbing a rock wall",
        "the girl is in a harness climbing rocks",
        "woman climbing an artificial rock wall",
    ],
]
CANDIDATES = [
    "a black dog jumps over a fallen tree",
    "two dogs run through the water in a river",
    "a woman is climbing a rock wall",
]


def split(texts):
    return [text.split() for text in texts]


def test_bleu_and_cider_are_those_of_pycocoevalcap():
    references = [split(texts) for texts in REFERENCES]
    assert bleu(split(CANDIDATES), references) == pytest.approx(0.482771822812861, abs=1e-8)
    assert cider(split(CANDIDATES), references) == pytest.approx(2.561321679512282, abs=1e-8)
    alone = [2.4380060520551217, 2.106183690157162, 3.1397752963245624]
    assert np.mean(alone) == pytest.approx(cider(split(CANDIDATES), references))


def test_bleu_of_the_example_of_papineni_et_al():
    # Their example 1, with the score that NLTK's documentation gives for it.
    candidate = "It is a guide to action which ensures that the military always obeys the commands of the party"
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    assert bleu([candidate.split()], [split(references)]) == pytest.approx(0.5045666840058485)


def test_bleu_is_that_of_torchmetrics():
    from torchmetrics.functional.text import bleu_score

    random = np.random.default_rng(0)
    words = np.array(list("abcdef"))
    references = [[list(words[random.integers(0, 6, n)]) for n in (7, 9, 12)] for _ in range(20)]
    candidates = [[*r[0][:5], *r[1][:4]] for r in references]
    theirs = bleu_score(
        [" ".join(c) for c in candidates], [[" ".join(w) for w in r] for r in references]
    )
    assert bleu(candidates, references) == pytest.approx(float(theirs), abs=1e-6)


def test_what_people_said_is_perfect_and_other_words_are_worth_nothing():
    references = [split(texts[:1]) for texts in REFERENCES]
    same = [accepted[0] for accepted in references]
    assert bleu(same, references) == 1.0
    assert cider(same, references) == pytest.approx(10.0)
    other = [["zebra"] * 6] * 3
    assert bleu(other, references) == cider(other, references) == 0.0


def test_an_empty_caption_scores_nothing_and_breaks_nothing():
    references = [split(texts) for texts in REFERENCES]
    assert bleu([[]] * 3, references) == 0.0
    assert cider([[]] * 3, references) == 0.0


def test_one_image_alone_has_no_rare_words():
    assert cider(split(CANDIDATES[:1]), [split(REFERENCES[0])]) == 0.0
