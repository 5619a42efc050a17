"""The gradient buffer cut into buckets, and which of them backward has finished.

The flat gradient buffer becomes final from its beginning to its end as backward goes from the last layer to the
first (see tinydl/parameters.py). A bucket is a contiguous slice of it, so it can be sent as it lies in memory.

Buckets go out in their order in the buffer on every rank, never in the order in which they happen to become
ready: collectives must match across ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from tinydl.layers.base import Layer
from tinydl.parameters import ALIGNMENT, ParameterStore


def stretches(store: ParameterStore) -> list[slice]:
    """The parts of the buffers that hold trainable parameters, each as long as possible."""
    found: list[slice] = []
    ends = [*(s.start for s in store.segments[1:]), store.grads.size]
    for segment, end in zip(store.segments, ends, strict=False):  # a model may have none
        if not segment.parameter.trainable:
            continue
        if found and found[-1].stop == segment.start:
            found[-1] = slice(found[-1].start, end)
        else:
            found.append(slice(segment.start, end))
    return found


def cut(parts: Sequence[slice], itemsize: int, bucket_bytes: int, first_bytes: int) -> list[slice]:
    """``parts`` in slices of ``bucket_bytes``, the very first one and the very last one of ``first_bytes``.

    The first is small so that communication starts early, the last because nothing is left to compute while it is
    sent. Boundaries fall on whole cache lines.
    """
    line = ALIGNMENT // itemsize
    bucket = max(bucket_bytes // itemsize // line, 1) * line
    small = max(min(first_bytes, bucket_bytes) // itemsize // line, 1) * line
    width = small
    buckets: list[slice] = []
    for number, part in enumerate(parts, 1):
        end = part.stop - small if number == len(parts) else part.stop
        edges = [part.start, *range(part.start + width, end, bucket), end, part.stop]
        edges = sorted({edge for edge in edges if part.start <= edge <= part.stop})
        buckets += [slice(a, b) for a, b in pairwise(edges)]
        width = bucket
    return buckets


class Buckets:
    """Tells, as layers finish their backward pass, which buckets have become final.

    A parameter that several layers share is final when the last of them is done.

    Args:
        layers: all layers of the model.
        slices: the buckets, from the beginning of the buffer to its end.
    """

    def __init__(self, store: ParameterStore, layers: Iterable[Layer], slices: list[slice]) -> None:
        self.slices = slices
        # Behind a segment's last element come only zeros, up to where the next one starts.
        self._end_of_segment = [*(s.start for s in store.segments[1:]), store.grads.size]
        self._segment_of = {id(s.parameter): k for k, s in enumerate(store.segments)}
        self._uses = Counter(
            self._segment_of[id(p)] for layer in layers for p in layer.own_parameters
        )
        self.restart()

    def restart(self) -> None:
        """A new backward pass begins: nothing is final."""
        self._remaining = [self._uses[k] for k in range(len(self._end_of_segment))]
        self._done: set[int] = set()
        self._segment = 0  # the first one that is not final
        self._bucket = 0  # the first one that has not gone out

    def finished(self, layer: Layer) -> list[slice]:
        """The buckets that are complete now that the backward pass of ``layer`` and of all below it is over.

        All but the last one, which is left to ``rest``: no computation is left to send it beside.
        """
        for part in layer.layers_in_order():
            if id(part) not in self._done:
                self._done.add(id(part))
                for p in part.own_parameters:
                    self._remaining[self._segment_of[id(p)]] -= 1
        while self._segment < len(self._remaining) and self._remaining[self._segment] == 0:
            self._segment += 1
        end = self._end_of_segment[self._segment - 1] if self._segment else 0
        return self._up_to(end, len(self.slices) - 1)

    def rest(self) -> list[slice]:
        """The buckets that have not gone out: backward is over, so they are final too."""
        return self._up_to(self.slices[-1].stop if self.slices else 0, len(self.slices))

    def _up_to(self, end: int, number: int) -> list[slice]:
        """Of the first ``number`` buckets those that end at ``end`` or before, and have not gone out."""
        first = self._bucket
        while self._bucket < number and self.slices[self._bucket].stop <= end:
            self._bucket += 1
        return self.slices[first : self._bucket]
