"""Repositories of the Hugging Face hub: exported systems fetched and pushed.

Where the hub is, who the user is and what was fetched before is the business of huggingface_hub (HF_ENDPOINT, hf auth login,
HF_HOME). It is imported when it is used.
"""

import re
from pathlib import Path

from pipeline.errors import ConfigError, RunError, kind_and_words
from pipeline.runs.exported import CLASSIFIER, EXPORTED, SEGMENTER

SCHEME = "hf://"
_OURS = ["system.*", f"{CLASSIFIER}/**", f"{SEGMENTER}/**"]
"""What an earlier push has left in a repository and a later one may not have."""
_ADDRESS = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?")


def fetch(address: str) -> Path:
    """The directory of an exported system ``hf://user/name`` or ``hf://user/name@revision``, downloaded where it is not there yet.

    Only what ``load_system`` reads is fetched: JSON and safetensors. Raises ConfigError for what is no such address, RunError where
    it cannot be had.
    """
    found = _ADDRESS.fullmatch(address.removeprefix(SCHEME))
    if found is None:
        raise ConfigError(f"{address}: expected {SCHEME}user/name, or {SCHEME}user/name@revision")
    import huggingface_hub

    patterns = [EXPORTED, "*.json", "*.safetensors", "README.md"]
    try:
        path = huggingface_hub.snapshot_download(found["repository"], revision=found["revision"], allow_patterns=patterns)
    except Exception as error:  # of a network, in many ways
        raise RunError(f"{address}: cannot be fetched: {kind_and_words(error)}") from error
    if not (Path(path) / EXPORTED).is_file():
        raise RunError(f"{address}: holds no {EXPORTED}, so it is no system that foreguard export has written")
    return Path(path)


def push(directory: Path, repository: str, *, public: bool) -> str:
    """Upload a directory as a repository, which is made where there is none; returns its address. Raises RunError.

    Of a repository that is there, the system is replaced, other files are kept, and ``public`` changes nothing.
    """
    import huggingface_hub

    try:
        huggingface_hub.create_repo(repository, private=not public, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=repository, folder_path=directory, commit_message="foreguard export", delete_patterns=_OURS
        )
    except Exception as error:  # of a network, in many ways
        raise RunError(f"push={repository}: cannot be pushed, and {directory} is kept: {kind_and_words(error)}") from error
    return f"{SCHEME}{repository}"


def check_repository(repository: str) -> None:
    """Raises ConfigError for what is no ``user/name``."""
    found = _ADDRESS.fullmatch(repository)
    if found is None or found["revision"] is not None:
        raise ConfigError(f"push={repository}: expected user/name, a repository of the Hugging Face hub")
