"""A recurrent text classifier of simple recurrent units (Lei et al. 2018, arXiv 1709.02755), MetaFlow's RNNTC.

Shapes: B sentences, T words, V vocabulary, H hidden units (= embedding), L layers, C classes.
"""

import torch
from torch import Tensor, nn


class SRUCell(nn.Module):
    """One layer: three products of the input alone; only elementwise work is recurrent.

    f = sigmoid(W_f x + b_f), r = sigmoid(W_r x + b_r), c' = f c + (1 - f) W x, h = r tanh(c') + (1 - r) x
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(hidden, hidden, bias=False)
        self.forget = nn.Linear(hidden, hidden)
        self.reset = nn.Linear(hidden, hidden)

    def forward(self, x_BH: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor]:
        forget, reset = torch.sigmoid(self.forget(x_BH)), torch.sigmoid(self.reset(x_BH))
        c_BH = forget * c_BH + (1 - forget) * self.value(x_BH)
        return reset * torch.tanh(c_BH) + (1 - reset) * x_BH, c_BH


class SRUTextClassifier(nn.Module):
    """Embedding, L layers unrolled over time, linear layer on the last state.

    Args:
        vocabulary: V.
        num_classes: C.
        hidden: H.
        layers: L.

    `forward` maps int64 tokens (B, T) to logits (B, C).
    """

    def __init__(self, vocabulary: int = 20000, num_classes: int = 2, hidden: int = 1024, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.cells = nn.ModuleList(SRUCell(hidden) for _ in range(layers))
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        steps = list(self.embedding(tokens_BT).unbind(1))
        for cell in self.cells:
            c_BH = torch.zeros_like(steps[0])
            for t, x_BH in enumerate(steps):
                steps[t], c_BH = cell(x_BH, c_BH)
        return self.classifier(steps[-1])


def sru_classifier(
    vocabulary: int = 20000, num_classes: int = 2, hidden: int = 1024, layers: int = 1
) -> SRUTextClassifier:
    """A recurrent sentence classifier; arguments as `SRUTextClassifier`."""
    return SRUTextClassifier(vocabulary, num_classes, hidden, layers)
