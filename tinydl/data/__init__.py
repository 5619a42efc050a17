"""Data: sources, preparation, loading, augmentation.

Sources read a format into arrays, one concept a file; ``load`` reads a data set by its name;
``DataLoader`` makes batches of arrays. Packages that only some sources need (Pillow, PyArrow,
pooch, scikit-learn) are imported where they are used.
"""

from tinydl.data.arrays import load_npz, read_npy, read_npz
from tinydl.data.augmentation import Cutout, RandomCrop, RandomFlip
from tinydl.data.catalog import info, load, names
from tinydl.data.cleaning import CleaningReport, clean
from tinydl.data.dataset import Dataset
from tinydl.data.errors import DataError, MissingDataError
from tinydl.data.idx import read_idx
from tinydl.data.images import load_image_folder
from tinydl.data.labels import class_histogram, encode_labels, one_hot
from tinydl.data.loader import DataLoader
from tinydl.data.sampling import SampleRandom
from tinydl.data.splitting import stratified_indices, stratified_split
from tinydl.data.tables import Table, load_table, read_table
from tinydl.data.text import Vocabulary, next_step_pairs, pad_sequences, read_text, windows
from tinydl.data.transforms import Rescale, Standardize
from tinydl.data.validation import check_samples

__all__ = [
    "CleaningReport",
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
    "Table",
    "Vocabulary",
    "check_samples",
    "class_histogram",
    "clean",
    "encode_labels",
    "info",
    "load",
    "load_image_folder",
    "load_npz",
    "load_table",
    "names",
    "next_step_pairs",
    "one_hot",
    "pad_sequences",
    "read_idx",
    "read_npy",
    "read_npz",
    "read_table",
    "read_text",
    "stratified_indices",
    "stratified_split",
    "windows",
]
