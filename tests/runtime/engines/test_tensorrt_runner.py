"""Running a loaded TensorRT engine, on a device of plain memory that writes down what it is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from dlcv.runtime.bundle.schema import TensorSpec
from dlcv.runtime.engines.cuda_device import OutOfDeviceMemoryError
from dlcv.runtime.engines.tensorrt.cuda_graphs import GRAPHS_KEPT
from dlcv.runtime.engines.tensorrt.runner import Runner, Tensors
from dlcv.runtime.errors import EngineError, InputError

INPUT = TensorSpec(name="image", dtype="uint8", shape=("batch", "width"))
OUTPUT = TensorSpec(name="doubled", dtype="float32", shape=("batch", "width"))
TENSORS = Tensors(
    inputs=(INPUT,), outputs=(OUTPUT,), least={"image": (1, 2)}, most={"image": (4, 6)}
)


class FakeDevice:
    """Streams run late: work waits in a queue, until an event that follows it is waited for."""

    def __init__(self, *, capacity: int = 10**6, can_record: bool = True) -> None:
        self.memory: dict[int, Any] = {}
        self.capacity = capacity
        self.can_record = can_record
        self.streams: list[list[Callable[[], None] | int]] = []
        self.passed: set[int] = set()
        self.events = 0
        self.log: list[str] = []
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: list[list[Callable[[], None]]] = []
        self.freed: list[int] = []
        self.clock = 0.0

    def use(self) -> None:
        self.log.append("use")

    def allocate(self, size: int) -> int:
        self.capacity -= size
        if self.capacity < 0:
            self.capacity += size
            raise OutOfDeviceMemoryError("the GPU's memory does not do (out of memory)")
        address = 1000 + len(self.memory)
        self.memory[address] = np.zeros(size, np.uint8)
        return address

    def allocate_pinned(self, size: int) -> Any:
        return np.zeros(size, np.uint8)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        before = set(self.memory)
        try:
            yield
        except BaseException:
            for address in set(self.memory) - before:
                self.capacity += len(self.memory.pop(address))
            raise

    def new_stream(self) -> int:
        self.streams.append([])
        return len(self.streams) - 1

    def stream_number(self, stream: int) -> int:
        return stream

    def new_event(self) -> int:
        self.events += 1
        return self.events

    def upload(self, address: int, source: Any, *, stream: int) -> None:
        self.log.append("upload")

        def copy() -> None:
            self.memory[address][: source.nbytes] = source

        self.streams[stream].append(copy)

    def download(self, target: Any, address: int, *, stream: int) -> None:
        self.log.append("download")

        def copy() -> None:
            target[...] = self.memory[address][: target.nbytes]

        self.streams[stream].append(copy)

    def record(self, event: int, *, stream: int) -> None:
        self.passed.discard(event)
        self.streams[stream].append(lambda: self.passed.add(event))

    def make_wait(self, stream: int, *, event: int) -> None:
        self.streams[stream].append(event)

    def wait(self, event: int) -> None:
        self.log.append("wait")
        while event not in self.passed:
            moved = [self._advance(queue) for queue in self.streams]
            assert any(moved), "the streams are stuck"

    def _advance(self, queue: list[Any]) -> bool:
        if not queue or (isinstance(queue[0], int) and queue[0] not in self.passed):
            return False
        work = queue.pop(0)
        if callable(work):
            work()
        return True

    def launch_on(self, stream: int, work: Callable[[], None]) -> None:
        (self.streams[stream] if self.recording is None else self.recording).append(work)

    def seconds_between(self, start: int, end: int) -> float:
        self.clock += 1.0
        return self.clock

    def captured(self, work: Callable[[], None], *, stream: int) -> int | None:
        if not self.can_record:
            return None
        self.recording = []
        work()
        self.graphs.append(self.recording)
        self.recording = None
        self.log.append("record")
        return len(self.graphs) - 1

    def launch(self, graph: int, *, stream: int) -> None:
        self.log.append("launch graph")
        self.streams[stream].extend(self.graphs[graph])

    def free_graph(self, graph: int) -> None:
        self.freed.append(graph)

    def close(self) -> None:
        self.memory.clear()


class FakeContext:
    """Doubles its input. What it runs on is fixed when it is launched."""

    def __init__(self, device: FakeDevice, *, fails: bool = False, dtype: Any = np.float32) -> None:
        self.device = device
        self.dtype = dtype
        self.fails = fails
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.launches: list[tuple[int, ...]] = []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "doubled"
        return self.shape

    def execute_async_v3(self, stream: int) -> bool:
        if self.fails:
            return False
        self.launches.append(self.shape)
        self.device.log.append("compute")
        size = int(np.prod(self.shape))
        source = self.device.memory[self.addresses["image"]]
        target = self.device.memory[self.addresses["doubled"]]

        def compute() -> None:
            target[: 4 * size].view(self.dtype)[...] = source[:size] * 2.0

        self.device.launch_on(stream, compute)
        return True


class FakeLogger:
    errors = ("the newest reason",)


class Setup:
    """A runner with everything that it uses."""

    def __init__(
        self, *, graphs: bool = True, fails: bool = False, most_contexts: int = 99, **device: Any
    ) -> None:
        self.device = FakeDevice(**device)
        self.contexts: list[FakeContext] = []
        self.said: list[str] = []

        def new_context() -> FakeContext:
            if len(self.contexts) >= most_contexts:
                raise EngineError("the GPU's memory does not do")
            self.contexts.append(FakeContext(self.device, fails=fails))
            return self.contexts[-1]

        self.runner = Runner(
            new_context,
            self.device,
            tensors=TENSORS,
            graphs=graphs,
            logger=FakeLogger(),
            say=self.said.append,
        )

    def run(self, image: Any) -> Any:
        return self.runner.run({"image": image})["doubled"]


def images(count: int, width: int = 6, *, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)


@pytest.fixture
def setup() -> Iterator[Setup]:
    made = Setup()
    yield made
    made.runner.close()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 13])
def test_a_batch_of_any_size_gives_each_item_its_answer(setup: Setup, count: int) -> None:
    image = images(count)
    doubled = setup.run(image)
    assert doubled.dtype == np.float32
    np.testing.assert_array_equal(doubled, image * 2.0)


@pytest.mark.parametrize(
    ("count", "parts"), [(3, [3]), (4, [4]), (5, [2, 3]), (9, [3, 3, 3]), (13, [3, 3, 3, 4])]
)
def test_a_larger_batch_is_cut_into_equal_parts(count: int, parts: list[int]) -> None:
    setup = Setup(graphs=False)
    setup.run(images(count))
    assert [shape[0] for shape in setup.contexts[0].launches] == parts


def test_the_next_part_is_uploaded_before_the_first_one_is_waited_for(setup: Setup) -> None:
    setup.run(images(8))
    assert setup.device.log == [
        "use",
        *("upload", "compute", "download"),
        *("upload", "compute", "download"),
        *("use", "wait", "wait"),
    ]


def test_a_third_part_waits_for_the_buffers_of_the_first(setup: Setup) -> None:
    setup.run(images(12))
    work = [word for word in setup.device.log if word in ("upload", "wait")]
    assert work == ["upload", "upload", "wait", "upload", "wait", "wait"]


def test_two_runs_are_under_way_before_the_first_is_waited_for(setup: Setup) -> None:
    batches = [images(count, seed=count) for count in (4, 3, 2, 1)]
    first, second = (setup.runner.start({"image": image}) for image in batches[:2])
    assert "wait" not in setup.device.log
    third = setup.runner.start({"image": batches[2]})
    assert setup.device.log.count("wait") == 1, "there are two sets of buffers"
    finished = [finish()["doubled"] for finish in (second, first, third)]
    for image, doubled in zip((batches[1], batches[0], batches[2]), finished, strict=True):
        np.testing.assert_array_equal(doubled, image * 2.0)


def test_inputs_in_lent_memory_are_copied_to_the_device_from_where_they_are(setup: Setup) -> None:
    lent = setup.runner.host_memory(100)
    batch = lent[:24].reshape(4, 6)
    batch[...] = images(4)
    finish = setup.runner.start({"image": batch[:3]})
    assert all(not buffers.pinned["image"].any() for buffers in setup.runner._buffers)
    np.testing.assert_array_equal(finish()["doubled"], images(4)[:3] * 2.0)
    columns = lent[:24].reshape(4, 6)[:, :4]  # no block of memory: it is copied once more
    np.testing.assert_array_equal(setup.run(columns), images(4)[:, :4] * 2.0)


def test_a_run_that_fails_leaves_the_one_before_it_to_be_finished(setup: Setup) -> None:
    image = images(2)
    first = setup.runner.start({"image": image})
    for context in setup.contexts:
        context.fails = True
    with pytest.raises(EngineError, match="TensorRT failed"):
        setup.runner.start({"image": images(3)})
    np.testing.assert_array_equal(first()["doubled"], image * 2.0)


def test_int32_of_the_device_is_narrowed_to_the_uint16_of_the_bundle() -> None:
    device = FakeDevice()
    tensors = replace(
        TENSORS,
        outputs=(msgspec.structs.replace(OUTPUT, dtype="int32"),),
        narrowed=frozenset(["doubled"]),
    )
    runner = Runner(
        lambda: FakeContext(device, dtype=np.int32),
        device,
        tensors=tensors,
        graphs=False,
        logger=FakeLogger(),
    )
    image = images(9)
    doubled = runner.run({"image": image})["doubled"]
    assert doubled.dtype == np.uint16
    assert doubled.max() > 255
    np.testing.assert_array_equal(doubled, image.astype(np.int64) * 2)


def test_buffers_are_made_once(setup: Setup) -> None:
    setup.run(images(1, 2))
    assert len(setup.device.memory) == 2  # an input and an output
    setup.run(images(8))
    assert len(setup.device.memory) == 4
    setup.run(images(13))
    assert len(setup.device.memory) == 4


def test_no_later_call_overwrites_an_answer(setup: Setup) -> None:
    first, image = setup.run(images(4)), images(4)
    setup.run(images(4, seed=1))
    np.testing.assert_array_equal(first, image * 2.0)


def test_a_feed_that_is_no_whole_block_of_memory_is_read_right(setup: Setup) -> None:
    image = images(8, 12)[::2, ::2]
    np.testing.assert_array_equal(setup.run(image), image * 2.0)


def test_a_shape_is_recorded_the_second_time_and_replayed_from_the_third(setup: Setup) -> None:
    for seed in range(4):
        image = images(2, seed=seed)
        np.testing.assert_array_equal(setup.run(image), image * 2.0)
    words = [w for w in setup.device.log if w in ("compute", "record", "launch graph")]
    # The second run is the warm-up of the recording, which launches, in words, once more.
    assert words == ["compute", "compute", "compute", "record", "launch graph", "launch graph"]


def test_each_graph_has_a_context_that_is_left_alone(setup: Setup) -> None:
    for count in (1, 2, 1, 2, 3, 1, 2):
        image = images(count, seed=count)
        np.testing.assert_array_equal(setup.run(image), image * 2.0)
    assert [set(context.launches) for context in setup.contexts] == [
        {(1, 6), (2, 6), (3, 6)},
        {(1, 6)},
        {(2, 6)},
    ]


SHAPES = [(count, width) for width in (2, 3, 4) for count in (1, 2, 3, 4)]


@pytest.mark.parametrize("number", [GRAPHS_KEPT + 1, len(SHAPES)])
def test_more_sizes_that_recur_than_graphs_are_not_recorded_again_and_again(
    setup: Setup, number: int
) -> None:
    for seed in range(30):
        for shape in SHAPES[:number]:
            image = images(*shape, seed=seed)
            np.testing.assert_array_equal(setup.run(image), image * 2.0)
    assert setup.device.log.count("record") == GRAPHS_KEPT
    assert setup.device.log.count("launch graph") >= 28 * GRAPHS_KEPT
    assert setup.device.freed == []


def test_a_size_that_became_frequent_takes_the_place_of_one_that_was(setup: Setup) -> None:
    for _ in range(3):
        for shape in SHAPES[:GRAPHS_KEPT]:
            setup.run(images(*shape))
    for seed in range(40):
        image = images(*SHAPES[-1], seed=seed)
        np.testing.assert_array_equal(setup.run(image), image * 2.0)
    assert len(setup.device.freed) == 1
    assert len(setup.contexts) == 1 + GRAPHS_KEPT, "its context is used again"
    for shape in SHAPES:
        image = images(*shape, seed=7)
        np.testing.assert_array_equal(setup.run(image), image * 2.0)


def test_without_memory_for_another_context_shapes_run_plainly_and_it_is_said_once() -> None:
    setup = Setup(most_contexts=2)
    for seed in range(4):
        for shape in SHAPES[:3]:
            image = images(*shape, seed=seed)
            np.testing.assert_array_equal(setup.run(image), image * 2.0)
    assert setup.device.log.count("record") == 1
    assert setup.device.log.count("launch graph") >= 2, "the graph that there is stays"
    (said,) = setup.said
    assert "no more CUDA graphs are recorded, because there is no execution context" in said


def test_a_network_that_cannot_be_recorded_runs_plainly() -> None:
    setup = Setup(can_record=False)
    for seed in range(4):
        image = images(2, seed=seed)
        np.testing.assert_array_equal(setup.run(image), image * 2.0)
    assert len(setup.contexts) == 2
    assert setup.device.log.count("launch graph") == 0
    assert setup.said == [
        "no more CUDA graphs are recorded, because CUDA cannot capture this network; other shapes run without"
    ]


def test_without_graphs_one_context_does_everything() -> None:
    setup = Setup(graphs=False)
    for _ in range(4):
        setup.run(images(2))
    assert len(setup.contexts) == 1
    assert setup.device.log.count("record") == 0


def test_closing_frees_every_graph() -> None:
    setup = Setup()
    for _ in range(2):
        setup.run(images(1))
        setup.run(images(2))
    setup.runner.close()
    assert sorted(setup.device.freed) == [0, 1]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (images(1, 7), "'image' has width 7, the engine was built for 2 to 6"),
        (images(9, 1), "'image' has width 1, the engine was built for 2 to 6"),
    ],
)
def test_a_size_outside_the_profile_is_refused_before_any_work(
    setup: Setup, image: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        setup.run(image)
    assert "upload" not in setup.device.log


def test_too_little_memory_suggests_a_smaller_batch() -> None:
    setup = Setup(capacity=50)
    with pytest.raises(
        EngineError, match=r"memory does not do .* for batches of 4; give a smaller"
    ):
        setup.run(images(9))


def test_what_was_allocated_before_the_memory_ran_out_is_freed() -> None:
    setup = Setup(capacity=50)
    for _ in range(3):
        with pytest.raises(EngineError, match="memory does not do"):
            setup.run(images(9))
    assert setup.device.memory == {}


def test_a_failed_run_gives_the_reason_and_leaves_the_runner_usable() -> None:
    setup = Setup(fails=True)
    with pytest.raises(EngineError, match="TensorRT failed: the newest reason"):
        setup.run(images(2))
    setup.contexts[0].fails = False
    np.testing.assert_array_equal(setup.run(images(4)), images(4) * 2.0)


def test_a_part_that_fails_leaves_nothing_of_the_parts_before(setup: Setup) -> None:
    execute = setup.contexts[0].execute_async_v3
    setup.contexts[0].execute_async_v3 = (  # type: ignore[method-assign]
        lambda stream: len(setup.contexts[0].launches) < 1 and execute(stream)
    )
    with pytest.raises(EngineError, match="TensorRT failed"):
        setup.run(images(8))
    setup.contexts[0].execute_async_v3 = execute  # type: ignore[method-assign]
    image = images(2, seed=3)
    np.testing.assert_array_equal(setup.run(image), image * 2.0)


def test_the_device_alone_is_timed_without_copies(setup: Setup) -> None:
    seconds = setup.runner.device_seconds({"image": images(2)}, repeats=3)
    assert seconds == [1.0, 2.0, 3.0]
    after = setup.device.log[setup.device.log.index("record") :]
    assert after.count("upload") == after.count("download") == 0
    assert after.count("launch graph") == 1 + 3


def test_a_batch_that_must_be_split_cannot_be_timed(setup: Setup) -> None:
    with pytest.raises(InputError, match="'image' has batch 5, the engine was built for 1 to 4"):
        setup.runner.device_seconds({"image": images(5)}, repeats=1)
