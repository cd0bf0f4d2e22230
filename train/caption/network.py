"""The captioning network: image features become the memory of a transformer decoder, which writes word by word.

The decoder is that of Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762), with pre-normalisation (Xiong et
al. 2020, https://arxiv.org/abs/2002.04745) and learned positions. Attention over an image's feature map goes
back to Xu et al. 2015 (https://arxiv.org/abs/1502.03044).

Symbols: B batch, T tokens, S positions of the feature map, L positions of the cache, V tokens of the
vocabulary, heads x d = dim. Keys and values are stored together, (B, 2, heads, T, d).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dlcv.train.caption.recipe import DecoderConfig

_HIDDEN = -1e4  # softmax turns this into 0, and float16 can hold it


class Attention(nn.Module):
    """Multi-head attention over precomputed keys and values."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout)

    def keys_values(self, source: Tensor) -> Tensor:
        """Return the keys and values (B, 2, heads, T, d) of a source (B, T, dim)."""
        both: Tensor = self.key_value(source).unflatten(2, (2, self.heads, -1))
        return both.permute(0, 2, 3, 1, 4)

    def forward(
        self, x: Tensor, keys_values: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the output (B, T, dim) and the attention weights (B, heads, T, S).

        mask: bool, True where x may attend, broadcastable to (B, heads, T, S).
        """
        query = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, d)
        keys, values = keys_values[:, 0], keys_values[:, 1]
        scores = query @ keys.transpose(2, 3) / math.sqrt(query.shape[3])
        if mask is not None:
            scores = torch.where(mask, scores, _HIDDEN)
        weights = scores.softmax(dim=3)
        answer = (self.drop(weights) @ values).transpose(1, 2).flatten(2)
        return self.out(answer), weights


class Block(nn.Module):
    """One decoder layer: self-attention over the words, cross-attention to the image, and a two-layer MLP."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_words, self.norm_image, self.norm_mlp = (nn.LayerNorm(dim) for _ in range(3))
        self.words = Attention(dim, heads=heads, dropout=dropout)
        self.image = Attention(dim, heads=heads, dropout=dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor,
        *,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x (B, T, dim), the keys and values of the words, and attention to the image (B, heads, T, S).

        past: the cache (B, 2, heads, L, d), and the position of x in it, bool (B, 1, 1, L, 1); x is then a
        single token.
        """
        y = self.norm_words(x)
        words = self.words.keys_values(y)
        if past is not None:
            cache, here = past
            words = torch.where(here, words, cache)
        x = x + self.drop(self.words(y, words, mask)[0])
        seen, attention = self.image(self.norm_image(x), memory)
        x = x + self.drop(seen)
        return x + self.drop(self.mlp(self.norm_mlp(x))), words, attention


class CaptionDecoder(nn.Module):
    """The decoder: captions from image features.

    vocabulary: V. channels, grid: of the features (B, channels, h, w). L is `config.length`.
    """

    def __init__(
        self, config: DecoderConfig, *, vocabulary: int, channels: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        dim, heads = config.dim, config.heads
        self.grid = grid
        self.length = config.length
        self.cache_shape = (config.depth, 2, heads, config.length, dim // heads)
        self.features = nn.Sequential(nn.Linear(channels, dim), nn.LayerNorm(dim))
        self.place_pos_embed = nn.Parameter(torch.randn(grid[0] * grid[1], dim) * 0.02)
        self.word_embed = nn.Embedding(vocabulary, dim)
        self.word_pos_embed = nn.Parameter(torch.randn(config.length, dim) * 0.02)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(dim, heads=heads, dropout=config.dropout) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.logits = nn.Linear(dim, vocabulary)
        nn.init.normal_(self.word_embed.weight, std=0.02)

    def memory(self, features: Tensor) -> Tensor:
        """Return keys and values of the image for all layers, (B, depth, 2, heads, S, d).

        features: (B, channels, h, w).
        """
        places = self.features(features.flatten(2).transpose(1, 2)) + self.place_pos_embed
        return torch.stack([block.image.keys_values(places) for block in self._layers()], dim=1)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Return the logits (B, T, V) of the next token after each of tokens (B, T), T up to L."""
        count = tokens.shape[1]
        x = self.drop(self.word_embed(tokens) + self.word_pos_embed[:count])
        mask = torch.ones(count, count, dtype=torch.bool, device=tokens.device).tril()
        for number, block in enumerate(self._layers()):
            x, _, _ = block(x, memory[:, number], mask)
        return self.logits(self.norm(x))  # type: ignore[no-any-return]

    def step(
        self, token: Tensor, position: Tensor, cache: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode one token. Gives the same as `forward` without recomputing earlier tokens.

        token, position: int (B,); positions count from 0. cache: (B, depth, 2, heads, L, d), zeros at first.

        Returns logits (B, V) of the next token, the cache with this token added, and the last layer's attention
        for the next token, (B, h, w), which sums to 1.
        """
        x = (self.word_embed(token) + self.word_pos_embed[position]).unsqueeze(1)
        slots = torch.arange(self.length, device=token.device)
        here = (slots == position.unsqueeze(1))[:, None, None, :, None]
        mask = (slots <= position.unsqueeze(1))[:, None, None, :]
        caches, attention = [], memory
        for number, block in enumerate(self._layers()):
            past = (cache[:, number], here)
            x, words, attention = block(x, memory[:, number], mask, past=past)
            caches.append(words)
        looked = attention.mean(dim=1).reshape(-1, *self.grid)
        return self.logits(self.norm(x.squeeze(1))), torch.stack(caches, dim=1), looked

    def _layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


class Captioner(nn.Module):
    """An encoder, from normalised images (B, 3, H, W) to features (B, channels, h, w), and a decoder."""

    def __init__(self, encoder: nn.Module, decoder: CaptionDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, V) of the next token after each of tokens (B, T).

        Without tokens, a single token 0 is used, so that a layer table can be made from an image alone.
        """
        if tokens is None:
            tokens = torch.zeros(len(images), 1, dtype=torch.int64, device=images.device)
        return self.decoder(tokens, self.decoder.memory(self.encoder(images)))  # type: ignore[no-any-return]
