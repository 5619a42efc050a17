"""What the recurrent layers share: the order of time, masks, and one product for all time steps.

A recurrent layer applies one step again and again, from the state that the step before left:

    h_t = step(x_t, h_(t-1)),        t = 1 … T

Backpropagation through time (Werbos 1990, "Backpropagation through time: what it does and how to do it", section III)
is the chain rule on this chain of T steps, which share their weights. Going from t = T to 1,

    dL/dh_t      = dL/dy_t + what step t+1 hands back          (h_t is output and next state: both gradients add)
    dL/dz_t      from dL/dh_t, by the equations of the step    (z: what the step computes from W, U and b)
    dL/dh_(t-1)  = dL/dz_t Uᵀ + …                              (handed back)

and, as the weights are the same in all steps, their gradients are sums over t:

    dL/dW = Σ_t x_tᵀ dL/dz_t        dL/dU = Σ_t h_(t-1)ᵀ dL/dz_t        dL/db = Σ_t Σ_rows dL/dz_t

**Few large products instead of many small ones.** Only h_(t-1) U has to wait for the step before. So x W + b is one
product for all T steps, before the loop; and each of the sums over t is one product, after it: with x (T, N, D) viewed
as (T·N, D) and dz as (T·N, K), xᵀ dz adds over time and batch alike.

**Time first.** Inside, arrays are (T, N, …): the slice of one step is contiguous.

**Masks.** Where the mask drops a step, the state stays what it was, h_t = h_(t-1), and so does the output. The
gradient then passes that step unchanged, dL/dh_(t-1) = dL/dh_t, and dL/dz_t = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.arguments import whole_number
from tinydl.configs import as_config
from tinydl.devices import is_on_device, namespace
from tinydl.initializers import get as get_initializer
from tinydl.layers.base import Layer
from tinydl.layers.merging import check_inputs
from tinydl.parameters import Parameter
from tinydl.regularizers import Regularizer
from tinydl.regularizers import get as get_regularizer


class Recurrent(Layer):
    """Base of SimpleRNN, LSTM and GRU. A subclass writes ``run`` and ``run_back``, the loops over time.

    Shapes: x (N, T, D), y (N, H), or (N, T, H) with ``return_sequences``; H is ``units``. Inputs may be a list
    [x, h_0, …] that brings the initial states, (N, H) each, which are zero otherwise; with ``return_state`` outputs are
    a list [y, h_T, …].

    Args:
        units: H, the size of the state.
        use_bias: whether the steps have a bias.
        kernel_initializer, recurrent_initializer, bias_initializer: of W, U and b.
        kernel_regularizer, recurrent_regularizer: of W and U.
        return_sequences: give the output of every step, not of the last alone.
        return_state: give the states after the last step too.
        go_backwards: go through the sequence from its end; outputs of all steps come in the order in which they were
            computed.

    Attributes:
        x: (T, N, D). h: (T + 1, N, H), the initial state in front.
        skip: (T, N), True where the mask drops a step of a sample; None where there is no mask.
    """

    uses_mask = True
    blocks = 1  # W has blocks * H columns: one block a gate
    state_count = 1  # arrays that a step hands on to the next
    h: NDArray

    def __init__(
        self,
        units: int,
        *,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Regularizer | str | None = None,
        recurrent_regularizer: Regularizer | str | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.units = whole_number(f"{type(self).__name__}: units", units)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = get_initializer(kernel_initializer)
        self.recurrent_initializer = get_initializer(recurrent_initializer)
        self.bias_initializer = get_initializer(bias_initializer)
        self.kernel_regularizer = get_regularizer(kernel_regularizer)
        self.recurrent_regularizer = get_regularizer(recurrent_regularizer)
        self.return_sequences = bool(return_sequences)
        self.return_state = bool(return_state)
        self.go_backwards = bool(go_backwards)

    # ---- what a subclass defines --------------------------------------------------------------------------

    def run(self, z: NDArray, states: list[NDArray]) -> list[NDArray]:
        """From z = x W + b, (T, N, blocks·H), and the initial states: make h and give the final states."""
        raise NotImplementedError

    def run_back(
        self, dy: NDArray | None, dstates: list[NDArray]
    ) -> tuple[NDArray, NDArray, list[NDArray]]:
        """From dL/dy (T, N, H), None if only the final states have gradients, and those of the final states:
        dL/d(x W + b), dL/d(h U), both (T, N, blocks·H), and the gradients of the initial states.
        """
        raise NotImplementedError

    # ---- what its loops share -----------------------------------------------------------------------------

    def states_from(self, h_0: NDArray) -> NDArray:
        """(T + 1, N, H), h_0 in front; the others are to be computed."""
        h = namespace(h_0).empty((len(self.x) + 1, *h_0.shape), self.dtype)
        h[0] = h_0
        return h

    def skip_at(self, t: int) -> NDArray | None:
        """(N, 1), True for the samples that pass step t over; None where all take it."""
        if self.skip is None or not (is_on_device(self.skip) or self.skip[t].any()):
            return None  # on a device, to ask would be to wait
        return self.skip[t][:, np.newaxis]

    # ---- parameters and shapes ----------------------------------------------------------------------------

    def build(self, input_shape: Any, rng: np.random.Generator) -> None:
        _, features = self._sequence_shape(input_shape)
        columns = self.blocks * self.units
        self.weight = self.add_parameter(
            "weight",
            (features, columns),
            self.kernel_initializer,
            rng,
            regularizer=self.kernel_regularizer,
        )
        self.recurrent_weight = self.add_parameter(
            "recurrent_weight",
            (self.units, columns),
            self.recurrent_initializer,
            rng,
            regularizer=self.recurrent_regularizer,
        )
        self.bias: Parameter | None = None
        if self.use_bias:
            self.bias = self.add_parameter(
                "bias", (columns,), self.bias_initializer, rng, decay=False
            )

    def compute_output_shape(self, input_shape: Any) -> Any:
        steps, _ = self._sequence_shape(input_shape)
        y = (steps, self.units) if self.return_sequences else (self.units,)
        return [y, *[(self.units,)] * self.state_count] if self.return_state else y

    def _sequence_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """(T, D) of the sequence, after a look at the shapes of all inputs."""
        shape = input_shape
        if isinstance(input_shape, list):
            shape = input_shape[0]
            if input_shape[1:] != [(self.units,)] * self.state_count:
                raise ValueError(
                    f"layer '{self.name}' takes a sequence, or a list of a sequence and "
                    f"{self.state_count} initial state(s) of shape ({self.units},), got {input_shape}"
                )
        if len(shape) != 2 or shape[1] is None:
            raise ValueError(
                f"layer '{self.name}' takes sequences of shape (N, steps, features), "
                f"got samples of shape {shape}"
            )
        return shape

    # ---- forward ------------------------------------------------------------------------------------------

    def forward(self, x: Any, training: bool = False, mask: Any = None) -> Any:
        sequence, states, mask = self._read_inputs(x, mask)
        self.x = self._time_first(sequence)  # (T, N, D)
        self.skip = self._steps_to_skip(mask)
        final = self.run(self._project(self.x), states)
        y = self._batch_first(self.h[1:]) if self.return_sequences else self.h[-1].copy()
        return [y, *final] if self.return_state else y

    def _read_inputs(self, x: Any, mask: Any) -> tuple[NDArray, list[NDArray], NDArray | None]:
        """The sequence, the initial states and the sequence's mask."""
        self.takes_states = isinstance(self.input_shape, list)
        if self.takes_states:
            check_inputs(self, x)
            return x[0], x[1:], None if mask is None else mask[0]
        self.check_input(x)
        zeros = namespace(x).zeros((len(x), self.units), self.dtype)
        return x, [zeros] * self.state_count, mask

    def _project(self, x: NDArray) -> NDArray:
        """x W + b for all steps at once: (T, N, D) -> (T, N, blocks·H)."""
        z = kernels.matmul(
            x.reshape(-1, x.shape[-1]),
            self.weight.value,
            bias=None if self.bias is None else self.bias.value,
        )
        return z.reshape(*x.shape[:2], z.shape[-1])

    def _time_first(self, x: NDArray) -> NDArray:
        """(N, T, …) -> (T, N, …), the first step to be done at the front."""
        swapped = x.swapaxes(0, 1)
        swapped = swapped[::-1] if self.go_backwards else swapped
        return namespace(x).ascontiguousarray(swapped)

    def _batch_first(self, x: NDArray) -> NDArray:
        """(T, N, …) -> (N, T, …); time stays in the order in which it was gone through."""
        return namespace(x).ascontiguousarray(x.swapaxes(0, 1))

    def _steps_to_skip(self, mask: NDArray | None) -> NDArray | None:
        """(T, N), True where a sample passes a step over."""
        steps, samples, _ = self.x.shape
        if mask is None:
            return None
        if mask.shape != (samples, steps):
            raise ValueError(
                f"layer '{self.name}' expected a mask of shape ({samples}, {steps}), got {mask.shape}"
            )
        return ~self._time_first(mask)

    def compute_mask(self, x: Any, mask: Any) -> Any:
        """Steps that come out are masked as those that went in; a single output has no steps."""
        if mask is not None and self.takes_states:
            mask = mask[0]
        if not self.return_sequences:
            mask = None
        elif mask is not None and self.go_backwards:
            mask = mask[:, ::-1]
        return [mask, *[None] * self.state_count] if self.return_state else mask

    # ---- backward -----------------------------------------------------------------------------------------

    def backward(self, grad_output: Any) -> Any:
        grad_y, dstates = self._read_gradients(grad_output)
        dy = None
        if self.return_sequences:
            dy = self._batch_first(grad_y)  # (T, N, H): swapping the axes is its own inverse
        else:
            dstates[0] = dstates[0] + grad_y  # the output is the last state
        dzx, dzh, dstates = self.run_back(dy, dstates)
        dzx, dzh = dzx.reshape(-1, dzx.shape[-1]), dzh.reshape(-1, dzh.shape[-1])

        kernels.matmul(
            self.x.reshape(-1, self.x.shape[-1]).T,
            dzx,
            out=self.weight.grad,
            beta=1.0,
            bias_grad=None if self.bias is None else self.bias.grad,
        )
        h_before = self.h[:-1].reshape(-1, self.units)  # (T·N, H)
        kernels.matmul(h_before.T, dzh, out=self.recurrent_weight.grad, beta=1.0)
        if not self.needs_input_grad:
            return None
        dx = kernels.matmul(dzx, self.weight.value.T).reshape(self.x.shape)
        dx = self._batch_first(dx[::-1] if self.go_backwards else dx)
        return [dx, *dstates] if self.takes_states else dx

    def _read_gradients(self, grad_output: Any) -> tuple[NDArray, list[NDArray]]:
        """dL/dy, and the gradients of the final states: zero unless the layer returns them."""
        if self.return_state:
            return grad_output[0], list(grad_output[1:])
        zeros = namespace(self.h).zeros(self.h.shape[1:], self.dtype)
        return grad_output, [zeros] * self.state_count

    def config(self) -> dict[str, Any]:
        return {
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": as_config(self.kernel_initializer),
            "recurrent_initializer": as_config(self.recurrent_initializer),
            "bias_initializer": as_config(self.bias_initializer),
            "kernel_regularizer": as_config(self.kernel_regularizer),
            "recurrent_regularizer": as_config(self.recurrent_regularizer),
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "go_backwards": self.go_backwards,
        }


def hand_over(skip: NDArray | None, *pairs: tuple[NDArray, NDArray]) -> None:
    """For each (new, old): the rows of ``new`` whose step is passed over become those of ``old``."""
    if skip is not None:
        for new, old in pairs:
            np.copyto(new, old, where=skip)
