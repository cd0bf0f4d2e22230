"""Our server against the predictor alone, and against other servers around the same predictor, in turns.

    pip install litserve fastapi
    python bench/serving/compare.py --rounds 5 --out docs/benchmarks/serving.json

One photo of 34 kB to its classes; the clients (load.py) and the server share the machine. A round asks everybody once, in an
order that changes: `predictor(bytes)` and `predictor.stream` in a process of their own, then each server, started anew,
with 1 and with 32 clients, after 3 s of warm-up. Prints a table; figures are medians of the rounds, with the least and most.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from dlcv.runtime.machine.system import installed_version

HERE = Path(__file__).resolve().parent
PHOTO = HERE.parents[1] / "runtime" / "samples" / "cat.jpg"
SERVERS = ("dlcv", "fastapi", "fastapi-plain-ort", "litserve")
PACKAGES = ("onnxruntime", "starlette", "uvicorn", "fastapi", "litserve")
WARM_UP_S = 3.0
PORT = 8123
DIRECT = """
import json, sys, time
import dlcv
data = open(sys.argv[1], "rb").read()
model, times = dlcv.load(sys.argv[2], engine="ort"), []
end = time.perf_counter() + 3 + float(sys.argv[3])
while time.perf_counter() < end:
    start = time.perf_counter()
    model(data)
    times.append(time.perf_counter() - start)
times = sorted(times[len(times) // 3:])
count, start = 0, time.perf_counter()
def photos():
    while time.perf_counter() - start < float(sys.argv[3]):
        yield data
for _ in model.stream(photos()):
    count += 1
print(json.dumps({"p50_ms": times[len(times) // 2] * 1e3, "stream_per_second": count / (time.perf_counter() - start)}))
"""


@contextmanager
def server(name: str, bundle: str) -> Iterator[str]:
    """Start a server and wait until it answers; yields the path to ask."""
    if name == "dlcv":
        program = "from dlcv.cli.infer.app import main; main()"
        command = [
            "-c",
            program,
            "serve",
            bundle,
            "--engine",
            "ort",
            "--port",
            str(PORT),
            "--grpc-port",
            "0",
        ]
        path = f"/predict/{bundle}"
    else:
        file, *names = ["litserve_peer.py"] if name == "litserve" else ["peers.py", name]
        command, path = [str(HERE / file), *names, str(PORT), bundle], "/predict"
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                urlopen(f"http://127.0.0.1:{PORT}/", timeout=1)
            except OSError as e:
                if hasattr(e, "code"):  # it answers, if only 404
                    break
                time.sleep(0.1)
            else:
                break
        yield path
    finally:
        process.terminate()
        process.wait(30)
        with suppress(ProcessLookupError):  # LitServe leaves processes that hold the port
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(1)


def load(
    path: str, clients: int, seconds: float, *, is_form: bool = False, expected: str = "200"
) -> dict[str, Any]:
    """Ask a server; return the report of load.py. Every answer must have the expected status."""
    arguments = [str(PORT), path, str(PHOTO), "--clients", str(clients), "--seconds", str(seconds)]
    arguments += ["--form"] if is_form else []
    done = subprocess.run(
        [sys.executable, HERE / "load.py", *arguments], capture_output=True, text=True, check=True
    )
    report: dict[str, Any] = json.loads(done.stdout)
    if report["failures"] or set(report["statuses"]) != {expected}:
        raise SystemExit(f"{path}: {report}")
    return report


def measure(bundle: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return what each round gave, by name."""
    found = []
    for number in range(rounds):
        names = ["direct", *SERVERS]
        random.Random(number).shuffle(names)
        results: dict[str, Any] = {}
        for name in names:
            if name == "direct":
                command = [sys.executable, "-c", DIRECT, str(PHOTO), bundle, str(seconds)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results[name] = json.loads(done.stdout)
                continue
            with server(name, bundle) as path:
                is_form = name == "litserve"  # it takes JSON and forms
                load(path, 8, WARM_UP_S, is_form=is_form)
                results[name] = {n: load(path, n, seconds, is_form=is_form) for n in (1, 32)}
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        found.append(results)
    return found


def spread(values: list[float], digits: int = 2) -> str:
    """Return the median, with the least and the most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(rounds: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    direct = [r["direct"] for r in rounds]
    lines = [
        "| server | 1 client: p50 ms | over `predictor(bytes)`, ms | 32 clients: requests/s | p99 ms | of `stream` | dlcv is x |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = spread([d["p50_ms"] for d in direct])
    stream = spread([d["stream_per_second"] for d in direct], 0)
    lines.append(f"| none: `predictor(bytes)`, `stream` | {alone} | | {stream} | | 1 | |")
    for name in SERVERS:
        one, many = ([r[name][n] for r in rounds] for n in (1, 32))
        ours = [r["dlcv"][32]["per_second"] for r in rounds]
        cells = (
            spread([o["p50_ms"] for o in one]),
            spread([o["p50_ms"] - d["p50_ms"] for o, d in zip(one, direct, strict=True)]),
            spread([m["per_second"] for m in many], 0),
            spread([m["p99_ms"] for m in many], 0),
            spread(
                [
                    m["per_second"] / d["stream_per_second"]
                    for m, d in zip(many, direct, strict=True)
                ]
            ),
            spread([o / m["per_second"] for o, m in zip(ours, many, strict=True)]),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return what ran."""
    packages = {name: installed_version(name) or "none" for name in PACKAGES}
    return {"python": platform.python_version(), **packages}


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", default="imagenet-lite0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    rounds = measure(o.bundle, o.rounds, o.seconds)
    print(table(rounds))
    print(", ".join(f"{k} {v}" for k, v in versions().items()))
    if o.out is not None:
        o.out.write_text(json.dumps({"versions": versions(), "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
