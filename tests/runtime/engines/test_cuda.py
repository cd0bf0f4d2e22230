"""All of the CUDA engine that runs without a GPU: IO binding on the CPU provider, and every refusal."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from dlcv.runtime import open_bundle
from dlcv.runtime.engines import EngineModel, EngineOptions, engine_model, why_unavailable
from dlcv.runtime.engines.cuda import (
    CudaEngine,
    check_precision,
    engine_errors,
    gpu_of_number,
    heavy_operators_elsewhere,
    open_session,
    require_provider,
    session_specs,
)
from dlcv.runtime.engines.cuda_device import OutOfDeviceMemoryError
from dlcv.runtime.engines.io_binding import BoundSession
from dlcv.runtime.errors import BundleError, EngineError, EngineUnavailableError, InputError
from dlcv.runtime.machine.gpu import Gpu
from dlcv.runtime.measure.parity import compare

CPU = "CPUExecutionProvider"


class HostDevice:
    """A device whose memory is the host's, for the CPU provider; `limit` bytes at most."""

    def __init__(self, limit: int = 2**30) -> None:
        self.limit = limit
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.used = 0
        self.recorded: list[Any] = []

    def use(self) -> None:
        self.used += 1

    def allocate(self, size: int) -> int:
        if size + sum(a.nbytes for a in self.memory.values()) > self.limit:
            raise OutOfDeviceMemoryError("the GPU's memory does not do (out of memory)")
        array = np.zeros(size, np.uint8)
        self.memory[array.ctypes.data] = array
        return array.ctypes.data

    def allocate_pinned(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.zeros(size, np.uint8)

    def all_or_nothing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def new_stream(self) -> Any:
        return "stream"

    def stream_number(self, stream: Any) -> int:
        return 0

    def new_event(self) -> Any:
        return object()

    def upload(self, address: int, source: Any, *, stream: Any) -> None:
        assert stream == "stream"
        self.memory[address][:] = source

    def download(self, target: Any, address: int, *, stream: Any) -> None:
        assert stream == "stream"
        target[:] = self.memory[address]

    def record(self, event: Any, *, stream: Any) -> None:
        self.recorded.append(event)

    def make_wait(self, stream: Any, *, event: Any) -> None:
        assert event in self.recorded

    def wait(self, event: Any) -> None:
        assert event in self.recorded

    def seconds_between(self, start: Any, end: Any) -> float:
        assert self.recorded[-2:] == [start, end]
        return 0.25

    def captured(self, work: Callable[[], None], *, stream: Any) -> Any:
        raise AssertionError("ONNX Runtime captures by itself")

    def launch(self, graph: Any, *, stream: Any) -> None:
        raise AssertionError("ONNX Runtime replays by itself")

    def free_graph(self, graph: Any) -> None:
        raise AssertionError("ONNX Runtime frees by itself")

    def close(self) -> None:
        self.memory.clear()


class Binding:
    """A BoundSession on the CPU provider with what the test wants to see of it."""

    def __init__(self, model: EngineModel, *, graphs: bool = False, limit: int = 2**30) -> None:
        self.session = open_session(model, EngineOptions(threads=2), provider=(CPU, {}))
        self.specs = session_specs(self.session, model)
        self.device = HostDevice()
        self.memories: list[HostDevice] = []
        self.limit = limit
        self.bound = BoundSession(
            self.session,
            specs=self.specs,
            place=("cpu", 0),
            device=self.device,
            stream=self.device.new_stream(),
            new_memory=self.new_memory,
            graphs=graphs,
        )

    def new_memory(self) -> HostDevice:
        self.memories.append(HostDevice(self.limit))
        return self.memories[-1]

    def alive(self) -> int:
        """Return how many sets of buffers hold memory."""
        return sum(bool(memory.memory) for memory in self.memories)


def toy(path: Path) -> EngineModel:
    return engine_model(open_bundle(path))


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("name", ["cifar10-vit", "camvid-lraspp"])
def test_bound_buffers_give_the_golden_answers(name: str, graphs: bool) -> None:
    bundle = open_bundle(name)
    binding = Binding(engine_model(bundle), graphs=graphs)
    assert [str(s) for s in binding.specs[0]] == [str(s) for s in bundle.graph().inputs]
    for case in bundle.golden():
        answers = binding.bound.run(case.inputs)
        found = compare(case.outputs, answers, specs=bundle.graph().outputs, case=case.name)
        assert found.failures == ()


def test_changing_batches_share_no_buffers_and_results_belong_to_the_caller(
    classify_bundle: Path,
) -> None:
    binding = Binding(toy(classify_bundle))
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (n, 8, 8, 3), np.uint8) for n in (1, 3, 1, 3)]
    answers = [binding.bound.run({"image": image})["embedding"] for image in images]
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_allclose(answer, image.mean((1, 2)) / 255, atol=1e-6)
    assert len(binding.memories) == 2


def test_only_the_last_sixteen_sets_of_buffers_are_kept(classify_bundle: Path) -> None:
    binding = Binding(toy(classify_bundle))
    for size in [*range(1, 19), 3, 18]:
        binding.bound.run({"image": np.zeros((size, 8, 8, 3), np.uint8)})
    assert len(binding.memories) == 18
    assert binding.alive() == 16
    binding.bound.run({"image": np.zeros((1, 8, 8, 3), np.uint8)})  # dropped before: made anew
    assert (len(binding.memories), binding.alive()) == (19, 16)
    assert [bool(memory.memory) for memory in binding.memories[2:5]] == [True, False, True]
    binding.bound.close()
    assert binding.alive() == 0


def test_two_runs_of_a_shape_have_buffers_of_their_own(classify_bundle: Path) -> None:
    binding = Binding(toy(classify_bundle))
    images = [np.full((2, 8, 8, 3), value, np.uint8) for value in (51, 102, 153)]
    finishes = [binding.bound.start({"image": image}) for image in images]
    assert binding.alive() == 2, "the third takes those of the first, whose answer it saves before"
    for share, finish in zip((0.2, 0.4, 0.6), finishes, strict=True):
        np.testing.assert_allclose(finish()["embedding"], np.full((2, 3), share), atol=1e-6)


def test_lent_memory_is_copied_to_the_device_from_where_it_is(classify_bundle: Path) -> None:
    binding = Binding(toy(classify_bundle))
    lent = binding.bound.host_memory(3 * 8 * 8 * 3).reshape(3, 8, 8, 3)
    lent[...] = 51
    sources: list[int] = []
    memory = binding.new_memory()
    upload = memory.upload

    def noted(address: int, source: Any, *, stream: Any) -> None:
        sources.append(source.ctypes.data)
        upload(address, source, stream=stream)

    memory.upload = noted  # type: ignore[method-assign]
    binding.bound._new_memory = lambda: memory
    answer = binding.bound.run({"image": lent[:2]})["embedding"]
    assert sources == [lent.ctypes.data]
    np.testing.assert_allclose(answer, np.full((2, 3), 0.2), atol=1e-6)


class Recorder:
    """A session that passes everything on, and remembers the numbers of the CUDA graphs."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.ran: list[str] = []
        self.released: list[int] = []

    def io_binding(self) -> Any:
        return self.session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.ran.append(options.get_run_config_entry("gpu_graph_id"))
        self.session.run_with_iobinding(binding, options)

    def release_captured_graph(self, number: int) -> None:
        self.released.append(number)


@pytest.mark.parametrize("graphs", [False, True])
def test_each_shape_has_a_cuda_graph_of_its_own(classify_bundle: Path, graphs: bool) -> None:
    binding = Binding(toy(classify_bundle))
    recorder = Recorder(binding.session)
    bound = BoundSession(
        recorder,
        specs=binding.specs,
        place=("cpu", 0),
        device=binding.device,
        stream="stream",
        new_memory=binding.new_memory,
        graphs=graphs,
    )
    for size in (1, 2, 1, 2, *range(3, 18), 1):
        bound.run({"image": np.zeros((size, 8, 8, 3), np.uint8)})
    numbers = ["1", "2", "1", "2", *map(str, range(3, 18)), "18"]
    assert recorder.ran == (numbers if graphs else ["-1"] * 20)
    assert recorder.released == ([1, 2] if graphs else [])


def test_shapes_that_the_inputs_do_not_tell_are_found_by_a_run() -> None:
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", 4])
    halves = onnx.helper.make_tensor_value_info("halves", onnx.TensorProto.UINT8, ["rows", 2])
    shape = onnx.numpy_helper.from_array(np.array([-1, 2]), "shape")
    node = onnx.helper.make_node("Reshape", ["image", "shape"], ["halves"])
    graph = onnx.helper.make_graph([node], "g", [image], [halves], [shape])
    opset = [onnx.helper.make_opsetid("", 18)]
    data = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    answer = Binding(EngineModel(onnx=data)).bound.run(
        {"image": np.arange(12, dtype=np.uint8).reshape(3, 4)}
    )
    assert answer["halves"].tolist() == np.arange(12).reshape(6, 2).tolist()


def test_device_seconds_are_measured_by_events_around_each_run(classify_bundle: Path) -> None:
    binding = Binding(toy(classify_bundle))
    feeds = {"image": np.zeros((2, 8, 8, 3), np.uint8)}
    assert binding.bound.device_seconds(feeds, repeats=3) == [0.25] * 3
    assert len(binding.device.recorded) == 1 + 6


def test_a_batch_that_does_not_fit_leaves_nothing_behind_and_suggests_a_smaller_one(
    classify_bundle: Path,
) -> None:
    binding = Binding(toy(classify_bundle), limit=10_000)
    small, large = (np.zeros((n, 8, 8, 3), np.uint8) for n in (1, 500))
    with (
        pytest.raises(EngineError, match=r"too small for a batch of 500; give a smaller --batch"),
        engine_errors(500),
    ):
        binding.bound.run({"image": large})
    assert binding.alive() == 0
    assert binding.bound.run({"image": small})["embedding"].shape == (1, 3)


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), "for a batch of 4; give a smaller"),
        (
            RuntimeError("[ONNXRuntimeError] : 6 : X : Failed to allocate memory for requested"),
            "for a batch of 4; give a smaller --batch",
        ),
        (
            RuntimeError("[ONNXRuntimeError] : 1 : FAIL : bad node\nmore"),
            "ONNX Runtime failed: bad node$",
        ),
        (EngineError("CUDA failed (cudaErrorX): words"), r"^CUDA failed \(cudaErrorX\): words$"),
    ],
)
def test_each_failure_of_a_run_is_one_sentence(raised: Exception, message: str) -> None:
    with (
        pytest.raises(EngineError, match=message),
        engine_errors(4),
    ):
        raise raised


def test_a_session_that_fell_back_to_the_cpu_is_refused_with_what_is_missing(
    classify_bundle: Path,
) -> None:
    session = Binding(toy(classify_bundle)).session
    with pytest.raises(
        EngineUnavailableError,
        match=r"provider does not start \(.*\.so.*\); get its libraries with pip install "
        r"'onnxruntime-gpu\[cuda,cudnn\]'",
    ):
        require_provider(session, "CUDAExecutionProvider")
    require_provider(session, CPU)


def test_heavy_operators_on_another_provider_are_named() -> None:
    session = Binding(engine_model(open_bundle("cifar10-vit"))).session
    assert "MatMul (" in heavy_operators_elsewhere(session, "CUDAExecutionProvider")
    assert heavy_operators_elsewhere(session, CPU) == ""


def test_a_graph_that_cannot_be_loaded_is_a_bundle_error() -> None:
    with pytest.raises(BundleError, match="ONNX Runtime cannot load the graph"):
        open_session(EngineModel(onnx=b"not onnx"), EngineOptions(), provider=(CPU, {}))


def test_loading_prints_nothing(classify_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Binding(toy(classify_bundle))
    assert capfd.readouterr() == ("", "")


def test_int8_is_refused_because_it_would_not_be_int8() -> None:
    with pytest.raises(InputError, match=r"has no int8 convolutions .*--precision fp16, or"):
        check_precision(EngineModel(onnx=b"", precision="int8"))


def test_a_gpu_that_is_not_there_is_refused() -> None:
    gpu = Gpu(index=0, name="Toy", compute_capability=(9, 0), memory_bytes=2**30)
    assert gpu_of_number(0, (gpu,)) is gpu
    with pytest.raises(InputError, match=r"no GPU 1: 0 is Toy \(compute capability 9.0, 1 GiB\)$"):
        gpu_of_number(1, (gpu,))


def test_an_unknown_setting_is_refused() -> None:
    options = EngineOptions(settings={"graphs": "true"})
    with pytest.raises(InputError, match="no setting 'graphs'; it has device, tf32, cuda_graphs"):
        CudaEngine(EngineModel(onnx=b""), options)


def test_without_the_gpu_build_the_sentence_holds_the_command() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed here")
    assert why_unavailable("cuda") == (
        "engine 'cuda' (ONNX Runtime, CUDA provider) is not installed; get it with "
        "pip uninstall -y onnxruntime && pip install 'dlcv[gpu]'"
    )
