"""Freed memory, counted by the kernel: page faults with and without keeping it."""

import ctypes
import os
import subprocess
import sys

import pytest

from pipeline.attacks import allocator
from pipeline.attacks.allocator import keep_freed_pages

# 20 times: 64 MiB asked for, every page written, given back. Prints what keeping answered and the page faults after a first time.
WORK = """
import ctypes, resource, sys
from pipeline.attacks.allocator import keep_freed_pages
kept = keep_freed_pages() if sys.argv[1] == "keep" else None
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def use():
    block = c.malloc(64 * 2**20)
    ctypes.memset(block, 1, 64 * 2**20)
    c.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def on_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def page_faults(how: str, environment: dict[str, str] | None = None) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    finished = subprocess.run(
        [sys.executable, "-c", WORK, how], env=clean | (environment or {}), capture_output=True, text=True, check=True
    )
    kept, faults = finished.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not on_glibc(), reason="glibc alone has mallopt")
def test_kept_pages_are_not_asked_for_again() -> None:
    _, without = page_faults("leave")
    kept, faults = page_faults("keep")
    assert kept == "True"
    assert without >= 20  # one for every block at least, with huge pages: by default each is returned at once
    assert faults < without / 10


@pytest.mark.skipif(not on_glibc(), reason="glibc alone has mallopt")
def test_the_users_own_settings_win() -> None:
    kept, faults = page_faults("keep", {"MALLOC_MMAP_THRESHOLD_": "65536"})
    assert kept == "False"
    assert faults >= 20


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_is_left_alone(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", system)
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)  # to call it would be an error
    assert keep_freed_pages() is False


@pytest.mark.parametrize("library", [object(), OSError("no such library")], ids=["without mallopt", "not to be opened"])
def test_a_c_library_without_mallopt_is_left_alone(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(_: None) -> object:
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", opened)
    for variable in allocator._VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert keep_freed_pages() is False


# Numbers of malloc.h (https://sourceware.org/git/glibc.git, malloc/malloc.h): what each parameter of mallopt is.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
LARGE_BLOCKS, NO_MMAP, NEVER = (MMAP_THRESHOLD, 2**31 - 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)
PAD = (TOP_PAD, 64 * 2**20)


@pytest.mark.parametrize(
    ("limited", "expected", "asked"),
    [
        ((), True, [LARGE_BLOCKS, NEVER, PAD]),
        ((MMAP_THRESHOLD,), True, [LARGE_BLOCKS, NO_MMAP, NEVER, PAD]),  # before 2.35
        ((MMAP_THRESHOLD, MMAP_MAX), False, [LARGE_BLOCKS, NO_MMAP]),
        ((TRIM_THRESHOLD,), False, [LARGE_BLOCKS, NEVER]),
        ((TOP_PAD,), False, [LARGE_BLOCKS, NEVER, PAD]),
    ],
)
def test_glibc_is_asked_for_all_of_it_and_an_old_one_in_another_way(
    limited: tuple[int, ...], expected: bool, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    class Glibc:
        def mallopt(self, parameter: int, value: int) -> int:
            heard.append((parameter, value))
            return int(parameter not in limited)

    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Glibc())
    for variable in allocator._VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert keep_freed_pages() is expected
    assert heard == asked


@pytest.mark.parametrize(
    "variable",
    ["MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"],
)
def test_nothing_is_asked_where_a_user_has_set_a_variable_of_glibc(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in allocator._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)  # to call it would be an error
    assert keep_freed_pages() is False
