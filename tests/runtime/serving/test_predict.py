"""`/predict/NAME` gives the lines and pictures of `dlcv-infer`, for a file, a form of files, and few-shot classes."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from tests.runtime.serving.conftest import SECONDS, ServerProcess
from typer.testing import CliRunner

import dlcv
from dlcv.cli.infer.app import app as infer_app
from dlcv.runtime.fewshot.prototypes import Prototypes

Photo = Callable[..., Path]


def ask(server: ServerProcess, model: str, data: bytes, **query: str) -> requests.Response:
    return requests.post(f"{server.url}/predict/{model}", data=data, params=query, timeout=SECONDS)


def command_line(command: str, photo: Path, bundle: Path, *options: str) -> dict[str, Any]:
    arguments = [command, str(photo), "-m", str(bundle), "--engine", "ort", *options]
    done = CliRunner().invoke(infer_app, arguments)
    assert done.exit_code == 0, done.output
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    return line


@pytest.fixture
def two_colors(new_photo: Photo) -> Path:
    """Left half red, right half blue, 40 x 30."""
    path = new_photo("halves.png", color="blue")
    image = Image.open(path)
    image.paste((255, 0, 0), (0, 0, 20, 30))
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("command", "options"),
    [("classify", ()), ("classify", ("--top", "2")), ("embed", ("--out", "-")), ("segment", ("--out", "-"))],
)  # fmt: skip
def test_a_photo_gives_the_line_of_the_command(
    server, command, options, two_colors, classify_bundle, segment_bundle, embed_bundle
) -> None:
    bundle = {"classify": classify_bundle, "segment": segment_bundle, "embed": embed_bundle}[
        command
    ]
    expected = command_line(command, two_colors, bundle, *options)
    query = {"name": str(two_colors)} | ({"top": "2"} if "--top" in options else {})
    answer = ask(server, bundle.name, two_colors.read_bytes(), **query)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == expected


def test_a_photo_without_a_name_is_named_by_its_size(
    server: ServerProcess, two_colors: Path
) -> None:
    data = two_colors.read_bytes()
    assert ask(server, "toy-classify", data).json()["image"] == f"<{len(data)} bytes>"


def test_a_captioner_writes_a_line(server: ServerProcess, new_photo: Photo) -> None:
    line = ask(server, "toy-caption", new_photo("a.png", color="blue").read_bytes()).json()
    assert line["caption"] == "a blue wall"


def test_a_form_of_several_images_gives_a_line_each_in_order(
    server: ServerProcess, new_photo: Photo
) -> None:
    files = [
        ("image", ("one.png", new_photo("one.png", color="red").read_bytes())),
        ("image", ("bad.png", b"this is no image")),
        ("other", ("two.png", new_photo("two.png", color="blue").read_bytes())),
    ]
    answer = requests.post(f"{server.url}/predict/toy-classify", files=files, timeout=SECONDS)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/jsonl"
    assert [line["image"] for line in lines] == ["one.png", "bad.png", "two.png"]
    assert [line.get("label") for line in lines] == ["red", None, "blue"]
    assert "not an image" in lines[1]["reason"]


def test_a_form_of_one_image_gives_one_object(server: ServerProcess, new_photo: Photo) -> None:
    with new_photo("one.png", color="green").open("rb") as file:
        answer = requests.post(
            f"{server.url}/predict/toy-classify", files={"image": file}, timeout=SECONDS
        )
    assert (answer.json()["image"], answer.json()["label"]) == ("one.png", "green")


def test_a_mask_is_the_palette_png_that_segment_writes(
    server: ServerProcess, two_colors: Path, segment_bundle: Path, tmp_path: Path
) -> None:
    command_line("segment", two_colors, segment_bundle, "--out", "-")
    done = CliRunner().invoke(
        infer_app,
        ["segment", str(two_colors), "-m", str(segment_bundle), "-e", "ort", "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    expected = Image.open(tmp_path / "out" / "masks" / "halves.png")
    answer = ask(server, "toy-segment", two_colors.read_bytes(), mask="png")
    assert answer.headers["content-type"] == "image/png"
    found = Image.open(io.BytesIO(answer.content))
    assert (found.mode, found.getpalette()) == (expected.mode, expected.getpalette())
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert set(np.unique(np.asarray(found))) == {0, 2}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("toy-segment", "overlay"), ("toy-segment", "confidence"), ("toy-classify", "overlay"), ("toy-caption", "overlay")],
)  # fmt: skip
def test_pictures_are_drawn_on_request(
    server: ServerProcess, two_colors: Path, name: str, kind: str
) -> None:
    answer = ask(server, name, two_colors.read_bytes(), **{kind: "png"})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).width >= 40


def test_arrays_come_in_the_line_where_they_are_asked_for(
    server: ServerProcess, two_colors: Path, new_photo: Photo
) -> None:
    data = two_colors.read_bytes()
    line = ask(server, "toy-classify", data, include="explanation,attention,embedding").json()
    assert np.shape(line["explanation"]) == (8, 8)
    assert np.shape(line["attention"]) == (3, 8, 8)
    assert np.shape(line["embedding"]) == (3,)
    assert line["box_xyxy"] == [0, 0, 40, 30]
    line = ask(server, "toy-segment", data, include="mask,confidence").json()
    mask = line["mask"].removeprefix("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(mask))).size == (40, 30)
    assert line["mean_confidence"] > 0.9
    assert "attention" not in ask(server, "toy-segment", data, include="attention").json()
    words = ask(server, "toy-caption", data, include="attention").json()["attention"]
    assert [word["word"] for word in words][::2] == ["a", "wall"]
    assert np.shape(words[0]["values"]) == (2, 2)


REFUSED = {
    "an unknown model": ("nope", b"x", {}, 404, "there is no model 'nope'"),
    "an empty body": ("toy-classify", b"", {}, 400, "the body is empty"),
    "no image": ("toy-classify", b"hello", {}, 400, "not an image"),
    "an unknown parameter": ("toy-classify", b"x", {"mode": "fast"}, 400, "no parameter 'mode'"),
    "no classes": ("toy-classify", b"x", {"top": "0"}, 400, "'top' is a number"),
    "classes that are no number": ("toy-classify", b"x", {"top": "many"}, 400, "'top' is a number"),
    "another kind of picture": ("toy-segment", b"x", {"mask": "jpg"}, 400, "'mask' can be png"),
    "two pictures": ("toy-segment", b"x", {"mask": "png", "overlay": "png"}, 400, "one picture a request"),
    "an unknown array": ("toy-segment", b"x", {"include": "logits"}, 400, "'include' takes"),
    "an unknown set": ("toy-classify", b"x", {"prototypes": "pets"}, 404, "no prototypes 'pets'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(server: ServerProcess, case: str) -> None:
    name, data, query, status, words = REFUSED[case]
    answer = ask(server, name, data, **query)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_picture_that_the_task_does_not_have_is_refused(
    server: ServerProcess, two_colors: Path
) -> None:
    answer = ask(server, "toy-embed", two_colors.read_bytes(), mask="png")
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "of this model's answers there is no mask=png",
    )


@pytest.mark.parametrize("body", [b"", b"--x\r\nnonsense", b"--x\r\n\r\n"])
def test_a_damaged_form_is_refused(server: ServerProcess, body: bytes) -> None:
    answer = requests.post(
        f"{server.url}/predict/toy-classify",
        data=body,
        headers={"content-type": "multipart/form-data; boundary=x"},
        timeout=SECONDS,
    )
    assert answer.status_code == 400
    assert "form" in answer.json()["error"]


def test_one_picture_for_several_images_is_refused(server: ServerProcess, new_photo: Photo) -> None:
    data = new_photo("one.png").read_bytes()
    files = [("image", ("a.png", data)), ("image", ("b.png", data))]
    answer = requests.post(
        f"{server.url}/predict/toy-segment?mask=png", files=files, timeout=SECONDS
    )
    assert answer.status_code == 400
    assert "one image a request" in answer.json()["error"]


# Few-shot classes


@pytest.fixture
def shades(new_photo: Photo) -> dict[str, list[bytes]]:
    """Two classes of two examples each."""
    colors = {"warm": ["red", (255, 120, 0)], "cold": ["blue", (0, 120, 255)]}
    return {
        name: [
            new_photo(f"{name}{number}.png", color=c).read_bytes() for number, c in enumerate(of)
        ]
        for name, of in colors.items()
    }


def test_classes_are_posted_as_a_form_used_shown_and_forgotten(
    server: ServerProcess, shades: dict[str, list[bytes]], new_photo: Photo
) -> None:
    url = f"{server.url}/prototypes/shades?model=toy-embed"
    files = [(name, (f"{n}.png", data)) for name, of in shades.items() for n, data in enumerate(of)]
    made = requests.put(url, files=[*files, ("warm", ("bad.png", b"no"))], timeout=SECONDS)
    assert made.status_code == 201
    assert made.json()["classes"] == [
        {"name": "warm", "examples": 2},
        {"name": "cold", "examples": 2},
    ]
    assert "not an image" in made.json()["left_out"][0]
    line = ask(
        server,
        "toy-embed",
        new_photo("x.png", color=(240, 60, 0)).read_bytes(),
        prototypes="shades",
    ).json()
    assert line["label"] == "warm"
    models = requests.get(f"{server.url}/models", timeout=SECONDS).json()["models"]
    assert next(m for m in models if m["name"] == "toy-embed")["prototypes"] == ["shades"]
    assert requests.get(url, timeout=SECONDS).json()["name"] == "shades"
    assert requests.delete(url, timeout=SECONDS).status_code == 204
    assert requests.get(url, timeout=SECONDS).status_code == 404


def test_classes_are_posted_as_a_file_of_fewshot(
    server: ServerProcess, shades: dict[str, list[bytes]], embed_bundle: Path, tmp_path: Path
) -> None:
    with dlcv.load(embed_bundle, engine="ort") as predictor:
        Prototypes.fit(predictor, shades).save(tmp_path / "shades.npz")
    data = (tmp_path / "shades.npz").read_bytes()
    url = f"{server.url}/prototypes/file"
    assert requests.put(f"{url}?model=toy-embed", data=data, timeout=SECONDS).status_code == 201
    other = requests.put(f"{url}?model=toy-classify", data=data, timeout=SECONDS)
    assert other.status_code == 400
    assert "were made with bundle 'toy-embed'" in other.json()["error"]
    broken = requests.put(f"{url}?model=toy-embed", data=data[:100], timeout=SECONDS)
    assert broken.status_code == 400
    assert "not a file of prototypes" in broken.json()["error"]
    assert ask(server, "toy-embed", shades["cold"][0], prototypes="file").json()["label"] == "cold"


def test_one_class_alone_is_refused(server: ServerProcess, shades: dict[str, list[bytes]]) -> None:
    url = f"{server.url}/prototypes/one?model=toy-embed"
    answer = requests.put(url, files=[("warm", ("0.png", shades["warm"][0]))], timeout=SECONDS)
    assert answer.status_code == 400
    assert "two or more different classes" in answer.json()["error"]
    nameless = requests.get(f"{server.url}/prototypes/one", timeout=SECONDS)
    assert (nameless.status_code, "say which model" in nameless.json()["error"]) == (400, True)
