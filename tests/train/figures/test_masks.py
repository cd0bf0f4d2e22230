import numpy as np

from dlcv.runtime.bundle.schema import ClassInfo
from dlcv.train.figures.masks import masks_figure

CLASSES = (ClassInfo(name="road", color=(9, 8, 7)), ClassInfo(name="sky", color=(1, 2, 3)))


def test_masks_have_the_colours_of_their_classes_and_a_legend():
    mask = np.array([[[0, 1], [255, 1]]], np.uint8)
    figure = masks_figure(
        np.zeros((1, 2, 2, 3), np.uint8), {"truth": mask}, CLASSES, names=["a"], title="toy"
    )
    drawn = np.array(figure.axes[1].images[0].get_array())
    assert drawn.tolist() == [[[9, 8, 7], [1, 2, 3]], [[0, 0, 0], [1, 2, 3]]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["road", "sky", "not scored"]
    assert figure.axes[0].get_ylabel() == "a"
