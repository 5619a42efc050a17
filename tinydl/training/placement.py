"""A model on a GPU for the time of a call of ``fit``, ``evaluate`` or ``predict``.

Models are made, saved and looked at on the host; nothing of that knows of devices. ``placed`` moves what a model
computes with to the device, and back at the end, however that comes about:

    the flat buffers of values and gradients        one copy each; the parameters' views are made anew
    the layers' states (running means)
    the optimizer's slots                           for training

The host's arrays stay where they are meanwhile, and are filled again in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydl import devices
from tinydl.devices import DeviceError, is_on_device
from tinydl.layers.activations import ActivationFunction
from tinydl.training.objectives import SeveralLosses

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel


@contextmanager
def placed(model: BaseModel, device: str | None, training: bool = False) -> Iterator[None]:
    """While entered, the model lives on the device of this name; None leaves it where it is.

    Without ``training`` nothing of it may be changed, and nothing is copied back.

    Raises:
        ValueError, DeviceError: no such device, none here, or a layer that cannot be computed there.
    """
    devices.require(device)
    if device != "cuda" or model.on_device:
        yield
        return
    refuse_layers_for_the_host(model)
    move = Move(model, training)
    try:
        yield
        if training:
            move.copy_back()
    except BaseException as error:
        if training:
            move.rescue()
        mixing = layer_that_mixes(model, error)
        if mixing is not None:
            raise DeviceError(
                f"device='cuda': layer {mixing} brings arrays of the host's to the device's ({error}); make them with "
                "tl.devices.namespace(x), or set runs_on_cuda = False"
            ) from error
        raise
    finally:
        move.undo()


def refuse_layers_for_the_host(model: BaseModel) -> None:
    for path, layer in model._named_layers(""):
        if not layer.runs_on_cuda:
            name = path.rstrip(".") or model.name
            raise DeviceError(
                f"device='cuda': layer '{name}' ({type(layer).__name__}) can be computed on the CPU only"
            )


def layer_that_mixes(model: BaseModel, error: BaseException) -> str | None:
    """The layer in which CuPy refused an array of NumPy's: one of the user's own, which nobody tried on a GPU."""
    if not isinstance(error, TypeError) or "numpy" not in str(error).lower():
        return None
    paths = {id(layer): path.rstrip(".") for path, layer in model._named_layers("")}
    found, traceback = None, error.__traceback__
    while traceback is not None:
        layer = traceback.tb_frame.f_locals.get("self")
        if paths.get(id(layer)):
            found = f"'{paths[id(layer)]}' ({type(layer).__name__})"
        traceback = traceback.tb_next
    return found


class Move:
    """What was moved: pairs of a host array and the device array that stands for it."""

    def __init__(self, model: BaseModel, training: bool) -> None:
        self.model, self.training = model, training
        self.pairs: dict[int, tuple[NDArray, Any]] = {}  # by the host array's id
        self.values = [(p, p.value) for p in model.parameters()]
        self.grads = model.store.grads
        self.states = list(model.states)
        try:
            self._move()
        except BaseException:  # memory may not suffice
            self.undo()
            raise

    def _move(self) -> None:
        model = self.model
        if model.store.owns_parameters():
            model.store.live_in(self._there(model.store.values))
        else:  # a later model with the same layers has them: its store is left alone
            for p, value in self.values:
                p.value = self._there(value)
        self._move_states()
        if self.training:
            model.store.live_in(grads=self._there(self.grads))
            slots = model.optimizer.slots
            slots.update({name: self._there(slot) for name, slot in slots.items()})
        model.on_device = True

    def _move_states(self) -> None:
        """All of one type in one buffer: what copies states, as each step does, copies that."""
        model = self.model
        layers = list(model.layers_in_order())
        states = {id(array): array for layer in layers for array in layer.state.values()}
        buffers = []
        for dtype in dict.fromkeys(array.dtype for array in states.values()):
            arrays = [array for array in states.values() if array.dtype == dtype]
            buffer = devices.library().asarray(np.concatenate([array.ravel() for array in arrays]))
            start = 0
            for array in arrays:
                part = buffer[start : start + array.size].reshape(array.shape)
                self.pairs[id(array)] = array, part
                start += array.size
            buffers.append(buffer)
        for layer in layers:
            for name, array in layer.state.items():
                layer.state[name] = self.pairs[id(array)][1]
        model.states = buffers

    def _there(self, array: NDArray) -> Any:
        """The device array for a host array; twins of a layer share theirs."""
        if id(array) not in self.pairs:
            self.pairs[id(array)] = array, devices.library().asarray(array)
        return self.pairs[id(array)][1]

    def copy_back(self) -> None:
        """Every host array gets what its device array holds."""
        fetched = [(host, there.get()) for host, there in self.pairs.values()]  # all or nothing
        for host, array in fetched:
            host[...] = array

    def rescue(self) -> None:
        """The same after an error, which may have been the device's: then the host keeps what it had."""
        with suppress(Exception):
            self.copy_back()

    def undo(self) -> None:
        """The model lives in the host's arrays again, and keeps none of the device's."""
        model = self.model
        hosts = {id(there): host for host, there in self.pairs.values()}
        model.on_device = False
        if is_on_device(model.store.values):
            model.store.live_in(hosts[id(model.store.values)])
        for p, value in self.values:
            if is_on_device(p.value):
                p.value = value
        if is_on_device(model.store.grads):
            model.store.live_in(grads=self.grads)
        for layer in model.layers_in_order():
            for name, array in layer.state.items():
                layer.state[name] = hosts.get(id(array), array)
        model.states = self.states
        if model.optimizer is not None:
            slots = model.optimizer.slots
            slots.update({name: hosts.get(id(slot), slot) for name, slot in slots.items()})
        self.pairs.clear()
        for thing in (*model.layers_in_order(), *as_losses(model.loss)):
            forget(thing)


def as_losses(loss: Any) -> list[Any]:
    return list(loss.losses) if isinstance(loss, SeveralLosses) else [loss]


def forget(thing: Any) -> None:
    """Drop what forward kept for backward: device arrays, which belong to a pass that is over."""
    for name, value in list(getattr(thing, "__dict__", {}).items()):
        if isinstance(value, ActivationFunction):
            forget(value)
        elif holds_device_array(value):
            setattr(thing, name, None)
        elif name == "calls":  # of a graph
            for call in value:
                forget(call)


def holds_device_array(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(holds_device_array, value))
    return is_on_device(value) or isinstance(value, devices.Later)
