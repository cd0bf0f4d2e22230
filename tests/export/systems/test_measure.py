"""A run's record says what its checkpoint and its bundle score, and what was built of it."""

import os

import pytest

from dlcv.export.systems.measure import RecordOptions, record_run
from dlcv.export.systems.records import load_records, save_record
from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.errors import OutputError, RecipeError
from dlcv.runtime.machine.system import is_importable


@pytest.fixture(scope="session")
def record(toy_run, toy_root):
    start = (toy_run / "log").stat().st_mtime
    os.utime(toy_run / "resume.ckpt", (start + 150, start + 150))
    return record_run(toy_run, toy_root, RecordOptions(note="One thread.", threads=1))


def test_the_bundle_scores_on_every_engine_what_the_checkpoint_scores(record):
    assert record.checkpoint.images == (16 if record.recipe == "toy-fewshot" else 12)  # 4, 4 ways
    assert {"ort"} <= {ran.engine for ran in record.ran}
    for ran in record.ran:
        assert ran.scores.images == record.checkpoint.images
        assert ran.scores.value == pytest.approx(record.checkpoint.value, abs=2e-3)
        assert ran.scores.by_class == pytest.approx(record.checkpoint.by_class, abs=5e-3)
        assert ran.scores.shots == pytest.approx(record.checkpoint.shots)
        counted = record.recipe in ("toy-fewshot", "toy-caption")
        assert ran.agreement == (1.0 if counted else None)


def test_the_training_is_what_log_and_files_say(record):
    training = record.training
    assert (training.epochs, training.ran, training.kept) == (5, 2, 2)
    assert training.validation == (
        {1: 0.25, 2: 0.5} if record.task == "segment" else {1: 0.5, 2: 0.75}
    )
    assert training.train_accuracy == 0.625
    assert training.minutes == 2.5
    assert training.note == "One thread."


def test_the_bundle_stays_in_the_run_and_has_the_scores(record, toy_run):
    bundle = open_bundle(toy_run / "bundle")
    assert record.exported.size_bytes > sum(
        entry.size_bytes for name, entry in bundle.manifest.files.items() if name.endswith(".onnx")
    )
    assert record.exported.parity == bundle.variant().parity
    if record.task not in ("classify", "segment"):
        return  # a manifest has no place for scores of other tasks
    deployed = {found.engine: found for found in bundle.variant().deployed}
    assert {name: found.value for name, found in deployed.items()} == {
        ran.engine: ran.scores.value for ran in record.ran
    }
    assert {found.data for found in deployed.values()} == {record.task}


@pytest.mark.skipif(not is_importable("tensorrt_rtx"), reason="TensorRT-RTX is not installed")
def test_the_engine_that_needs_no_gpu_is_built(record):
    graphs = {"toy-fewshot": ["model", "distance"], "toy-caption": ["encoder", "decoder"]}
    assert [built.graph for built in record.built] == graphs.get(record.recipe, ["model"])
    for built in record.built:
        assert (built.engine, built.precision) == ("trt-rtx", "fp32")
        assert built.size_bytes > 0


def test_a_record_is_read_back_as_it_was_and_names_no_path(record, tmp_path, toy_run):
    path = save_record(tmp_path, record)
    assert load_records(tmp_path) == {record.recipe: record}
    assert str(toy_run.parent) not in path.read_text()


def test_missing_data_is_said_before_anything_is_written(toy_run, tmp_path):
    with pytest.raises(
        RecipeError, match=r"no folder \w+ under the data root|no data at|no caption file"
    ):
        record_run(toy_run, tmp_path, RecordOptions(bundle=tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_that_is_there_is_not_replaced_unasked(record, toy_run, toy_root):
    with pytest.raises(OutputError, match="exists; choose another name or give --overwrite"):
        record_run(toy_run, toy_root)
