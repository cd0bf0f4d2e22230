"""Networks of Hugging Face transformers, loaded from a folder without a word, and made to return one tensor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlcv.runtime.errors import InputError, RecipeError

Answer: TypeAlias = Literal["logits", "image_embeds", "pooler_output", "class token"]
_POOLER = "pooler."
_NAMED = 3  # tensors in an error; a network has hundreds


@final
class TransformersNetwork(nn.Module):
    """A network of transformers that returns one tensor, as everything in export takes it.

    network: of the library, unchanged. answer: which of its outputs; "class token" is `last_hidden_state[:, 0]`.
    only_size: (height, width) of the images of a segmenter that works at one size, or whose graph would: images of other
    sizes are resized to it first, and the logits to theirs. crop: (height, width) that it takes out of the middle.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        answer: Answer,
        only_size: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.answer = answer
        self.crop = crop
        self._only_size = only_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, classes), (B, classes, h, w) or embeddings (B, D). pixels: normalised float32 (B, C, H, W)."""
        if self._only_size is not None:
            logits = self.network(pixel_values=_resized(pixels, self._only_size)).logits
            return _resized(logits, (pixels.shape[2], pixels.shape[3]))
        if self.crop is not None:
            pixels = _middle(pixels, self.crop)
        outputs = self.network(pixel_values=pixels, return_dict=True)
        if self.answer == "class token":
            first: Tensor = outputs.last_hidden_state[:, 0]
            return first
        answer: Tensor = outputs[self.answer]
        if self.answer != "logits":
            answer = answer.flatten(1)  # pooled maps are (B, D, 1, 1)
        return answer


def _middle(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (height, width) out of the middle, as the library does: half of an odd rest is rounded down."""
    top, left = (pixels.shape[2] - size[0]) // 2, (pixels.shape[3] - size[1]) // 2
    return pixels[:, :, top : top + size[0], left : left + size[1]]


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to (height, width). At its own size it is unchanged."""
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def network_from_folder(kind: Any, folder: Path) -> nn.Module:
    """Load a network in evaluation mode and float32. kind: its class in transformers.

    A base network whose file lacks the last, optional pooling layer is built without it.

    Raises:
        RecipeError: the weights are damaged, lack a tensor, or do not fit.
    """
    network, missing = _loaded(kind, folder)
    if missing and all(name.startswith(_POOLER) for name in missing):
        network, missing = _loaded(kind, folder, add_pooling_layer=False)
    if missing:
        more = ", ..." if len(missing) > _NAMED else ""
        raise RecipeError(
            f"the weights in {folder} lack, or have in other shapes, {len(missing)} tensors of {kind.__name__} "
            f"({', '.join(missing[:_NAMED])}{more}), which would be random; save the whole fine-tuned network with "
            "save_pretrained"
        )
    return network.eval()


def answer_of_embedder(network: nn.Module, *, size: tuple[int, int], channels: int) -> Answer:
    """Return which output of a base network embeds an image: what the library's own classifiers and searches use.

    That is `image_embeds`, else `pooler_output`, else the class token. It is found by one run at `size` (height, width).

    Raises:
        InputError: the network fails on images of that size, or gives none of them.
    """
    try:
        with torch.inference_mode(), quiet():
            outputs = network(pixel_values=torch.zeros(1, channels, *size), return_dict=True)
    except Exception as e:  # anything can come from a network's code
        raise InputError(
            f"{type(network).__name__} fails on images of {size[0]}x{size[1]} ({_words(e)}); give another --size"
        ) from e
    known: tuple[Answer, ...] = ("image_embeds", "pooler_output")
    for answer in known:
        if isinstance(outputs.get(answer), Tensor):
            return answer
    if any(name.endswith("cls_token") for name, _ in network.named_parameters()):
        return "class token"
    raise InputError(
        f"{type(network).__name__} gives no embedding of an image (image_embeds, pooler_output or a class token); export it "
        "as py:FILE.py:FUNCTION, with a function that pools"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing progress bars, logs and warnings to stderr; its settings are put back."""
    from transformers.utils import logging as library_logging

    logging: Any = library_logging  # its functions have no types
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def _loaded(kind: Any, folder: Path, **settings: Any) -> tuple[nn.Module, list[str]]:
    """Return a network, and the names of the tensors that its files lack or have in other shapes."""
    try:
        with quiet():
            network, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # said by us, with their names
                dtype=torch.float32,
                attn_implementation="eager",  # plain products and a softmax, which every engine knows
                **settings,
            )
    except Exception as e:  # of safetensors, torch, json and the library, with no common base
        raise RecipeError(
            f"{folder} cannot be loaded as {kind.__name__} ({_words(e)}); copy the whole folder again"
        ) from e
    other_shapes = {name for name, *_ in info["mismatched_keys"]}
    return network, sorted({*info["missing_keys"], *other_shapes})


def _words(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
