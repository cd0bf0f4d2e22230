"""Trains a recipe.

The output folder gets, at every improvement on the validation set, a checkpoint (`model.safetensors`,
`recipe.yaml`, `metrics.json`: see `dlcv.train.checkpoint`); after every epoch `resume.ckpt`, from which
`resume=True` continues exactly; and `log/`, with the loss and the metric of every epoch as CSV, and for
TensorBoard on request. The plan is printed to stderr before the first step.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from dlcv.runtime.errors import OutputError, RecipeError
from dlcv.train.checkpoint import (
    METRICS_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    load_checkpoint,
    load_run,
    save_checkpoint,
)
from dlcv.train.hardware import Hardware
from dlcv.train.models import ModelSpec
from dlcv.train.modules import RunModule
from dlcv.train.plan import plan_lines
from dlcv.train.recipe import RunRecipe, load_recipe, portable
from dlcv.train.tasks import task_kind
from dlcv.train.weights import load_backbone, load_pretrained

RESUME_FILE = "resume.ckpt"
_PRECISION = {"fp32": "32-true", "fp16": "16-mixed", "bf16": "bf16-mixed"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fit(
    recipe: RunRecipe,
    root: Path,
    *,
    out: Path,
    resume: bool = False,
    hardware: Hardware | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train, and return the metrics of the best epoch, measured again in float32.

    root: the data root. tensorboard: also write a TensorBoard log. On several devices, processes other than the
    first return the metrics of the last validation.

    Raises:
        RecipeError: data or weights are missing or do not fit, or the loss stopped being a number.
        OutputError: `out` already holds a run (and `resume` is not set), or none to resume; or it cannot be
            written. What was written before stays good.
    """
    hardware = hardware or Hardware()
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    if resume:
        _check_resumed(recipe, out)
    else:
        check_output(out)
        require_free(out, {METRICS_FILE: b""})
        _require_no_other_recipe(recipe, out)
    torch.manual_seed(recipe.seed)

    kind = task_kind(recipe.task)
    data = kind.data(recipe, root)
    spec = kind.network(recipe)
    if resume:
        _require_same_files(spec, out)
    else:
        require_free(out, spec.files)
    left_out = [] if resume else _load_start(spec, recipe, root)
    module = kind.module(recipe, spec, data)
    trainer = _trainer(recipe, out, hardware=hardware, tensorboard=tensorboard)
    if trainer.is_global_zero:
        batches = len(data.train_dataloader()) // trainer.world_size
        plan = plan_lines(recipe, spec.network, trainer=trainer, batches=batches, left_out=left_out)
        sys.stderr.write("\n".join((*data.summary_lines(), *plan, "")))
    try:
        trainer.fit(module, data, ckpt_path=out / RESUME_FILE if resume else None)
    except (OSError, RuntimeError) as e:
        if _is_full(e):
            raise OutputError(
                f"cannot write to {out}: the disk is full or a limit is reached; make room and continue with"
                " --resume: the files of the last complete epoch are whole"
            ) from e
        raise
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # the rest is done by one process alone
    if not trainer.is_global_zero:
        measured: dict[str, Any] = module.metrics
        return measured

    best = load_checkpoint(out)
    metrics = {**kind.evaluate(best, root), "epoch": best.metrics["epoch"]}
    save_checkpoint(out, best.model, recipe=recipe, metrics=metrics)
    return metrics


def _trainer(recipe: RunRecipe, out: Path, *, hardware: Hardware, tensorboard: bool) -> Trainer:
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError("precision fp16 trains on a GPU only; set it to bf16 or fp32")
    return Trainer(
        max_epochs=recipe.epochs,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=hardware.strategy,
        use_distributed_sampler=False,  # the data are distributed over processes when read
        precision=_PRECISION[recipe.precision],  # type: ignore[arg-type]
        gradient_clip_val=recipe.optimizer.clip_norm,
        accumulate_grad_batches=recipe.accumulate,
        check_val_every_n_epoch=recipe.validate_every,
        reload_dataloaders_every_n_epochs=1,  # batches depend on (seed, epoch)
        num_sanity_val_steps=0,
        logger=_loggers(out, tensorboard=tensorboard),
        log_every_n_steps=1,
        callbacks=_callbacks(recipe, out),
        enable_checkpointing=False,  # `Checkpoints` writes them instead
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
    )


def _loggers(out: Path, *, tensorboard: bool) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(out, name="log")]
    if tensorboard:
        if find_spec("tensorboard") is None:
            raise OutputError("logs for TensorBoard need it: pip install 'dlcv[tensorboard]'")
        loggers.append(TensorBoardLogger(out, name="tensorboard"))
    return loggers


def _is_full(error: Exception) -> bool:
    """Return whether an error means a full disk.

    PyTorch's writer reports a failed write as a RuntimeError without the error number.
    """
    full = isinstance(error, OSError) and error.errno in _FULL
    return full or "PytorchStreamWriter failed" in str(error)


class Checkpoints(Callback):
    """Writes a checkpoint whenever the score that selects checkpoints is the best so far.

    After every epoch it also writes the resume file, the recipe's snapshots, and a line to stderr.
    """

    def __init__(self, recipe: RunRecipe, out: Path) -> None:
        self.recipe = recipe
        self.out = out
        self.best = float("-inf")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scored = {self.recipe.epochs, *self.recipe.snapshots}  # whatever the interval
        due = trainer.current_epoch + 1 in scored
        trainer.check_val_every_n_epoch = 1 if due else self.recipe.validate_every

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, RunModule) or not trainer.is_global_zero:
            return
        name, direction = _monitor(self.recipe)
        value = direction * pl_module.metrics[name]
        if value > self.best:
            self.best = value
            self._save(self.out, pl_module, epoch=trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, scored = trainer.current_epoch + 1, trainer.check_val_every_n_epoch or 1
        snapped = epoch in self.recipe.snapshots and trainer.is_global_zero
        if snapped and isinstance(pl_module, RunModule):
            self._save(snapshot_folder(self.out, epoch), pl_module, epoch=epoch)
        monitor = task_kind(self.recipe.task).monitor
        names = ["loss", *(["val_loss", monitor] if epoch % scored == 0 else ())]
        scores = {name: trainer.callback_metrics.get(name) for name in names}
        line = " ".join(f"{name} {float(s):.4f}" for name, s in scores.items() if s is not None)
        trainer.save_checkpoint(self.out / f".{RESUME_FILE}")
        if trainer.is_global_zero:
            (self.out / f".{RESUME_FILE}").replace(self.out / RESUME_FILE)
            sys.stderr.write(f"epoch {epoch}/{self.recipe.epochs}: {line}\n")

    def _save(self, folder: Path, module: RunModule[Any], *, epoch: int) -> None:
        metrics = {**module.metrics, "epoch": epoch}
        save_checkpoint(
            folder, module.network, recipe=self.recipe, metrics=metrics, files=module.files
        )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


def snapshot_folder(out: Path, epoch: int) -> Path:
    """Return the folder of a run's snapshot of an epoch."""
    return out / f"epoch-{epoch:03d}"


def _callbacks(recipe: RunRecipe, out: Path) -> list[Callback]:
    callbacks: list[Callback] = [Checkpoints(recipe, out)]
    if sys.stderr.isatty():
        callbacks.insert(0, RichProgressBar(console_kwargs={"stderr": True}))
    if recipe.stop is not None:
        name, direction = _monitor(recipe)
        mode = "max" if direction > 0 else "min"
        callbacks.append(EarlyStopping(name, mode=mode, patience=recipe.stop.patience))
    return callbacks


def _monitor(recipe: RunRecipe) -> tuple[str, int]:
    """Return the score that selects checkpoints, and 1 if higher is better, -1 if lower is."""
    return ("val_loss", -1) if recipe.keep == "loss" else (task_kind(recipe.task).monitor, 1)


def _load_start(spec: ModelSpec, recipe: RunRecipe, root: Path) -> list[str]:
    """Load pretrained weights as the recipe says. Return the tensors that keep their random initialisation."""
    reading: dict[str, Any] = {"key": recipe.weights_key, "on_note": _tell}
    if recipe.weights is not None:
        missing = recipe.allow_missing
        return load_backbone(spec, root / recipe.weights, allow_missing=missing, **reading)
    if recipe.backbone is not None:
        return load_run(spec, recipe.backbone, **reading)
    if recipe.pretrained:
        return load_pretrained(spec, name=recipe.model.name)
    return []


def _require_same_files(spec: ModelSpec, out: Path) -> None:
    for name, data in spec.files.items():
        if (out / name).exists() and (out / name).read_bytes() != data:
            raise RecipeError(
                f"{name} is another file than when the run in {out} began; resume it with its own recipe.yaml, or begin"
                " anew with another --out"
            )


def _tell(note: str) -> None:
    sys.stderr.write(f"weights: {note}\n")


def check_output(out: Path) -> None:
    """Check that a folder holds no run yet.

    Raises:
        OutputError: it does.
    """
    if (out / RESUME_FILE).exists() or (out / WEIGHTS_FILE).exists():
        raise OutputError(f"{out} already holds a run; give --resume or another --out")


def require_free(out: Path, files: Mapping[str, bytes]) -> None:
    """Check that files that are to be written to a folder do not replace others.

    Raises:
        OutputError: one is there with other contents.
    """
    for name, data in files.items():
        path = out / name
        if path.exists() and not (path.is_file() and path.read_bytes() == data):
            raise OutputError(
                f"{path} is in the way, with other contents; remove it, or give another --out"
            )


def _require_no_other_recipe(recipe: RunRecipe, out: Path) -> None:
    path = out / RECIPE_FILE
    try:
        is_same = not path.exists() or portable(load_recipe(path)) == portable(recipe)
    except RecipeError:
        is_same = False
    if not is_same:
        raise OutputError(
            f"{path} is in the way: it is another recipe; remove it, or give another --out"
        )


def _check_resumed(recipe: RunRecipe, out: Path) -> None:
    if not (out / RESUME_FILE).exists():
        raise OutputError(f"nothing to resume: {out} has no {RESUME_FILE}")
    file = out / RECIPE_FILE
    if file.exists() and portable(load_recipe(file)) != portable(recipe):
        raise RecipeError(
            f"the run in {out} has another recipe; resume it with its own recipe.yaml"
        )
