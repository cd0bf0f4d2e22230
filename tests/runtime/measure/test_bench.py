"""Benchmarks: what is measured, what fails without ending the run, JSON and plot."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.engines.base import Arrays, EngineBase
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.errors import BundleError, EngineError, EngineUnavailableError, InputError
from dlcv.runtime.images import Frame
from dlcv.runtime.images.samples import sample_paths
from dlcv.runtime.measure import bench as module
from dlcv.runtime.measure import whole_jobs
from dlcv.runtime.measure.bench import FIGURES, BenchRequest, Contestant, Report, bench
from dlcv.runtime.measure.plot import save_plot
from dlcv.runtime.measure.tables import save_json, table_from_report
from dlcv.runtime.measure.timing import Timing
from dlcv.runtime.measure.whole_jobs import WholeJobs
from dlcv.runtime.results import Embedding, WriteOptions

QUICK: dict[str, Any] = {"engines": ("ort",), "batches": (1, 2), "seconds": 0.01}


class Timer(EngineBase):
    """A fake engine that times its device, which takes a second an image."""

    def __init__(self, bundle: Bundle) -> None:
        self._engine = FakeEngine(bundle.graph())
        self._info, self._inputs, self._outputs = (
            self._engine.info,
            self._engine.inputs,
            self._engine.outputs,
        )

    def infer(self, feeds: Any) -> Arrays:
        return self._engine.infer(feeds)

    def close(self) -> None:
        self._engine.close()

    def device_seconds(self, feeds: Any, *, repeats: int) -> list[float]:
        return [float(len(feeds["image"]))] * repeats


@pytest.fixture
def bundle(classify_bundle: Path) -> Bundle:
    return open_bundle(classify_bundle)


@pytest.fixture
def report(bundle: Bundle) -> Report:
    return bench(bundle, BenchRequest(**QUICK))


def test_three_figures_of_every_engine_and_batch(report: Report) -> None:
    measured = {(f.figure, f.label, f.batch) for f in report.figures}
    labels = ("plain ORT", "ort fp32")
    assert measured == {(f, label, b) for f in FIGURES for label in labels for b in (1, 2)}
    for figure in report.figures:
        assert figure.calls >= 3
        assert figure.images >= (16 if figure.figure == "file" else figure.batch)
        assert figure.figure == "file" or figure.images == figure.batch
        assert figure.p50_ms <= figure.p90_ms <= figure.p99_ms
        assert figure.images_per_second == pytest.approx(1e3 * figure.images / figure.p50_ms)
        assert (figure.ratio == 1.0) >= (figure.label == "plain ORT")
    assert report.contestants["ort fp32"].endswith("cpu fp32")
    assert not report.failures
    assert report.size == (8, 8)


def test_the_json_holds_machine_versions_and_warm_up(report: Report, tmp_path: Path) -> None:
    save_json(report, tmp_path / "new" / "bench.json")
    read = msgspec.json.decode((tmp_path / "new" / "bench.json").read_bytes(), type=Report)
    assert read == report
    assert "cores" in read.machine
    assert {"dlcv", "numpy", "onnxruntime"} <= set(read.versions)
    assert read.warm_ups == 2


def test_the_plot_is_a_picture_of_all_lines(report: Report, tmp_path: Path) -> None:
    save_plot(report, tmp_path / "bench.png")
    with Image.open(tmp_path / "bench.png") as image:
        assert image.width > 2 * image.height
        colors = {color for _, color in image.convert("RGB").getcolors(10**6) or []}
    assert {(31, 119, 180), (255, 127, 14)} <= colors, "the first two colours of lines"


def test_the_table_has_a_line_a_figure(report: Report) -> None:
    rows = table_from_report(report)
    assert rows[0][:3] == ("figure", "engine", "batch")
    assert len(rows) == 1 + len(report.figures)


def test_one_engine_that_fails_is_a_sentence_and_the_others_go_on(bundle: Bundle) -> None:
    def out_of_memory(feeds: Any) -> Arrays:
        if len(feeds["image"]) > 1:
            raise EngineError("out of memory at batch 2; give a smaller --batch")
        return {spec.name: FakeEngine(bundle.graph()).infer(feeds)[spec.name] for spec in outputs}

    outputs = bundle.graph().outputs
    small = Contestant(label="small", open=partial(FakeEngine, bundle.graph(), out_of_memory))
    absent = Contestant(label="absent", open=_absent)
    report = bench(bundle, BenchRequest(**QUICK, baselines=(small, absent)))
    assert report.failures == (
        "absent: it is not installed",
        "small, batch 2: out of memory at batch 2; give a smaller --batch",
    )
    assert {f.batch for f in report.figures if f.label == "small"} == {1}
    assert {f.batch for f in report.figures if f.label == "ort fp32"} == {1, 2}


def _absent() -> Any:
    raise EngineUnavailableError("it is not installed")


def test_an_engine_on_a_device_is_timed_by_the_device(bundle: Bundle) -> None:
    timed = Contestant(label="gpu", open=lambda: Timer(bundle), on_device=True)
    report = bench(bundle, BenchRequest(**QUICK, baselines=(timed,)))
    found = {(f.figure, f.batch): f.p50_ms for f in report.figures if f.label == "gpu"}
    assert found["engine", 1] == 1000.0
    assert found["engine", 2] == 2000.0
    assert found["host", 2] < 1000.0, "by the clock, and a fake takes no second"


def test_batches_whose_calls_would_take_too_long_are_left_out_and_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_CALL_SECONDS", 1e-9)
    report = bench(bundle, BenchRequest(**QUICK))
    assert {f.batch for f in report.figures} == {1}
    assert "ort fp32, batch 2: left out of 'host', it would take 0 s" in report.failures


def test_photos_of_a_folder_are_used_and_unreadable_ones_passed_over(
    segment_bundle: Path, new_photo: Callable[..., Path]
) -> None:
    for number in range(2):
        new_photo(f"photos/{number}.png", size=(32, 16))
    folder = new_photo("photos/tall.png", size=(16, 32)).parent
    (folder / "broken.png").write_bytes(b"no picture")
    report = bench(open_bundle(segment_bundle), BenchRequest(**QUICK, images=folder))
    assert report.size == (16, 32), "height and width of most photos"


def test_a_folder_without_photos_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image can be read from .*; give a folder of photos"):
        bench(bundle, BenchRequest(images=tmp_path))


def test_unknown_engines_and_precisions_are_errors(bundle: Bundle) -> None:
    with pytest.raises(EngineUnavailableError, match="unknown engine 'otr'"):
        bench(bundle, BenchRequest(engines=("otr",)))
    with pytest.raises(BundleError, match="has no int8 graph, only fp32"):
        bench(bundle, BenchRequest(precision="int8"))


def test_an_engine_that_is_not_installed_is_a_sentence(bundle: Bundle) -> None:
    report = bench(bundle, BenchRequest(engines=("trt",), batches=(1,), seconds=0.01))
    assert len(report.failures) == 1
    assert report.failures[0].startswith("trt fp32: engine 'trt'")
    assert set(report.contestants) == {"plain ORT"}


class Answers:
    """Answers as many images a second as it is told, by a clock of its own."""

    workers = 1
    batch_size = 8

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rate: float) -> None:
        self.rate, self.now = rate, 0.0
        monkeypatch.setattr(whole_jobs, "time", self)
        self.jobs: list[int] = []

    def perf_counter(self) -> float:
        return self.now

    def stream(self, sources: Iterable[Any]) -> Iterator[Embedding]:
        self.jobs.append(0)
        for source in sources:
            self.jobs[-1] += 1
            self.now += 1 / self.rate
            frame = Frame(size=(8, 8), box=(0, 0, 8, 8))
            yield Embedding(
                source=source, frame=frame, engine="fake", vector=np.zeros(4, np.float32)
            )

    def description(self) -> dict[str, Any]:
        return {}


def jobs_of(answers: Answers, folder: Path) -> WholeJobs:
    photos = [str(path) for path in sample_paths()]
    return WholeJobs(predictor=answers, photos=photos, folder=folder, write=WriteOptions())


@pytest.mark.parametrize(("rate", "images"), [(10.0, 16), (100.0, 50), (4000.0, 2000)])
def test_a_job_has_as_many_photos_as_fill_the_time_and_leaves_nothing(
    rate: float, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(monkeypatch, rate=rate)
    subject, found = jobs_of(answers, tmp_path).subject(least=16, seconds=0.5)
    assert found == pytest.approx(images, abs=1)
    assert subject.turn(2) == pytest.approx([found / rate] * 2)
    assert answers.jobs == [16, 16, found, found], "two warm up"
    assert subject.estimate == pytest.approx(found / rate)
    assert list(tmp_path.iterdir()) == []


def test_a_job_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(monkeypatch, rate=1e6)
    usage = shutil.disk_usage(tmp_path)._replace(free=400_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    _, images = jobs_of(answers, tmp_path).subject(least=16, seconds=10.0)
    assert 16 < images < 2000, "each line has some 100 bytes, and a quarter of the disk is 100,000"
    monkeypatch.undo()
    answers = Answers(monkeypatch, rate=1e6)
    monkeypatch.setattr(whole_jobs, "MOST_PHOTOS", 300)
    assert jobs_of(answers, tmp_path).subject(least=16, seconds=10.0)[1] == 300


def test_jobs_of_different_sizes_are_compared_by_image() -> None:
    timings = {
        "plain ORT": Timing(rounds=((1.0,), (2.0,), (1.0,))),
        "fast": Timing(rounds=((1.0,), (2.0,), (1.0,))),
    }
    figure = module._figure(
        "file", "fast", batch=8, timings=timings, images={"plain ORT": 100, "fast": 1000}
    )
    assert (figure.images, figure.images_per_second) == (1000, 1000.0)
    assert figure.ratio == pytest.approx(10.0)
