"""Attention: every step looks at every step, and takes most from where it finds what it looks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import fraction, whole_number
from tinydl.configs import as_config
from tinydl.devices import beside, namespace
from tinydl.initializers import get as get_initializer
from tinydl.layers.base import Layer, Shape
from tinydl.layers.dropout import drawn_mask
from tinydl.layers.merging import check_inputs
from tinydl.parameters import Parameter
from tinydl.regularizers import Regularizer
from tinydl.regularizers import get as get_regularizer

OUT_OF_SIGHT = -1e30  # score of a key that may not be seen: its weight e^(-1e30) is exactly 0


class MultiHeadAttention(Layer):
    """Scaled dot-product attention in ``num_heads`` subspaces at once.

    Inputs: one sequence x (N, T, D), which attends to itself; or a list [query, value] or [query, value, key] (Keras'
    order) of sequences (N, T, D), (N, S, D_v) and (N, S, D_k), where the key is the value unless given. Output
    (N, T, O). With h heads of sizes d (``key_dim``) and v (``value_dim``), and for each head:

        Q = X_q W_q + b_q      (T, d)                 K = X_k W_k + b_k      (S, d)
        V = X_v W_v + b_v      (S, v)
        Z = Q Kᵀ / √d          (T, S)                 scores: how well what step t asks for fits what step s offers
        A = softmax(Z)         (T, S)                 each row sums to 1
        H = A V                (T, v)                 a weighted mean of the values
        Y = [H_1 … H_h] W_o + b_o                     (T, O), O = D unless ``output_dim`` is given

    The division by √d keeps the variance of the scores at 1, so that softmax does not saturate. Columns of W_q, W_k and
    W_v and rows of W_o are h blocks, one a head. Keys that may not be seen (padding under a mask; with ``causal`` those
    with s > t) get the weight 0 in A; a step that may see no key at all gets H = 0. In training, ``dropout`` leaves out
    weights at random: A ⊙ k takes the place of A in H.

    Backward, from G = dL/dY:

        dL/dW_o = [H_1 … H_h]ᵀ G       dL/db_o = Σ_rows G       dL/dH = G W_oᵀ, cut into heads
        dL/dV = Aᵀ dL/dH               dL/dA = dL/dH Vᵀ  (⊙ k)
        dL/dZ = A ⊙ (dL/dA - Σ_s dL/dA ⊙ A)                                     softmax, row by row
        dL/dQ = dL/dZ K / √d           dL/dK = dL/dZᵀ Q / √d
        dL/dW_q = X_qᵀ dL/dQ           dL/db_q = Σ_rows dL/dQ    dL/dX_q = dL/dQ W_qᵀ    k and v alike

    and where an input serves several ends, as x does in self-attention, its gradients add up. (dL/db_k is always 0: a
    bias of the keys adds the same number to all scores of a row, which softmax does not see.)

    Masks say which steps of the key and the value count. Steps of the query that do not count are computed like others;
    the mask, passed on, lets those behind leave them out.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv 1706.03762, eq. 1 and section 3.2.

    Attributes:
        attention: (N, h, T, S), the weights A of the last forward pass (before dropout).
    """

    uses_mask = True

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        *,
        dropout: float = 0.0,
        use_bias: bool = True,
        causal: bool = False,
        output_dim: int | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Regularizer | str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)

        def size(argument: str, value: Any) -> int:
            return whole_number(f"MultiHeadAttention: {argument}", value)

        self.num_heads = size("num_heads", num_heads)
        self.key_dim = size("key_dim", key_dim)
        self.value_dim = self.key_dim if value_dim is None else size("value_dim", value_dim)
        self.dropout = fraction("MultiHeadAttention: dropout", dropout, below_one=True)
        self.is_random = self.dropout > 0
        self.use_bias = bool(use_bias)
        self.causal = bool(causal)
        self.output_dim = None if output_dim is None else size("output_dim", output_dim)
        self.kernel_initializer = get_initializer(kernel_initializer)
        self.bias_initializer = get_initializer(bias_initializer)
        self.kernel_regularizer = get_regularizer(kernel_regularizer)

    # ---- parameters and shapes ----------------------------------------------------------------------------

    def build(self, input_shape: Any, rng: np.random.Generator) -> None:
        query, value, key = self._shapes(input_shape)
        heads, outputs = self.num_heads, self.output_dim or query[-1]
        self.query = self._projection("query", query[-1], heads * self.key_dim, rng)
        self.key = self._projection("key", key[-1], heads * self.key_dim, rng)
        self.value = self._projection("value", value[-1], heads * self.value_dim, rng)
        self.output = self._projection("output", heads * self.value_dim, outputs, rng)

    def _projection(
        self, name: str, inputs: int, outputs: int, rng: np.random.Generator
    ) -> tuple[Parameter, Parameter | None]:
        """The weight and bias of X W + b."""
        weight = self.add_parameter(
            f"{name}_weight",
            (inputs, outputs),
            self.kernel_initializer,
            rng,
            regularizer=self.kernel_regularizer,
        )
        if not self.use_bias:
            return weight, None
        bias = self.add_parameter(
            f"{name}_bias", (outputs,), self.bias_initializer, rng, decay=False
        )
        return weight, bias

    def compute_output_shape(self, input_shape: Any) -> Shape:
        (steps, features), _, _ = self._shapes(input_shape)
        return (steps, self.output_dim or features)

    def _shapes(self, input_shape: Any) -> tuple[Any, Any, Any]:
        """Of query, value and key."""
        shapes = input_shape if isinstance(input_shape, list) else [input_shape] * 3
        fit = len(shapes) in (2, 3) and all(len(s) == 2 and s[1] is not None for s in shapes)
        if not fit or shapes[1][0] != shapes[-1][0]:
            raise ValueError(
                f"layer '{self.name}' takes one sequence (N, steps, features) or a list of query, value and "
                f"(if it is another) key, value and key of one length; got {input_shape}"
            )
        return shapes[0], shapes[1], shapes[-1]

    # ---- forward ------------------------------------------------------------------------------------------

    def forward(self, x: Any, training: bool = False, mask: Any = None) -> NDArray:
        self.x_query, self.x_value, self.x_key = self._read_inputs(x)
        self.scale = 1 / math.sqrt(self.key_dim)
        self.Q = self._into_heads(self._project(self.x_query, self.query))  # (N·h, T, d)
        self.K = self._into_heads(self._project(self.x_key, self.key))  # (N·h, S, d)
        self.V = self._into_heads(self._project(self.x_value, self.value))  # (N·h, S, v)

        scores = kernels.matmul(self.Q, self.K.transpose(0, 2, 1), alpha=self.scale)  # (N·h, T, S)
        hidden = self._hidden_keys(mask)
        if hidden is not None:
            np.copyto(self._by_sample(scores), OUT_OF_SIGHT, where=hidden)
        self.A = kernels.softmax(scores, out=scores)
        if hidden is not None:  # a row without any visible key came out uniform: it becomes 0
            np.copyto(self._by_sample(self.A), 0, where=hidden)
        self.attention = self._by_sample(self.A)

        self.k = drawn_mask(self, self.A, self.dropout) if training and self.dropout else None
        self.A_kept = self.A if self.k is None else self.A * self.k
        self.H = self._out_of_heads(kernels.matmul(self.A_kept, self.V))  # (N, T, h·v)
        return self._project(self.H, self.output)

    def _read_inputs(self, x: Any) -> tuple[NDArray, NDArray, NDArray]:
        """Query, value and key."""
        self.given = len(self.input_shape) if isinstance(self.input_shape, list) else 1
        if self.given == 1:
            self.check_input(x)
            return x, x, x
        check_inputs(self, x)
        if x[1].shape[1] != x[-1].shape[1]:
            raise ValueError(
                f"layer '{self.name}' needs as many values as keys, got {x[1].shape} and {x[-1].shape}"
            )
        return x[0], x[1], x[-1]

    def _project(self, x: NDArray, projection: tuple[Parameter, Parameter | None]) -> NDArray:
        weight, bias = projection
        rows = x.reshape(-1, x.shape[-1])
        y = kernels.matmul(rows, weight.value, bias=None if bias is None else bias.value)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _into_heads(self, x: NDArray) -> NDArray:
        """(N, T, h·d) -> (N·h, T, d)."""
        samples, steps, width = x.shape
        heads = x.reshape(samples, steps, self.num_heads, width // self.num_heads)
        return (
            namespace(x)
            .ascontiguousarray(heads.transpose(0, 2, 1, 3))
            .reshape(samples * self.num_heads, steps, width // self.num_heads)
        )

    def _out_of_heads(self, x: NDArray) -> NDArray:
        """(N·h, T, d) -> (N, T, h·d)."""
        heads = self._by_sample(x).transpose(0, 2, 1, 3)
        samples, steps, number, width = heads.shape
        return namespace(x).ascontiguousarray(heads).reshape(samples, steps, number * width)

    def _by_sample(self, x: NDArray) -> NDArray:
        """(N·h, …) -> (N, h, …), a view."""
        return x.reshape(len(x) // self.num_heads, self.num_heads, *x.shape[1:])

    def _hidden_keys(self, mask: Any) -> NDArray | None:
        """True where a step must not see a key; broadcasts to (N, h, T, S)."""
        masks = [mask] if self.given == 1 else (mask or [None])[1:]
        hidden: NDArray | None = None
        for keep in masks:
            if keep is not None:
                out = ~keep[:, None, None, :]  # (N, 1, 1, S)
                hidden = out if hidden is None else hidden | out
        if self.causal:
            steps, keys = self.x_query.shape[1], self.x_key.shape[1]
            later = beside(np.triu(np.ones((steps, keys), bool), k=1), self.x_query)  # s > t
            hidden = later[None, None] if hidden is None else hidden | later
        return hidden

    def compute_mask(self, x: Any, mask: Any) -> NDArray | None:
        """The steps of the output are those of the query."""
        return mask[0] if isinstance(mask, list) else mask

    # ---- backward -----------------------------------------------------------------------------------------

    def backward(self, grad_output: NDArray) -> Any:
        dH = self._into_heads(self._project_back(grad_output, self.H, self.output))  # (N·h, T, v)
        dV = kernels.matmul(self.A_kept.transpose(0, 2, 1), dH)  # (N·h, S, v)
        dA = kernels.matmul(dH, self.V.transpose(0, 2, 1))  # (N·h, T, S)
        if self.k is not None:
            dA *= self.k
        dZ = kernels.softmax_grad(dA, self.A, out=dA)
        dQ = kernels.matmul(dZ, self.K, alpha=self.scale)  # (N·h, T, d)
        dK = kernels.matmul(dZ.transpose(0, 2, 1), self.Q, alpha=self.scale)  # (N·h, S, d)

        need = self.needs_input_grad
        dx_value = self._project_back(self._out_of_heads(dV), self.x_value, self.value, need)
        dx_key = self._project_back(self._out_of_heads(dK), self.x_key, self.key, need)
        dx_query = self._project_back(self._out_of_heads(dQ), self.x_query, self.query, need)
        if not need:
            return None
        if self.given == 1:
            return dx_query + dx_key + dx_value
        if self.given == 2:
            return [dx_query, dx_value + dx_key]
        return [dx_query, dx_value, dx_key]

    def _project_back(
        self,
        grad: NDArray,
        x: NDArray,
        projection: tuple[Parameter, Parameter | None],
        needs_input_grad: bool = True,
    ) -> Any:
        """Adds the gradients of W and b in X W + b; gives that of X."""
        weight, bias = projection
        rows = grad.reshape(-1, grad.shape[-1])
        kernels.matmul(
            x.reshape(-1, x.shape[-1]).T,
            rows,
            out=weight.grad,
            beta=1.0,
            bias_grad=None if bias is None else bias.grad,
        )
        if not needs_input_grad:
            return None
        return kernels.matmul(rows, weight.value.T).reshape(x.shape)

    def config(self) -> dict[str, Any]:
        return {
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "causal": self.causal,
            "output_dim": self.output_dim,
            "kernel_initializer": as_config(self.kernel_initializer),
            "bias_initializer": as_config(self.bias_initializer),
            "kernel_regularizer": as_config(self.kernel_regularizer),
        }
