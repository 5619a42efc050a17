"""The same networks in PyTorch, for comparison only; it is imported nowhere else than here and by its peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import nn

if TYPE_CHECKING:
    from tinydl.bench.operations.step import Case


class LSTM(nn.Module):
    """LSTM(128) over the sequence, and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Any) -> Any:
        y, _ = self.lstm(x)
        return self.head(y[:, -1])


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            convolution(outputs, outputs, 3),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Any) -> Any:
        return nn.functional.relu(self.body(x) + self.shortcut(x), inplace=True)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(inplace=True),
        nn.Linear(120, 84),
        nn.ReLU(inplace=True),
        nn.Linear(84, 10),
    )


def resnet8() -> nn.Module:
    return nn.Sequential(
        convolution(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        BasicBlock(16, 16, 1),
        BasicBlock(16, 32, 2),
        BasicBlock(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "lenet": lenet,
    "resnet8": resnet8,
    "lstm": LSTM,
}


def make_optimizer(case: Case, parameters: Any) -> torch.optim.Optimizer:
    from tinydl.bench.operations.step import RATE

    if case.optimizer == "adam":
        return torch.optim.Adam(parameters, RATE)
    return torch.optim.SGD(parameters, RATE, momentum=0.9 if case.optimizer == "momentum" else 0.0)


def make_step(case: Case, layout: str, x: NDArray, y: NDArray) -> tuple[Callable[[], None], int]:
    """(one training step, number of parameters)."""
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    model = NETWORKS[case.network]().to(inputs.dtype)
    if x.ndim == 4:
        memory = torch.channels_last if layout == "channels-last" else torch.contiguous_format
        inputs = inputs.permute(0, 3, 1, 2).contiguous(memory_format=memory)
        model = model.to(memory_format=memory)
    loss_function = nn.CrossEntropyLoss()
    optimizer = make_optimizer(case, model.parameters())
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_function(model(inputs), labels)
        loss.backward()
        optimizer.step()

    return step, sum(p.numel() for p in model.parameters())
