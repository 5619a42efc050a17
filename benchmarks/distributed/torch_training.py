"""The same training steps in PyTorch with DistributedDataParallel over gloo, for comparison."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from networks import RATE, batch_of, torch_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS: dict[str, Any] = {}


def build(
    name: str, network: str, batch: int, optimizer: str = "adam", bfloat16: bool = False
) -> int:
    """Make a training ready for its steps; the number of parameters."""
    torch.set_num_threads(1)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    model = torch_model(network)
    x, y = batch_of(network, batch, seed=int(os.environ["RANK"]))
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    if x.ndim == 4:  # the faster of its two layouts
        inputs = inputs.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
    many = DistributedDataParallel(model)
    rules = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    rule = rules[optimizer](many.parameters(), RATE)
    loss_function = nn.CrossEntropyLoss()

    def step() -> None:
        rule.zero_grad()
        loss = loss_function(many(inputs), labels)
        loss.backward()
        rule.step()

    STEPS[name] = step
    steps(name, 3)
    return sum(p.numel() for p in model.parameters())


def steps(name: str, number: int, warm: int = 2) -> list[float]:
    """Seconds of each of so many steps, after some that do not count."""
    step = STEPS[name]
    seconds = []
    for k in range(warm + number):
        began = time.perf_counter()
        step()
        if k >= warm:
            seconds.append(time.perf_counter() - began)
    return seconds


def forget(name: str) -> None:
    del STEPS[name]
