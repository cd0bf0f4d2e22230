"""LitServe around the same predictor, with its dynamic batches. `python litserve_peer.py PORT BUNDLE`."""

import os
import sys
from typing import Any

import litserve as ls
from fastapi import Request

import dlcv


class Classify(ls.LitAPI):  # type: ignore[misc]  # it has no types
    """LitServe's four steps. Its worker is a process of its own, which unpickles this class."""

    def setup(self, device: str) -> None:
        """Load the bundle in the worker."""
        self.predictor = dlcv.load(os.environ["PEER_BUNDLE"], engine="ort")

    def decode_request(self, request: Request) -> bytes:
        """Take the photo's file out of the form, which is what LitServe passes on."""
        form: Any = request
        data: bytes = form["image"].file.read()
        return data

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Leave a batch as it is."""
        return list(inputs)

    def predict(self, inputs: list[bytes]) -> list[Any]:
        """Answer a batch."""
        return [result.record() for result in self.predictor(inputs)]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Leave the answers as they are."""
        return output

    def encode_response(self, output: Any) -> Any:
        """Leave an answer as it is."""
        return output


if __name__ == "__main__":
    os.environ["PEER_BUNDLE"] = sys.argv[2]
    server = ls.LitServer(Classify(max_batch_size=8, batch_timeout=0.0), accelerator="cpu")
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="critical")
