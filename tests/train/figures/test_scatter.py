from itertools import combinations

import numpy as np
import pytest

from dlcv.train.figures.embeddings import Embeddings, evenly_by_class
from dlcv.train.figures.projections import pca_panel, tsne_panel
from dlcv.train.figures.scatter import Panel, class_style, scatter_figure


@pytest.fixture
def blobs():
    """60 points of three far classes in 8 dimensions, with their labels."""
    random, labels = np.random.default_rng(0), np.arange(60) % 3
    points = 10 * np.eye(3, 8)[labels] + random.normal(scale=0.3, size=(60, 8))
    return Embeddings(title="epoch 1", points=points.astype(np.float32)), labels


def apart(points, labels):
    """Whether the nearest neighbour of every point is of its own class."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return bool((labels[distances.argmin(axis=1)] == labels).all())


@pytest.mark.parametrize(
    ("labels", "count", "expected"),
    [
        ([0, 0, 0, 1, 1, 1], 4, [0, 1, 3, 4]),
        ([1, 0, 1, 0, 1], 3, [0, 1, 3]),
        ([0, 0, 0, 0, 1], 4, [0, 1, 2, 4]),
        ([0, 1], 9, [0, 1]),
        ([], 5, []),
    ],
)
def test_points_are_taken_evenly_by_class(labels, count, expected):
    assert evenly_by_class(np.array(labels, np.int64), count).tolist() == expected


def test_pca_says_how_much_it_explains():
    line = np.outer(np.arange(5.0), [3.0, 4.0]).astype(np.float32)
    panel = pca_panel(Embeddings(title="line", points=line))
    assert panel.xlabel == "component 1: 100.0% of the variance"
    assert panel.ylabel == "component 2: 0.0% of the variance"
    np.testing.assert_allclose(np.abs(np.diff(panel.points[:, 0])), 5, rtol=1e-5)


def test_tsne_keeps_classes_apart_and_is_the_same_again(blobs):
    found, labels = blobs
    panel = tsne_panel(found)
    assert apart(panel.points, labels)
    np.testing.assert_array_equal(panel.points, tsne_panel(found).points)


def test_tsne_of_few_points_does_with_fewer_neighbours():
    points = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    assert tsne_panel(Embeddings(title="few", points=points)).points.shape == (10, 2)


@pytest.mark.parametrize("count", [50, 100])
def test_every_class_has_a_look_of_its_own(count):
    assert len({class_style(index, count) for index in range(count)}) == count


def test_like_colours_of_a_group_differ_in_marker():
    greys, browns = (3, 8), (5, 7)
    for a, b in (*combinations(greys, 2), *combinations(browns, 2)):
        assert class_style(a, 50)[1] != class_style(b, 50)[1]


@pytest.mark.parametrize(("panels", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))])
def test_a_panel_a_checkpoint_and_one_legend(panels, shape):
    labels = np.array([0, 1, 1])
    points = np.eye(3)[:, :2]
    shown = [Panel(title=f"epoch {i}", points=points, xlabel="x") for i in range(panels)]
    figure = scatter_figure(shown, labels, ["cat", "dog"], title="toy")
    first = figure.axes[0].get_subplotspec()
    assert first is not None
    assert first.get_gridspec().get_geometry() == shape
    assert [axes.get_title() for axes in figure.axes[:panels]] == [p.title for p in shown]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["cat", "dog"]
    offsets = [np.asarray(group.get_offsets()).tolist() for group in figure.axes[0].collections]
    assert offsets == [[[1, 0]], [[0, 1], [0, 0]]]
