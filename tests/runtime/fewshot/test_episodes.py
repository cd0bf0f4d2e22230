"""Episodes are drawn from a seed, read from a CSV, and refused where the data do not do."""

import numpy as np
import pytest

from dlcv.runtime.errors import InputError
from dlcv.runtime.fewshot.episodes import EpisodeConfig, EpisodeSampler, episodes_from_csv

NAMES = ("a", "b", "c")
LABELS = np.repeat([0, 1, 2], 5)
FILES = [f"{name}/{number}.png" for name in NAMES for number in range(5)]


def sampler(seed=0, **config):
    settings = {"ways": 3, "shots": 2, "queries": 3, "episodes": 7} | config
    return EpisodeSampler(LABELS, EpisodeConfig(**settings), names=NAMES, seed=seed)


def test_an_episode_has_classes_of_its_own_and_no_image_twice():
    for episode in sampler():
        support = np.stack(episode.support)
        assert support.shape == (3, 2)
        assert len(set(LABELS[support[:, 0]].tolist())) == 3
        assert np.array_equal(LABELS[support[:, 0]], LABELS[support[:, 1]])
        assert np.array_equal(LABELS[episode.query], LABELS[support[:, 0]][episode.labels])
        images = [*support.flatten().tolist(), *episode.query.tolist()]
        assert len(set(images)) == len(images) == 15


def test_episodes_depend_on_seed_epoch_and_number_alone():
    first, again, other = sampler(), sampler(), sampler(seed=1)
    assert np.array_equal(first.drawn(3, epoch=2), again.drawn(3, epoch=2))
    assert not np.array_equal(first.drawn(3, epoch=2), first.drawn(4, epoch=2))
    assert not np.array_equal(first.drawn(3, epoch=2), first.drawn(3, epoch=1))
    assert not np.array_equal(first.drawn(3), other.drawn(3))
    assert len(list(first)) == 7


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ways": 4}, "an episode asks for 4 classes, there are 3; lower ways"),
        (
            {"shots": 3},
            "takes 3 support images and 3 queries of a class, 'a' has 5 images; lower shots or",
        ),
    ],
)
def test_more_classes_or_shots_than_there_are_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        sampler(**config)


HEADER = "episode,role,class,file\n"
GOOD = "1,support,x,a/0.png\n1,support,y,b/0.png\n1,support,y,b/1.png\n1,query,y,b/2.png\n"


def test_fixed_episodes_come_from_a_csv(tmp_path):
    path = tmp_path / "episodes.csv"
    path.write_text(HEADER + GOOD + GOOD.replace("1,", "2,", 1).replace("\n1,", "\n2,"))
    first, second = episodes_from_csv(path, FILES)
    assert [support.tolist() for support in first.support] == [[0], [5, 6]]
    assert (first.query.tolist(), first.labels.tolist()) == ([7], [1])
    assert len(second.support) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have rows and the columns episode, role, class, file"),
        ("episode,support,query\n1,a,b\n", "must have rows and the columns episode, role"),
        (HEADER + "1,teach,x,a/0.png\n", "line 2: role is support or query, not 'teach'"),
        (HEADER + "1,support,x,a/9.png\n", "line 2: the data have no image 'a/9.png'"),
        (HEADER + GOOD + "1,query,z,a/1.png\n", "a query is of class 'z', which has no support"),
        (
            HEADER + "7,support,x,a/0.png\n7,query,x,a/1.png\n",
            "episode 7: it has support of 1 classes and 1 queries",
        ),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_with_the_place(tmp_path, text, message):
    path = tmp_path / "episodes.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        episodes_from_csv(path, FILES)
    with pytest.raises(InputError, match="cannot read episodes"):
        episodes_from_csv(tmp_path / "none.csv", FILES)
