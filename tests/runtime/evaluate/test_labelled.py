"""Labelled images are found in folders, CSV files, mask folders and ZIP files; errors name the file."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.errors import InputError
from dlcv.runtime.evaluate.labelled import labelled_images

CLASSES = ["red", "green", "blue"]


def png(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array)).save(buffer, format="PNG")
    return buffer.getvalue()


PIXEL = png(np.zeros((2, 2, 3), np.uint8))


def write(folder, **files):
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_png", ".png").replace("_csv", ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def zipped(folder, target):
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return target


def classified(path):
    return {i.name: i.label for i in labelled_images(path, task="classify", classes=CLASSES)}


def test_folders_are_class_names_or_indices(tmp_path):
    data = write(tmp_path / "d", blue__a_png=PIXEL)
    write(data / "1", b_png=PIXEL)
    assert classified(data) == {"1/b.png": 1, "blue/a.png": 2}
    assert classified(zipped(data, tmp_path / "d.zip")) == {"1/b.png": 1, "blue/a.png": 2}


@pytest.mark.parametrize("header", ["file,label", "filename,extra,name", "image,class"])
def test_a_csv_lists_files_and_labels(tmp_path, header):
    middle = ",x" if header.count(",") == 2 else ""
    table = f"{header}\na.png{middle},green\nsub/b.png{middle},2\n"
    data = write(tmp_path, a_png=PIXEL, sub__b_png=PIXEL, labels_csv=table)
    assert classified(data) == classified(data / "labels.csv") == {"a.png": 1, "sub/b.png": 2}


def test_a_csv_may_lie_beside_a_zip_of_its_images(tmp_path):
    zipped(write(tmp_path / "in", a_png=PIXEL), tmp_path / "in.zip")
    (tmp_path / "in" / "a.png").unlink()
    write(tmp_path, labels_csv="file,label\na.png,0\n", other_csv="index,name\n0,red\n")
    items = labelled_images(tmp_path / "labels.csv", task="classify", classes=CLASSES)
    assert [(i.label, i.read()) for i in items] == [(0, PIXEL)]


def test_images_have_masks(tmp_path):
    data = write(tmp_path / "d", images__a_png=PIXEL, labels__a_png=png(np.zeros((2, 2), np.uint8)))
    for path in (data, zipped(data, tmp_path / "d.zip")):
        (item,) = labelled_images(path, task="segment", classes=CLASSES)
        assert item.name == "images/a.png"
        assert item.read_mask is not None
        assert item.read_mask() == (data / "labels/a.png").read_bytes()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"violet__a_png": PIXEL}, r"violet/a.png: 'violet' is neither .* 3 class names"),
        ({"7__a_png": PIXEL}, "7/a.png: '7' is neither"),
        ({"l_csv": "file,label\nb.png,red\n"}, "l.csv line 2: there is no file 'b.png'"),
        ({"a_png": PIXEL, "l_csv": "file,label\na.png,9\n"}, "l.csv line 2: '9' is neither"),
        ({"a_png": PIXEL, "l_csv": "file,colour\na.png,9\n"}, "l.csv has no label column"),
        ({"l_csv": b"file,label\n\xff\xfe,1\n"}, "l.csv is not a CSV file in UTF-8"),
        ({"readme_csv": "x,y\n1,2\n"}, "holds neither folders of images"),
    ],
)
def test_a_classifier_s_data_that_does_not_fit_is_named(tmp_path, files, words):
    with pytest.raises(InputError, match=words):
        classified(write(tmp_path, **files))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"images__a_png": PIXEL}, r"images/a.png has no mask labels/a.png"),
        ({"a_png": PIXEL}, "holds no images/NAME.png with labels/NAME.png"),
    ],
)
def test_masks_that_are_missing_are_named(tmp_path, files, words):
    with pytest.raises(InputError, match=words):
        labelled_images(write(tmp_path, **files), task="segment", classes=CLASSES)


def test_what_is_not_there_or_no_zip_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no data at .*gone"):
        classified(tmp_path / "gone")
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"bad.zip is not a readable ZIP file"):
        classified(tmp_path / "bad.zip")
    (tmp_path / "bad.zip").unlink()
    with pytest.raises(InputError, match="not 'embed'"):
        labelled_images(tmp_path, task="embed", classes=CLASSES)


def test_sheets_of_more_classes_than_the_bundle_has_are_refused(tmp_path):
    np.save(tmp_path / "test_labels.npy", np.array([0, 9], np.uint8))
    with pytest.raises(InputError, match=r"holds labels of shape \(2,\) up to 9; expected .* 0..2"):
        classified(tmp_path)
