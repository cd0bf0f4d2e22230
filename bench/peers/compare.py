"""dlcv against the loops that one would write, as whole processes over the same photos, in turns.

    pip install openvino-model-api ultralytics
    python bench/peers/compare.py --rounds 3 --out docs/benchmarks/peers.json
    python bench/peers/page.py docs/benchmarks/peers.json docs/images/bench-peers.png

The photos are the 300 of the data folder (DLCV_DATA), linked five times for two cores and twice for one; for masks the samples
that ship. A round asks everybody once with two cores and once with one (taskset), in an order that changes. "Whole process" is
from its start to its end; "loop" is the contestant's own clock, from the first file opened to the last line written. Torch and
Ultralytics see each photo once, and only their loops count: their start-up would drown the rest. Before the first round each
command of dlcv runs once with an empty cache: it keeps compiled networks and what was fastest, as before its second run anywhere.
"""

import argparse
import csv
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dlcv.runtime.machine.system import installed_version

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
DATA = Path(os.environ.get("DLCV_DATA") or REPOSITORY.parent / "shared" / "data")
BUNDLES = REPOSITORY / "runtime" / "bundles"
LITE0, CAMVID = BUNDLES / "imagenet-lite0" / "model.onnx", BUNDLES / "camvid-lraspp"
WEIGHTS = DATA / "weights" / "tf_efficientnet_lite0_imagenet.safetensors"
DLCV = ("-c", "from dlcv.cli.infer.app import main; main()")
FULL = ("--engine", "ort", "--precision", "fp32")
PACKAGES = (
    *("dlcv", "numpy", "pillow", "onnxruntime", "openvino", "openvino-model-api"),
    *("opencv-python", "torch", "timm", "ultralytics"),
)
TIMEOUT_S = 240


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to do a task.

    arguments: of Python; PHOTOS and OUT are replaced. photos: which folder; None: as many as cores allow.
    one_core: what to add there; None: it does not take part. rounds: in how many it takes part at most.
    """

    name: str
    task: str
    arguments: tuple[str, ...]
    photos: str | None = None
    one_core: tuple[str, ...] | None = ()
    rounds: int = 99

    def command(self, cores: int, photos: Path, out: Path) -> list[str]:
        """Return the command line."""
        places = {"PHOTOS": str(photos), "OUT": str(out)}
        added = (self.one_core or ()) if cores == 1 else ()
        pinned = ["taskset", "-c", "0"] if cores == 1 else []
        return [*pinned, sys.executable, *(places.get(a, a) for a in (*self.arguments, *added))]


def script(name: str, task: str, *arguments: str, **more: Any) -> Contestant:
    """Return a contestant that is a script in this folder."""
    file, *rest = arguments
    return Contestant(name=name, task=task, arguments=(str(HERE / file), *rest), **more)


def ours(name: str, task: str, bundle: str, *options: str) -> Contestant:
    """Return a command of dlcv."""
    arguments = (*DLCV, task, "PHOTOS", "-m", bundle, "--out", "OUT", "--overwrite", *options)
    return Contestant(name=name, task=task, arguments=arguments)


ONE: dict[str, Any] = {"one_core": ("--threads", "1")}  # else ONNX Runtime takes the other core too
ONCE: dict[str, Any] = {"photos": "once", "one_core": None}
PLAIN = {"classify": "ORT loop, batch 1", "segment": "ORT loop", "embed": "ORT loop"}
CONTESTANTS = (
    script(PLAIN["classify"], "classify", "classify_ort.py", str(LITE0), "PHOTOS", "OUT", **ONE),
    script(
        *("ORT loop, batch 8", "classify", "classify_ort.py"),
        *(str(LITE0), "PHOTOS", "OUT", "--batch", "8"),
        **ONE,
    ),
    script("OpenVINO loop", "classify", "classify_openvino.py", str(LITE0), "PHOTOS", "OUT"),
    script(
        *("OpenVINO Model API", "classify", "classify_model_api.py"),
        *(str(LITE0), "PHOTOS", "OUT", "--pipeline"),
    ),
    script("timm, eager", "classify", "classify_torch.py", str(WEIGHTS), "PHOTOS", "OUT", **ONCE),
    script(
        *("timm, torch.compile", "classify", "classify_torch.py"),
        *(str(WEIGHTS), "PHOTOS", "OUT", "--compile"),
        **ONCE,
        rounds=1,
    ),
    script("Ultralytics", "other network", "classify_ultralytics.py", "PHOTOS", "OUT", **ONCE),
    ours("dlcv", "classify", "imagenet-lite0"),
    ours("dlcv, ort fp32", "classify", "imagenet-lite0", *FULL),
    ours(
        *("dlcv, openvino bf16", "classify", "imagenet-lite0"),
        *("--engine", "openvino", "-E", "precision=bf16"),
    ),
    script(PLAIN["segment"], "segment", "segment_ort.py", str(CAMVID), "PHOTOS", "OUT", **ONE),
    ours("dlcv", "segment", "camvid-lraspp"),
    ours("dlcv, ort fp32", "segment", "camvid-lraspp", *FULL),
    script(PLAIN["embed"], "embed", "embed_ort.py", str(LITE0), "PHOTOS", "OUT", **ONE),
    ours("dlcv", "embed", "imagenet-lite0"),
)


def link(folder: Path, files: list[Path], times: int) -> Path:
    """Make a folder of hard links, each file so many times."""
    folder.mkdir()
    for number in range(times):
        for file in files:
            (folder / f"{number}_{file.name}").hardlink_to(file)
    return folder


def photo_folders(root: Path) -> dict[str, Path]:
    """Return the folders of photos: of two cores, of one, of those who see each photo once, and of masks."""
    with zipfile.ZipFile(DATA / "photos" / "imagenet_sample.zip") as file:
        file.extractall(root / "photos")  # our own data folder
    photos = sorted((root / "photos").rglob("*.jpg"))
    shutil.copytree(
        REPOSITORY / "runtime" / "samples", root / "samples"
    )  # links do not cross disks
    samples = sorted((root / "samples").glob("*.jpg"))
    return {
        "2": link(root / "five", photos, 5),
        "1": link(root / "two", photos, 2),
        "once": link(root / "once", photos, 1),
        "segment 2": link(root / "samples-2", samples, 18),
        "segment 1": link(root / "samples-1", samples, 6),
    }


def folder_of(contestant: Contestant, cores: int, folders: dict[str, Path]) -> Path:
    """Return which photos a contestant sees."""
    prefix = "segment " if contestant.task == "segment" else ""
    return folders[contestant.photos or f"{prefix}{cores}"]


def busy_seconds() -> float:
    """Return the CPU time that the whole machine has spent."""
    user, nice, system = Path("/proc/stat").read_text().split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def run(contestant: Contestant, cores: int, photos: Path, out: Path) -> dict[str, Any]:
    """Run a contestant once; returns its figures, or why there are none."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    count = len(list(photos.glob("*.jpg")))
    start, before, busy = time.perf_counter(), os.times(), busy_seconds()
    try:
        done = subprocess.run(
            contestant.command(cores, photos, out),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"ran past {TIMEOUT_S} s"}
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        return {"failure": (done.stderr.strip() or "?").splitlines()[-1]}
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    last = (done.stdout.splitlines() or [""])[-1]
    report = json.loads(last) if last.startswith("{") else {}
    others = max(0.0, busy_seconds() - busy - cpu) / wall  # cores that others had meanwhile
    figures: dict[str, Any] = {"wall_s": wall, "cpu_s": cpu, "others": others, "images": count}
    if not contestant.photos:
        figures |= {"whole_per_second": count / wall, "cpu_ms": cpu / count * 1e3}
    if "seconds" in report:
        figures["loop_per_second"] = count / report["seconds"]
    if "engine_per_second" in report:
        figures["engine_per_second"] = report["engine_per_second"]
    if contestant.arguments[:2] == DLCV:
        with (out / "results.jsonl").open() as lines:
            figures["engine"] = json.loads(next(lines))["engine"]
    return figures


def top1(out: Path) -> float:
    """Return the share of written lines that name the right class."""
    with (DATA / "photos" / "labels.csv").open(newline="") as file:
        labels = {row["file"]: int(row["imagenet_index"]) for row in csv.DictReader(file)}
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    names = [Path(line["image"]).name.split("_", 1)[1] for line in lines]
    return float(
        np.mean([labels[n] == line["index"] for n, line in zip(names, lines, strict=True)])
    )


def masks(out: Path) -> dict[str, Any]:
    """Return the masks of the first copy of each sample."""
    return {p.name: np.asarray(Image.open(p)) for p in sorted((out / "masks").glob("0_*.png"))}


def embeddings(out: Path) -> Any:
    """Return the embeddings by name of file, rows of length 1."""
    if (out / "embeddings.npy").exists():
        rows = np.load(out / "embeddings.npy")
    else:
        file = np.load(out / "embeddings.npz")
        rows = file["embeddings"][np.argsort([Path(name).name for name in file["images"]])]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def answers(task: str, out: Path) -> Any:
    """Return what a contestant wrote: a score, masks or embeddings."""
    if task == "classify":
        return top1(out)
    return masks(out) if task == "segment" else embeddings(out) if task == "embed" else None


def likeness(task: str, answer: Any, plain: Any) -> float | None:
    """Return top-1, or the share of pixels as of the plain loop, or the mean cosine with its embeddings."""
    if task == "classify":
        return float(answer)
    if task == "segment":
        return float(np.mean([np.mean(mask == plain[name]) for name, mask in answer.items()]))
    return float((answer * plain).sum(axis=1).mean()) if task == "embed" else None


def turns(number: int, contestants: list[Contestant]) -> Iterator[tuple[int, Contestant]]:
    """Yield who runs in a round, by cores."""
    for cores in random.Random(number).sample((2, 1), 2):
        for contestant in random.Random(number + cores).sample(contestants, len(contestants)):
            if number < contestant.rounds and (cores == 2 or contestant.one_core is not None):
                yield cores, contestant


def measure(
    contestants: list[Contestant], rounds: int, minutes: float, folders: dict[str, Path], out: Path
) -> tuple[list[dict[str, Any]], Any]:
    """Return what each round gave by cores, task and name, and how right or alike everybody's answers are."""
    found, written, start = [], {}, time.monotonic()
    for number in range(rounds):
        if (time.monotonic() - start) * (number + 1) > minutes * 60 * max(1, number):
            print(f"only {number} rounds fit into {minutes} minutes", file=sys.stderr)
            break
        results: dict[str, Any] = {"2": {}, "1": {}}
        for cores, contestant in turns(number, contestants):
            task, name = contestant.task, contestant.name
            figures = run(contestant, cores, folder_of(contestant, cores, folders), out)
            print(number + 1, cores, task, name, figures, file=sys.stderr, flush=True)
            results[str(cores)].setdefault(task, {})[name] = figures
            if "failure" not in figures and cores == 2 and (task, name) not in written:
                written[task, name] = answers(task, out)
        found.append(results)
    scores: dict[str, dict[str, float | None]] = {}
    for (task, name), answer in written.items():
        score = likeness(task, answer, written.get((task, PLAIN.get(task, name))))
        scores.setdefault(task, {})[name] = score
    return found, scores


def limits(folders: dict[str, Path]) -> list[dict[str, Any]]:
    """Return limit, reached and ratio with two cores and with one."""
    found = []
    for cores in (2, 1):
        pinned = ["taskset", "-c", "0"] if cores == 1 else []
        command = [*pinned, sys.executable, str(HERE / "limit.py"), "imagenet-lite0"]
        command.append(str(folders["2"]))
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def warm(folders: dict[str, Path], out: Path) -> None:
    """Let dlcv compile and choose once."""
    for contestant in CONTESTANTS:
        if contestant.arguments[:2] == DLCV:
            for cores in (2, 1):
                photos = "segment 1" if contestant.task == "segment" else "once"
                run(contestant, cores, folders[photos], out)


def versions() -> dict[str, str]:
    """Return what ran."""
    packages = {name: installed_version(name) or "none" for name in PACKAGES}
    return {"python": platform.python_version(), **packages}


def machine() -> str:
    """Return what it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    bf16 = "with" if any("avx512_bf16" in line for line in lines) else "without"
    return f"{platform.system()} {platform.machine()}, {names[0]}, {bf16} AVX512-BF16, {len(names)} cores"


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=12, help="no round that would end later")
    parser.add_argument("--without", action="append", default=[], help="a contestant's name")
    parser.add_argument("--out", type=Path, required=True)
    o = parser.parse_args()
    contestants = [c for c in CONTESTANTS if c.name not in o.without]
    os.environ["YOLO_OFFLINE"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["YOLO_CONFIG_DIR"] = folder  # its settings file
        os.environ["DLCV_CACHE"] = f"{folder}/cache"  # of this run alone
        folders, out = photo_folders(root), root / "out"
        warm(folders, out)
        before = limits(folders)
        rounds, scores = measure(contestants, o.rounds, o.minutes, folders, out)
        found = [*before, *limits(folders)]
    report = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "versions": versions(),
        "command": f"python bench/peers/compare.py --rounds {o.rounds} --out {o.out}",
        "contestants": [{"task": c.task, "name": c.name} for c in CONTESTANTS],
        "plain": PLAIN,
        "limits": found,
        "scores": scores,
        "rounds": rounds,
    }
    o.out.write_text(json.dumps(report, indent=1) + "\n")
    subprocess.run([sys.executable, str(HERE / "page.py"), str(o.out)], check=True)


if __name__ == "__main__":
    main()
