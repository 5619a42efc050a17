"""Training on many processes: the world they form, and how they share gradients."""

from __future__ import annotations

from tinydl.distributed.data_parallel import DataParallel
from tinydl.distributed.strategy import SingleProcess
from tinydl.distributed.world import World, world

__all__ = ["DataParallel", "SingleProcess", "World", "world"]
