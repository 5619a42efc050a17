"""The best tile for each class of shapes, written by `python -m tinydl_kernels.cuda.tune` on a GPU.

CHOICES: {(kind, class of M, of N, of K): (tile, parts)}, see `tiles.TILES` and `tiles.shape_class`.
Nothing has been measured on a GPU yet: the table is empty, and `tiles.estimate` decides.
"""

DEVICE = "NVIDIA H200"
MEASURED = None  # the date

CHOICES: dict[tuple[str, int, int, int], tuple[str, int]] = {}
