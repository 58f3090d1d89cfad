"""Hand-written networks over sequences: recurrent, convolutional, and torch's own transformer."""

from __future__ import annotations

from typing import Any

from tests.coupling.zoo.architecture import IDS, Architecture, Port
from tests.coupling.zoo.parts import Module, chain, nn, torch


class _Tagger(Module):
    """Embedding, recurrent layers, a label for every token."""

    def __init__(self, cell: Any, *, both: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(99, 24)
        self.cell = cell(24, 32, num_layers=layers, bidirectional=both, batch_first=True)
        self.labels = nn.Linear(64 if both else 32, 7)

    def forward(self, ids: Any) -> Any:
        return self.labels(self.cell(self.embedding(ids))[0])


class _TextCnn(Module):
    """Convolutions of several widths over embedded words, their maxima side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(99, 24)
        self.convs = nn.ModuleList([nn.Conv1d(24, 12, width) for width in (2, 3, 4)])
        self.classifier = nn.Linear(36, 5)

    def forward(self, ids: Any) -> Any:
        x = self.embedding(ids).transpose(1, 2)
        maxima = [nn.functional.relu(conv(x)).amax(2) for conv in self.convs]
        return self.classifier(nn.functional.dropout(torch.cat(maxima, 1), training=False))


class _TorchEncoder(Module):
    """``torch.nn.TransformerEncoder``: one stored matrix for queries, keys and values."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(99, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(32, 5)

    def forward(self, ids: Any) -> Any:
        return self.classifier(self.layers(self.embedding(ids)).mean(1))


class _Temporal(Module):
    """Dilated residual convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            [
                chain(nn.Conv1d(16, 24, 3, padding=d, dilation=d), nn.ReLU(), nn.Conv1d(24, 16, 1))
                for d in (1, 2, 4)
            ]
        )
        self.last = nn.Conv1d(16, 3, 1)

    def forward(self, series: Any) -> Any:
        x = self.first(series)
        for block in self.blocks:
            x = nn.functional.relu(x + block(x))
        return self.last(x)


SEQUENCES: tuple[Architecture, ...] = (
    Architecture("lstm-tagger", lambda: _Tagger(nn.LSTM), IDS),
    Architecture("lstm-both-ways", lambda: _Tagger(nn.LSTM, both=True, layers=2), IDS),
    Architecture("gru-tagger", lambda: _Tagger(nn.GRU), IDS),
    Architecture("rnn-tagger", lambda: _Tagger(nn.RNN), IDS),
    Architecture("text-cnn", _TextCnn, IDS),
    Architecture("torch-encoder", lambda: _TorchEncoder(first=False), IDS),
    Architecture("torch-encoder-norm-first", lambda: _TorchEncoder(first=True), IDS),
    Architecture("temporal-cnn", _Temporal, (Port("series", "numbers", ("batch", 6, "frames")),)),
)
