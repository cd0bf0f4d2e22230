"""Measures the overhead of engine `ort` over `session.run` on the same arrays. The limit is 3 %.

Both are timed in turns, so that a noisy machine slows both. The small classifier at batch 1 is the hardest
case.

    pytest bench/bench_overhead.py -s
"""

from typing import Any

import numpy as np
import onnxruntime
import pytest

from dlcv.runtime import open_bundle
from dlcv.runtime.engines import EngineOptions, engine_model
from dlcv.runtime.engines.ort import OrtEngine
from dlcv.runtime.measure.timing import interleaved, subject_from_call

SECONDS = 15
CASES = {
    # bundle, outputs, input shape
    "classifier, batch 1": ("imagenet-lite0", ["probabilities"], (1, 224, 224, 3)),
    "segmenter, batch 1": ("camvid-lraspp", ["mask"], (1, 96, 128, 3)),
}


@pytest.mark.parametrize("case", CASES)
def bench_overhead(benchmark: Any, case: str) -> None:
    """Print the median of the rounds' ratios, engine / bare session of the same settings."""
    name, outputs, shape = CASES[case]
    model = engine_model(open_bundle(name), outputs=outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    with OrtEngine(model, EngineOptions(threads=1)) as engine:
        subjects = {
            "engine": subject_from_call(lambda: engine.infer(feeds)),
            "bare": subject_from_call(lambda: session.run(names, feeds)),
        }
        times = benchmark.pedantic(lambda: interleaved(subjects, seconds=SECONDS), rounds=1)
    ratio = times["bare"].speed_over(times["engine"])  # how much faster is the bare session
    benchmark.extra_info["ratio"] = ratio
    print(f"\n{case}: engine ort takes {ratio:.3f} of session.run, 1 thread")
