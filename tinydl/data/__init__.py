"""Data: sources, preparation, loading, augmentation.

Sources read a format into arrays, one concept a file; ``load`` reads a data set by its name;
``DataLoader`` makes batches of arrays. Packages that only some sources need (Pillow, PyArrow,
pooch, scikit-learn) are imported where they are used.
"""

from tinydl.data.augmentation import Cutout, RandomCrop, RandomFlip
from tinydl.data.catalog import info, load, names
from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError, MissingDataError
from tinydl.data.idx import read_idx
from tinydl.data.labels import class_histogram, encode_labels, one_hot
from tinydl.data.loader import DataLoader
from tinydl.data.sampling import SampleRandom
from tinydl.data.splitting import stratified_indices, stratified_split
from tinydl.data.transforms import Rescale, Standardize
from tinydl.data.validation import check_samples

__all__ = [
    "Cutout",
    "DataError",
    "DataLoader",
    "Dataset",
    "MissingDataError",
    "RandomCrop",
    "RandomFlip",
    "Rescale",
    "SampleRandom",
    "Standardize",
    "check_samples",
    "class_histogram",
    "encode_labels",
    "info",
    "load",
    "names",
    "one_hot",
    "read_idx",
    "stratified_indices",
    "stratified_split",
]
