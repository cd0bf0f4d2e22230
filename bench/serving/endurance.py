"""A server under more than it can do, and for long: latency of what is accepted, refusals, memory, threads, descriptors.

    python bench/serving/endurance.py overload --seconds 60     # requests come twice as fast as they can be answered
    python bench/serving/endurance.py many --requests 20000     # 32 clients; every tenth request is bad

Prints a table. Linux alone: memory and descriptors are read from /proc.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compare import PHOTO, PORT, load  # type: ignore[import-not-found]  # a script beside this one

HERE = Path(__file__).resolve().parent
QUEUE = 64


@contextmanager
def our_server(bundle: str) -> Iterator[int]:
    """Start ours; yields its process number when it listens."""
    program = "from dlcv.cli.infer.app import main; main()"
    options = [
        "--engine",
        "ort",
        "--port",
        str(PORT),
        "--grpc-port",
        "0",
        "--queue",
        str(QUEUE),
        "--no-access-log",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", bundle, *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "listening on http" in line:
                break
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def state(pid: int) -> dict[str, float]:
    """Return MiB in memory, threads and open descriptors of a process."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return {
        "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
        "threads": int(status["Threads"]),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def overload(bundle: str, seconds: float) -> dict[str, Any]:
    """Ask twice as often as the server can answer."""
    path = f"/predict/{bundle}"
    with our_server(bundle) as pid:
        load(path, 8, 3)
        capacity = load(path, 32, 8)["per_second"]
        before = state(pid)
        arguments = [
            str(PORT),
            path,
            str(PHOTO),
            "--clients",
            "400",
            "--rate",
            f"{2 * capacity:.0f}",
            "--seconds",
            str(seconds),
        ]
        process = subprocess.Popen(
            [sys.executable, HERE / "load.py", *arguments], stdout=subprocess.PIPE, text=True
        )
        most = before["rss_mib"]
        while process.poll() is None:
            time.sleep(0.5)
            most = max(most, state(pid)["rss_mib"])
        assert process.stdout is not None
        report = json.loads(process.stdout.read())
        time.sleep(1)
        bound = QUEUE / report["per_second"] * 1e3
        return {
            "capacity": capacity,
            **report,
            "queue_bound_ms": bound,
            "before": before,
            "most_rss_mib": most,
            "after": state(pid),
        }


def many(bundle: str, requests: int) -> dict[str, Any]:
    """Ask very often; what the process holds is read in between."""
    path = f"/predict/{bundle}"
    bad = {"/predict/nothing": "404", f"{path}?top=none": "400", f"{path}?mask=png": "400"}
    with our_server(bundle) as pid:
        load(path, 32, 5)
        states, done = [state(pid)], 0
        while done < requests:
            report = load(path, 32, 10)
            done += sum(report["statuses"].values())
            for wrong, expected in bad.items():
                done += sum(load(wrong, 4, 0.2, expected=expected)["statuses"].values())
            states.append(state(pid) | {"requests": done})
        return {"requests": done, "states": states}


def main() -> None:
    """Load our server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["overload", "many"])
    parser.add_argument("--bundle", default="imagenet-lite0")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=20_000)
    o = parser.parse_args()
    if o.what == "overload":
        found = overload(o.bundle, o.seconds)
    else:
        found = many(o.bundle, o.requests)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
