"""The best tile for each class of shapes, written by `python -m tinydl_kernels.cuda.tune` on a GPU.

CHOICES: {(precision or else dtype, class of M, of N, of K): (tile, parts)}, see `tiles.choose`. They count on GPUs
of the name DEVICE. Nothing has been measured yet: the table is empty, and `tiles.estimate` decides.
"""

DEVICE = "NVIDIA H200"
MEASURED = None  # the date

CHOICES: dict[tuple[str, int, int, int], tuple[str, int]] = {}
