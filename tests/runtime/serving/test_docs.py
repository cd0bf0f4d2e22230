"""What the documents tell a newcomer to do works: each `curl` line and the Python client, against a real server."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.runtime.serving.conftest import (
    REPOSITORY,
    SAMPLES,
    SECONDS,
    ServerProcess,
    serving_process,
)

PAGES = (REPOSITORY / "README.md", REPOSITORY / "docs" / "serving.md")
PHOTOS = {
    "street.jpg": "street_taxis", "photo.jpg": "coffee", "new.jpg": "cat", "cat.jpg": "cat", "cat1.jpg": "cat",
    "cat2.jpg": "cat", "dog.jpg": "dog", "dog1.jpg": "dog",
}  # fmt: skip


@pytest.fixture(scope="module")
def real() -> Iterator[ServerProcess]:
    """A server of what ships."""
    with serving_process(
        "imagenet-lite0", "voc-deeplab", "--engine", "ort", "--no-access-log"
    ) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The photos that the pages name."""
    for name, sample in PHOTOS.items():
        shutil.copy(SAMPLES / f"{sample}.jpg", tmp_path / name)
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_each_curl_line_does_what_it_says(real: ServerProcess, folder: Path) -> None:
    lines = [
        line
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("curl ")
    ]
    assert len(lines) >= 8
    for line in lines:
        _, *words = shlex.split(line.replace("localhost:8000", real.http), comments=True)
        done = subprocess.run(
            ["curl", "-sS", "--fail-with-body", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if "-o " not in line:
            assert done.stdout.startswith("{"), line
    for name, mode in (("mask.png", "P"), ("overlay.png", "RGB")):
        with Image.open(folder / name) as picture:
            assert picture.mode == mode


def test_the_python_client_prints_the_likeliest_classes(
    real: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGES[1].read_text(), re.DOTALL)
    monkeypatch.chdir(REPOSITORY)
    exec(compile(block.replace("127.0.0.1:8000", real.http), "serving.md", "exec"), {})  # noqa: S102  # our own page
    assert ":282:tiger cat" in capsys.readouterr().out
