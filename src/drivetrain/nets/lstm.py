"""A recurrent language model over words or characters (Zaremba et al. 2014, arXiv 1409.2329; Karpathy's char-rnn).

Shapes: B sequences, T positions, V vocabulary, E embedding, H hidden units, L layers.
"""

from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class LSTMLanguageModel(nn.Module):
    """Embedding, L LSTM layers, linear layer to the vocabulary.

    Args:
        num_classes: V, the size of the vocabulary.
        embedding: E.
        hidden: H.
        layers: L.
        dropout: probability after the embedding, between layers and before the output.
        tied: share the embedding with the output layer (Press & Wolf 2017); needs E = H.

    Raises:
        ValueError: `tied` with E other than H.

    `forward` maps int64 tokens (B, T) to logits (B, T, V) from a zero state; `unroll` takes and returns the state.
    """

    def __init__(
        self,
        num_classes: int = 10000,
        embedding: int = 200,
        hidden: int = 200,
        layers: int = 2,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        if tied and embedding != hidden:
            raise ValueError(f"nets: a tied language model needs embedding = hidden, got {embedding} and {hidden}")
        self.embedding = nn.Embedding(num_classes, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, num_classes)
        # torch's default for embeddings, N(0, 1), would give tied logits of size sqrt(E)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.unroll(tokens_BT)[0]

    def unroll(self, tokens_BT: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits (B, T, V) and the state after the last position, two tensors (L, B, H)."""
        hidden_BTH, state = self.lstm(self.dropout(self.embedding(tokens_BT)), state)
        return self.output(self.dropout(hidden_BTH)), state


def lstm_language_model(
    num_classes: int = 10000,
    embedding: int = 200,
    hidden: int = 200,
    layers: int = 2,
    dropout: float = 0.0,
    tied: bool = False,
) -> LSTMLanguageModel:
    """An LSTM language model; the default is Zaremba's small PTB model. Arguments as `LSTMLanguageModel`."""
    return LSTMLanguageModel(num_classes, embedding, hidden, layers, dropout, tied)
