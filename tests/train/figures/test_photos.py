from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from dlcv.runtime.errors import InputError
from dlcv.train.checkpoint import Checkpoint
from dlcv.train.figures.photos import chosen_indices, photos_for, pixels_of, short_name
from dlcv.train.figures.request import Request

NAMES = ("images/a1.jpg", "images/a2.jpg", "images/b.jpg", "images/c.jpg")


@pytest.fixture
def new_request(new_recipe, toy_data):
    """Make a request about a checkpoint that needs no network."""

    def request(photos=(), **changes):
        recipe = new_recipe("segment", **changes)
        made = Request(run=Path("run"), root=toy_data, out=Path("out"), photos=tuple(photos))
        made.__dict__["final"] = Checkpoint(
            path=made.run,
            model=nn.Identity(),
            recipe=recipe,
            metrics={},
        )
        return made

    return request


@pytest.mark.parametrize(
    ("names", "expected"), [((), [0, 2]), (("images/c", "a1"), [3, 0]), (("images/b.jpg",), [2])]
)
def test_images_are_chosen_by_name_or_evenly_apart(names, expected):
    assert chosen_indices(NAMES, names, default=2) == expected


@pytest.mark.parametrize(("name", "found"), [("a", 2), ("z", 0)])
def test_a_name_that_fits_not_one_image_is_refused(name, found):
    message = f"--images {name}: {found} of 4 images fit; such as images/a1.jpg"
    with pytest.raises(InputError, match=message):
        chosen_indices(NAMES, (name,), default=2)


def test_a_short_name_has_neither_folder_nor_ending():
    assert short_name("val/n01/a.b.jpg") == "a.b"


def test_without_photos_test_images_are_taken(new_request):
    found = photos_for(new_request())
    assert [photo.name for photo in found] == ["e", "f"]
    assert pixels_of(found).shape == (2, 40, 48, 3)


def test_a_photo_goes_through_the_recipes_preprocessing(new_request, tmp_path):
    Image.new("RGB", (20, 10), (200, 0, 0)).save(tmp_path / "red.png")
    (photo,) = photos_for(new_request([tmp_path / "red.png"]))
    assert photo.name == "red.png"
    assert photo.pixels.shape == (40, 48, 3)
    assert photo.frame.size == (10, 20)
    assert np.asarray(photo.view)[5, 5].tolist() == [200, 0, 0]


def test_a_file_that_is_no_photo_is_refused(new_request, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"notes\.txt: not an image"):
        photos_for(new_request([tmp_path / "notes.txt"]))


def test_photos_of_different_sizes_do_not_make_a_batch(new_request, tmp_path):
    for name, size in (("wide", (40, 20)), ("tall", (20, 40))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    keeping = {"resize": "longest_side", "size": [64, 64]}
    files = [tmp_path / "wide.png", tmp_path / "tall.png"]
    with pytest.raises(InputError, match="the photos differ in size"):
        pixels_of(photos_for(new_request(files, preprocessing=keeping)))


def test_a_long_name_is_cut(new_request, tmp_path):
    path = tmp_path / "a_long_name.png"
    Image.new("RGB", (8, 8)).save(path)
    (photo,) = photos_for(new_request([path]))
    assert (photo.title(6), photo.title(20)) == ("a_lon…", "a_long_name.png")
