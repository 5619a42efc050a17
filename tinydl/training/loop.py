"""The training loop: what ``fit`` does once model, data and callbacks are ready."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from tinydl import devices
from tinydl.distributed.strategy import COUNT, SAMPLES, STOP, TOTAL, Share, SingleProcess, Sums
from tinydl.training.batches import Batch, Source, count_samples
from tinydl.training.callbacks.base import Callback, CallbackList
from tinydl.training.callbacks.checkpoint import Checkpoint
from tinydl.training.class_weights import ClassWeights
from tinydl.training.clock import Clock
from tinydl.training.diagnosis import NonFiniteLossError, find_origin
from tinydl.training.evaluation import evaluate
from tinydl.training.history import History
from tinydl.training.interrupt import InterruptGuard
from tinydl.training.statistics import batch_norms, renew_statistics
from tinydl.training.steps import (
    as_inputs,
    backward,
    compute_loss,
    forward,
    measure_later,
    regularization,
)
from tinydl.training.tracking import Tracker

if TYPE_CHECKING:
    from tinydl.training.checkpoints import SavedTraining
    from tinydl.training.model import BaseModel


class TrainingLoop:
    """One call of ``fit``.

    Its position, (``epoch``, ``step``), names the step to be done next. At any moment between two steps the
    position, the model, the optimizer, the tracker, the history and the callbacks' states are all that the rest of
    the training depends on; this is what a checkpoint holds.

    Attributes:
        epoch, step: position: number of the epoch, and of steps done in it.
        total_steps: steps done since training began, in all epochs.
        tracker: loss and metrics over the epoch so far.
        learning_rate: used in the last step.
        seed, order_epoch: what the order of the samples was made with; kept for checkpoints.
    """

    def __init__(
        self,
        model: BaseModel,
        source: Source,
        *,
        epochs: int,
        initial_epoch: int = 0,
        validation: Source | None = None,
        class_weights: ClassWeights | None = None,
        callbacks: list[Callback] | None = None,
        checkpoint: Checkpoint | None = None,
        seed: int = 0,
        order_epoch: int = 0,
        verbose: int = 0,
        strategy: SingleProcess | None = None,
        accumulate_steps: int = 1,
    ) -> None:
        self.model = model
        self.strategy = strategy or SingleProcess()
        self.accumulate_steps = accumulate_steps
        self.clock = Clock(self.strategy)
        self.source = source
        self.epochs = epochs
        self.validation = validation
        self.class_weights = class_weights
        self.checkpoint = checkpoint
        self.seed = seed
        self.order_epoch = order_epoch
        self.learning_rate = math.nan
        self.epoch = initial_epoch
        self.step = 0
        self.total_steps = 0
        self.tracker = Tracker(model)
        self.history = History()
        self.interrupt = InterruptGuard()
        self.told_to_stop = False  # by Ctrl-C in any of the processes, as of the last step
        self.callbacks = CallbackList(
            [c for c in callbacks or [] if self.strategy.world.rank == 0 or not c.writes],
            model,
            {
                "epochs": epochs,
                "steps": source.steps,
                "verbose": verbose,
                "logs": self.log_names(),
                "clock": self.clock,
            },
        )

    def log_names(self) -> list[str]:
        """What the logs of an epoch will hold."""
        names = self.tracker.names
        validated = [f"val_{name}" for name in names] if self.validation else []
        return [*names, *validated, "learning_rate"]

    def run(self, resume_from: SavedTraining | None = None) -> History:
        """Train until the last epoch, or until somebody stops it."""
        model = self.model
        model.stop_training = False
        model.set_needs_input_grad(False)  # nobody reads dL/dx of the first layer
        try:
            # Idle threads of NumPy's BLAS would take the processor away from our kernels.
            with self.interrupt, threadpool_limits(limits=1, user_api="blas"):
                self.callbacks.call("on_train_begin")
                if resume_from is not None:
                    resume_from.restore(self)
                model.optimizer.to_training_weights()
                self.strategy.attach(model, self.seed)
                if resume_from is not None:
                    self.strategy.load_training_state(resume_from.state)
                while self.epoch < self.epochs and not self.stopped:
                    self.run_epoch()
                self.history.interrupted = self.interrupted
                if self.checkpoint is not None:
                    self.checkpoint.save(self)
                self.strategy.finish()
                model.optimizer.to_evaluation_weights()
                self.callbacks.call("on_train_end")
        finally:
            model.optimizer.to_evaluation_weights()
            self.strategy.detach()
            self.callbacks.close()
            model.set_needs_input_grad(True)
        return self.history

    @property
    def stopped(self) -> bool:
        """A callback said so (``model.stop_training``), or Ctrl-C did."""
        return self.model.stop_training or self.interrupted

    @property
    def interrupted(self) -> bool:
        """Ctrl-C: known at once where there is one process, among several with the sums of the next step."""
        alone = self.strategy.world.size == 1
        return self.interrupt.requested if alone else self.told_to_stop

    def run_epoch(self) -> None:
        """The steps of an epoch from ``self.step`` on, validation, and the epoch's end."""
        self.callbacks.call("on_epoch_begin", self.epoch)
        self.model.optimizer.epoch = self.epoch + 1
        if self.step == 0:
            self.tracker.reset()
        self.clock.restart()
        with closing(self.batches()) as batches:
            for x, y, sample_weight in self.clock.waiting_for_data(batches):
                self.run_step(x, y, sample_weight)
                if self.stopped:
                    break
        if self.model.stop_training and not self.interrupted and self.step != self.source.steps:
            self.strategy.leave_epoch()
        if self.step == 0:
            raise ValueError(
                f"the data gave no batch in epoch {self.epoch + 1} (was it an iterator, read to its end?)"
            )
        if self.interrupted:
            return  # the epoch is not over: it goes on here when training is resumed

        self.synchronize()
        self.model.optimizer.to_evaluation_weights()
        self.renew_statistics()
        logs = self.tracker.results()
        if self.validation is not None:
            measured = self.validate(self.validation)
            if measured is None:
                self.model.optimizer.to_training_weights()
                return
            logs.update(measured)
        logs["learning_rate"] = self.learning_rate
        self.end_epoch(logs)

    def batches(self) -> Generator[Batch, None, None]:
        """The rest of the epoch's; for a device, the next one copied there while one is computed on."""
        with closing(self.source.batches(self.epoch, self.step)) as batches:
            yield from devices.ahead(batches) if self.model.on_device else batches

    def synchronize(self) -> None:
        """Every process gets the same model, and the same measurements so far."""
        sums = self.strategy.synchronize()
        if sums is not None:
            self.tracker.add(sums[TOTAL:])

    def renew_statistics(self) -> None:
        """See ``tinydl.training.statistics``. Not where data can be read only once; and not where the result must not
        depend on the number of processes, since each would see its own part of the batches."""
        again = not getattr(self.source, "read_once", False)
        split = getattr(self.strategy, "deterministic", False)
        if (
            self.model.optimizer.renews_statistics
            and again
            and not split
            and batch_norms(self.model)
        ):
            with closing(self.source.batches(self.epoch, 0)) as batches:
                renew_statistics(self.model, (x for x, *_ in batches))
            self.strategy.synchronize()

    def end_epoch(self, logs: dict[str, Any]) -> None:
        ended, self.epoch, self.step = self.epoch, self.epoch + 1, 0
        self.model.epochs_trained += 1
        self.history.append(ended, logs)
        self.callbacks.call("on_epoch_end", ended, logs)
        self.model.stop_training = self.strategy.anywhere(self.model.stop_training)
        self.model.optimizer.to_training_weights()
        if self.checkpoint is not None:
            self.checkpoint.after_epoch(self)

    def run_step(self, x: Any, y: Any, sample_weight: Any) -> None:
        """One step with its callbacks and its place in the epoch."""
        self.callbacks.call("on_train_batch_begin", self.step)
        if self.class_weights is not None:
            sample_weight = self.class_weights(y, sample_weight)
        self.train_step(as_inputs(self.model, x), y, sample_weight)
        self.step += 1
        self.total_steps += 1
        if self.callbacks.watches_steps:
            logs = {
                **self.tracker.results(),
                "learning_rate": self.learning_rate,
                "batch_size": self.samples,
            }
            self.callbacks.call("on_train_batch_end", self.step - 1, logs)
        if self.checkpoint is not None:
            self.checkpoint.after_step(self)

    def train_step(self, x: Any, y: Any, sample_weight: Any) -> None:
        """Gradients of the step's batch, then the update."""
        model = self.model
        self.before = model.snapshot()
        penalty = regularization(model)
        try:
            sums = self.strategy.gradients(
                self.compute_gradients,
                (x, y, sample_weight),
                self.total_steps,
                self.accumulate_steps,
            )
            # All gradients are final here: those of the mean over the batch, of all processes together.
            sums[TOTAL] += float(devices.now(penalty)) * sums[COUNT]
            loss = float(sums[TOTAL] / max(sums[COUNT], 1))
            self.learning_rate = self.strategy.update(loss)
        except FloatingPointError:  # loss or gradient is not finite: no parameter was changed
            model.restore(self.before)
            raise
        if not math.isfinite(loss):
            # The optimizer guards against such a batch; running means must not remember it.
            model.restore(self.before)
        sums = self.strategy.after_update(self.total_steps + 1, sums)
        if math.isfinite(sums[TOTAL]):
            self.tracker.add(sums[TOTAL:])
        self.samples = int(sums[SAMPLES])
        self.told_to_stop = bool(sums[STOP])

    def compute_gradients(self, batch: Any, share: Share) -> Sums:
        """Forward, loss, backward: see ``tinydl.distributed.strategy`` for ``share`` and what is returned."""
        model = self.model
        x, y, sample_weight = batch
        samples = count_samples(x)
        predictions, mask = forward(model, x, training=True)
        if model.on_device:
            read = measure_later(model, self.tracker, predictions, y, sample_weight, mask)
            if self.accumulate_steps == 1 and self.strategy.world.size == 1:
                return self.compute_backward_first(x, share, read)
            measured = read()
            loss = measured[0] / max(measured[1], 1)
        else:
            loss = compute_loss(model, predictions, y, sample_weight, mask)
            measured = self.tracker.measure(loss, model.loss.count, predictions, y, mask)
        sums = np.concatenate([[samples, self.interrupt.requested], measured])
        share(sums)
        finite = math.isfinite(sums[TOTAL])
        if not finite and not model.optimizer.guards:
            self.refuse(loss, float(sums[TOTAL]), x)
        if finite:
            backward(model, float(sums[COUNT]))
        return sums

    def compute_backward_first(self, x: Any, share: Share, read: Callable[[], Sums]) -> Sums:
        """The second half of ``compute_gradients`` on a device: its orders go on while the loss is waited for.

        Gradients of a loss that turns out not to be finite are wrong, too, and nobody uses them.
        """
        model = self.model
        known = np.array([count_samples(x), self.interrupt.requested, 0.0, model.loss.count])
        share(known)
        backward(model, float(known[COUNT]))
        sums = np.concatenate([known[:TOTAL], read()])
        loss = float(sums[TOTAL])
        if not math.isfinite(loss) and not model.optimizer.guards:
            self.refuse(loss, loss, x)
        return sums

    def refuse(self, own: float, loss: float, x: Any) -> None:
        """Stop before a loss that is no number spoils the weights, and say where it came from.

        ``own`` is that of this process's part of the batch, ``loss`` that of all processes.
        """
        origin, description = (
            "elsewhere",
            "not in this process's part of the batch, but in another's",
        )
        if not math.isfinite(own):
            self.model.restore(self.before)  # the same dropout again
            origin, description = find_origin(self.model, x)
        raise NonFiniteLossError(
            f"the loss became {loss} in epoch {self.epoch + 1}, step {self.step + 1}: {description}. "
            "The weights are those from before this step; a smaller learning rate or clipping the gradient "
            "(global_clipnorm) often helps",
            origin,
            self.epoch,
            self.step,
        )

    def validate(self, validation: Source) -> dict[str, Any] | None:
        """Loss and metrics on the validation data; None if Ctrl-C came before the end."""
        self.callbacks.call("on_test_begin")
        measured = evaluate(self.model, validation, lambda: self.interrupted, self.strategy.add_up)
        self.callbacks.call("on_test_end", measured)
        if measured is None:
            return None
        return {f"val_{name}": value for name, value in measured.items()}

    # ---- what a checkpoint holds of the loop --------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "total_steps": self.total_steps,
            "learning_rate": self.learning_rate,
            "steps_per_epoch": self.source.steps,
            "tracker": self.tracker.state_dict() if self.step else None,
            "history": self.history.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            "stop_training": self.model.stop_training,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["step"] and state["steps_per_epoch"] != self.source.steps:
            raise ValueError(
                f"the checkpoint stands in the middle of an epoch of {state['steps_per_epoch']} steps, this "
                f"training has {self.source.steps}: resume with the same data and batch_size"
            )
        self.epoch = state["epoch"]
        self.step = state["step"]
        self.total_steps = state["total_steps"]
        self.learning_rate = state["learning_rate"]
        if self.step:
            self.tracker.load_state_dict(state["tracker"])
        self.history.load_state_dict(state["history"])
        self.callbacks.load_state_dict(state["callbacks"])
        self.model.stop_training = state["stop_training"]
