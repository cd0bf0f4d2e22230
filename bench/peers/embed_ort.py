"""A loop around ONNX Runtime that writes one matrix of embeddings. `python embed_ort.py MODEL PHOTOS OUT [--threads 1]`."""

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
parser.add_argument("--threads", type=int)
o = parser.parse_args()

options = onnxruntime.SessionOptions()
if o.threads:
    options.intra_op_num_threads = o.threads
session = onnxruntime.InferenceSession(o.model, options)
paths = sorted(o.photos.glob("*.jpg"))
start = time.perf_counter()
rows: list[Any] = [session.run(["embedding"], {"image": load(path)[None]})[0] for path in paths]
np.save(o.out / "embeddings.npy", np.concatenate(rows))
print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))
