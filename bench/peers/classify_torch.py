"""timm's network and transform, torch's DataLoader with two workers, batches of 32; with --compile through torch.compile.

    python classify_torch.py WEIGHTS PHOTOS OUT [--compile]

The clock starts after the compilation.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import timm.data
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

BATCH = 32
data: Any = timm.data  # it has few types
model: Any = timm.create_model("tf_efficientnet_lite0", checkpoint_path=sys.argv[1]).eval()
transform = data.create_transform(**data.resolve_data_config({}, model=model))


class Photos(Dataset[tuple[int, torch.Tensor]]):
    """The photos of a folder."""

    def __init__(self, folder: str) -> None:
        self.paths = sorted(Path(folder).glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        return index, transform(Image.open(self.paths[index]).convert("RGB"))


photos = Photos(sys.argv[2])
loader = DataLoader(photos, batch_size=BATCH, num_workers=2)
full: Any = model
with torch.inference_mode():
    if "--compile" in sys.argv:
        full = torch.compile(model)
        full(torch.zeros(BATCH, 3, 224, 224))
    start = time.perf_counter()
    with Path(sys.argv[3], "results.jsonl").open("w") as lines:
        for indices, images in loader:
            run = full if len(images) == BATCH else model  # the last batch would be compiled anew
            found = run(images).softmax(dim=1).topk(5)
            for index, values, classes in zip(indices, *found, strict=True):
                top = list(zip(classes.tolist(), values.tolist(), strict=True))
                line = {"image": str(photos.paths[int(index)]), "index": top[0][0], "top": top}
                lines.write(json.dumps(line) + "\n")
print(json.dumps({"images": len(photos), "seconds": time.perf_counter() - start}))
