"""Batch normalization over the whole batch, of which each process has a part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.distributed.world import World
from tinydl.layers import register
from tinydl.layers.batch_norm import BatchNorm, gradients


@register
class SyncBatchNorm(BatchNorm):
    """``BatchNorm`` whose μ and v are those of all ranks' rows together.

    Rank r has n_r rows with mean μ_r and variance v_r; M = Σ n_r. Without a difference of large numbers:

        μ = Σ_r n_r/M μ_r                v = Σ_r n_r/M (v_r + (μ_r - μ)²)

    and backward takes the sums over all M rows: Σ_r of the ranks' dL/dγ and dL/dβ. Every rank adds only its own
    rows' dL/dγ and dL/dβ to the gradients, which are summed over ranks like all others.

    Each forward and backward pass costs a word with all ranks. It pays where a rank's own rows are too few for a
    useful mean and variance. In a single process it is ``BatchNorm``.

    Source: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1, for the combination.
    """

    runs_on_cuda = False
    world = World()  # while a model is in training: the strategy's

    def has_rows(self, x: NDArray) -> bool:
        """A rank whose part of the batch is empty takes part as well."""
        return x.size > 0 or self.world.size > 1

    def normalize(self, x: NDArray, gamma: NDArray, beta: NDArray) -> NDArray:
        channels = x.shape[-1]
        own = np.zeros(1 + 2 * channels)  # n_r, μ_r, v_r
        if x.size:
            own[0] = x.size // channels
            own[1:] = np.concatenate(kernels.column_moments(x))
        rows = np.empty(self.world.size * own.size)
        self.world.all_gather(own, rows)
        n, means, variances = np.split(rows.reshape(-1, own.size), [1, 1 + channels], axis=1)
        self.count = int(n.sum())  # M
        share = n / n.sum()  # (ranks, 1)
        mean = (share * means).sum(axis=0)
        var = (share * (variances + (means - mean) ** 2)).sum(axis=0)
        self.mean, var = mean.astype(x.dtype), var.astype(x.dtype)
        running = self.state["running_mean"], self.state["running_var"]
        self.inv_std = kernels.running_moments(
            self.mean, var, *running, self.momentum, self.epsilon
        )
        return kernels.batch_norm_apply(
            x, self.mean, self.inv_std, gamma, beta, activation=self.activation.fused
        )

    def differentiate(self, grad_output: NDArray, gamma: NDArray) -> NDArray:
        dz, moments = self.activation.backward(grad_output), (self.mean, self.inv_std)
        dgamma, dbeta = kernels.batch_norm_grad_sums(dz, self.x, *moments, *gradients(self))
        sums = np.concatenate([dgamma, dbeta]).astype(np.float64)
        self.world.allreduce(sums)
        dgamma, dbeta = np.split(sums.astype(dgamma.dtype), 2)
        return kernels.batch_norm_grad_input(dz, self.x, gamma, *moments, dgamma, dbeta, self.count)
