"""Parameters, and the two flat buffers that hold all of a model's values and gradients.

A model has ONE value buffer and ONE gradient buffer; each parameter is a pair of views into them. They are
laid out in the reverse of the forward order, so that the gradient buffer becomes final from its beginning to
its end while backward runs from the last layer to the first:

    forward:   conv1 -> conv2 -> dense
    buffer:    [dense.weight | dense.bias | conv2.weight | conv2.bias | conv1.weight | conv1.bias]
    backward:   ---- final first --------------------------------------- final last ---->

An optimizer step is then one pass over memory, a checkpoint one write, and a bucket of gradients that can be
sent to other processes is a slice, with nothing to pack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tinydl.regularizers import Regularizer

ALIGNMENT = 64  # bytes: a cache line, and the width of an AVX-512 vector


class Parameter:
    """A trainable array with its gradient.

    ``value`` and ``grad`` are arrays of their own until a :class:`ParameterStore` takes the parameter over;
    from then on both are views into its flat buffers. Write into them (``p.value[...] = x``), never rebind them.

    ``decay`` says whether weight decay applies (by convention: not to biases, nor to the scales and shifts of
    normalization layers).
    """

    def __init__(
        self,
        name: str,
        value: NDArray,
        *,
        decay: bool = True,
        regularizer: Regularizer | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.grad = np.zeros_like(value)
        self.decay = decay
        self.regularizer = regularizer
        self.trainable = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def size(self) -> int:
        return self.value.size

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={self.shape}, dtype={self.value.dtype})"


@dataclass(frozen=True)
class Segment:
    """Where a parameter lies in the flat buffers: elements ``start:stop``."""

    parameter: Parameter
    start: int
    stop: int


class ParameterStore:
    """Lays parameters out in two flat, 64-byte-aligned buffers, in the reverse of the order given.

    ``parameters`` come in forward order and share one dtype. Every parameter starts at a 64-byte boundary, so
    that vector loads stay aligned; the gaps hold zeros in both buffers for ever (an optimizer that sees value 0
    and gradient 0 leaves them at 0), hence whole-buffer passes need no special case.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        in_forward_order = list(parameters)
        dtypes = {p.value.dtype for p in in_forward_order}
        if len(dtypes) > 1:
            raise TypeError(
                f"all parameters of a model share one dtype, got {sorted(map(str, dtypes))}"
            )
        self.dtype = dtypes.pop() if dtypes else np.dtype(np.float32)

        step = ALIGNMENT // self.dtype.itemsize
        self.segments: list[Segment] = []
        end = 0
        for parameter in reversed(in_forward_order):
            self.segments.append(Segment(parameter, end, end + parameter.size))
            end += -(-parameter.size // step) * step  # round up to the next boundary

        self.values: NDArray
        self.grads: NDArray
        self.move(aligned_zeros(end, self.dtype), aligned_zeros(end, self.dtype))

    def move(self, values: NDArray | None = None, grads: NDArray | None = None) -> None:
        """Let the parameters live in these flat buffers, laid out as before; both get what the parameters hold."""
        for kind, buffer in (("value", values), ("grad", grads)):
            if buffer is not None:
                for s in self.segments:
                    buffer[s.start : s.stop].reshape(s.parameter.shape)[...] = getattr(
                        s.parameter, kind
                    )
        self.live_in(values, grads)

    def live_in(self, values: NDArray | None = None, grads: NDArray | None = None) -> None:
        """The same, but the parameters become what the buffers hold."""
        for kind, buffer in (("value", values), ("grad", grads)):
            if buffer is not None:
                setattr(self, f"{kind}s", buffer)
                for s in self.segments:
                    view = buffer[s.start : s.stop].reshape(s.parameter.shape)
                    setattr(s.parameter, kind, view)

    def __iter__(self) -> Iterator[Parameter]:
        """The parameters in forward order, as a reader of the model expects them."""
        return (s.parameter for s in reversed(self.segments))

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def size(self) -> int:
        """Number of parameter elements, without the gaps between segments."""
        return sum(s.stop - s.start for s in self.segments)

    def owns_parameters(self) -> bool:
        """False once a later store has taken parameters over, that of another model with the same layers."""
        return all(np.may_share_memory(s.parameter.value, self.values) for s in self.segments)

    def zero_grad(self) -> None:
        self.grads.fill(0)


def aligned_zeros(size: int, dtype: np.dtype) -> NDArray:
    """A 1-D array of zeros whose data begins at a multiple of ``ALIGNMENT`` bytes."""
    dtype = np.dtype(dtype)
    raw = np.zeros(size * dtype.itemsize + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size * dtype.itemsize].view(dtype)
