"""A loop around ONNX Runtime that writes palette PNG masks with Pillow's defaults. `python segment_ort.py BUNDLE PHOTOS OUT [--threads 1]`."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument("bundle", type=Path)
parser.add_argument("photos", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--threads", type=int)
o = parser.parse_args()

options = onnxruntime.SessionOptions()
if o.threads:
    options.intra_op_num_threads = o.threads
session = onnxruntime.InferenceSession(o.bundle / "model.onnx", options)
classes = json.loads((o.bundle / "manifest.json").read_text())["classes"]
palette = [value for info in classes for value in info["color"]]
masks = o.out / "masks"
masks.mkdir()
paths = sorted(o.photos.glob("*.jpg"))
start = time.perf_counter()
for path in paths:
    photo = Image.open(path).convert("RGB")
    scale = 480 / max(photo.size)  # the longer side to 480, both to multiples of 8
    width, height = (max(1, round(side * scale / 8)) * 8 for side in photo.size)
    image = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
    found: Any = session.run(["mask"], {"image": image[None]})[0]
    mask = Image.fromarray(found[0]).resize(photo.size, Image.Resampling.NEAREST)
    mask.putpalette(palette)
    mask.save(masks / f"{path.stem}.png")
print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))
