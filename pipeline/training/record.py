"""What a training leaves behind: state, checkpoints, metrics, curve, result. The first process alone writes."""

from collections.abc import Mapping

from torch import Tensor

from pipeline.runs.checkpoints import save_checkpoint
from pipeline.runs.directory import Run
from pipeline.training.curves import draw_curve
from pipeline.training.job import Job, describe
from pipeline.training.logging import MetricsCsv, TrainingResult, open_trackers
from pipeline.training.state import TrainingState


class Recorder:
    """Writes into a run directory. Every method raises ``RunError`` where that fails, with what was there before intact."""

    def __init__(self, job: Job, run: Run, state: TrainingState) -> None:
        """Take up the logs where the state left them."""
        self._job, self._run, self._state = job, run, state
        self._csv = MetricsCsv(run.metrics_path, num_bytes=state.counters.csv_bytes)
        self._trackers = open_trackers(
            job.trainer.trackers, run.path, run_id=run.run_id, about=describe(job), step=state.counters.step
        )

    def save_state(self) -> None:
        """What a resume continues from."""
        self._state.save(self._run.state_path)

    def end_epoch(self, row: Mapping[str, float], weights: Mapping[str, Tensor], *, better: bool) -> None:
        """Checkpoints, a line of the table, and last the state: until that is written, a resume repeats all of it alike."""
        counters = self._state.counters
        metrics = {name: value for name, value in row.items() if name.startswith("val_")}
        checkpoint = self._job.checkpoint(step=counters.step, epoch=counters.epoch, metrics=metrics)
        for name in ("best", "last") if better else ("last",):
            save_checkpoint(self._run.checkpoints, name, checkpoint, weights)
        self._csv.append(row)
        counters.csv_bytes = self._csv.num_bytes
        self.save_state()
        for tracker in self._trackers:
            tracker.log({name: value for name, value in row.items() if name not in ("epoch", "step")}, step=counters.step)

    def finish(self, result: TrainingResult) -> None:
        """The curve, and last the result, which makes the run a finished one."""
        draw_curve(self._run.metrics_path, self._run.curve_path, best_epoch=self._state.counters.best_epoch)
        result.write(self._run.result_path)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.close()
