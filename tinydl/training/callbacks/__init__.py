"""What happens beside the training itself: watching, logging, saving, changing the learning rate."""

from __future__ import annotations

from tinydl.training.callbacks.base import Callback, LambdaCallback
from tinydl.training.callbacks.checkpoint import Checkpoint
from tinydl.training.callbacks.csv_logger import CSVLogger
from tinydl.training.callbacks.early_stopping import EarlyStopping
from tinydl.training.callbacks.gradient_monitor import GradientMonitor
from tinydl.training.callbacks.json_logger import JSONLogger
from tinydl.training.callbacks.learning_rate import LearningRateScheduler, ReduceLROnPlateau
from tinydl.training.callbacks.model_checkpoint import ModelCheckpoint
from tinydl.training.callbacks.progress import ProgressBar
from tinydl.training.callbacks.tensorboard import TensorBoard

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "GradientMonitor",
    "JSONLogger",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TensorBoard",
]
