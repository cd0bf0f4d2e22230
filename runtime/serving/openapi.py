"""The OpenAPI description of a server, with the models that it has now. https://spec.openapis.org/oas/v3.1.0"""

from __future__ import annotations

from typing import Any

import dlcv
from dlcv.runtime.serving.inference import metadata
from dlcv.runtime.serving.predict import INCLUDABLE
from dlcv.runtime.serving.served import ServedModel
from dlcv.runtime.serving.state import Serving

_ERRORS = {
    "400": "The request or the image does not fit; the sentence says how.",
    "401": "A key is needed.",
    "404": "There is no such model or set.",
    "408": "The request did not come in time.",
    "413": "The body has too many bytes, or the image too many pixels.",
    "503": "All places are taken; see Retry-After.",
    "504": "No answer within the server's time limit.",
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": ["UINT8", "UINT16", "INT32", "INT64", "FP16", "FP32", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {},
        "parameters": {"type": "object"},
    },
}


def description(serving: Serving) -> dict[str, Any]:
    """Return the description as JSON values."""
    paths = {
        "/v2": _get("The server's name, version and extensions."),
        "/v2/health/live": _get("Whether the server runs."),
        "/v2/health/ready": _get("Whether it takes requests."),
        "/v2/repository/index": {"post": _operation("The models.", _json({"type": "array"}))},
        "/models": _get("The models with their classes, for people's programs."),
        "/metrics": _get("Metrics for Prometheus.", {"text/plain": {"schema": {"type": "string"}}}),
        "/prototypes/{set}": _prototypes(),
    }
    for model in serving.models:
        paths |= _of_model(model)
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "dlcv",
            "version": dlcv.__version__,
            "description": "Vision bundles over HTTP: images in, classes, masks, embeddings and captions out. Below /v2 the "
            "Open Inference Protocol, version 2.",
        },
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR_SCHEMA, "Tensor": _TENSOR}},
    }
    if serving.options.api_keys:
        schemes = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        described["components"]["securitySchemes"] = schemes
        described["security"] = [{"bearer": []}, {"key": []}]
    return described


def _of_model(model: ServedModel) -> dict[str, Any]:
    base = f"/v2/models/{model.name}"
    return {
        f"/predict/{model.name}": {"post": _predict(model)},
        base: _get(f"Inputs and outputs of {model.name}."),
        f"{base}/ready": _get(f"Whether {model.name} takes requests."),
        f"{base}/config": _get(f"The configuration of {model.name}."),
        f"{base}/infer": {"post": _infer(model)},
    }


def _predict(model: ServedModel) -> dict[str, Any]:
    image = {"type": "string", "contentMediaType": "application/octet-stream"}
    content = {
        "image/*": {"schema": image},
        "multipart/form-data": {
            "schema": {"type": "object", "additionalProperties": {"type": "array", "items": image}}
        },
    }
    answers = {
        "application/json": {"schema": {"type": "object"}},
        "application/jsonl": {"schema": {"type": "string"}},
        "image/png": {"schema": image},
    }
    parameters = [
        _query("top", {"type": "integer", "minimum": 1, "default": 5}, "Classes in a line."),
        _query("name", {"type": "string"}, "Of the image, for its line."),
        _query(
            "include",
            {"type": "string"},
            f"Arrays in the line, with commas between: {', '.join(INCLUDABLE)}.",
        ),
        _query("prototypes", {"type": "string"}, "A set of few-shot classes."),
        *(
            _query(name, {"enum": ["png"]}, "A picture in the place of the line.")
            for name in ("mask", "overlay", "confidence")
        ),
    ]
    operation = _operation(f"Run {model.name} ({model.task}) on one image or several.", answers)
    return operation | {
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
    }


def _infer(model: ServedModel) -> dict[str, Any]:
    tensors = metadata(model)
    tensor = {"$ref": "#/components/schemas/Tensor"}
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": tensor},
            "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            "parameters": {"type": "object"},
        },
    }
    answer = {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {"outputs": {"type": "array", "items": tensor}},
    }
    words = "; ".join(
        f"{t['name']}: {t['datatype']} {t['shape']}"
        for t in (*tensors["inputs"], *tensors["outputs"])
    )
    content = {**_json(schema), "application/octet-stream": {"schema": {"type": "string"}}}
    return _operation(
        f"Run {model.name} on tensors ({words}); `image` may also be files (BYTES, in JSON as base64).",
        {**_json(answer), "application/octet-stream": {"schema": {"type": "string"}}},
    ) | {"requestBody": {"required": True, "content": content}}


def _prototypes() -> dict[str, Any]:
    parameters = [
        {"name": "set", "in": "path", "required": True, "schema": {"type": "string"}},
        _query("model", {"type": "string"}, "The model whose embeddings they are.", required=True),
    ]
    answer = _json({"type": "object"})
    image = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {"type": "object", "additionalProperties": {"type": "array", "items": image}}
    content = {
        "multipart/form-data": {"schema": form},
        "application/octet-stream": {"schema": image},
    }
    make = _operation(
        "Make a set of few-shot classes: a form whose fields are classes and hold images, or a file of prototypes.",
        answer,
        status="201",
    )
    return {
        "parameters": parameters,
        "get": _operation("The classes of a set.", answer),
        "put": make | {"requestBody": {"required": True, "content": content}},
        "delete": _operation("Forget a set.", {}, status="204"),
    }


def _get(summary: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"get": _operation(summary, content or _json({"type": "object"}))}


def _operation(summary: str, content: dict[str, Any], *, status: str = "200") -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if content:
        good["content"] = content
    error = _json({"$ref": "#/components/schemas/Error"})
    bad = {code: {"description": text, "content": error} for code, text in _ERRORS.items()}
    return {"summary": summary, "responses": {status: good, **bad}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _query(
    name: str, schema: dict[str, Any], text: str, *, required: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "schema": schema,
        "description": text,
    }
