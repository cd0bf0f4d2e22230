"""Generates and scores captions in PyTorch, with the same search as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from dlcv.runtime.caption.beam_search import Found, SearchOptions, search
from dlcv.runtime.caption.metrics import bleu, cider
from dlcv.runtime.caption.vocabulary import (
    TOKENIZER_FILE,
    Vocabulary,
    vocabulary_from_json,
    words_of,
)
from dlcv.runtime.errors import BundleError, RecipeError
from dlcv.train.caption.data import CaptionSet, load_captions
from dlcv.train.caption.network import CaptionDecoder, Captioner
from dlcv.train.caption.recipe import CaptionRecipe
from dlcv.train.modules import normalised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dlcv.runtime.caption.beam_search import Logits, Numbers
    from dlcv.train.checkpoint import Checkpoint


@final
class TorchDecoder:
    """A `dlcv.runtime.caption.beam_search.Decoder` in PyTorch.

    memory: of each image, (N, depth, 2, heads, S, d); there are `beams` rows for each.
    """

    def __init__(self, decoder: CaptionDecoder, memory: Tensor, *, beams: int = 1) -> None:
        self._decoder = decoder
        self._memory = memory.repeat_interleave(beams, dim=0)
        self._cache = memory.new_zeros(len(self._memory), *decoder.cache_shape)

    @property
    def length(self) -> int:
        """The number of positions."""
        return self._decoder.length

    def step(self, tokens: Numbers, position: int) -> tuple[Logits, Logits | None]:
        """Append a token; see `Decoder.step`."""
        token = torch.tensor(tokens, dtype=torch.int64, device=self._memory.device)
        where = torch.full_like(token, position)
        logits, self._cache, attention = self._decoder.step(token, where, self._cache, self._memory)
        return logits.float().cpu().numpy(), attention.float().cpu().numpy()

    def reorder(self, rows: NDArray[np.intp]) -> None:
        """Replace the state of each row; see `Decoder.reorder`."""
        self._cache = self._cache[torch.from_numpy(rows).to(self._cache.device)]


def captions_from_features(
    network: Captioner,
    features: Tensor,
    *,
    vocabulary: Vocabulary,
    options: SearchOptions | None = None,
) -> Found:
    """Caption images from their features (N, channels, h, w); by default greedily."""
    options = options or SearchOptions()
    with torch.inference_mode():
        memory = network.decoder.memory(features)
        decoder = TorchDecoder(network.decoder, memory, beams=options.beams)
        return search(decoder, len(features), vocabulary=vocabulary, options=options)


def caption_scores(said: list[str], split: CaptionSet) -> dict[str, Any]:
    """Return `bleu4` and `cider` of one caption per image of a split."""
    candidates = [words_of(text) for text in said]
    references = [[words_of(text) for text in texts] for texts in split.captions]
    return {"bleu4": bleu(candidates, references), "cider": cider(candidates, references)}


def remembered(said: list[str], split: CaptionSet) -> float:
    """Return the share of captions that equal, word by word, one of the image's own captions in the split."""
    own = zip(said, split.captions, strict=True)
    return float(np.mean([words_of(text) in map(words_of, texts) for text, texts in own]))


def evaluate_captions(checkpoint: Checkpoint[CaptionRecipe], root: Path) -> dict[str, Any]:
    """Return BLEU-4 and CIDEr of greedy captions of the test images, `remembered` of training images, and `images`.

    Raises:
        RecipeError: the data is missing or does not fit, or the checkpoint has no tokenizer.
    """
    recipe, vocabulary = checkpoint.recipe, vocabulary_of(checkpoint)
    test = load_captions(recipe, root, train=False)
    metrics = caption_scores(captions_of(checkpoint, test.images, vocabulary), test)
    if recipe.remember:
        train = load_captions(recipe, root, train=True).first(recipe.remember)
        said = captions_of(checkpoint, train.images, vocabulary)
        metrics["remembered"] = remembered(said, train)
    return {**metrics, "images": len(test)}


def captions_of(
    checkpoint: Checkpoint[CaptionRecipe], images: Tensor, vocabulary: Vocabulary
) -> list[str]:
    """Return a greedy caption for each image, uint8 (N, H, W, 3)."""
    network: Any = checkpoint.model
    texts: list[str] = []
    with torch.inference_mode():
        for batch in torch.split(images, checkpoint.recipe.batch):
            features = network.encoder(normalised(batch, checkpoint.recipe.normalization))
            found = captions_from_features(network, features, vocabulary=vocabulary)
            texts += map(vocabulary.text, found.tokens)
    return texts


def vocabulary_of(checkpoint: Checkpoint[CaptionRecipe]) -> Vocabulary:
    """Load a checkpoint's tokenizer.

    Raises:
        RecipeError: it is missing, damaged, or has another number of tokens than the network.
    """
    path = checkpoint.path / TOKENIZER_FILE
    try:
        vocabulary = vocabulary_from_json(path.read_bytes(), source=str(path))
    except OSError as e:
        raise RecipeError(
            f"{checkpoint.path} has no {TOKENIZER_FILE}, without which its captions have no words"
        ) from e
    except BundleError as e:
        raise RecipeError(str(e)) from e
    if len(vocabulary) != checkpoint.recipe.vocabulary:
        raise RecipeError(
            f"{path} has {len(vocabulary):,} tokens, the network {checkpoint.recipe.vocabulary:,}; it is of another run"
        )
    return vocabulary
