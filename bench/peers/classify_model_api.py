"""OpenVINO's Model API, as its README writes it; with --pipeline its AsyncPipeline. `python classify_model_api.py MODEL PHOTOS OUT`.

It decodes with OpenCV, crops a square and scales that inside the graph: it has no margin of 12.5 % around the crop, so its answers differ.
"""

import json
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

cv2 = import_module("cv2")  # import_module: neither ships types, and mypy need not have them
ClassificationModel = import_module("model_api.models").ClassificationModel
AsyncPipeline = import_module("model_api.pipelines").AsyncPipeline

model = ClassificationModel.create_model(
    sys.argv[1],
    model_type="Classification",
    configuration={
        "resize_type": "crop",
        "interpolation_mode": "CUBIC",
        "reverse_input_channels": True,
        "topk": 5,
    },
)
paths = sorted(Path(sys.argv[2]).glob("*.jpg"))


def called() -> Iterator[Any]:
    """Yield the answers one after the other."""
    for path in paths:
        yield model(cv2.imread(str(path)))


def piped() -> Iterator[Any]:
    """Yield the answers; while one photo is inferred the next is decoded."""
    pipeline, shown = AsyncPipeline(model), 0
    for number, path in enumerate(paths):
        if not pipeline.is_ready():
            pipeline.await_any()
        pipeline.submit_data(cv2.imread(str(path)), number)
        while answer := pipeline.get_result(shown):
            yield answer[0]
            shown += 1
    pipeline.await_all()
    while answer := pipeline.get_result(shown):
        yield answer[0]
        shown += 1


start = time.perf_counter()
with Path(sys.argv[3], "results.jsonl").open("w") as lines:
    answers = piped() if "--pipeline" in sys.argv else called()
    for path, answer in zip(paths, answers, strict=True):
        top = [[int(label.id), float(label.confidence)] for label in answer.top_labels]
        lines.write(json.dumps({"image": str(path), "index": top[0][0], "top": top}) + "\n")
print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))
