"""A loop around ONNX Runtime as one writes it in ten minutes: defaults, Pillow, one thread of Python.

    python classify_ort.py MODEL PHOTOS OUT [--batch 8] [--threads 1]

--threads: only for one core. By default ONNX Runtime pins a thread to each core of the machine, also to those that taskset excludes.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image


def load(path: Path) -> Any:
    """Return uint8 (224, 224, 3) RGB: the shorter side to 256, bicubic, and the middle of it."""
    image = Image.open(path).convert("RGB")
    width, height = (256 * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - 224) / 2), round((height - 224) / 2)  # as torchvision
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("photos", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--threads", type=int)
o = parser.parse_args()

options = onnxruntime.SessionOptions()
if o.threads:
    options.intra_op_num_threads = o.threads
session = onnxruntime.InferenceSession(o.model, options)
paths = sorted(o.photos.glob("*.jpg"))
start = time.perf_counter()
with (o.out / "results.jsonl").open("w") as lines:
    for first in range(0, len(paths), o.batch):
        some = paths[first : first + o.batch]
        batch = np.stack([load(path) for path in some])
        rows: Any = session.run(["probabilities"], {"image": batch})[0]
        for path, row in zip(some, rows, strict=True):
            top = [[int(i), float(row[i])] for i in np.argsort(-row)[:5]]
            lines.write(json.dumps({"image": str(path), "index": top[0][0], "top": top}) + "\n")
print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))
