"""What `auto` takes where nothing was tuned: the fastest of what the bundle proves, measured once and kept."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dlcv.runtime.bundle import Bundle, open_bundle, save_bundle
from dlcv.runtime.bundle.schema import Accuracy, Deployed
from dlcv.runtime.engines import EngineOptions, choice, choose, first_use, load_engine, registry
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.engines.first_use import is_proved, proof_of
from dlcv.runtime.engines.tuned import Row, arithmetic_of
from dlcv.runtime.errors import EngineError, EngineUnavailableError

ACCURACY = Accuracy(metric="top1", value=0.9, baseline=0.903, budget=0.005, data="val", images=300)
SCORE = Deployed(
    metric="top1", value=0.9, images=300, data="val", engine="openvino", engine_version="1", device="cpu", precision="fp32",
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ort` and `openvino` are installed, no GPU is there, and the CPU has bf16."""
    installed = {"ort", "openvino"}
    for module in (first_use, choice):
        monkeypatch.setattr(module, "why_unavailable", lambda n: None if n in installed else "no")
    monkeypatch.setattr(first_use, "has_bf16", lambda: True)


def with_int8(folder: Path, **changes: Any) -> Bundle:
    """A toy bundle with an int8 graph for CPUs; `changes` are of its variant, `fp32` of the other."""
    toy = open_bundle(folder)
    graph = toy.graph()
    files = {name: toy.read(name) for name in toy.manifest.files}
    files["model.int8-cpu.onnx"] = (
        files["model.onnx"] + bytes([6 << 3 | 2, 1]) + b"x"
    )  # another doc_string
    fp32 = msgspec.structs.replace(graph.variants["fp32"], **changes.pop("fp32", {}))
    int8 = msgspec.structs.replace(fp32, file="model.int8-cpu.onnx", **{"deployed": (), **changes})
    graph = msgspec.structs.replace(graph, variants={"fp32": fp32, "int8-cpu": int8})
    manifest = msgspec.structs.replace(
        toy.manifest,
        graphs={"model": graph},
        files=dict.fromkeys(files, toy.manifest.files["model.onnx"]),
    )
    return save_bundle(folder, manifest, files=files, overwrite=True)


class Speeds:
    """Engines that take so many milliseconds an image. loaded: what was loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> None:
        self.loaded: list[str] = []
        self.ms = milliseconds
        monkeypatch.setattr(first_use, "load_chosen", self._load)
        monkeypatch.setattr(first_use, "_RACE_SECONDS", 0.05)
        monkeypatch.setattr(first_use, "_STEADY", 1e9)

    def _load(self, bundle: Bundle, chosen: Any, *, outputs: Any) -> FakeEngine:
        name = "_".join([chosen.engine, chosen.options.settings.get("precision", chosen.precision)])
        self.loaded.append(name)

        def compute(feeds: Any) -> dict[str, Any]:
            time.sleep(self.ms[name] * len(feeds["image"]) / 1e3)
            return {}

        return FakeEngine(bundle.graph(), compute)


def auto(bundle: Bundle, **more: Any) -> tuple[str, str, dict[str, str], int | None]:
    options = EngineOptions(**more.pop("options", {}))
    found = choose(bundle, "auto", precision=more.pop("precision", None), options=options, **more)
    settings = dict(found.options.settings)
    return found.engine, found.precision, settings, found.options.batch_size


def test_the_fastest_that_is_proved_is_taken_and_kept(new_bundle, monkeypatch) -> None:
    bundle = with_int8(new_bundle(), accuracy=ACCURACY)
    speeds = Speeds(monkeypatch, ort_fp32=2, openvino_fp32=2, openvino_int8=0.5, ort_int8=3)
    assert auto(bundle)[:2] == ("openvino", "int8")
    assert speeds.loaded == ["ort_fp32", "openvino_int8", "ort_int8", "openvino_fp32"]
    assert auto(bundle)[:2] == ("openvino", "int8")
    assert len(speeds.loaded) == 4, "it is in the cache"
    assert auto(bundle, options={"threads": 1})[:2] == ("openvino", "int8")
    assert len(speeds.loaded) == 8, "other threads are another question"


def test_a_sentence_says_what_proves_a_lower_precision(new_bundle, monkeypatch) -> None:
    bundle = with_int8(new_bundle(), accuracy=ACCURACY)
    Speeds(monkeypatch, ort_fp32=2, openvino_fp32=2, openvino_int8=0.5, ort_int8=3)
    chosen = choose(bundle, "auto", precision=None, options=EngineOptions())
    assert chosen.why == (
        "auto: openvino in int8 (top1 0.900 against 0.903 on 300 images), as measured on first use; --precision fp32 keeps "
        "full precision"
    )
    assert choose(bundle, "auto", precision="fp32", options=EngineOptions()).why == ""
    assert choose(bundle, "ort", precision="int8", options=EngineOptions()).why == ""


@pytest.mark.parametrize(
    ("changes", "proved"),
    [
        ({}, False),
        ({"accuracy": ACCURACY}, True),
        ({"accuracy": msgspec.structs.replace(ACCURACY, value=0.898)}, True),
        ({"accuracy": msgspec.structs.replace(ACCURACY, value=0.897)}, False),
        ({"accuracy": msgspec.structs.replace(ACCURACY, images=49)}, False),
        ({"deployed": (msgspec.structs.replace(SCORE, precision="int8"),)}, False),
        ({"deployed": (msgspec.structs.replace(SCORE, precision="int8"),), "fp32": {"deployed": (SCORE,)}}, True),
        ({"deployed": (msgspec.structs.replace(SCORE, precision="int8", data="other"),), "fp32": {"deployed": (SCORE,)}}, False),
    ],
)  # fmt: skip
def test_a_precision_is_proved_by_a_recorded_score_within_half_a_point(
    new_bundle, changes: dict[str, Any], proved: bool
) -> None:
    assert is_proved(with_int8(new_bundle(), **changes), "int8", "int8") is proved


def test_lower_arithmetic_of_a_full_graph_is_proved_by_its_own_score(
    new_bundle, monkeypatch
) -> None:
    bf16 = msgspec.structs.replace(SCORE, precision="bf16", value=0.898)
    bundle = with_int8(new_bundle(), fp32={"deployed": (SCORE, bf16)})
    Speeds(monkeypatch, ort_fp32=2, openvino_fp32=2, openvino_bf16=0.5)
    assert auto(bundle)[:3] == ("openvino", "fp32", {"precision": "bf16"})
    assert arithmetic_of("fp32", {"precision": "bf16"}) == "bf16"
    assert proof_of(bundle, "fp32", "bf16") == " (top1 0.898 against 0.900 on 300 images)"
    monkeypatch.setattr(first_use, "has_bf16", lambda: False)
    assert auto(bundle)[2] == {}


def test_outputs_that_have_no_score_are_computed_in_full_precision(new_bundle, monkeypatch) -> None:
    bundle = with_int8(new_bundle(), accuracy=ACCURACY)
    speeds = Speeds(monkeypatch, ort_fp32=2, openvino_fp32=1, openvino_int8=0.5, ort_int8=0.5)
    assert auto(bundle, outputs=("embedding",))[:2] == ("openvino", "fp32")
    assert auto(bundle, precision="fp32")[:2] == ("openvino", "fp32")
    assert set(speeds.loaded) == {"ort_fp32", "openvino_fp32"}


def test_what_is_hardly_faster_does_not_replace_the_simpler(new_bundle, monkeypatch) -> None:
    Speeds(monkeypatch, ort_fp32=4, openvino_fp32=3.95)
    assert auto(open_bundle(new_bundle())) == ("ort", "fp32", {}, 1)


def test_a_batch_is_taken_where_it_pays_or_as_the_caller_says(new_bundle, monkeypatch) -> None:
    monkeypatch.setattr(first_use, "_fastest", max)
    Speeds(monkeypatch, ort_fp32=0.1, openvino_fp32=0.1)
    bundle = open_bundle(new_bundle())
    assert auto(bundle)[3] == 8
    assert auto(bundle, options={"batch_size": 3})[3] == 3
    Speeds(monkeypatch, ort_fp32=5, openvino_fp32=5)
    assert auto(bundle, options={"threads": 1})[3] == 1, "a call of eight would be too long to time"


def test_an_unsteady_machine_is_measured_again_next_time(new_bundle, monkeypatch) -> None:
    speeds = Speeds(monkeypatch, ort_fp32=1, openvino_fp32=1)
    monkeypatch.setattr(first_use, "_STEADY", 0.9)
    bundle = open_bundle(new_bundle())
    auto(bundle)
    auto(bundle)
    assert len(speeds.loaded) == 4


def test_without_space_for_the_cache_it_is_said_and_runs(
    new_bundle, monkeypatch, own_cache: Path
) -> None:
    own_cache.write_text("a file where the folder should be")
    Speeds(monkeypatch, ort_fp32=2, openvino_fp32=0.5)
    said: list[str] = []
    options = {"on_progress": lambda words, _: said.append(words)}
    assert auto(open_bundle(new_bundle()), options=options)[0] == "openvino"
    assert any(
        "found out anew each time, because dlcv cannot write to the cache" in s for s in said
    )


def test_a_kept_answer_of_another_dlcv_is_measured_anew(new_bundle, monkeypatch) -> None:
    speeds = Speeds(monkeypatch, ort_fp32=2, openvino_fp32=0.5)
    bundle = open_bundle(new_bundle())
    monkeypatch.setattr(msgspec.json, "encode", lambda row: b'{"speed": 3}')
    auto(bundle)
    assert auto(bundle)[0] == "openvino"
    assert len(speeds.loaded) == 4


def test_with_one_engine_and_one_precision_nothing_is_measured(new_bundle, monkeypatch) -> None:
    speeds = Speeds(monkeypatch)
    for module in (first_use, choice):
        monkeypatch.setattr(module, "why_unavailable", lambda n: None if n == "openvino" else "no")
    assert auto(open_bundle(new_bundle())) == ("openvino", "fp32", {}, None)
    assert speeds.loaded == []


def test_without_any_engine_it_is_said_how_to_get_one(new_bundle, monkeypatch) -> None:
    for module in (first_use, choice):
        monkeypatch.setattr(module, "why_unavailable", lambda _: "no")
    monkeypatch.setattr(registry, "is_importable", lambda _: False)
    with pytest.raises(EngineUnavailableError, match="pip install 'dlcv\\[cpu\\]'"):
        load_engine(open_bundle(new_bundle()), "auto")


def test_an_engine_that_does_not_start_is_passed_over(new_bundle, monkeypatch) -> None:
    speeds = Speeds(monkeypatch, ort_fp32=2, openvino_fp32=1)
    load = speeds._load

    def fails(bundle: Bundle, chosen: Any, **more: Any) -> Any:
        if chosen.engine == "openvino":
            raise EngineUnavailableError("no VNNI")
        return load(bundle, chosen, **more)

    monkeypatch.setattr(first_use, "load_chosen", fails)
    assert auto(open_bundle(new_bundle()))[0] == "ort"
    assert speeds.loaded == ["ort_fp32"]


def test_an_engine_that_fails_on_images_does_not_end_the_choice(new_bundle, monkeypatch) -> None:
    def fail(feeds: Any) -> Any:
        raise EngineError("no kernel")

    def load(bundle: Bundle, chosen: Any, *, outputs: Any) -> FakeEngine:
        return FakeEngine(bundle.graph(), fail if chosen.engine in broken else lambda _: {})

    monkeypatch.setattr(first_use, "load_chosen", load)
    monkeypatch.setattr(first_use, "_RACE_SECONDS", 0.05)
    bundle, broken = open_bundle(new_bundle()), {"ort"}
    assert auto(bundle)[0] == "openvino"
    broken = {"ort", "openvino"}
    assert auto(bundle, options={"threads": 1})[0] == "ort", "its error is told when it runs"


def test_what_a_tuning_found_comes_first(new_bundle, monkeypatch) -> None:
    from dlcv.runtime.engines import engine_versions
    from dlcv.runtime.engines.tuned import Tuning, store_tuning, tuning_key

    bundle = with_int8(new_bundle())
    row = Row(
        engine="openvino", precision="int8", batch=4, threads=None, settings={}, images_per_second=9, ms_per_call=1,
        quartiles_ms=(1, 1), calls=1, proof="the same class on 11 of 11 photos",
    )  # fmt: skip
    made = Tuning(goal="throughput", created="", size=(8, 8), rows=(row,), plain=())
    store_tuning(tuning_key(bundle, engine_versions()), made)
    chosen = choose(bundle, "auto", precision=None, options=EngineOptions())
    assert (chosen.engine, chosen.precision, chosen.options.batch_size) == ("openvino", "int8", 4)
    assert "int8 (the same class on 11 of 11 photos), as tuned" in chosen.why
    assert replace(chosen, why="").why == ""


def test_real_engines_are_measured_too(monkeypatch) -> None:
    monkeypatch.undo()
    with load_engine(open_bundle("cifar10-vit"), "auto", precision="fp32") as engine:
        assert engine.info.name in ("ort", "openvino")
        assert engine.info.precision == "fp32"


@pytest.mark.parametrize(("value", "taken"), [(0.9, "fp16"), (0.89, "fp32")])
def test_a_gpu_computes_in_half_precision_where_that_is_proved(
    new_bundle, monkeypatch, value: float, taken: str
) -> None:
    toy = open_bundle(new_bundle())
    fp32 = toy.graph().variants["fp32"]
    accuracy = msgspec.structs.replace(ACCURACY, value=value)
    fp16 = msgspec.structs.replace(fp32, accuracy=accuracy)
    graph = msgspec.structs.replace(toy.graph(), variants={"fp32": fp32, "fp16": fp16})
    bundle = replace(toy, manifest=msgspec.structs.replace(toy.manifest, graphs={"model": graph}))
    monkeypatch.setattr(choice, "why_unavailable", lambda name: None if name == "cuda" else "no")
    chosen = choose(bundle, "auto", precision=None, options=EngineOptions())
    assert (chosen.engine, chosen.precision) == ("cuda", taken)
    assert ("in fp16 (top1 0.900 against 0.903" in chosen.why) is (taken == "fp16")
    assert choose(bundle, "auto", precision="fp32", options=EngineOptions()).precision == "fp32"
