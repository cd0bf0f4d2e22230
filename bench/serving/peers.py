"""The same bundle behind FastAPI, as its own documentation writes it. `python peers.py NAME PORT BUNDLE`."""

import sys
from typing import Any

import dlcv


def fastapi(port: int, bundle: str) -> None:
    """FastAPI: one photo a request; the function runs in FastAPI's thread pool, because it blocks."""
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool

    app, predictor = FastAPI(), dlcv.load(bundle, engine="ort")

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        data = await request.body()
        result = await run_in_threadpool(predictor, data)
        return result[0].record()

    uvicorn.run(app, port=port, log_level="critical", access_log=False)


def fastapi_plain_ort(port: int, bundle: str) -> None:
    """FastAPI around the session of ONNX Runtime, without the predictor: one photo an engine call."""
    import io

    import numpy as np
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI, Request
    from PIL import Image

    from dlcv.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    session = onnxruntime.InferenceSession(opened.path / opened.variant().file)
    height, width = opened.manifest.preprocessing.size
    names, app = [info.name for info in opened.manifest.classes], FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB").resize((width, height))
        row = np.asarray(session.run(["probabilities"], {"image": np.asarray(image)[None]})[0])[0]
        order = np.argsort(-row)[:5]
        return {"top": [{"label": names[i], "probability": float(row[i])} for i in order]}

    uvicorn.run(app, port=port, log_level="critical", access_log=False)


PEERS = {"fastapi": fastapi, "fastapi-plain-ort": fastapi_plain_ort}

if __name__ == "__main__":
    PEERS[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
