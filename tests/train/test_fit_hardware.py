"""What a run says before it begins, several processes, and what the machine can refuse."""

import csv
import resource
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from dlcv.runtime.errors import OutputError, RecipeError
from dlcv.train.checkpoint import load_checkpoint
from dlcv.train.fit import fit
from dlcv.train.models import ModelSpec
from dlcv.train.modules import MixedLabels, RecipeModule
from dlcv.train.recipe import yaml_from_recipe

SMALL = {"model": {"name": "small_cnn"}, "augment": {"crop": 32, "flip": False}}


def run(recipe, root, out, **options):
    with torch.random.fork_rng():
        return fit(recipe, root, out=out, **options)


def test_the_plan_says_what_the_run_will_do(new_recipe, toy_data, tmp_path, capsys):
    recipe = new_recipe(
        **SMALL,
        epochs=2,
        accumulate=3,
        freeze=["layers.conv1."],
        schedule={"name": "poly", "warmup_epochs": 1, "power": 1},
        stop={"patience": 5},
    )
    run(recipe, toy_data, tmp_path / "run")
    plan = capsys.readouterr().err
    assert "training: 32 images" in plan
    assert "steps: 2 epochs x 2 = 4; batch 8 x 3 accumulated = 24; stops after 5" in plan
    assert "adamw, rate 0.003, 1 epochs of warm-up, then poly of power 1 to 0" in plan
    assert "387,523 trained, 2,432 frozen; start: random numbers" in plan
    assert "on: 1 x " in plan


def test_what_is_frozen_must_exist_and_something_must_be_left(new_recipe, toy_data, tmp_path):
    with pytest.raises(RecipeError, match=r"begins with 'stem'; its parts are backbone and layers"):
        run(new_recipe(**SMALL, freeze=["stem"]), toy_data, tmp_path / "a")
    with pytest.raises(RecipeError, match="leaves no parameter to train"):
        run(new_recipe(**SMALL, freeze=["layers."]), toy_data, tmp_path / "b")


class TwoHeads(nn.Module):
    """A segmenter with an auxiliary classifier."""

    def __init__(self):
        super().__init__()
        self.classifier, self.aux_classifier = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return {"out": self.classifier(x), "aux": self.aux_classifier(x)}


def test_the_auxiliary_loss_is_weighed_and_added_in_training(new_recipe):
    network = TwoHeads()
    spec = ModelSpec(network=network, backbone=network)
    pixels, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
    recipe = new_recipe("segment", loss={"aux": 0.4})
    outputs = network(pixels)
    loss = RecipeModule(recipe, spec)._loss(pixels, outputs, MixedLabels(labels=labels))
    out, aux = (nn.functional.cross_entropy(outputs[k], labels.long()) for k in ("out", "aux"))
    assert loss.item() == pytest.approx((out + 0.4 * aux).item())
    with pytest.raises(
        RecipeError, match=r"loss\.aux needs a network with an auxiliary classifier"
    ):
        RecipeModule(recipe, spec)._loss(
            pixels, {"out": outputs["out"]}, MixedLabels(labels=labels)
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in fp16")
def test_fp16_is_refused_without_a_gpu(new_recipe, toy_data, tmp_path):
    with pytest.raises(RecipeError, match="fp16 trains on a GPU only; set it to bf16 or fp32"):
        run(new_recipe(**SMALL, precision="fp16"), toy_data, tmp_path)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_afterwards(new_recipe, toy_data, tmp_path):
    recipe = new_recipe(**SMALL, epochs=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # the checkpoint (1.6 MB) fits, the file to resume from (4.7 MB) does not
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        with pytest.raises(OutputError, match="the disk is full or a limit is reached; make room"):
            run(recipe, toy_data, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert load_checkpoint(tmp_path / "run").metrics["epoch"] == 1


def test_two_processes_score_the_whole_set_and_one_reports(new_recipe, toy_data, tmp_path):
    (tmp_path / "toy.yaml").write_text(yaml_from_recipe(new_recipe(**SMALL, epochs=1)))
    code = "from dlcv.cli.train.app import main; main()"
    (tmp_path / "train.py").write_text(
        code
    )  # Lightning starts the second process from the same file
    command = [sys.executable, tmp_path / "train.py", "fit", tmp_path / "toy.yaml"]
    options = ["--data", toy_data, "--out", tmp_path / "run", "--devices", "2", "--threads", "1"]
    done = subprocess.run(
        [*map(str, [*command, *options])], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "batch 8 x 2 devices = 16" in done.stderr
    metrics = load_checkpoint(tmp_path / "run").metrics
    assert done.stdout == f"{tmp_path / 'run'}: accuracy {metrics['accuracy']:.4f} on 16 images\n"
    log = (tmp_path / "run/log/version_0/metrics.csv").read_text()
    rows = list(csv.DictReader(log.splitlines()))
    scored = [float(row["accuracy"]) for row in rows if row["accuracy"]]
    assert scored == [pytest.approx(metrics["accuracy"])]  # of one process, on all images
    assert max(int(row["step"]) for row in rows) == 1  # two steps for four batches
