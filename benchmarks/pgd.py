"""Our PGD on the attacked copy of a two-stage system against its floor, a hand-written loop and four libraries.

    python benchmarks/pgd.py --steps 20 --rounds 9

Every side attacks the same batches from the same start (the image) with the same steps. It runs in a process of its own, because
the C library's allocator and the peak of memory belong to a process; the processes take turns. A side is timed from the images to
the verdict of the system itself, in float32. On the CPU, time is processor time, which other programs on the machine change little;
on a GPU it is wall-clock time. A library that is not installed is left out, and the table says so.

The floor is the forward pass and the gradient in the images, as often as there are steps, of the attacked copy and nothing else.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from pgd_sides import Side, Task, images_and_labels, sides, train, trained_system

from pipeline.attacks.allocator import keep_freed_pages
from pipeline.attacks.tracker import verdict as judge
from pipeline.config import parse_number

MIB = 1024**2


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a side did with one batch."""

    search_s: float
    total_s: float
    """With the verdict."""
    misclassified: tuple[bool, ...] | None
    """By the system itself; None for a floor."""
    peak_mib: float
    """Largest resident memory of the process so far, beyond what its imports took; on a GPU, of its tensors."""


def serve(connection: Connection, side: Side, task: Task, threads: int, rounds: int) -> None:
    """The process of one side: build it, then attack the batch of each number that arrives."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # or the float32 of the libraries would be another one than ours
    imports_mib = psutil.Process().memory_info().rss / MIB
    try:
        if side.keeps_pages:
            keep_freed_pages()
        system = trained_system(task)
        attack = side.build(task, system, **side.arguments)
        batches = [
            [part.to(task.device) for part in images_and_labels(task.size, "test", n * task.batch, (n + 1) * task.batch)]
            for n in range(rounds)
        ]
        attack(batches[0][0], batches[0][2])  # warms up, all sides at once: torch.compile takes minutes, and has a core for each
    except ImportError as error:
        connection.send(f"left out: {error}")
        return
    except Exception:
        connection.send(traceback.format_exc())
        raise
    connection.send(None)
    while (batch := connection.recv()) is not None:
        images, _, labels = batches[batch]
        begun = _now(task.device)
        points = attack(images, labels)
        searched = _now(task.device)
        verdict = None if points is None else tuple(judge(system, points, labels, None).misclassified.tolist())
        ended = _now(task.device)
        peak = _peak_mib(task.device) - (0 if task.device == "cuda" else imports_mib)
        connection.send(Turn(search_s=searched - begun, total_s=ended - begun, misclassified=verdict, peak_mib=peak))


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _peak_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _train(connection: Connection, task: Task, threads: int, train_steps: int) -> None:
    torch.set_num_threads(threads)
    connection.send(train(task, train_steps))


class Players:
    """The processes of all sides."""

    def __init__(self, chosen: dict[str, Side], task: Task, threads: int, rounds: int) -> None:
        self.left_out: dict[str, str] = {}
        self._connections: dict[str, Connection] = {}
        started = {name: _start(serve, side, task, threads, rounds) for name, side in chosen.items()}
        for name, connection in started.items():
            if (problem := connection.recv()) is None:
                self._connections[name] = connection
            elif problem.startswith("left out"):
                self.left_out[name] = problem
            else:
                raise RuntimeError(f"{name}:\n{problem}")

    def __iter__(self) -> Any:
        return iter(self._connections)

    def play(self, name: str, batch: int) -> Turn:
        self._connections[name].send(batch)
        turn: Turn = self._connections[name].recv()
        return turn

    def stop(self) -> None:
        for connection in self._connections.values():
            connection.send(None)


def _start(target: Any, *arguments: Any) -> Connection:
    context = multiprocessing.get_context("spawn")  # nothing inherited: every process allocates afresh
    here, there = context.Pipe()
    context.Process(target=target, args=(there, *arguments), daemon=True).start()
    there.close()
    return here


def measure(players: Players, rounds: int) -> dict[str, list[Turn]]:
    """One list of turns for each side."""
    turns: dict[str, list[Turn]] = {name: [] for name in players}
    for number in range(rounds):
        for name in players:
            turn = players.play(name, number)
            print(f"round {number + 1}: {name}: {turn.search_s:.3f} s", flush=True)
            turns[name].append(turn)
    return turns


def print_table(turns: dict[str, list[Turn]], chosen: dict[str, Side], left_out: dict[str, str]) -> None:
    """Medians of each side; medians (least to most) over the rounds of the ratios to its floor and to the best library."""
    libraries = [name for name in turns if chosen[name].group == "library"]
    best = min(libraries, key=lambda name: statistics.median(turn.total_s for turn in turns[name])) if libraries else None
    reference = next((name for name in ("hand-written loop", *turns) if name in turns and turns[name][0].misclassified), None)
    print(f"\n| side | search, s | with verdict, s | overhead over its floor | {best or 'best library'} / side |", end="")
    print(f" peak memory, MiB | misclassified | verdicts as {reference} |\n|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, own in turns.items():
        floor = turns.get(chosen[name].floor or "")
        overhead = _spread([100 * (one.search_s / other.search_s - 1) for one, other in zip(own, floor or [], strict=False)], "%")
        speed = _spread([other.total_s / one.total_s for one, other in zip(own, turns[best] if best else [], strict=False)])
        cells = [
            name,
            f"{statistics.median(turn.search_s for turn in own):.3f}",
            f"{statistics.median(turn.total_s for turn in own):.3f}" if own[0].misclassified is not None else "",
            overhead,
            speed if own[0].misclassified is not None else "",
            f"{max(turn.peak_mib for turn in own):.0f}",
            *_verdict_cells(own, turns[reference] if reference else own),
        ]
        print(f"| {' | '.join(cells)} |")
    for name, problem in left_out.items():
        print(f"\n{name} {problem}")


def _verdict_cells(own: list[Turn], reference: list[Turn]) -> tuple[str, str]:
    verdicts = [verdict for turn in own for verdict in turn.misclassified or ()]
    if not verdicts:
        return "", ""
    same = sum(
        one == other
        for one, other in zip(verdicts, (verdict for turn in reference for verdict in turn.misclassified or ()), strict=True)
    )
    return f"{sum(verdicts)} of {len(verdicts)}", f"{same} of {len(verdicts)}"


def _spread(values: list[float], unit: str = "") -> str:
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})" if values else ""


def main() -> None:
    arguments = _arguments()
    chosen = {
        name: side for name, side in sides(arguments.device).items() if any(part in name for part in arguments.sides.split("|"))
    }
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(
            device=arguments.device,
            size=arguments.size,
            batch=arguments.batch,
            steps=arguments.steps,
            epsilon=parse_number(arguments.epsilon),
            step_size=parse_number(arguments.epsilon) / 4,
            state=arguments.state or Path(scratch) / "system.pt",
        )
        if not task.state.exists():
            accuracy = _start(_train, task, arguments.threads, arguments.train_steps).recv()
            print(
                f"trained for {arguments.train_steps} steps: the system is right on {accuracy:.1%} of 256 clean test images",
                flush=True,
            )
        players = Players(chosen, task, arguments.threads, arguments.rounds)
        turns = measure(players, arguments.rounds)
        players.stop()
    load = psutil.getloadavg()[0]
    print(
        f"\nPGD-{task.steps}, maximum norm {arguments.epsilon}, {task.batch} images of {task.size} px, {arguments.rounds} rounds,",
        end=" ",
    )
    print(f"{arguments.threads} threads on {task.device}, torch {torch.__version__}, load {load:.1f} on {os.cpu_count()} cores")
    print_table(turns, chosen, players.left_out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="gradient steps")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, each with another batch")
    parser.add_argument("--batch", type=int, default=32, help="images in a batch")
    parser.add_argument("--size", type=int, default=64, help="side of the images, pixels")
    parser.add_argument("--epsilon", default="8/255", help="radius of the ball; a step is a quarter of it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch in each process")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--train-steps", type=int, default=150, help="optimizer steps of the classifier; the rest follows from it")
    parser.add_argument("--state", type=Path, help="weights of the trained system: read if there, else trained and written")
    parser.add_argument("--sides", default="", help="parts of names, separated by |: only the sides that have one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
