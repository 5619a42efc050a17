"""Networks by name, for images: each a function of the input's shape and the number of classes.

    model = tl.architectures.build("lenet", (28, 28, 1), 10)

They end in logits, without a softmax, as the classification losses expect.
"""

from __future__ import annotations

from tinydl.architectures.catalog import ARCHITECTURES, build

__all__ = ["ARCHITECTURES", "build"]
