"""Pooling: windows of an image, or the whole of it, replaced by their maximum or mean."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

import tinydl_kernels as kernels
from tinydl.layers.base import Layer, Shape
from tinydl.layers.conv2d import checked_padding, image_shape
from tinydl_kernels import windows


class _Pool2D(Layer):
    """What pooling layers with a window share: its size, its strides and the output's shape."""

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 2,
        strides: int | tuple[int, int] | None = None,
        padding: Any = "valid",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        kind = type(self).__name__
        self.pool_size = windows.as_pair(f"{kind}: pool_size", pool_size)
        self.strides = (
            self.pool_size if strides is None else windows.as_pair(f"{kind}: strides", strides)
        )
        self.padding = checked_padding(kind, padding)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        sizes = image_shape(self, input_shape)
        try:
            g = windows.pool_geometry((1, *sizes), self.pool_size, self.strides, self.padding)
        except ValueError as error:
            raise ValueError(f"layer '{self.name}', input {input_shape}: {error}") from None
        return g.output_shape[1:]

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> None:
        return None  # the mask's axis of time is gone

    def config(self) -> dict[str, Any]:
        return {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}


class MaxPool2D(_Pool2D):
    """The largest element of each window.

    Shapes: x (N, H, W, C), y (N, H', W', C). For the window at (i, j):

        y[n,i,j,c] = max over (h, w) in the window of x[n,h,w,c],     a[n,i,j,c] its place (the first)
        dL/dx[n,h,w,c] = Σ dL/dy[n,i,j,c] over the windows whose a is (h, w)

    ``strides=None`` means the window's own size. Padding is never the maximum.

    Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", section 9.3.
    """

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.x_shape = x.shape
        y, self.argmax = kernels.max_pool2d(
            x, self.pool_size, strides=self.strides, padding=self.padding
        )
        return y

    def backward(self, grad_output: NDArray) -> NDArray | None:
        if not self.needs_input_grad:
            return None
        window = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        return kernels.max_pool2d_grad(grad_output, self.argmax, self.x_shape, **window)


class AvgPool2D(_Pool2D):
    """The mean of each window.

    Shapes: x (N, H, W, C), y (N, H', W', C). With m[i,j] elements of x in the window at (i, j)
    (padding does not count):

        y[n,i,j,c] = 1/m[i,j] Σ x[n,h,w,c] over (h, w) in the window
        dL/dx[n,h,w,c] = Σ dL/dy[n,i,j,c] / m[i,j] over the windows that hold (h, w)

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", II.B.
    """

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.x_shape = x.shape
        return kernels.avg_pool2d(x, self.pool_size, strides=self.strides, padding=self.padding)

    def backward(self, grad_output: NDArray) -> NDArray | None:
        if not self.needs_input_grad:
            return None
        return kernels.avg_pool2d_grad(
            grad_output, self.x_shape, self.pool_size, strides=self.strides, padding=self.padding
        )


class GlobalAvgPool2D(Layer):
    """The mean of each channel over the whole image.

    Shapes: x (N, H, W, C), y (N, C); with ``keepdims`` (N, 1, 1, C).

        y[n,c] = 1/(H·W) Σ_hw x[n,h,w,c],           dL/dx[n,h,w,c] = dL/dy[n,c] / (H·W)

    Source: Lin, Chen, Yan 2013, "Network In Network", arXiv 1312.4400, section 3.2.
    """

    def __init__(self, keepdims: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.keepdims = bool(keepdims)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        *_, channels = image_shape(self, input_shape)
        return (1, 1, channels) if self.keepdims else (channels,)

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        self.check_input(x)
        self.x_shape = x.shape
        y = kernels.avg_pool2d(x, x.shape[1:3])  # one window as large as the image
        return y if self.keepdims else y.reshape(len(x), x.shape[-1])

    def backward(self, grad_output: NDArray) -> NDArray | None:
        if not self.needs_input_grad:
            return None
        n, h, w, c = self.x_shape
        return kernels.avg_pool2d_grad(grad_output.reshape(n, 1, 1, c), self.x_shape, (h, w))

    def compute_mask(self, x: NDArray, mask: NDArray | None) -> None:
        return None  # the mask's axis of time is gone

    def config(self) -> dict[str, Any]:
        return {"keepdims": self.keepdims}


# Keras' names.
MaxPooling2D = MaxPool2D
AveragePooling2D = AvgPool2D
GlobalAveragePooling2D = GlobalAvgPool2D
