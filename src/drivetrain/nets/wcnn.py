"""A convolutional network over words for sentence classification (Kim 2014, arXiv 1408.5882).

Shapes: B sentences, T words, V vocabulary, E embedding, K channels a filter width, C classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDING = 0  # token that fills a sentence up; its embedding is zero and stays zero


class TextWCNN(nn.Module):
    """Embedding, parallel convolutions of several widths, the maximum over time, dropout and a linear layer.

    Args:
        vocabulary: V; token 0 is padding.
        num_classes: C.
        embedding: E.
        widths: filter widths in words.
        channels: K.
        dropout: probability before the linear layer.

    `forward` maps int64 tokens (B, T) to logits (B, C); shorter sentences than the widest filter are padded.
    """

    def __init__(
        self,
        vocabulary: int = 20000,
        num_classes: int = 2,
        embedding: int = 300,
        widths: Sequence[int] = (3, 4, 5),
        channels: int = 100,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.widest = max(widths)
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=PADDING)
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding, channels, width) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels * len(widths), num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.classify_embedded(self.embedding(tokens_BT))

    def classify_embedded(self, embedded_BTE: Tensor) -> Tensor:
        """Logits (B, C) from word vectors (B, T, E): the part that attacks on the embedding differentiate."""
        x_BET = embedded_BTE.transpose(1, 2)
        if x_BET.shape[2] < self.widest:
            x_BET = F.pad(x_BET, (0, self.widest - x_BET.shape[2]))
        pooled = [F.relu(convolution(x_BET)).amax(dim=2) for convolution in self.convolutions]
        return self.classifier(self.dropout(torch.cat(pooled, dim=1)))


def text_wcnn(
    vocabulary: int = 20000,
    num_classes: int = 2,
    embedding: int = 300,
    widths: Sequence[int] = (3, 4, 5),
    channels: int = 100,
    dropout: float = 0.5,
) -> TextWCNN:
    """A word-level convolutional sentence classifier; arguments as `TextWCNN`."""
    return TextWCNN(vocabulary, num_classes, embedding, widths, channels, dropout)
