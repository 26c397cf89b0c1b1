"""Pushing and fetching through huggingface_hub itself, against a server that speaks its endpoints: the client is not faked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.cli.main import main
from pipeline.errors import ConfigError
from pipeline.prediction.library import load_system

pytestmark = pytest.mark.slow

CLIENT = """
import json, sys
from pathlib import Path
from pipeline.errors import UserError
from pipeline.prediction.library import load_system
from pipeline.runs.hub import push
from pipeline.runs.checkpoints import state_digest

for line in sys.stdin:
    verb, *words = json.loads(line)
    try:
        if verb == "push":
            said = push(Path(words[0]), words[1], public=words[2])
        else:
            system = load_system(words[0])
            said = [str(system.mask_config.source), state_digest(system)]
    except UserError as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps(said), flush=True)
"""


class Client:
    """A process with huggingface_hub in it, which reads its environment when it is imported."""

    def __init__(self, cache: Path, **environment: str) -> None:
        switched_off = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        without = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=without | switched_off | {"HF_HOME": str(cache)} | environment,
        )

    def ask(self, *words: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(word) if isinstance(word, Path) else word for word in words]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def server(load_file) -> ModuleType:
    return load_file(Path(__file__).with_name("hub_server.py"))


@pytest.fixture(scope="module")
def hub(server: ModuleType) -> Iterator[Any]:
    with server.running() as hub:
        yield hub


@pytest.fixture(scope="module")
def exports(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A system with both stages, and one without a segmenter. To be read only."""
    folder = tmp_path_factory.mktemp("exports")
    for name, words in (("both", []), ("alone", ["masks.source=none"])):
        assert main(["export", f"run={runs / 'classifier'}", f"out={folder / name}", "files=[]", *words]) == 0
    return folder / "both", folder / "alone"


@pytest.fixture(scope="module")
def client(hub: Any, server: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(tmp_path_factory.mktemp("cache"), HF_ENDPOINT=hub.address, HF_TOKEN=server.TOKEN)
    yield client
    client.close()


def content(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_pushed_system_comes_back_and_a_later_one_takes_its_place(client: Client, hub: Any, exports: tuple[Path, Path]) -> None:
    both, alone = exports
    assert client.ask("push", both, "some-one/signs.v1", False) == "hf://some-one/signs.v1"
    repository = hub.repositories["some-one/signs.v1"]
    assert (repository.visibility, repository.files) == ("private", content(both))
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)  # weights by LFS, all else in the commit
    assert client.ask("load", "hf://some-one/signs.v1") == client.ask("load", both)
    assert client.ask("load", f"hf://some-one/signs.v1@{repository.sha}") == client.ask("load", both)

    repository.files |= {"LICENSE": b"mine", "system.onnx": b"of an earlier system"}
    assert client.ask("push", alone, "some-one/signs.v1", True) == "hf://some-one/signs.v1"
    assert repository.files == content(alone) | {"LICENSE": b"mine"}
    assert repository.visibility == "private"  # one that is there stays as private as it is
    assert client.ask("load", "hf://some-one/signs.v1") == client.ask("load", alone)
    assert client.ask("load", "hf://some-one/signs.v1")[0] == "none"


def test_what_is_public_needs_no_token_and_what_is_private_says_one_line(
    client: Client, hub: Any, exports: tuple[Path, Path], tmp_path: Path
) -> None:
    client.ask("push", exports[1], "some-one/open", True)
    client.ask("push", exports[1], "some-one/closed", False)
    assert hub.repositories["some-one/open"].visibility == "public"
    stranger = Client(tmp_path, HF_ENDPOINT=hub.address)
    try:
        assert stranger.ask("load", "hf://some-one/open")[0] == "none"
        refused = stranger.ask("load", "hf://some-one/closed")
        assert refused.startswith("RunError: hf://some-one/closed: cannot be fetched: RepositoryNotFoundError: 401 ")
        assert "\n" not in refused
        assert stranger.ask("push", exports[1], "some-one/mine", False).startswith(
            "RunError: push=some-one/mine: cannot be pushed, and "
        )
    finally:
        stranger.close()


def test_what_the_hub_does_not_have_is_one_line(client: Client, server: ModuleType, hub: Any) -> None:
    hub.repositories["some-one/other"] = server.Repository("public", {"README.md": b"of something else"})
    for address, said in (
        ("hf://some-one/nothing", "RunError: hf://some-one/nothing: cannot be fetched: RepositoryNotFoundError: "),
        ("hf://some-one/other@no-such", "RunError: hf://some-one/other@no-such: cannot be fetched: RevisionNotFoundError: "),
        ("hf://some-one/other", "RunError: hf://some-one/other: holds no system.json, so it is no system that foreguard export"),
    ):
        answer = client.ask("load", address)
        assert answer.startswith(said)
        assert "\n" not in answer


@pytest.mark.parametrize("address", ["hf://nobody", "hf://a/b/c"])
def test_what_is_no_address_is_one_line(address: str) -> None:
    with pytest.raises(ConfigError, match=f"^{address}: expected hf://user/name, or hf://user/name@revision$"):
        load_system(address)
