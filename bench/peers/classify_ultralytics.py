"""Ultralytics' predict with its own classifier, untrained: its weights are a download. `python classify_ultralytics.py PHOTOS OUT`.

Another network, so only the share of its own engine's speed that predict reaches can be compared with others' shares.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path

import torch

YOLO = import_module("ultralytics").YOLO  # import_module: mypy need not have it

model = YOLO("yolov8n-cls.yaml")
paths = sorted(Path(sys.argv[1]).glob("*.jpg"))
model.predict(str(paths[0]), imgsz=224, verbose=False)  # it fuses the network on first use
start = time.perf_counter()
with Path(sys.argv[2], "results.jsonl").open("w") as lines:
    for result in model.predict(sys.argv[1], imgsz=224, stream=True, verbose=False):
        top = [[int(i), float(result.probs.data[i])] for i in result.probs.top5]
        line = {"image": result.path, "index": top[0][0], "top": top}
        lines.write(json.dumps(line) + "\n")
seconds = time.perf_counter() - start

network, batch = model.predictor.model, torch.zeros(1, 3, 224, 224)
with torch.inference_mode():
    for _ in range(20):
        network(batch)
    start = time.perf_counter()
    for _ in range(200):
        network(batch)
engine = 200 / (time.perf_counter() - start)
print(json.dumps({"images": len(paths), "seconds": seconds, "engine_per_second": engine}))
