"""Training on many processes: the world they form, and how they share gradients."""

from __future__ import annotations

from tinydl.distributed.compression import BFloat16, Float16
from tinydl.distributed.data_parallel import DataParallel
from tinydl.distributed.large_batches import linear_scaling
from tinydl.distributed.local_sgd import LocalSGD
from tinydl.distributed.power_sgd import PowerSGD
from tinydl.distributed.strategy import SingleProcess
from tinydl.distributed.sync_batch_norm import SyncBatchNorm
from tinydl.distributed.top_k import TopK
from tinydl.distributed.world import World, world

__all__ = [
    "BFloat16",
    "DataParallel",
    "Float16",
    "LocalSGD",
    "PowerSGD",
    "SingleProcess",
    "SyncBatchNorm",
    "TopK",
    "World",
    "linear_scaling",
    "world",
]
