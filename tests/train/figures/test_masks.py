import numpy as np
import pytest
import torch

from dlcv.runtime.errors import InputError
from dlcv.runtime.manifest import ClassInfo
from dlcv.train.data import Dataset
from dlcv.train.figures.masks import chosen_images, masks_figure

CLASSES = (ClassInfo(name="road", color=(9, 8, 7)), ClassInfo(name="sky", color=(1, 2, 3)))
NAMES = ("images/a1.jpg", "images/a2.jpg", "images/b.jpg", "images/c.jpg")


@pytest.fixture
def dataset():
    return Dataset(
        images=torch.zeros(4, 2, 2, 3, dtype=torch.uint8),
        labels=torch.zeros(4, 2, 2, dtype=torch.uint8),
        names=NAMES,
    )


@pytest.mark.parametrize(
    ("names", "expected"), [((), [0, 2]), (("images/c", "a1"), [3, 0]), (("images/b.jpg",), [2])]
)
def test_images_are_chosen_by_name_or_evenly_apart(dataset, names, expected):
    assert chosen_images(dataset, names, default=2) == expected


@pytest.mark.parametrize(("name", "found"), [("a", 2), ("z", 0)])
def test_a_name_that_fits_not_one_image_is_refused(dataset, name, found):
    message = f"--images {name}: {found} of 4 images fit; such as images/a1.jpg"
    with pytest.raises(InputError, match=message):
        chosen_images(dataset, (name,), default=2)


def test_masks_have_the_colours_of_their_classes_and_a_legend():
    mask = np.array([[[0, 1], [255, 1]]], np.uint8)
    figure = masks_figure(np.zeros((1, 2, 2, 3), np.uint8), {"truth": mask}, CLASSES, title="toy")
    drawn = np.array(figure.axes[1].images[0].get_array())
    assert drawn.tolist() == [[[9, 8, 7], [1, 2, 3]], [[0, 0, 0], [1, 2, 3]]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["road", "sky", "not scored"]
