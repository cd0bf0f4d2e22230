"""Stateful runs of an ONNX Runtime session: what is carried stays on the session's device, by IO binding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, final

import numpy as np

from dlcv.runtime.engines.base import Arrays, check_feeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dlcv.runtime.bundle.schema import TensorSpec
    from dlcv.runtime.engines.stateful import State


@final
class OrtRuns:
    """Runs of one state. Each carried tensor has two places on the device, which are read and written in turns."""

    def __init__(
        self,
        session: Any,
        state: State,
        *,
        specs: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
        place: tuple[str, int],
        errors: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        """Put a state onto the device.

        specs: inputs, outputs. place: ONNX Runtime's name for the device, such as ("cuda", 0). errors: of a batch,
        converts what ONNX Runtime raises.
        """
        self._session, self._state = session, state
        self._inputs, outputs = specs
        self._errors = errors
        self._returned = [spec.name for spec in outputs if spec.name not in state.carried]
        self._is_checked = False
        self._now = 0  # which place is read next
        self._rows = len(next(iter(state.first.values())))
        with errors(self._rows):
            self._places = [_on_device(state.first, place), _on_device(state.first, place)]
            held = _on_device(state.held, place)
            self._bindings = [self._binding(number, held) for number in range(2)]
        self._options = _run_options()

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Run the graph once; see `StatefulRuns.run`."""
        if not self._is_checked:  # the other shapes stay as they are
            check_feeds(self._inputs, {**feeds, **self._state.first, **self._state.held})
            self._is_checked = True
        binding = self._bindings[self._now]
        with self._errors(self._rows):
            for name, array in feeds.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding, self._options)
            values = binding.get_outputs()  # as they were bound
            arrays = {  # copies: the next run but one writes into the same memory
                name: np.array(value.numpy())
                for name, value in zip(self._returned, values, strict=False)
            }
        self._now = 1 - self._now
        return arrays

    def reorder(self, rows: NDArray[np.intp]) -> None:
        """Replace rows of the state; see `StatefulRuns.reorder`. This goes through the host."""
        if np.array_equal(rows, np.arange(self._rows)):
            return
        with self._errors(self._rows):
            for value in self._places[self._now].values():
                value.update_inplace(value.numpy()[rows])

    def _binding(self, read: int, held: Mapping[str, Any]) -> Any:
        """Return a binding that reads what is carried from one place and writes it to the other."""
        binding = self._session.io_binding()
        for name, value in {**held, **self._places[read]}.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._returned:
            binding.bind_output(name, "cpu")
        for output, name in self._state.carried.items():
            binding.bind_ortvalue_output(output, self._places[1 - read][name])
        return binding


def _on_device(arrays: Arrays, place: tuple[str, int]) -> dict[str, Any]:
    """Return copies of arrays as values of ONNX Runtime's on a device."""
    import onnxruntime

    make = onnxruntime.OrtValue.ortvalue_from_numpy  # on the CPU the array's own memory
    return {name: make(np.array(array), *place) for name, array in arrays.items()}


def _run_options() -> Any:
    """Return run options without CUDA graphs, which would record the addresses of one run."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options
