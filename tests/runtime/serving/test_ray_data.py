"""`--ray` against the plain run: the same answers, from files and Parquet, also when workers and drivers are killed."""

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from dlcv.cli.edge import EXIT_FAILED, EXIT_SOME_REFUSED
from dlcv.cli.infer.app import main
from dlcv.runtime.images.samples import sample_paths

pytestmark = [
    # Ray warns of its own settings and environment, and leaves sockets and files open when it ends.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CLASSIFIER = ("-m", "cifar10-vit", "-e", "ort", "--threads", 1)

# A file system of which each read kills the process that reads: `kills://always/x`, and `kills:///FILE` the first time only.
KILLS = """
import os, signal
from pathlib import Path
from fsspec import AbstractFileSystem

class Kills(AbstractFileSystem):
    protocol = "kills"

    def isdir(self, path):
        return False

    def _open(self, path, mode="rb", **_):
        marker = Path(path + ".was-read")
        if path.startswith("/") and marker.exists():
            return open(path, "rb")
        if path.startswith("/"):
            marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""
# A driver that writes a part after every piece of work, and works in pieces of two.
DRIVER = """
import sys
from dlcv.runtime.results import parquet_parts
from dlcv.runtime.serving import ray_data
parquet_parts.SECONDS_A_PART, ray_data.IMAGES_A_PIECE = 0, 2
from dlcv.cli.infer.app import main
main()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of two cores, whose workers know the file system `kills`."""
    import ray

    packages = tmp_path_factory.mktemp("packages")
    (packages / "kills.py").write_text(KILLS)
    (info := packages / "kills-1.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kills\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fsspec.specs]\nkills = kills:Kills\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(packages))
        patch.setenv("PYTHONPATH", f"{packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        import fsspec
        from kills import Kills  # type: ignore[import-not-found]  # it was written just now

        fsspec.register_implementation("kills", Kills, clobber=True)
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
        ray.shutdown()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """22 photos and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        for path in sample_paths():
            shutil.copy(path, folder / f"{path.stem}-{number}.jpg")
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


@pytest.fixture
def infer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `dlcv-infer` in this process, and return its exit code."""

    def run(*arguments: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["dlcv-infer", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    return run


def rows_in(folder: Path) -> list[dict[str, Any]]:
    parts = sorted((folder / "parts").glob("*.parquet"))
    rows = [row for part in parts for row in parquet.read_table(part).to_pylist()]
    return sorted(rows, key=lambda row: row["image"])


def lines_in(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "results.jsonl").open()]
    errors = [json.loads(line) for line in (folder / "errors.jsonl").open()]
    records += [{"image": error["image"], "error": error["reason"]} for error in errors]
    return sorted(records, key=lambda record: record["image"])


def require_same_values(rows: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    assert [row["image"] for row in rows] == [line["image"] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        assert {name: row[name] for name in line} == line
        assert ("error" in line) == (row["error"] is not None)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster can be joined at '127.0.0.1:1'"),
        ("ray://localhost:10001", "Ray Data does not run over Ray Client"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_error(infer, tmp_path, capfd, address, words):
    options = (*CLASSIFIER, "--out", tmp_path / "out", "--ray", address)
    assert infer("classify", "a.jpg", *options) == EXIT_FAILED
    assert words in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_classify_gives_the_rows_of_the_plain_run(cluster, photos, infer, tmp_path, capfd):
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert infer("classify", photos, *CLASSIFIER, "--out", plain) == EXIT_SOME_REFUSED
    plain_words = capfd.readouterr().err
    assert infer("classify", photos, *CLASSIFIER, "--out", out, "--ray", "local") == 3
    words = capfd.readouterr()
    assert words.out == ""
    assert words.err == plain_words.replace(str(plain), str(out))
    require_same_values(rows_in(out), lines_in(plain))
    run = json.loads((out / "run.json").read_text())
    assert (run["bundle"], list(run["engines"].values())) == ("cifar10-vit", [22])


def test_segment_gives_the_masks_of_the_plain_run(cluster, photos, infer, tmp_path):
    options = ("segment", *sorted(photos.glob("c*")), photos / "broken.jpg", "-e", "ort")
    infer(*options, "--threads", 1, "--out", tmp_path / "plain")
    infer(*options, "--out", tmp_path / "out", "--ray", "local", "--workers", 2)
    lines, rows = lines_in(tmp_path / "plain"), rows_in(tmp_path / "out")
    for row, line in zip(rows, lines, strict=True):
        assert (row["mask_png"] is None) == ("error" in line)
        if "error" not in line:
            mask = Image.open(io.BytesIO(row["mask_png"]))
            plain = Image.open(tmp_path / "plain" / line.pop("mask"))
            assert mask.mode == plain.mode == "P"
            assert mask.getpalette() == plain.getpalette()
            assert np.array_equal(np.asarray(mask), np.asarray(plain))
            row["shares"] = dict(row["shares"])
    require_same_values(rows, lines)


def test_parquet_of_paths_gives_the_vectors_of_the_plain_run(cluster, photos, infer, tmp_path):
    paths = [*map(str, sorted(photos.iterdir())), None]
    table = tmp_path / "list.parquet"
    parquet.write_table(pa.table({"id": range(len(paths)), "path": paths}), table)
    infer("embed", photos, "--out", tmp_path / "plain", *CLASSIFIER)
    assert infer("embed", table, *CLASSIFIER, "--out", tmp_path / "out", "--ray", "local") == 3
    plain = np.load(tmp_path / "plain" / "embeddings.npz")
    rows = {row["image"]: row for row in rows_in(tmp_path / "out")}
    assert rows.pop(f"{table}#23")["error"] == "the row names no image"
    assert rows.pop(str(photos / "broken.jpg"))["error"].startswith("not an image")
    for name, vector in zip(plain["images"], plain["embeddings"], strict=True):
        np.testing.assert_allclose(rows.pop(name)["embedding"], vector, atol=1e-4)
    assert not rows


def test_parquet_of_bytes_gives_the_rows_of_the_plain_run(cluster, photos, infer, tmp_path):
    files = sorted(photos.iterdir())
    data = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    table = tmp_path / "tables" / "photos.parquet"
    table.parent.mkdir()
    parquet.write_table(pa.table({"photo": data}), table, row_group_size=10)
    infer("classify", photos, *CLASSIFIER, "--out", tmp_path / "plain")
    options = (*CLASSIFIER, "--out", tmp_path / "out", "--ray", "local", "--column", "photo")
    assert infer("classify", table.parent, *options) == EXIT_SOME_REFUSED
    lines = lines_in(tmp_path / "plain")
    numbers = {str(path): number for number, path in enumerate(files)}
    for line in lines:
        line["image"] = f"{table}#{numbers[line['image']]}"
    lines.sort(key=lambda line: line["image"])
    require_same_values(rows_in(tmp_path / "out"), lines)


def test_a_killed_worker_loses_nothing_and_an_image_that_kills_all_is_refused(
    cluster, photos, infer, tmp_path, capfd
):
    once = photos / "car-0.jpg"
    options = (*CLASSIFIER, "--out", tmp_path / "out", "--ray", "local", "--workers", 2)
    images = [f"kills://{once}", "kills://always/x.jpg", photos]
    assert infer("classify", *images, *options) == EXIT_SOME_REFUSED
    rows = {row["image"]: row for row in rows_in(tmp_path / "out")}
    assert len(rows) == 25
    assert rows[f"kills://{once}"]["label"] == rows[str(once)]["label"]
    refused = rows["kills://always/x.jpg"]["error"]
    assert refused == "workers died 2 times while they read it"
    words = capfd.readouterr()
    assert words.out == ""
    assert "23 answered, 2 refused" in words.err


def test_a_killed_driver_is_resumed_without_loss_or_repetition(cluster, photos, infer, tmp_path):
    out = tmp_path / "out"
    options = ("classify", photos, photos, *CLASSIFIER, "--out", out, "--ray", "local")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, options)])
    end = time.monotonic() + 60
    while not list(out.glob("parts/*.parquet")) and time.monotonic() < end:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = len(rows_in(out))
    assert 0 < done < 46
    assert infer(*options, "--resume") == EXIT_SOME_REFUSED
    names = [row["image"] for row in rows_in(out)]
    assert names == sorted(2 * [str(path) for path in photos.iterdir()])
    assert infer(*options, "--resume") == EXIT_SOME_REFUSED
    assert len(rows_in(out)) == 46
    run = json.loads((out / "run.json").read_text())
    assert list(run["engines"].values()) == [44]


def test_an_error_of_a_worker_is_one_sentence(cluster, photos, infer, tmp_path, capfd):
    options = ("--out", tmp_path / "out", "--ray", "local", "-E", "speed=high")
    assert infer("classify", photos, *CLASSIFIER, *options) == EXIT_FAILED
    lines = capfd.readouterr().err.splitlines()
    (ours,) = [line for line in lines if "(raylet)" not in line]  # of the workers killed before
    assert ours.startswith("dlcv-infer: engine 'ort' has no setting 'speed'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("classify", "--ray", "local"), "give --out FOLDER"),
        (("segment", "--ray", "local", "--out", "-"), "give --out FOLDER"),
        (("classify", "--ray", "local", "--out", "x", "-f", "csv"), "leave out --format"),
        (("embed", "--ray", "local", "--out", "x", "-f", "jsonl"), "leave out --format"),
        (("embed", "--ray", "local", "--out", "x", "-f", "npz"), "leave out --format"),
        (("segment", "--ray", "local", "--out", "x", "--overlay"), "--overlay is not for --ray"),
        (("segment", "--ray", "local", "--out", "x", "--confidence"), "--confidence is not for"),
        (("classify", "--workers", "2"), "--workers is for --ray"),
        (("classify", "--column", "path"), "--column is for --ray"),
    ],
)
def test_options_that_do_not_fit_are_one_error(infer, tmp_path, monkeypatch, capfd, options, words):
    monkeypatch.chdir(tmp_path)
    assert infer(options[0], "a.jpg", *options[1:]) == EXIT_FAILED
    assert words in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_ray_the_error_names_the_extra(infer, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr("dlcv.runtime.machine.system.is_importable", lambda module: False)
    assert infer("classify", "a.jpg", "--ray", "local", "--out", tmp_path / "out") == EXIT_FAILED
    assert capfd.readouterr().err == "dlcv-infer: --ray needs Ray: pip install 'dlcv[ray]'\n"


def test_results_of_a_plain_run_are_not_touched(cluster, photos, infer, tmp_path, capfd):
    out = tmp_path / "out"
    infer("classify", photos, *CLASSIFIER, "--out", out)
    before = (out / "results.jsonl").read_bytes()
    options = ("classify", photos, *CLASSIFIER, "--out", out, "--ray", "local")
    assert infer(*options) == EXIT_FAILED
    assert "already holds results" in capfd.readouterr().err
    assert infer(*options, "--resume") == EXIT_FAILED
    assert "was made without --ray; resume without --ray" in capfd.readouterr().err
    assert (out / "results.jsonl").read_bytes() == before
    (out / "parts").mkdir()
    (out / "parts" / "mine.txt").write_text("keep")
    assert infer(*options, "--overwrite") == EXIT_FAILED
    assert "parts is in the way" in capfd.readouterr().err


def test_overwrite_replaces_the_parts_and_nothing_else(cluster, photos, infer, tmp_path, capfd):
    out = tmp_path / "out"
    options = ("classify", photos / "cat-0.jpg", *CLASSIFIER, "--out", out, "--ray", "local")
    assert infer(*options) == 0
    (out / "parts" / "mine.txt").write_text("keep")
    assert infer("classify", photos, "-m", "cifar10-vit", "--out", out, "--resume") == EXIT_FAILED
    assert "was made with --ray; resume with --ray" in capfd.readouterr().err
    assert infer(*options, "--overwrite") == 0
    assert len(rows_in(out)) == 1
    assert (out / "parts" / "mine.txt").read_text() == "keep"
