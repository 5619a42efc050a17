"""A model: a layer that owns its parameters' flat buffers, and knows its loss, metrics and optimizer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinydl import devices, optimizers
from tinydl.distributed.strategy import SingleProcess
from tinydl.layers import register
from tinydl.layers.base import Layer, Shape
from tinydl.layers.containers import Chain
from tinydl.layers.symbolic import SymbolicTensor
from tinydl.metrics import Metric
from tinydl.optimizers import Optimizer
from tinydl.parameters import Parameter, ParameterStore
from tinydl.randomness import checked_seed, get_state, set_state, stream
from tinydl.regularizers import Regularizer
from tinydl.training import fitting
from tinydl.training.callbacks.base import Callback
from tinydl.training.compiling import make_loss, make_metrics, refuse_softmax_before_logits
from tinydl.training.history import History


class BaseModel(Layer):
    """Base of ``Sequential`` and of the functional ``tl.Model``.

    Life of a model: constructed (layers known) -> built (input shape known: parameters exist, in one flat
    buffer each for values and gradients) -> compiled (optimizer, loss, metrics) -> fitted. ``compile`` may come
    before the model is built; ``fit`` builds it for the shape of its data.

    Attributes:
        store: the flat buffers of values and gradients.
        regularized, states, random_layers: parameters with their penalties, arrays that training moves without a
            gradient, layers that draw random numbers; in forward order.
        optimizer, loss, metrics: as given to ``compile``.
        stop_training: a callback sets it to end training.
        epochs_trained: epochs of all calls of ``fit``.
        output_mask: after ``forward``, which time steps of the output count; None where all do.
        on_device: True while its arrays live on a GPU: within ``fit``, ``evaluate`` and ``predict`` with
            ``device="cuda"``. Callbacks then find CuPy arrays in parameters; ``get_weights``, ``save`` and checkpoints
            give the host's as ever.
    """

    seed: int | None
    parameter_dtype: np.dtype
    store: ParameterStore
    regularized: list[tuple[Parameter, Regularizer]]
    states: list[NDArray]
    random_layers: list[Layer]
    optimizer: Optimizer = None  # type: ignore[assignment]  # until compile
    loss: Any = None
    metrics: Sequence[Metric] = ()
    stop_training = False
    epochs_trained = 0
    output_mask: Any = None
    on_device = False

    # ---- build --------------------------------------------------------------------------------------------

    def build_model(self, input_shape: Shape | list[Shape]) -> None:
        """Create the parameters, lay them out in the flat buffers, and give random layers their streams."""
        rng = stream(self.seed, "initialization")
        self.initialize(input_shape, rng, self.parameter_dtype)  # type: ignore[arg-type]
        named = list(self.named_parameters())
        for name, parameter in named:
            parameter.name = name
        self.store = ParameterStore(p for _, p in named)
        self.regularized = [(p, p.regularizer) for _, p in named if p.regularizer is not None]
        self.states = [array for _, array in self.named_states()]
        self.random_layers = [layer for layer in self.layers_in_order() if layer.is_random]
        self.seed_dropout(self.seed)

    def seed_dropout(self, seed: int | None) -> None:
        """Give every random layer a stream of its own under ``seed``."""
        for k, layer in enumerate(self.random_layers):
            layer.rng = stream(seed, "dropout", k)

    def generators(self) -> list[np.random.Generator]:
        """Those of all random layers, in forward order."""
        return [layer.rng for layer in self.random_layers if layer.rng is not None]

    def output_layers(self) -> list[Layer]:
        """The layers whose outputs are the model's."""
        return [self]

    # ---- weights ------------------------------------------------------------------------------------------

    def get_weights(self) -> list[NDArray]:
        """Copies of all parameters, then of all states, in forward order."""
        self._require_built()
        arrays = [p.value for p in self.parameters()] + [a for _, a in self.named_states()]
        return [devices.host_copy(a) for a in arrays]

    def set_weights(self, weights: list[NDArray]) -> None:
        """Write arrays as ``get_weights`` gives them; nothing is written unless all of them fit."""
        self._require_built()
        targets = [(n, p.value) for n, p in self.named_parameters()] + list(self.named_states())
        if len(weights) != len(targets):
            raise ValueError(
                f"this model has {len(targets)} arrays, set_weights got {len(weights)}"
            )
        for (name, target), array in zip(targets, weights, strict=True):
            if np.shape(array) != target.shape:
                raise ValueError(f"'{name}' has shape {target.shape}, got {np.shape(array)}")
        for (_, target), array in zip(targets, weights, strict=True):
            devices.assign(target, array)

    def snapshot(self) -> tuple[list[NDArray], list[dict]]:
        """What a forward pass in training changes: copies of the states, and where the generators stand."""
        return (
            [array.copy() for array in self.states],
            [get_state(rng) for rng in self.generators()],
        )

    def restore(self, snapshot: tuple[list[NDArray], list[dict]]) -> None:
        states, random = snapshot
        for array, saved in zip(self.states, states, strict=True):
            array[...] = saved
        for rng, state in zip(self.generators(), random, strict=True):
            set_state(rng, state)

    # ---- train and use ------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Optimizer | str | dict = "adam",
        loss: Any = None,
        metrics: Iterable[Metric | str | dict] = (),
        loss_weights: list[float] | None = None,
    ) -> None:
        """Choose how to train: objects, or their names as in Keras.

        Args:
            optimizer: "sgd", "adam", … or a ``tl.optimizers`` object.
            loss: "sparse_categorical_crossentropy", "mse", … or a ``tl.losses`` object; a list of them, one for
                each output, for a model of several. Classification losses take logits.
            metrics: measured in training and evaluation, e.g. ["accuracy"]; for several outputs a list of lists.
            loss_weights: factors of the losses in a list; 1 unless given.

        Raises:
            ValueError: an unknown name (with the nearest right one), or a softmax in front of a loss that takes
                logits.
        """
        made_optimizer = optimizers.get(optimizer)
        made_loss = make_loss(loss, loss_weights)
        refuse_softmax_before_logits(self, made_loss)
        self.metrics = make_metrics(metrics, made_loss, self.output_layers())
        self.optimizer, self.loss = made_optimizer, made_loss

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        validation_data: Any = None,
        validation_split: float = 0.0,
        callbacks: Sequence[Callback] | Callback | None = (),
        verbose: int = 1,
        seed: int | None = None,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        resume: bool = False,
        strategy: SingleProcess | None = None,
        accumulate_steps: int = 1,
        device: str | None = None,
    ) -> History:
        """Train for ``epochs`` passes over the data.

        Args:
            x: samples, (N, …), or a list of arrays for a model of several inputs; or a ``tl.data.DataLoader``; or
                any iterable of batches (x, y) or (x, y, sample_weight).
            y: labels or targets, (N, …); a list of arrays for several outputs. None when ``x`` gives batches.
            epochs: number of the epoch to stop before, as in Keras: with ``initial_epoch=5`` and ``epochs=10`` five
                are trained.
            batch_size: samples a step, for arrays; at most N.
            validation_data: (x, y), (x, y, sample_weight), a loader or an iterable: measured after every epoch.
            validation_split: in (0, 1): this share of the samples, the last ones in the order given, is not trained
                on but measured after every epoch. Shuffle sorted data first.
            callbacks: one or a list; see ``tl.callbacks``.
            verbose: 0 silent; 1 a progress bar (one line an epoch where the output is no terminal); 2 one line an
                epoch.
            seed: of the order of the samples and of dropout. None: the model's own, and each further call of ``fit``
                goes on with new orders.
            sample_weight: (N,) factors of the samples' losses.
            class_weight: class number -> factor of the losses of its samples; others count 1.
            shuffle: a new order in each epoch, for arrays.
            initial_epoch: number of the first epoch.
            steps_per_epoch: end an epoch after so many batches; needed for iterators without an end.
            resume: go on from the newest checkpoint of the ``tl.callbacks.Checkpoint`` among the callbacks; where
                there is none yet, start.
            strategy: ``tl.distributed.DataParallel()`` trains on all processes that ``mpirun`` started; batches are
                then shared out among them, and metrics are those of all. None: this process alone.
            accumulate_steps: compute each batch in so many passes, one part of it after another, and add up their
                gradients before the update. The result is the same as in one pass (but for BatchNorm, which sees
                each part alone); layers keep that much less between forward and backward.
            device: "cuda" computes on an NVIDIA GPU (needs the extra ``tinydl[cuda]``): the model's arrays are there
                for as long as this takes, and back on the host afterwards. "cpu", as by default, here.

        Returns:
            The ``History``. Ctrl-C ends training after the step at hand: a checkpoint is written if there is a
            ``Checkpoint``, and ``history.interrupted`` is True.

        Raises:
            ValueError, TypeError: data that do not fit the model or cannot be trained on; before the first step
                where arrays are given.
            DeviceError: ``device="cuda"`` where there is no GPU, no driver or not all that is needed, or with a layer
                that can be computed on the CPU only; before anything is done.
            NonFiniteLossError: the loss became NaN or infinite; names the layer in which that began.
        """
        request = fitting.FitRequest(
            x=x,
            y=y,
            sample_weight=sample_weight,
            epochs=epochs,
            batch_size=batch_size,
            validation_data=validation_data,
            validation_split=validation_split,
            callbacks=[callbacks] if isinstance(callbacks, Callback) else list(callbacks or ()),
            verbose=verbose,
            seed=checked_seed(seed),
            class_weight=class_weight,
            shuffle=shuffle,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            resume=resume,
            strategy=strategy,
            accumulate_steps=accumulate_steps,
            device=device,
        )
        return fitting.fit(self, request)

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        sample_weight: Any = None,
        verbose: int = 0,
        device: str | None = None,
    ) -> dict[str, Any]:
        """{"loss": …, and each metric by name} over the data, given as to ``fit``. Nothing is changed.

        ``verbose=1`` prints them as well; ``device="cuda"`` computes on a GPU.
        """
        return fitting.evaluate(self, x, y, batch_size, sample_weight, verbose, device)

    def predict(
        self, x: Any, *, batch_size: int = 32, verbose: int = 0, device: str | None = None
    ) -> Any:
        """The outputs for all samples, (N, …), computed batch by batch; a list of arrays for several outputs.

        ``x`` is given as to ``fit``; targets in batches are left aside. Classification models that end in logits
        predict logits: ``argmax(axis=-1)`` is the class, ``tl.layers.Softmax`` makes probabilities. ``verbose=1``
        prints how many samples there were and how long they took; ``device="cuda"`` computes on a GPU, and outputs are
        NumPy arrays as ever.
        """
        return fitting.predict(self, x, batch_size, verbose, device)

    # ---- show and keep ------------------------------------------------------------------------------------

    def summary(self) -> None:
        """Print a table of layers, output shapes, parameters and memory."""
        from tinydl.training.summary import print_summary

        print_summary(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write architecture, weights, states and compile settings to a file for ``tl.load``; all or nothing."""
        from tinydl.training.saving import save_model

        save_model(self, path)

    def _require_built(self) -> None:
        if not self.built:
            raise RuntimeError(
                f"model '{self.name}' is not built: give its input shape (model.build_model(shape)), "
                "or call fit or predict on data first"
            )


def checked_dtype(dtype: DTypeLike) -> np.dtype:
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"a model's dtype must be float32 or float64, got {np.dtype(dtype)}")
    return np.dtype(dtype)


@register
class Sequential(BaseModel, Chain):
    """Layers one after another, with everything a model has.

    Args:
        layers: applied in this order; a ``Sequential`` may itself be one of them. A ``tl.Input(shape)`` in front
            builds the model at once; without it the first data do.
        seed: makes initial weights, dropout and the order of samples repeatable; ``None`` draws fresh numbers.
        dtype: of the parameters, float32 or float64.
    """

    def __init__(
        self,
        layers: list[Any],
        seed: int | None = 0,
        dtype: DTypeLike = "float32",
        name: str | None = None,
    ) -> None:
        first = layers[0] if isinstance(layers, list | tuple) and layers else None
        super().__init__(layers[1:] if isinstance(first, SymbolicTensor) else layers, name)
        self.seed = checked_seed(seed)
        self.parameter_dtype = checked_dtype(dtype)
        if isinstance(first, SymbolicTensor):
            self.build_model(first.shape)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "seed": self.seed, "dtype": self.parameter_dtype.name}
