"""A loop around OpenVINO with all defaults, which compute in bf16 on a CPU that has it. `python classify_openvino.py MODEL PHOTOS OUT`."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from PIL import Image


def load(path: Path) -> Any:
    """Return uint8 (224, 224, 3) RGB: the shorter side to 256, bicubic, and the middle of it."""
    image = Image.open(path).convert("RGB")
    width, height = (256 * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - 224) / 2), round((height - 224) / 2)  # as torchvision
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


model = openvino.Core().compile_model(sys.argv[1], "CPU")
paths = sorted(Path(sys.argv[2]).glob("*.jpg"))
start = time.perf_counter()
with Path(sys.argv[3], "results.jsonl").open("w") as lines:
    for path in paths:
        row = model(load(path)[None])["probabilities"][0]
        top = [[int(i), float(row[i])] for i in np.argsort(-row)[:5]]
        lines.write(json.dumps({"image": str(path), "index": top[0][0], "top": top}) + "\n")
print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))
