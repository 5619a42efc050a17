"""The hooks of training, and the list that calls them.

on_train_begin
  on_epoch_begin
    on_train_batch_begin, on_train_batch_end        each step
    on_test_begin, on_test_end                      validation
  on_epoch_end
on_train_end
close                                               also after an error
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinydl.training.model import BaseModel

Logs = dict[str, Any]


class Callback:
    """Base of all callbacks: override the hooks that matter.

    ``logs`` holds what was measured: at the end of a step the means over the epoch so far, "learning_rate" and
    "batch_size"; at the end of an epoch what goes to ``History``.

    Attributes:
        model: the model in training; ``self.model.stop_training = True`` ends it after this step or epoch.
        params: "epochs", "steps" (an epoch; None where unknown), "verbose", "logs", the names of what
            ``on_epoch_end`` will be given, and "clock", which knows where the time of the epoch so far went.
    """

    model: BaseModel
    params: dict[str, Any]
    writes = False  # True: shows or writes something, which one of several processes must do alone

    def on_train_begin(self, logs: Logs | None = None) -> None: ...

    def on_train_end(self, logs: Logs | None = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called again for the epoch in the middle of which a stopped training is resumed."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_test_begin(self, logs: Logs | None = None) -> None: ...

    def on_test_end(self, logs: Logs | None = None) -> None: ...

    def close(self) -> None:
        """Release what was opened. Called once, however training ends."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know (numbers, text, lists, arrays); it becomes a part of checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called after ``on_train_begin`` with what ``state_dict`` gave when the checkpoint was written."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class LambdaCallback(Callback):
    """Hooks given as functions: ``LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs))``."""

    def __init__(self, **hooks: Callable) -> None:
        for name, function in hooks.items():
            if name not in HOOKS:
                raise TypeError(
                    f"LambdaCallback: unknown hook {name!r}: expected one of {', '.join(HOOKS)}"
                )
            setattr(self, name, function)


class CallbackList:
    """Calls each hook on all callbacks, in their order."""

    def __init__(
        self, callbacks: Iterable[Callback], model: BaseModel, params: dict[str, Any]
    ) -> None:
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks must be tinydl.callbacks.Callback objects, got {callback!r}"
                )
            callback.model = model
            callback.params = params
        # Hooks that nobody overrides cost nothing: this runs at every step.
        self._overriding = {
            hook: [c for c in self.callbacks if _overrides(c, hook)] for hook in HOOKS
        }

    @property
    def watches_steps(self) -> bool:
        return bool(self._overriding["on_train_batch_end"])

    def call(self, hook: str, *args: Any) -> None:
        for callback in self._overriding[hook]:
            getattr(callback, hook)(*args)

    def close(self) -> None:
        for callback in self.callbacks:
            callback.close()

    def state_dict(self) -> list[dict[str, Any]]:
        return [{"class": type(c).__name__, "state": c.state_dict()} for c in self.callbacks]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Give each state to the callback of its class: the first to the first of that class, and so on.

        A callback that was not there when the checkpoint was written starts afresh.
        """
        waiting = list(states)
        for callback in self.callbacks:
            for i, entry in enumerate(waiting):
                if entry["class"] == type(callback).__name__:
                    callback.load_state_dict(entry["state"])
                    del waiting[i]
                    break


def _overrides(callback: Callback, hook: str) -> bool:
    return hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook)
