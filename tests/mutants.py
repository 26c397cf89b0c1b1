"""Change one thing in the code and see whether a test notices:  python tests/mutants.py [--sample N] [--seed S] [MODULE ...]

The mutants are those of cosmic-ray (https://cosmic-ray.readthedocs.io), made in a clone of HEAD. Of the operators that replace one
binary operator by all others only the nearest neighbor counts: ``a + b`` as ``a ** b`` is noticed by anything and would flatter the
score. A sample is drawn with a seed over all modules, so the score is an estimate; its 95 % Wilson interval is printed with it, and
every survivor with its place. A mutant that hangs is stopped after ten minutes and counts as noticed.
"""

import argparse
import random
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome

from pipeline.evaluation.statistics import wilson

ROOT = Path(__file__).parents[1]
MODULES = ("pipeline/attacks", "pipeline/masks", "pipeline/evaluation/statistics.py", "pipeline/evaluation/clusters.py")
NEIGHBORS = {"Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul", "BitAnd_BitOr"}
TIMEOUT_S = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=MODULES, help="files or folders of the repository")
    parser.add_argument("--sample", type=int, default=200, help="mutants that are tried; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        named = [clone / module for module in chosen.modules]
        files = [path for place in named for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
        mutants = sorted((spec for path in files for spec in mutants_of(path, Path(folder))), key=str)
        if not mutants:
            parser.error(f"no mutants in {', '.join(chosen.modules)}")
        random.Random(chosen.seed).shuffle(mutants)
        tried = mutants[: chosen.sample or None]
        for folder_of_tests in sorted({tests_of(spec, clone)[-1] for spec in tried}):  # else every mutant would seem to be noticed
            subprocess.run(pytest_command(clone, [folder_of_tests]), check=True, stdout=subprocess.DEVNULL)
        killed = sum(is_killed(spec, clone) for spec in tried)
    print(f"{wilson(killed, len(tried)).percent()} of the mutants are noticed, {len(mutants)} in all")
    return 0


def mutants_of(path: Path, folder: Path) -> list[MutationSpec]:
    """The mutants of a module that count."""
    if path.name == "__init__.py":
        return []
    config = folder / "cosmic-ray.toml"
    config.write_text(
        f'[cosmic-ray]\nmodule-path = ["{path}"]\ntimeout = 1.0\nexcluded-modules = []\ntest-command = "true"\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    session = folder / f"{path.stem}.sqlite"
    command = [sys.executable, "-m", "cosmic_ray.cli", "init", "--force", str(config), str(session)]
    subprocess.run(command, check=True, capture_output=True)
    with use_db(session, WorkDB.Mode.open) as database:
        return [spec for item in database.work_items for spec in item.mutations if counts(spec.operator_name)]


def counts(operator: str) -> bool:
    """Whether an operator of cosmic-ray is one of those that the score is about."""
    name = operator.removeprefix("core/")
    return not name.startswith("ReplaceBinaryOperator_") or name.removeprefix("ReplaceBinaryOperator_") in NEIGHBORS


def tests_of(spec: MutationSpec, clone: Path) -> list[str]:
    """The tests of the mutated module: its own file first, where there is one, then its folder's."""
    module = spec.module_path.relative_to(clone)
    folder = clone / "tests" / module.parent
    own = folder / f"test_{module.stem}.py"
    return [str(path) for path in ([own] if own.is_file() else []) + [folder]]


def pytest_command(clone: Path, tests: list[str]) -> list[str]:
    """Stops at the first failure; the clone's sources come before an installed package."""
    python = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", f"--rootdir={clone}"]
    return ["env", "-C", str(clone), f"PYTHONPATH={clone}", *python, *tests]


def is_killed(spec: MutationSpec, clone: Path) -> bool:
    """Run the tests of a mutated module and say what happened."""
    result = mutate_and_test([spec], shlex.join(pytest_command(clone, tests_of(spec, clone))), TIMEOUT_S)
    if result.worker_outcome is not WorkerOutcome.NORMAL or result.test_outcome is TestOutcome.INCOMPETENT:
        raise RuntimeError(f"the mutant could not be tried: {spec}: {result.output}")
    killed = result.test_outcome is TestOutcome.KILLED
    place = f"{spec.module_path.relative_to(clone)}:{spec.start_pos[0]}:{spec.start_pos[1]}"
    print(
        f"{'noticed ' if killed else 'SURVIVED'} {place} {spec.operator_name.removeprefix('core/')} {spec.occurrence}", flush=True
    )
    return killed


if __name__ == "__main__":
    sys.exit(main())
