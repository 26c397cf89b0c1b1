"""The one training loop, for both stages, all objectives, one process or several."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from pipeline.attacks.acceleration import FollowingCopies
from pipeline.data.loader import Batch, Loader
from pipeline.data.seeds import sample_seed
from pipeline.errors import RunError
from pipeline.interrupts import Interrupted, held_back, interruption, let_through, signals_handled, told, unbroken
from pipeline.progress import progress_bar
from pipeline.randomness import derive_seeds
from pipeline.runs.directory import Run
from pipeline.training.distributed import (
    agreed_interruption,
    determinism,
    launch,
    on_rank_zero,
    share_buffers,
    synchronize_statistics,
)
from pipeline.training.layout import memory_layout
from pipeline.training.loaders import check_batches, split_loader
from pipeline.training.logging import RunLog
from pipeline.training.optim import build_optimizer, clipped_norm, learning_rate, moving_average, set_learning_rate
from pipeline.training.result import EndedBy, TrainingResult
from pipeline.training.state import Counters, TrainingState
from pipeline.training.tasks import Training
from pipeline.training.validation import measure


def train(training: Training) -> Path:
    """Train, or continue, until the last epoch; returns the path of the best checkpoint.

    The run directory ends with ``checkpoints/best.json`` and ``last.json``, ``metrics.csv``, ``curve.png``, ``run.json`` and
    ``result.json``. Killed at any moment and called again with ``resume``, a run on a CPU ends with the same weights to the bit.

    Raises ``ConfigError`` before there is a directory: the processes, the batch or the data do not fit. Raises ``RunError``: the
    directory cannot be used or written, or a loss is not finite. Raises ``Interrupted`` with a message for the user.
    """
    fabric = launch(training.trainer)
    with ExitStack() as stack:
        stack.enter_context(signals_handled())
        stack.enter_context(determinism(enforced=training.trainer.deterministic, device=fabric.device))
        trainer = Trainer(training, fabric)
        run = on_rank_zero(fabric, lambda: stack.enter_context(training.opened()))
        if run.finished:
            _say(fabric, f"{run.path}: the run is finished, so there is nothing to resume; its result is {run.result_path.name}")
            return training.checkpoint_path(run.path, "best")
        try:
            trainer.train(run)
        except Interrupted:
            trainer.interrupt()
            raise
        except RunError as error:
            last = training.checkpoint_path(run.path, "last")
            best = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
            raise RunError(f"{error}; {best}") from error
        return training.checkpoint_path(run.path, "best")


class Trainer:
    """A training in one process. ``state`` is all that steps change, and all that is saved."""

    def __init__(self, training: Training, fabric: Fabric) -> None:
        self._training, self._fabric, self._config = training, fabric, training.trainer
        self._train_loader, self._val_loader = (split_loader(training, fabric, split) for split in ("train", "val"))
        check_batches(training, fabric, self._train_loader)
        stage = training.bind(training.module)
        self._layout = memory_layout(stage.network, channels_last=self._config.channels_last, device=fabric.device)
        _place(synchronize_statistics(stage.network, fabric), fabric, self._layout)
        optimizer = build_optimizer(stage.module, training.trainer)
        wrapper, self._optimizer = fabric.setup(stage.network, optimizer)
        copies = FollowingCopies(stage.network) if training.trainer.attack_precision == "bfloat16" else None
        self._stage = replace(stage, wrapper=wrapper, copies=copies)
        decay = training.trainer.ema_decay
        average = None if decay is None else moving_average(stage.module, decay=decay)
        self._measured = self._stage if average is None else training.bind(average.module)
        _place(self._measured.network, fabric, self._layout)
        self.state = TrainingState(module=stage.module, optimizer=optimizer, average=average, counters=Counters())
        robust = training.objective.validation_attack() is not None
        self._selector = f"robust_{stage.score_name}" if robust else stage.score_name
        self._began = time.monotonic()

    def train(self, run: Run) -> None:
        """The loop: epochs of steps until the last one, or until patience has run out. A signal is heard after a step."""
        self._begin(run)
        counters, config = self.state.counters, self._config
        with held_back(), told(self._where):
            while self._ended_by() is None:
                with self._progress() as advance:
                    for batch in self._batches():
                        signal = self._step(batch.to(self._fabric.device))
                        advance()
                        if signal or counters.step % config.checkpoint_every == 0:
                            self._save_state()
                        if signal:
                            raise self._interrupted(signal)
                self._end_epoch()
            self._finish()

    def interrupt(self) -> None:
        """Wait for nothing on the way out."""
        self._train_loader.interrupt()

    def _begin(self, run: Run) -> None:
        """Take up the saved state, if there is one, and the logs where it left them."""
        self._run = run
        if run.state_path.exists():
            self.state.restore(run.state_path)
        counters = self.state.counters
        if run.resumed:
            done = f"{counters.epoch} of {self._config.epochs} epochs done"
            _say(self._fabric, f"{run.path}: resumed at step {counters.step}, {done}")
        elif self._training.resume:
            _say(self._fabric, f"{run.path}: holds no run, so a new one begins")
        self._began = time.monotonic() - counters.seconds

        def open_log() -> None:
            self._log = RunLog(self._training, run, self.state)

        on_rank_zero(self._fabric, open_log)

    def _batches(self) -> Iterator[Batch]:
        """What is left of the epoch. A signal that comes while the next batch is waited for does not wait for it."""
        batches = self._train_loader.epoch(self.state.counters.epoch, self.state.counters.batch)
        while True:
            with self._interruptible():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _step(self, batch: Batch) -> Signals | None:
        """One step of the optimizer. Returns the signal that has arrived in one of the processes, if there is one."""
        counters = self.state.counters
        batch = replace(batch, images=batch.images.contiguous(memory_format=self._layout))
        # For layers that draw, such as dropout: they know no other generator than the global one.
        torch.manual_seed(sample_seed(self._config.seed, counters.step, self._fabric.global_rank))
        self._stage.network.train()
        seeds = derive_seeds(batch.seeds, self._config.seed, counters.epoch)
        with unbroken():
            self.state.begin_step(moves_weights=self._training.objective.moves_weights)
        with self._training.objective.losses_in_step(self._stage, batch, seeds) as losses:
            self._optimizer.zero_grad()
            self._fabric.backward(losses.mean())
        for parameter in self._training.resting(self._stage.module, counters.step):
            parameter.grad = None
        loss_sum, interrupted = self._checked_sum(batch, losses.detach(), clipped_norm(self.state.module, self._config.clip_norm))
        with unbroken():
            set_learning_rate(self.state.optimizer, self._learning_rate(counters.step))
            self._optimizer.step()
            if self.state.average is not None:
                self.state.average.update_parameters(self.state.module)
            counters.loss_sum += loss_sum
            counters.num_images += len(batch) * self._fabric.world_size
            counters.batch += 1
            counters.step += 1
            self.state.before_step = {}
        return agreed_interruption(self._fabric) if interrupted else None

    def _checked_sum(self, batch: Batch, losses: Tensor, norm: Tensor) -> tuple[float, bool]:
        """The sum of the losses over all processes, and whether one of them was interrupted.

        Raises RunError, in all of them, if a loss or the gradient is not finite. It comes before the optimizer's step, so no weight
        that is not finite is ever saved.
        """
        sound = losses.isfinite().all() & norm.isfinite()
        interrupted = sound.new_tensor(interruption() is not None)
        sums: Any = self._fabric.all_reduce(torch.stack([sound.float(), losses.sum(), interrupted.float()]), reduce_op="sum")
        num_sound, loss_sum, num_interrupted = sums.tolist()
        if num_sound == self._fabric.world_size:
            return loss_sum, num_interrupted > 0
        bad = ~losses.isfinite()
        what = f"the loss of {int(bad.sum())} of {len(bad)} images is not finite" if bad.any() else "the gradient is not finite"
        samples = self._training.named(batch.indices[bad | ~bad.any()].tolist())
        raise RunError(f"{self._run.path}: step {self.state.counters.step}: {what} ({samples}); try a lower trainer.lr")

    def _end_epoch(self) -> None:
        """Validate, and record the epoch. A signal that comes meanwhile leaves the validation to the resumed run."""
        with self._interruptible():
            measured = self._measure(self._val_loader, attacked=True)
        counters = self.state.counters
        with unbroken(), self.state.counted_if_written():
            counters.seconds = time.monotonic() - self._began
            better = counters.end_epoch(measured, selector=self._selector, learning_rate=self._learning_rate(counters.step - 1))
            on_rank_zero(self._fabric, lambda: self._log.end_epoch(self._measured.module, better=better))
        row = counters.history[-1].items()
        shown = ", ".join(f"{name} {value:.4g}" for name, value in row if name.endswith(("loss", self._stage.score_name)))
        note = f"{counters.time_left(self._config.epochs)}{' (best so far)' if better else ''}"
        _say(self._fabric, f"epoch {counters.epoch}/{self._config.epochs}: {shown}, {counters.seconds:.0f} s{note}")
        if self._ended_by() == "guard":
            _say(self._fabric, f"the robust {self._stage.score_name} has collapsed: training ends, and the best epoch is kept")

    def _ended_by(self) -> EndedBy | None:
        """Why no further epoch follows; None: one does."""
        counters, patience = self.state.counters, self._config.patience
        if counters.epoch >= self._config.epochs:
            return "epochs"
        if self._training.objective.collapsed([row[f"val_{self._selector}"] for row in counters.history]):
            return "guard"
        return "patience" if patience is not None and counters.epochs_without_gain >= patience else None

    def _finish(self) -> None:
        """Measure the best checkpoint on the validation and test images, and say how it went."""
        counters, run, ended_by = self.state.counters, self._run, self._ended_by()
        assert ended_by is not None
        if (signal := agreed_interruption(self._fabric)) is not None:
            raise self._interrupted(signal)
        self._training.load_best(run.path, self._measured.module)
        best = self._training.checkpoint_path(run.path, "best")
        with self._interruptible(saving=False):  # the best weights have taken the place of the last ones
            val = self._measure(self._val_loader)
            test = self._measure(split_loader(self._training, self._fabric, "test")) if self._training.has_test_split() else None
        assert counters.best_value is not None
        result = TrainingResult(
            checkpoint=str(best.relative_to(run.path)),
            epoch=counters.best_epoch,
            selected_by=f"val_{self._selector}",
            selected_value=counters.best_value,
            val=val,
            test=test,
            epochs=counters.epoch,
            ended_by=ended_by,
            steps=counters.step,
            seconds=round(time.monotonic() - self._began, 1),
        )
        on_rank_zero(self._fabric, lambda: self._log.finish(result))
        if self._fabric.is_global_zero:
            print(result.in_words(self._stage.score_name), best, sep="\n")

    def _measure(self, loader: Loader, *, attacked: bool = False) -> dict[str, float]:
        share_buffers(self._measured.module, self._fabric)
        attack = self._training.objective.validation_attack() if attacked else None
        try:
            return measure(self._measured, loader, self._fabric, batch_size=self._config.eval_batch_size, attack=attack)
        except FloatingPointError as error:
            where = f"{self._run.path}: validation after step {self.state.counters.step}"
            raise RunError(f"{where}: {error}; try a lower trainer.lr") from error

    def _save_state(self) -> None:
        self.state.counters.seconds = time.monotonic() - self._began
        with unbroken():
            on_rank_zero(self._fabric, lambda: self._log.save_state())

    def _where(self) -> str | None:
        """Where the run goes on, which is saved by then: a step that is given up is left out, with what it has moved already."""
        if not self._fabric.is_global_zero:
            return None
        step = self.state.counters.step
        if self.state.saved_step != step:
            self._log.save_state()
        return f"at step {step}, which is saved; the same command with resume=true continues there"

    @contextmanager
    def _interruptible(self, *, saving: bool = True) -> Iterator[None]:
        """Where nothing is lost by stopping at once, once the state is saved. Of several processes the others would wait."""
        try:
            with let_through() if self._fabric.world_size == 1 else nullcontext():
                yield
        except Interrupted as error:
            if saving:
                self._save_state()
            raise self._interrupted(error.number) from error

    def _interrupted(self, signal: Signals) -> BaseException:
        """What the first process says; the others end in silence, for one of them would be taken for a failure."""
        return Interrupted(signal, self._where() or "") if self._fabric.is_global_zero else SystemExit(0)

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self._config, step, steps_per_epoch=len(self._train_loader))

    def _progress(self) -> AbstractContextManager[Callable[[], None]]:
        counters, left = self.state.counters, len(self._train_loader) - self.state.counters.batch
        bar = progress_bar(f"epoch {counters.epoch + 1}/{self._config.epochs}", total=left, unit="steps")
        return bar if self._fabric.is_global_zero else nullcontext(lambda: None)


def _place(network: nn.Module, fabric: Fabric, layout: torch.memory_format) -> None:
    network.to(device=fabric.device).to(memory_format=layout)


def _say(fabric: Fabric, line: str) -> None:
    if fabric.is_global_zero:
        print(line, file=sys.stderr, flush=True)
