"""Tuning: what is measured, dropped, remembered, and what `auto` then takes."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dlcv.runtime import engines
from dlcv.runtime.bundle import Bundle, open_bundle
from dlcv.runtime.bundle.schema import FileEntry
from dlcv.runtime.engines import EngineOptions, choose, engine_versions
from dlcv.runtime.engines.base import settings_from_text
from dlcv.runtime.engines.cuda import CudaSettings
from dlcv.runtime.engines.tuned import Row, Tuning, store_tuning, stored_tuning, tuning_key
from dlcv.runtime.errors import BundleError, EngineError, EngineUnavailableError, InputError
from dlcv.runtime.machine.cache import store
from dlcv.runtime.machine.system import cpu_count
from dlcv.runtime.measure import configurations, lower, tune
from dlcv.runtime.measure.tune import TuneRequest
from dlcv.runtime.measure.workload import feeds_of, image_size
from dlcv.runtime.running.predictor import load

QUICK = {"engines": ("ort",), "threads": (1,), "seconds": 0.1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bundle(classify_bundle: Path) -> Bundle:
    return open_bundle(classify_bundle)


def row(engine: str = "ort", **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "precision": "fp32",
        "batch": 8,
        "threads": 1,
        "settings": {},
        "images_per_second": 100.0,
        "ms_per_call": 80.0,
        "quartiles_ms": (79.0, 81.0),
        "calls": 9,
    }
    return Row(engine=engine, **(fields | changes))


def tuning(*rows: Row) -> Tuning:
    return Tuning(
        goal="throughput", created="2026-11-23T00:00:00+00:00", size=(8, 8), rows=rows, plain=()
    )


def remember(bundle: Bundle, *rows: Row) -> None:
    store_tuning(tuning_key(bundle, engine_versions()), tuning(*rows))


def chosen(bundle: Bundle, precision: Any = None, **options: Any) -> tuple[Any, ...]:
    choice = choose(bundle, "auto", precision=precision, options=EngineOptions(**options))
    found = choice.options
    return choice.engine, choice.precision, found.batch_size, found.threads, dict(found.settings)


def test_tuning_measures_batches_and_settings_beside_plain_onnx_runtime(bundle: Bundle) -> None:
    words: list[str] = []
    request = TuneRequest(**QUICK, batches=(1, 4), on_progress=lambda w, _: words.append(w))  # type: ignore[arg-type]
    made = tune.tune(bundle, request)
    measured = {(r.engine, r.batch, r.settings.get("spinning")) for r in made.rows}
    assert measured == {("ort", b, s) for b in (1, 4) for s in (None, "true")}
    assert [r.batch for r in made.plain] == [1, 4]
    assert all(r.ratio == 1.0 for r in made.plain)
    assert all(r.ratio is not None and r.ratio > 0 and r.calls >= 3 for r in made.rows)
    assert [r.final for r in made.rows] == [True] * 4
    assert all(r.busy_ratio is not None for r in made.rows)
    assert words[0] == "checking ort fp32"
    assert "timing 4 candidates" in words


def test_latency_measures_single_images_on_a_quiet_machine(bundle: Bundle) -> None:
    made = tune.tune(bundle, TuneRequest(**QUICK, goal="latency"))  # type: ignore[arg-type]
    assert {r.batch for r in made.rows} == {1}
    assert all(r.busy_ratio is None for r in made.rows)


def test_auto_takes_what_the_tuning_put_first(bundle: Bundle) -> None:
    made = tune.tune(bundle, TuneRequest(**QUICK, batches=(2,)))  # type: ignore[arg-type]
    best = made.rows[0]
    assert chosen(bundle) == ("ort", "fp32", 2, 1, best.settings)
    with load(bundle) as predictor:
        assert predictor.batch_size == 2
        assert predictor.engine.info.name == "ort"


def test_what_fails_parity_is_dropped_and_said(new_bundle: Callable[..., Path]) -> None:
    bad = _with_wrong_golden(open_bundle(new_bundle("classify")))
    with pytest.raises(
        InputError, match=r"nothing could be measured: ort fp32: golden case wrong: "
    ):
        tune.tune(bad, TuneRequest(**QUICK))  # type: ignore[arg-type]


def _with_wrong_golden(bundle: Bundle) -> Bundle:
    """Return the bundle with a golden case whose answers are another graph's."""
    case = next(iter(bundle.golden()))
    file = bundle.path / "golden" / "wrong.npz"
    arrays = {f"output.{name}": np.roll(array, 1, axis=-1) for name, array in case.outputs.items()}
    np.savez(file, **{"input.image": case.inputs["image"]}, **arrays)  # type: ignore[arg-type]
    data = file.read_bytes()
    entry = FileEntry(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    files = bundle.manifest.files | {"golden/wrong.npz": entry}
    manifest = msgspec.structs.replace(bundle.manifest, files=files, golden=("golden/wrong.npz",))
    return Bundle(path=bundle.path, manifest=manifest)


def test_what_fails_in_the_last_rounds_is_dropped_and_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = itertools.count(1)

    def fails_at_the_fifth(*arguments: Any, **options: Any) -> Any:  # 2 for parity, 2 to screen
        if next(loads) == 5:
            raise EngineError("out of memory")
        return engines.load_engine(*arguments, **options)

    monkeypatch.setattr(tune, "load_engine", fails_at_the_fifth)
    made = tune.tune(bundle, TuneRequest(**QUICK, batches=(1,)))  # type: ignore[arg-type]
    assert len(made.rows) == 1
    assert made.dropped[-1].endswith(", batch 1: out of memory")


def test_a_bundle_without_golden_cases_cannot_be_tuned(new_bundle: Callable[..., Path]) -> None:
    bundle = open_bundle(new_bundle("classify", golden=()))
    with pytest.raises(InputError, match=r"has no golden cases.* export it again"):
        tune.tune(bundle)


def test_a_named_engine_must_be_there(bundle: Bundle) -> None:
    with pytest.raises(EngineUnavailableError, match="unknown engine 'otr'; there are auto, ort"):
        tune.tune(bundle, TuneRequest(engines=("otr",)))


def test_a_precision_must_be_in_the_bundle(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has no int8 graph, only fp32"):
        tune.tune(bundle, TuneRequest(precisions=("int8",)))


def test_a_batch_whose_call_takes_too_long_is_left_out_and_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "_LONGEST_CALL_SECONDS", 1e-9)
    made = tune.tune(bundle, TuneRequest(**QUICK, batches=(1, 64)))  # type: ignore[arg-type]
    assert {r.batch for r in made.rows} == {1}
    assert made.dropped == ("ort, batch 64: a call takes about 0.0 s, too long to tune",)


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ({}, ("ort", "fp32", 32, 77, {})),
        ({"batch_size": 1}, ("ort", "fp32", 1, 77, {"spinning": "true"})),
        ({"batch_size": 20}, ("ort", "fp32", 20, 77, {})),
        ({"batch_size": 2}, ("ort", "fp32", 2, 77, {"spinning": "true"})),
        ({"threads": 1}, ("ort", "fp32", 8, 1, {})),
        ({"settings": {"spinning": "true"}}, ("ort", "fp32", 1, 77, {"spinning": "true"})),
    ],
)
def test_auto_keeps_within_what_is_fixed(
    bundle: Bundle, fixed: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    remember(
        bundle,
        row(batch=32, threads=77),
        row(batch=1, threads=77, settings={"spinning": "true"}),
        row(batch=8, threads=1),
    )
    assert chosen(bundle, **fixed) == expected


def test_every_core_is_left_to_the_engine(bundle: Bundle) -> None:
    remember(bundle, row(batch=32, threads=cpu_count()))
    assert chosen(bundle) == ("ort", "fp32", 32, None, {})
    assert chosen(bundle, threads=cpu_count()) == ("ort", "fp32", 32, cpu_count(), {})


def test_auto_without_a_row_that_fits_measures_on_first_use(bundle: Bundle) -> None:
    remember(bundle, row(threads=7), row(threads=None, precision="int8"))
    assert chosen(bundle, "int8")[:2] == ("ort", "int8")
    found = choose(bundle, "auto", precision="fp32", options=EngineOptions(threads=3))
    assert (found.precision, found.options.threads) == ("fp32", 3)


def test_an_engine_that_is_named_is_not_tuned(bundle: Bundle) -> None:
    remember(bundle, row(batch=32, threads=1, settings={"spinning": "true"}))
    choice = choose(bundle, "ort", precision=None, options=EngineOptions())
    assert (choice.options.batch_size, choice.options.threads, choice.options.settings) == (
        None,
        None,
        {},
    )


def test_a_row_of_an_engine_that_is_gone_is_not_used(bundle: Bundle) -> None:
    without = chosen(bundle)
    remember(bundle, row("trt", threads=None))
    assert chosen(bundle) == without


def test_a_tuning_of_other_versions_is_not_used_and_said(bundle: Bundle) -> None:
    without = chosen(bundle)
    older = engine_versions() | {"onnxruntime": "1.0"}
    store_tuning(tuning_key(bundle, older), tuning(row(batch=77)))
    said: list[str] = []
    assert chosen(bundle, on_progress=lambda words, _: said.append(words)) == without
    assert said[0].startswith(
        "the tuning is not used, because the cached one has onnxruntime 1.0, "
    )
    assert "run dlcv-infer tune" in said[0]


@pytest.mark.parametrize("damage", [b"", b"not an entry", b'{"a": 1}\nrows'])
def test_a_damaged_tuning_is_ignored_and_said(bundle: Bundle, damage: bytes) -> None:
    without = chosen(bundle)
    remember(bundle, row(batch=77))
    key = tuning_key(bundle, engine_versions())
    key.path.write_bytes(damage)
    said: list[str] = []
    assert chosen(bundle, on_progress=lambda words, _: said.append(words)) == without
    assert "is not a cache entry, and was deleted" in said[0]
    assert not key.path.exists()


def test_a_tuning_of_another_dlcv_is_ignored_and_said(bundle: Bundle) -> None:
    key = tuning_key(bundle, engine_versions())
    store(key, b'{"goal": "speed"}')
    found, reason = stored_tuning(key)
    assert found is None
    assert reason.endswith("is of another dlcv")


def test_no_tuning_is_nothing_to_talk_about(bundle: Bundle) -> None:
    said: list[str] = []
    chosen(bundle, on_progress=lambda words, _: said.append(words))
    assert said == []


def test_lower_arithmetic_runs_where_the_answers_stay_the_same(bundle: Bundle, monkeypatch) -> None:
    """The toy's answers are arithmetic on colours: bf16 gives the same classes."""
    monkeypatch.setattr(tune, "has_bf16", lambda: True)
    openvino = TuneRequest(engines=("openvino",), threads=(1,), batches=(1,), seconds=0.1)
    if "bf16" not in capabilities():
        pytest.skip("OpenVINO computes no bf16 on this CPU")
    made = tune.tune(bundle, openvino)
    lowered = [r for r in made.rows if r.arithmetic == "bf16"]
    assert {r.settings.get("mode") for r in lowered} == {None, "throughput"}
    assert all(r.proof == "the same class on 11 of 11 photos" for r in lowered)
    assert all(r.proof == "" for r in made.rows if r.arithmetic == "fp32")
    store_tuning(tuning_key(bundle, engine_versions()), tuning(*lowered))
    assert chosen(bundle)[0] == "openvino"
    assert chosen(bundle, "fp32")[4].get("precision") is None, "fp32 was asked for"


def capabilities() -> list[str]:
    import openvino

    return [c.lower() for c in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")]


def test_what_does_not_agree_falls_out_with_the_reason(bundle: Bundle, monkeypatch) -> None:
    monkeypatch.setattr(tune, "has_bf16", lambda: True)
    monkeypatch.setattr(lower, "agreement", lambda *_: (False, "the same class on 3 of 11 photos"))
    if "bf16" not in capabilities():
        pytest.skip("OpenVINO computes no bf16 on this CPU")
    made = tune.tune(
        bundle, TuneRequest(engines=("openvino",), threads=(1,), batches=(1,), seconds=0.1)
    )
    assert {r.arithmetic for r in made.rows} == {"fp32"}
    reason = "openvino fp32 precision=bf16: not within the budget: the same class on 3 of 11 photos"
    assert reason in made.dropped


def test_a_speed_that_changes_while_it_is_measured_is_not_kept(bundle: Bundle, monkeypatch) -> None:
    monkeypatch.setattr(configurations, "_STEADY", 0.5)
    made = tune.tune(bundle, TuneRequest(**QUICK, batches=(1,)))  # type: ignore[arg-type]
    assert "something else runs, or the processor gets too hot" in made.unsteady
    assert stored_tuning(tuning_key(bundle, engine_versions()))[0] is None


def test_every_variation_is_one_that_its_engine_takes(bundle: Bundle) -> None:
    for name, entry in engines.ENGINES.items():
        assert {} in entry.variations, f"{name} is measured with its defaults too"
        if entry.needs_gpu or engines.why_unavailable(name):
            continue
        for settings in entry.variations:
            load(bundle, engine=name, options=EngineOptions(settings=settings)).close()
    for settings in engines.ENGINES["cuda"].variations:
        settings_from_text(CudaSettings, settings, engine="cuda")


def test_images_of_dynamic_graphs_scale_and_others_do_not(
    segment_bundle: Path, bundle: Bundle
) -> None:
    assert image_size(bundle, None) == (8, 8)
    assert image_size(open_bundle(segment_bundle), 60) == (64, 64)
    assert feeds_of(2, (8, 16))["image"].shape == (2, 8, 16, 3)
    with pytest.raises(InputError, match="runs at 8x8 only; leave --size away"):
        image_size(bundle, 16)
