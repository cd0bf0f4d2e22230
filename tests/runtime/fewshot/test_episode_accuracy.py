"""Accuracy and its interval over episodes, against arithmetic."""

import numpy as np
import pytest

from dlcv.runtime.errors import InputError
from dlcv.runtime.fewshot.episode_accuracy import score_episodes, scores_of
from dlcv.runtime.fewshot.episodes import Episode

EMBEDDINGS = np.array([[0.0], [1.0], [0.1], [0.9]], np.float32)
SUPPORT = (np.array([0]), np.array([1]))


def euclidean(query, prototypes):
    return -((query[:, None] - prototypes[None]) ** 2).sum(2)


def episode(labels, *, support=SUPPORT):
    return Episode(support=support, query=np.array([2, 3]), labels=np.array(labels))


def test_accuracy_and_interval_are_those_of_the_episodes():
    right, wrong = episode([0, 1]), episode([1, 0])
    score = score_episodes(EMBEDDINGS, [right, right, right, wrong], distance=euclidean)
    assert (score.accuracy, score.episodes) == (0.75, 4)
    assert score.interval == pytest.approx(1.96 * 0.5 / 2)  # s of 1, 1, 1, 0 is 0.5
    assert score.answers[3].tolist() == [0, 1]
    assert score_episodes(EMBEDDINGS, [right], distance=euclidean).interval == 0.0


def test_the_loss_is_the_cross_entropy_of_a_softmax_over_scores():
    score = score_episodes(EMBEDDINGS, [episode([0, 1])], distance=euclidean)
    assert score.loss == pytest.approx(np.log1p(np.exp(0.1**2 - 0.9**2)), rel=1e-6)


def test_a_prototype_is_the_mean_of_its_support():
    both = (np.array([0, 2]), np.array([1]))
    scores = scores_of(EMBEDDINGS, episode([0, 1], support=both), distance=euclidean)
    assert scores[0, 0] == pytest.approx(-((0.1 - 0.05) ** 2), rel=1e-4)


def test_no_episode_is_no_score():
    with pytest.raises(InputError, match="no episodes to score on"):
        score_episodes(EMBEDDINGS, [], distance=euclidean)
