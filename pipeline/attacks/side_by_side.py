"""Searches of one image each, side by side: what they ask a model at the same time is answered in one batch.

Made for a library that has one stream of random numbers for all of a batch, so that its images have to be searched one by one.
Each search runs in a thread of its own, and never two at a time: one runs until it asks or ends, then it is the next one's turn.
So a search draws the random numbers that it would draw alone, and meets the answers that it would meet but for a batch's rounding.
"""

from collections.abc import Callable, Sequence
from threading import Semaphore, Thread

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
Search = Callable[[Model], Tensor]
"""A search that asks the model that it is given, and returns what it found."""


def side_by_side(searches: Sequence[Search], answer: Callable[[Tensor, Tensor], Tensor], *, device: torch.device) -> list[Tensor]:
    """What the searches find, in their order.

    ``answer`` is given, for a batch of points, the number of the search that asks about each, and says what the model says of
    them. Gradients are off. Raises what a search or ``answer`` raises, and leaves no thread behind.
    """
    runs = [_Run(search, device) for search in searches]
    num_threads = torch.get_num_threads()
    try:
        for run in runs:
            run.go_on()
        while asking := [(number, run.asked) for number, run in enumerate(runs) if run.asked is not None]:
            counts = [len(points) for _, points in asking]
            rows = torch.tensor([number for number, _ in asking], device=device).repeat_interleave(
                torch.tensor(counts, device=device)
            )
            with torch.no_grad():
                answers = answer(rows, torch.cat([points for _, points in asking]))
            for (number, _), said in zip(asking, torch.split(answers, counts), strict=True):
                runs[number].go_on(said)
        return [run.found for run in runs]
    finally:
        for run in runs:
            run.stop()
        torch.set_num_threads(num_threads)


class _Stopped(BaseException):
    """Ends a search in the middle."""


class _Run:
    """A search in its thread, with the state of its random numbers."""

    found: Tensor

    def __init__(self, search: Search, device: torch.device) -> None:
        self.asked: Tensor | None = None
        """The points that it waits for an answer to."""
        self._answer: Tensor | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._device, self._random = device, _random_state(device)
        self._its_turn, self._has_paused = Semaphore(0), Semaphore(0)
        self._thread = Thread(target=self._search, args=(search,), daemon=True)

    def go_on(self, answer: Tensor | None = None) -> None:
        """Let it run until it asks or ends. Raises what it raises."""
        self.asked, self._answer = None, answer
        others = _random_state(self._device)
        _set_random_state(self._random, self._device)
        if not self._thread.ident:
            self._thread.start()
        self._its_turn.release()
        self._has_paused.acquire()
        self._random = _random_state(self._device)
        _set_random_state(others, self._device)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End it where it is, if it has not ended."""
        self._stopped = True
        if self._thread.ident:
            self._its_turn.release()
            self._thread.join()

    def _search(self, search: Search) -> None:
        self._its_turn.acquire()
        torch.set_num_threads(1)  # or every thread would have as many of its own, which wait for work and spin
        try:
            with torch.no_grad():
                self.found = search(self._ask)
        except _Stopped:
            pass
        except BaseException as error:  # raised again where it is waited for
            self._error = error
        finally:
            self._has_paused.release()

    def _ask(self, points: Tensor) -> Tensor:
        self.asked = points
        self._has_paused.release()
        self._its_turn.acquire()
        if self._stopped:
            raise _Stopped
        assert self._answer is not None
        return self._answer


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    for of_cuda in state[1:]:
        torch.cuda.set_rng_state(of_cuda, device)
