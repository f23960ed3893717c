"""Networks of well-known shapes, written as anyone would, for the tests of the picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """He et al. 2016, figure 5, right; the stride stands in the middle, as in "V1.5"."""

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or width_in != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet50(nn.Module):
    """He et al. 2016, table 1."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        layers, width_in = [], 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            rows = []
            for number in range(count):
                rows.append(Bottleneck(width_in, width, 2 if stage and not number else 1))
                width_in = 4 * width
            layers.append(nn.Sequential(*rows))
        self.layers = nn.ModuleList(layers)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width_in, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for layer in self.layers:
            x = layer(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Mixer(nn.Module):
    """A hybrid: convolutions of three widths side by side, a recurrence, a Transformer of torch, attention pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 32)
        self.position = nn.Parameter(torch.zeros(20, 32))
        self.branches = nn.ModuleList(nn.Conv1d(32, 16, width, padding=width // 2) for width in (3, 5, 7))
        self.gru = nn.GRU(48, 24, batch_first=True, bidirectional=True)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(48, 4, 96, batch_first=True), 5)
        self.head = nn.Linear(48, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = (self.embedding(tokens) + self.position).transpose(1, 2)
        hidden = torch.cat([torch.relu(branch(hidden)) for branch in self.branches], dim=1)
        hidden, _ = self.gru(hidden.transpose(1, 2))
        return self.head(self.encoder(hidden).mean(1))


class Dense(nn.Module):
    """Huang et al. 2017: every layer reads all before it, which is neither a row nor branches."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8 * (1 + place), 8, 3, padding=1) for place in range(4))
        self.head = nn.Conv2d(40, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        seen = [image]
        for layer in self.layers:
            seen.append(layer(torch.cat(seen, dim=1)))
        return self.head(torch.cat(seen, dim=1))


class Ladder(nn.Module):
    """A small U-Net: two levels down and up, each up reading its level's down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)])
        self.middle = nn.Conv2d(16, 16, 3, 1, 1)
        self.up = nn.ModuleList([nn.ConvTranspose2d(32, 8, 4, 2, 1), nn.ConvTranspose2d(16, 3, 4, 2, 1)])

    def forward(self, image: Tensor) -> Tensor:
        first = self.down[0](image)
        second = self.down[1](first)
        hidden = self.up[0](torch.cat([self.middle(second), second], dim=1))
        return self.up[1](torch.cat([hidden, first], dim=1))


class Experts(nn.Module):
    """Sixteen equal experts whose results are added, and the input on top."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(16))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack([expert(x) for expert in self.experts]).sum(0)
