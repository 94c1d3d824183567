"""A two-layer transformer over words: a class for the sentence, or the next word with tied embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TextNet"]


class TextNet(nn.Module):
    """Word and position embeddings, pre-norm transformer layers, and a head.

    ``forward``: tokens int64 (B, L) and mask float (B, L), 1 where a word counts -> logits float (B, outputs) from the
    mean over the words that count; tied: logits float (B, L, words) of the word after each one.

    Args:
        words: size of the vocabulary; word 0 is padding.
        outputs: classes.
        length: longest sentence.
        width: of embeddings and layers. Default 32.
        layers: default 2.
        heads: of attention. Default 4.
        dropout: default 0.1.
        tied: the embedding is the output layer, too, and words see only those before them.
    """

    def __init__(self, words: int = 100, outputs: int = 2, length: int = 16, width: int = 32, layers: int = 2,
                 heads: int = 4, dropout: float = 0.1, tied: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.tied = tied
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Identity() if tied else nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits."""
        length = tokens.shape[1]
        x = self.dropout(self.embedding(tokens) + self.position[:length])
        hidden = torch.zeros_like(mask).masked_fill(mask == 0, float("-inf"))
        later = x.new_full((length, length), float("-inf")).triu(1) if self.tied else None
        for layer in self.layers:
            x = layer(x, src_mask=later, src_key_padding_mask=hidden)
        x = self.norm(x)
        if self.tied:
            return nn.functional.linear(x, self.embedding.weight)
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        logits: Tensor = self.head(mean)
        return logits
