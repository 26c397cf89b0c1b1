"""The one training loop, for both stages, all objectives, one process or several."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from pipeline.data.loader import Batch, Loader
from pipeline.data.seeds import sample_seed
from pipeline.data.splits import Split
from pipeline.errors import ConfigError, RunError
from pipeline.progress import progress_bar
from pipeline.randomness import derive_seeds
from pipeline.runs.checkpoints import load_weights
from pipeline.runs.directory import Run, open_run
from pipeline.training.config import NaturalConfig
from pipeline.training.distributed import launch, on_rank_zero, repeatable, share_buffers, synchronise_statistics
from pipeline.training.job import Job
from pipeline.training.logging import TrainingResult
from pipeline.training.objectives import objective_losses
from pipeline.training.optim import build_optimizer, learning_rate, moving_average, set_learning_rate
from pipeline.training.record import Recorder
from pipeline.training.state import Counters, TrainingState
from pipeline.training.validation import measure

MAX_NAMED_SAMPLES = 8


def train(job: Job) -> Path:
    """Train, or continue, until the last epoch; returns the path of the best checkpoint.

    The run directory ends with ``checkpoints/best.json`` and ``last.json``, ``metrics.csv``, ``curve.png``, ``run.json`` and
    ``result.json``. Killed at any moment and called again with ``resume``, a run on a CPU ends with the same weights to the bit.

    Raises ``RunError``: the directory cannot be used or written, or a loss is not finite. Raises ``KeyboardInterrupt`` with a
    message for the user.
    """
    fabric = launch(job.trainer)
    with ExitStack() as stack:
        stack.enter_context(repeatable(deterministic=job.trainer.deterministic, device=fabric.device))

        def open_directory() -> Run:
            return stack.enter_context(
                open_run(job.run, command=job.command, config=job.config, inputs=job.inputs, resume=job.resume)
            )

        run = on_rank_zero(fabric, open_directory)
        if run.finished:
            _say(fabric, f"{run.path}: the run is finished, so there is nothing to resume; its result is {run.result_path.name}")
            return run.best_path
        engine = Engine(job, fabric, run)
        try:
            engine.resume()
            engine.fit()
            engine.finish()
        except RunError as error:
            best = f"the last good checkpoint is {run.last_path}" if run.last_path.exists() else "no checkpoint was written yet"
            raise RunError(f"{error}; {best}") from error
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"interrupted at step {engine.state.counters.step}; resume with resume=true") from interrupt
        return run.best_path


class Engine:
    """The loop of ``train``. ``state`` is all that steps change, and all that is saved."""

    def __init__(self, job: Job, fabric: Fabric, run: Run) -> None:
        self._job, self._fabric, self._run, self._config = job, fabric, run, job.trainer
        self._layout = torch.channels_last if job.trainer.channels_last else torch.contiguous_format
        stage = job.bind(job.module)
        _place(synchronise_statistics(stage.network, fabric), fabric, self._layout)
        optimizer = build_optimizer(stage.module, job.trainer)
        wrapper, self._optimizer = fabric.setup(stage.network, optimizer)
        self._stage = replace(stage, wrapper=wrapper)
        average = None if job.trainer.ema_decay is None else moving_average(stage.module, decay=job.trainer.ema_decay)
        self._measured = self._stage if average is None else job.bind(average.module)
        _place(self._measured.network, fabric, self._layout)
        self.state = TrainingState(module=stage.module, optimizer=optimizer, average=average, counters=Counters())
        self._recorder: Recorder | None = None
        self._train_loader, self._val_loader = self._loader("train"), self._loader("val")
        if fabric.world_size > 1 and self._train_loader.num_samples < job.trainer.batch_size:
            raise ConfigError(f"trainer.batch_size: larger than the train split ({self._train_loader.num_samples} images)")
        self._selector = stage.score_name if isinstance(job.objective, NaturalConfig) else f"robust_{stage.score_name}"
        self._began = time.monotonic()

    def resume(self) -> None:
        """Take up the saved state, if there is one, and the logs where it left them."""
        if self._run.state_path.exists():
            self.state.restore(self._run.state_path)
        counters = self.state.counters
        if self._run.resumed:
            _say(
                self._fabric,
                f"{self._run.path}: resumed at step {counters.step}, {counters.epoch} of {self._config.epochs} epochs done",
            )
        elif self._job.resume:
            _say(self._fabric, f"{self._run.path}: holds no run, so a new one begins")
        self._began = time.monotonic() - counters.seconds
        if self._fabric.is_global_zero:
            self._recorder = Recorder(self._job, self._run, self.state)

    def fit(self) -> None:
        """Epochs until the last one, or until patience has run out."""
        counters, config = self.state.counters, self._config
        while counters.epoch < config.epochs and (config.patience is None or counters.epochs_without_gain < config.patience):
            with self._progress() as advance:
                for batch in self._train_loader.epoch(counters.epoch, counters.batch):
                    self._step(batch.to(self._fabric.device))
                    advance()
                    if counters.step % config.checkpoint_every == 0:
                        self._save_state()
            self._end_epoch()

    def finish(self) -> None:
        """Measure the best checkpoint on the validation and test images, and say how it went."""
        counters = self.state.counters
        self._fabric.barrier()
        load_weights(self._run.best_path, self._measured.module, kind=self._job.kind, classes=self._job.dataset.classes)
        assert counters.best_value is not None
        result = TrainingResult(
            checkpoint=str(self._run.best_path.relative_to(self._run.path)),
            epoch=counters.best_epoch,
            selected_by=f"val_{self._selector}",
            selected_value=counters.best_value,
            val=self._measure(self._val_loader),
            test=self._measure(self._loader("test")) if self._job.has_test_split() else None,
            epochs=counters.epoch,
            steps=counters.step,
            seconds=round(time.monotonic() - self._began, 1),
        )
        if self._recorder is not None:
            self._recorder.finish(result)
            self._recorder.close()
            _summarize(result, self._stage.score_name, self._run.best_path)

    def _step(self, batch: Batch) -> None:
        counters = self.state.counters
        batch = replace(batch, images=batch.images.contiguous(memory_format=self._layout))
        # For layers that draw, such as dropout: they know no other generator than the global one.
        torch.manual_seed(sample_seed(self._config.seed, counters.step, self._fabric.global_rank))
        self._stage.network.train()
        seeds = derive_seeds(batch.seeds, self._config.seed, counters.epoch)
        losses = objective_losses(self._job.objective, self._stage, batch, seeds=seeds)
        self._optimizer.zero_grad()
        self._fabric.backward(losses.mean())
        loss_sum = self._checked_sum(batch, losses.detach(), self._clipped_norm())
        set_learning_rate(self.state.optimizer, self._learning_rate(counters.step))
        self._optimizer.step()
        if self.state.average is not None:
            self.state.average.update_parameters(self.state.module)
        counters.loss_sum += loss_sum
        counters.num_images += len(batch) * self._fabric.world_size
        counters.batch += 1
        counters.step += 1

    def _clipped_norm(self) -> Tensor:
        """Clip the gradient and return the norm that it had."""
        if self._config.clip_norm is not None:
            return nn.utils.clip_grad_norm_(self.state.module.parameters(), self._config.clip_norm)
        return nn.utils.get_total_norm(
            [parameter.grad for parameter in self.state.module.parameters() if parameter.grad is not None]
        )

    def _checked_sum(self, batch: Batch, losses: Tensor, norm: Tensor) -> float:
        """The sum of the losses over all processes. Raises RunError, in all of them, if a loss or the gradient is not finite.

        It comes before the optimizer's step, so no weight that is not finite is ever saved.
        """
        sound = losses.isfinite().all() & norm.isfinite()
        both: Any = self._fabric.all_reduce(torch.stack([sound.float(), losses.sum()]), reduce_op="sum")
        num_sound, loss_sum = both.tolist()
        if num_sound == self._fabric.world_size:
            return float(loss_sum)
        bad = ~losses.isfinite()
        what = f"the loss of {int(bad.sum())} of {len(bad)} images is not finite" if bad.any() else "the gradient is not finite"
        rows = batch.indices[bad | ~bad.any()].tolist()
        ids = ", ".join(self._job.dataset.samples["sample_id"][row] for row in rows[:MAX_NAMED_SAMPLES])
        more = f" and {len(rows) - MAX_NAMED_SAMPLES} more" if len(rows) > MAX_NAMED_SAMPLES else ""
        raise RunError(f"{self._run.path}: step {self.state.counters.step}: {what} (samples {ids}{more}); try a lower trainer.lr")

    def _end_epoch(self) -> None:
        counters = self.state.counters
        train_loss = counters.loss_sum / counters.num_images
        measured = self._measure(self._val_loader, attacked=True)
        counters.epoch, counters.batch, counters.loss_sum, counters.num_images = counters.epoch + 1, 0, 0.0, 0
        counters.seconds = time.monotonic() - self._began
        better = counters.best_value is None or measured[self._selector] > counters.best_value
        if better:
            counters.best_value, counters.best_epoch = measured[self._selector], counters.epoch
        counters.epochs_without_gain = 0 if better else counters.epochs_without_gain + 1
        row = {"epoch": counters.epoch, "step": counters.step, "learning_rate": self._learning_rate(counters.step - 1)}
        row |= {"train_loss": train_loss} | {f"val_{name}": value for name, value in measured.items()}
        if self._recorder is not None:
            row |= {"seconds": round(counters.seconds, 1)}
            self._recorder.end_epoch(row, self._measured.module.state_dict(), better=better)
        self._fabric.barrier()
        shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name.endswith(("loss", self._stage.score_name)))
        note = " (best so far)" if better else ""
        _say(self._fabric, f"epoch {counters.epoch}/{self._config.epochs}: {shown}, {counters.seconds:.0f} s{note}")

    def _measure(self, loader: Loader, *, attacked: bool = False) -> dict[str, float]:
        share_buffers(self._measured.module, self._fabric)
        objective, batch_size = self._job.objective, self._config.eval_batch_size
        try:
            if isinstance(objective, NaturalConfig) or not attacked:
                return measure(self._measured, loader, self._fabric, batch_size=batch_size)
            attack, most = objective.validation.attack or objective.attack, objective.validation.max_images
            return measure(self._measured, loader, self._fabric, batch_size=batch_size, attack=attack, max_attacked=most)
        except FloatingPointError as error:
            raise RunError(f"{self._run.path}: validation after step {self.state.counters.step}: {error}") from error

    def _save_state(self) -> None:
        self.state.counters.seconds = time.monotonic() - self._began
        if self._recorder is not None:
            self._recorder.save_state()

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self._config, step, steps_per_epoch=len(self._train_loader))

    def _loader(self, split: Split) -> Loader:
        trains = split == "train"
        return Loader(
            self._job.dataset,
            split,
            batch_size=self._config.batch_size if trains else self._config.eval_batch_size,
            seed=self._config.seed,
            augment=self._job.augment if trains else None,
            shuffle=True,  # also for measuring: the first images are then a fair choice
            drop_last=trains,
            num_workers=self._config.num_workers if trains else 0,
            rank=self._fabric.global_rank,
            world_size=self._fabric.world_size,
        )

    @contextmanager
    def _progress(self) -> Iterator[Callable[[], None]]:
        if not self._fabric.is_global_zero:
            yield lambda: None
            return
        counters = self.state.counters
        left = len(self._train_loader) - counters.batch
        with progress_bar(f"epoch {counters.epoch + 1}/{self._config.epochs}", total=left, unit="steps") as advance:
            yield advance


def _place(network: nn.Module, fabric: Fabric, layout: torch.memory_format) -> None:
    network.to(device=fabric.device)
    network.to(memory_format=layout)


def _say(fabric: Fabric, line: str) -> None:
    if fabric.is_global_zero:
        print(line, file=sys.stderr, flush=True)


def _summarize(result: TrainingResult, score: str, path: Path) -> None:
    splits = {"val": result.val, "test": result.test}
    measured = ", ".join(f"{split} {score} {scores[score]:.4f}" for split, scores in splits.items() if scores is not None)
    print(f"{measured}: epoch {result.epoch} of {result.epochs}, best by {result.selected_by}, {result.seconds:.0f} s")
    print(path)
