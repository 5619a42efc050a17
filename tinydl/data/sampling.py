"""The order of samples, and random numbers that belong to a sample: pure functions of the seed."""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from tinydl.randomness import PURPOSES, stream

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd


def fresh_seed() -> int:
    """A seed that nobody has drawn before, from the system's entropy."""
    return secrets.randbits(63)


def epoch_order(samples: int, *, shuffle: bool, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch visits the samples: each exactly once. (samples,)

    Whoever knows (seed, epoch) can compute the same order: a resumed run continues in the middle of
    it, and each of several processes can take its own part of every batch without asking the
    others.
    """
    if not shuffle:
        return np.arange(samples)
    return stream(seed, "shuffling", epoch).permutation(samples)


class SampleRandom:
    """Random numbers for the samples of one batch, each a pure function of (seed, epoch, sample, draw).

    A sample gets the same numbers whatever batch it is in, whichever process or thread prepares it,
    and wherever a stopped run was resumed: its number is a hash of a counter, not the next one of a
    common stream (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 2).
    Here it is the output at position ``sample`` of a SplitMix64 generator (Steele, Lea, Flood 2014,
    "Fast splittable pseudorandom number generators", figure 17) that starts at a place of its own
    for every seed, epoch and draw.

    Args:
        seed, epoch: as given to the ``DataLoader``.
        indices: (B,), the samples' positions in the data set.
    """

    def __init__(self, seed: int, epoch: int, indices: NDArray) -> None:
        entropy = np.random.SeedSequence(seed, spawn_key=(PURPOSES.index("augmentation"), epoch))
        self._key = entropy.generate_state(1, np.uint64)
        self._indices = np.asarray(indices).astype(np.uint64)
        self._draws = 0

    def __len__(self) -> int:
        return len(self._indices)

    def bits(self) -> NDArray[np.uint64]:
        """64 random bits for each sample, (B,). Every call is a further, independent draw."""
        self._draws += 1
        start = self._key + _mix(np.array([self._draws], np.uint64) * GOLDEN)
        return _mix(start + self._indices * GOLDEN)

    def uniform(self) -> NDArray[np.floating]:
        """A number in [0, 1) for each sample, (B,): the upper 53 bits, all that a float64 holds."""
        return (self.bits() >> np.uint64(11)) * 2.0**-53

    def integers(self, low: int, high: int) -> NDArray[np.int64]:
        """A whole number in low … high - 1 for each sample, (B,)."""
        return low + np.floor(self.uniform() * (high - low)).astype(np.int64)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer, a bijection in which every input bit moves every output bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
