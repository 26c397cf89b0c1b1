"""Change one thing in the code and see whether a test notices:  python tests/mutants.py [--sample N] [--seed S] [MODULE ...]

The mutants are those of cosmic-ray (https://cosmic-ray.readthedocs.io), made in a clone of HEAD. Which of them count is decided by
their operator and their place alone, before any is tried (``is_near``, ``counts``). A sample is drawn with a seed over all modules,
so the score is an estimate; its 95 % Wilson interval is printed with it, and every survivor with its line. A mutant that hangs is
stopped and counts as noticed.

A mutant is shown to the fast tests and the slow ones of made-up cheats that ran its line where nothing was changed (coverage.py saw
them do it), those of the module's own file first; what runs at import, a default say, is shown to all tests. After ``--budget``
processor seconds of either, the fastest tests first, it counts as a survivor. Each mutant is tried in a fork of this process, which
has imported what others wrote.
"""

import argparse
import ast
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec
from coverage import Coverage

ROOT = Path(__file__).parents[1]
MODULES = ("pipeline/attacks", "pipeline/masks", "pipeline/evaluation/statistics.py", "pipeline/evaluation/clusters.py")
TESTS = (
    "tests/pipeline/attacks",
    "tests/pipeline/masks",
    "tests/pipeline/evaluation/test_clusters.py",
    "tests/pipeline/evaluation/test_library.py",
    "tests/pipeline/evaluation/test_statistics.py",
    "tests/pipeline/test_system.py",
)
SLOW_TOO = {"test_cheats.py"}
"""Whose slow tests count as well: most made-up cheats are among them, at half a second each."""
NEIGHBORS = {"Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul", "BitAnd_BitOr"}
# Not ours, slow to import, and no plugin of pytest.
IMPORTED_ONCE = (
    *("torch", "torchvision", "timm", "segmentation_models_pytorch", "scipy.stats", "cv2", "hydra", "polars", "pydantic"),
    *("hypothesis.extra.numpy", "matplotlib.pyplot", "pyautoattack", "foolbox", "torchattacks", "filelock", "safetensors.torch"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=MODULES, help="files or folders of the repository")
    parser.add_argument("--sample", type=int, default=200, help="mutants that are tried; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=60.0, help="processor seconds of tests for one mutant")
    parser.add_argument("--cache", type=Path, help="a folder that keeps which tests run which lines, for the next call")
    chosen = parser.parse_args()
    for module in chosen.modules:
        if not any(Path(module).is_relative_to(one) for one in MODULES):
            parser.error(f"{module}: the tests that run a line are known of {', '.join(MODULES)} alone")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # else a mutant could be mistaken for another of the same second
    sys.dont_write_bytecode = True
    for name in IMPORTED_ONCE:
        import_module(name)
    gc.freeze()  # no fork goes through what was imported to collect it
    with tempfile.TemporaryDirectory() as folder:
        clone, cache = Path(folder) / "clone", chosen.cache or Path(folder) / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        mutants = sorted(mutants_of(python_files(clone, chosen.modules)), key=str)
        if not mutants:
            parser.error(f"no mutants in {', '.join(chosen.modules)}")
        random.Random(chosen.seed).shuffle(mutants)
        tried = mutants[: chosen.sample or None]
        baseline = Baseline(clone, cache)
        killed = sum(is_killed(spec, baseline, clone, chosen.budget) for spec in tried)
    from pipeline.evaluation.statistics import wilson  # not before the last fork, which has to import the mutant

    print(f"{wilson(killed, len(tried)).percent()} of the mutants are noticed, {len(mutants)} in all")
    return 0


def python_files(clone: Path, places: tuple[str, ...]) -> list[Path]:
    """The modules at some places, but for those that only say what their package is."""
    named = [clone / place for place in places]
    found = [path for place in named for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    return [path for path in found if path.name != "__init__.py"]


def mutants_of(files: list[Path]) -> list[MutationSpec]:
    """The mutants of some modules that count."""
    kinds = {name: get_operator(name) for name in filter(is_near, operator_names())}
    operators = {name: kind() for name, kind in kinds.items() if not kind.arguments()}  # the others want names of variables
    found = []
    for path in files:
        nodes = list(ast_nodes(get_ast_from_path(path)))
        for name, operator in operators.items():
            places = [place for node in nodes for place in operator.mutation_positions(node)]
            found += [
                MutationSpec(module_path=path, operator_name=name, occurrence=number, start_pos=start, end_pos=end)
                for number, (start, end) in enumerate(places)
            ]
    return [spec for spec in found if counts(spec)]


def is_near(operator: str) -> bool:
    """Not one whose mutants anything notices and would flatter the score: ``a + b`` as ``a ** b``, ``a > b`` as ``a is b``."""
    kind, _, change = operator.removeprefix("core/").partition("_")
    if kind == "ReplaceComparisonOperator":
        return change in {"Is_IsNot", "IsNot_Is"} or "Is" not in change
    return kind != "ReplaceBinaryOperator" or change in NEIGHBORS


def counts(spec: MutationSpec) -> bool:
    """Not one that nobody can notice: the star of a signature is no multiplication, and words have no order, so that ``==`` of them
    may as well be ``<=`` and becomes ``!=`` alone."""
    kind, _, change = spec.operator_name.removeprefix("core/").partition("_")
    sides = operands(spec)
    if kind == "ReplaceComparisonOperator":
        return change in {"Eq_NotEq", "NotEq_Eq"} or not any(map(is_word, sides or ()))
    return kind != "ReplaceBinaryOperator" or sides is not None


def operands(spec: MutationSpec) -> tuple[ast.expr, ast.expr] | None:
    """What stands on either side of the operator that a mutant replaces; None where what it replaces is no operator."""
    sides = (pair for pair in operations(spec.module_path) if ends_at(pair[0]) <= spec.start_pos < starts_at(pair[1]))
    return next(sides, None)


@cache
def operations(path: Path) -> list[tuple[ast.expr, ast.expr]]:
    """The two sides of every binary operator and every comparison of a module."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    chains = [[node.left, *node.comparators] for node in nodes if isinstance(node, ast.Compare)]
    return [(node.left, node.right) for node in nodes if isinstance(node, ast.BinOp)] + [
        two for chain in chains for two in pairwise(chain)
    ]


def starts_at(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def ends_at(node: ast.expr) -> tuple[int, int]:
    return node.end_lineno or 0, node.end_col_offset or 0


def is_word(node: ast.expr) -> bool:
    """A string, or by its spelling (``Region.EVERYWHERE``) the member of an enumeration."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr.isupper() and node.value.id[0].isupper()
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


class Baseline:
    """What the tests do where nothing is changed: which lines of the modules each runs, and its processor seconds."""

    def __init__(self, clone: Path, cache: Path) -> None:
        self._clone = clone
        self.seconds: dict[str, float] = {}
        self._tests: dict[tuple[str, int], set[str]] = {}  # of a line
        for file in (path for path in python_files(clone, TESTS) if path.name.startswith("test_")):
            seen = self._of_file(file, cache / f"{file.relative_to(clone)}.json".replace("/", "."))
            self.seconds |= seen["seconds"]
            for module, lines in seen["lines"].items():
                for line, tests in lines.items():
                    self._tests.setdefault((module, int(line)), set()).update(tests)

    def _of_file(self, file: Path, record: Path) -> dict[str, dict]:
        """From the last call, unless the tests, what lies beside them or the modules that they run have changed."""
        if record.is_file():
            seen: dict[str, dict] = json.loads(record.read_text())
            if all((self._clone / path).is_file() and sha(self._clone / path) == was for path, was in seen["files"].items()):
                return seen
        log = record.with_suffix(".txt")
        if in_a_fork(lambda: run_tests(self._clone, [file], Recorder(file, record, self._clone)), timeout_s=3600.0, log=log) != 0:
            record.unlink(missing_ok=True)
            raise SystemExit(f"{log.read_text()}the tests fail without a mutant, so every mutant would seem to be noticed")
        return json.loads(record.read_text())

    def order(self, spec: MutationSpec, budget_s: float) -> list[list[str]]:
        """The tests of a mutant in the order in which they are tried, in groups: those of the module's own file, then the others.

        For what runs at import, a default or a limit say, any test may be the one that looks: those that ran a line of the module
        first, then the others.
        """
        module = str(spec.module_path.relative_to(self._clone))
        of_module = {test for (path, _), tests in self._tests.items() if path == module for test in tests}
        lines = lines_of_statement(spec.module_path, spec.start_pos[0])
        of_line = {test for line in lines for test in self._tests.get((module, line), ())}
        own = f"/test_{spec.module_path.stem}.py"
        groups = [
            [test for test in of_line or of_module if own in test],
            [test for test in of_line or of_module if own not in test],
        ]
        if not of_line:
            groups.append([test for test in self.seconds if test not in of_module])
        return [self._within(group, budget_s) for group in groups if group]

    def _within(self, group: list[str], budget_s: float) -> list[str]:
        """The fastest first, as many as the seconds are enough for."""
        ordered = sorted(group, key=lambda test: self.seconds[test])
        spent = accumulate(self.seconds[test] for test in ordered)
        return [test for test, seconds in zip(ordered, spent, strict=True) if seconds <= budget_s] or ordered[:1]


def lines_of_statement(path: Path, line: int) -> range:
    """The lines of the innermost statement around a line, without its body; none for what runs at import, outside of functions."""
    around = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.stmt)]
    around = [node for node in around if node.lineno <= line <= (node.end_lineno or 0)]
    statement = min(around, key=lambda node: (node.end_lineno or 0) - node.lineno, default=None)
    functions = [node for node in around if isinstance(node, ast.FunctionDef)]
    if statement is None or not functions or isinstance(statement, ast.FunctionDef | ast.ClassDef):  # None: a decorator
        return range(0)
    body: list[ast.stmt] = getattr(statement, "body", [])
    return range(statement.lineno, max(line, body[0].lineno - 1 if body else statement.end_lineno or 0) + 1)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Recorder:
    """A plugin of pytest that notes what a ``Baseline`` wants to know of one file of tests."""

    def __init__(self, file: Path, record: Path, clone: Path) -> None:
        self._seconds: Counter[str] = Counter()
        self._file, self._record, self._clone = file, record, clone
        self._modules = [str(path) for path in python_files(clone, MODULES)]
        self._coverage = Coverage(data_file=None, config_file=False, include=self._modules, messages=False)
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        began = time.process_time()
        result = yield
        self._seconds[item.nodeid] = time.process_time() - began
        return result

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data, lines = self._coverage.get_data(), {}
        for path in data.measured_files():
            by_line = {line: sorted(set(tests) - {""}) for line, tests in data.contexts_by_lineno(path).items()}  # "": the import
            if any(by_line.values()):
                lines[str(Path(path).relative_to(self._clone))] = by_line
        beside = [path for path in sorted((self._clone / "tests").rglob("*.py")) if not path.name.startswith(("test_", "mutants"))]
        files = {str(path.relative_to(self._clone)): sha(path) for path in (*map(self._clone.joinpath, lines), *beside, self._file)}
        self._record.write_text(json.dumps({"files": files, "seconds": self._seconds, "lines": lines}))


class Chooser:
    """A plugin of pytest that runs the given tests in the given order."""

    def __init__(self, tests: list[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._rank), key=lambda item: self._rank[item.nodeid])


def run_tests(clone: Path, tests: list[Path], plugin: object) -> int:
    """The exit code of pytest, which stops at the first failure; the clone's sources come before an installed package."""
    os.chdir(clone)
    os.environ["PYTHONPATH"] = str(clone)
    sys.path[:] = [str(clone), *(path for path in sys.path if path not in ("", str(ROOT), str(ROOT / "tests")))]
    imported = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was imported once
    options = ["-q", "-x", "-n0", "-p", "no:cacheprovider", *imported, f"--rootdir={clone}"]
    options += ["-m", ""] if SLOW_TOO & {test.name for test in tests} else []
    return int(pytest.main([*options, *map(str, tests)], plugins=[plugin]))


def in_a_fork(run: Callable[[], int], timeout_s: float, log: Path = Path(os.devnull)) -> int | None:
    """What a function returns in a process of its own, which prints to ``log``; None after the timeout."""
    process = os.fork()
    if not process:
        code = 70  # of an error in here
        try:
            os.setsid()
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
            code = run()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    stop_at = time.monotonic() + timeout_s
    while time.monotonic() < stop_at:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def is_killed(spec: MutationSpec, baseline: Baseline, clone: Path, budget_s: float) -> bool:
    """Run the tests of a mutant and say what happened."""
    began, killed = time.monotonic(), False
    shutil.rmtree(clone / ".hypothesis", ignore_errors=True)  # no test remembers another mutant
    groups = baseline.order(spec, budget_s)  # by the source as it is: a mutant may be no Python at all
    with use_mutation(spec.module_path, get_operator(spec.operator_name)(), spec.occurrence) as (before, after):
        if after is None:
            raise RuntimeError(f"there is no such mutant: {spec}")
        for tests in groups:
            if not killed:
                files = sorted({clone / test.split("::")[0] for test in tests})
                timeout_s = 300 + 20 * sum(baseline.seconds[test] for test in tests)  # of a busy machine
                code = in_a_fork(lambda files=files, tests=tests: run_tests(clone, files, Chooser(tests)), timeout_s)
                if code in (int(pytest.ExitCode.INTERNAL_ERROR), 70) or (code is not None and code < 0):  # killed, not failed
                    raise RuntimeError(f"the mutant could not be tried, its tests ended with {code}: {spec}")
                killed = code not in (int(pytest.ExitCode.OK), int(pytest.ExitCode.NO_TESTS_COLLECTED))
    changed = [new.strip() for old, new in zip(before.splitlines(), after.splitlines(), strict=False) if old != new]
    place = f"{spec.module_path.relative_to(clone)}:{spec.start_pos[0]}:{spec.start_pos[1]}"
    operator = f"{spec.operator_name.removeprefix('core/')} {spec.occurrence}, {time.monotonic() - began:.0f} s"
    print(f"{'noticed ' if killed else 'SURVIVED'} {place} {operator}: {changed[0] if changed else ''}", flush=True)
    return killed


if __name__ == "__main__":
    sys.exit(main())
