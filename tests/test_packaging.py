"""The built wheel works outside the checkout, and the lock holds what a fresh machine needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_lock_holds_versions_and_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "index" not in re.sub(r"^[a-z0-9-]+==", "", text, flags=re.MULTILINE)
    requirements = [block for block in re.split(r"\n(?=\S)", text.strip()) if not block.startswith("#")]
    for block in requirements:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", block), block
        assert "--hash=sha256:" in block, block


def test_everything_that_the_package_needs_is_locked():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    wanted = [*project["project"]["dependencies"], *groups["dev"], *groups["docs"]]
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE))
    assert {re.split(r"[<>=]", name)[0] for name in wanted} <= locked


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(target.glob("*.whl"))


def test_the_wheel_holds_the_packages_their_types_and_the_configuration(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"segmenter", "classifier", "pipeline"}
    assert {f"{package}/py.typed" for package in ("segmenter", "classifier", "pipeline")} <= names
    shipped = {f"pipeline/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert shipped <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(wheel, tmp_path):
    """In an environment of its own that borrows the third-party packages of this one but not the checkout."""
    builder = venv.EnvBuilder(with_pip=False)
    builder.create(tmp_path / "env")
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    here = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    # Only as a fallback behind the wheel; .pth files in a directory added this way are not read, so the checkout stays out.
    (site / "borrowed.pth").write_text(f"{here}\n")
    python = tmp_path / "env" / "bin" / "python"
    where = [python, "-c", "import pipeline, pathlib; print(pathlib.Path(pipeline.__file__).parents[1])"]
    assert subprocess.run(where, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip() == str(site)
    words = ["prepare", "data=synthetic", "prepared=set", "data.num_train=40", "data.num_val=20", "data.num_test=20", "workers=2"]
    done = subprocess.run([python, "-m", "pipeline", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "80 samples" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shipped", "version"),
    [pytest.param(["pyproject.toml"], "0.1.0", id="checkout"), pytest.param([], "unknown", id="bare copy")],
)
def test_the_sources_work_without_an_installation_and_say_which_version_they_are(shipped, version, tmp_path):
    """On PYTHONPATH, in an environment with all packages that ours needs, but without ours, and with OpenCV under another name."""
    site, sources = tmp_path / "site", tmp_path / "sources"
    site.mkdir()
    sources.mkdir()
    for path in Path(next(path for path in sys.path if path.endswith("site-packages"))).iterdir():
        if "foreguard" not in path.name and not path.name.startswith("opencv_python_headless-"):
            (site / path.name).symlink_to(path)
    for name in ("segmenter", "classifier", "pipeline", "configs"):
        shutil.copytree(ROOT / name, sources / name)
    for name in shipped:
        shutil.copy(ROOT / name, sources)

    def foreguard(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": f"{sources}{os.pathsep}{site}"}
        python = [sys._base_executable, "-m", "pipeline", *words]  # type: ignore[attr-defined]
        done = subprocess.run(python, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert foreguard("--version") == f"foreguard {version}\n"
    foreguard("prepare", "data=synthetic", "prepared=set", "data.num_train=40", "data.num_val=20", "data.num_test=20", "workers=0")
    versions = json.loads((tmp_path / "set/dataset.json").read_text())["versions"]
    assert versions["foreguard"] == version
    assert versions["opencv-python-headless"] == "unknown"
    assert versions["numpy"] != "unknown"
    foreguard("train-classifier", "prepared=set", "run=run", "classifier=small", "trainer.epochs=1", "trainer.accelerator=cpu")
    assert json.loads((tmp_path / "run/run.json").read_text())["provenance"]["foreguard"] == version
