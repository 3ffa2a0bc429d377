"""Config files on disk and on the Hugging Face Hub; loaded only when one is read or written."""

import functools
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

__all__ = ["commit_hash", "download", "find", "hub_client", "push", "read", "version", "write"]

_MODEL_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@functools.cache
def version() -> str:
    """Return the installed version of this package."""
    from importlib import metadata  # slow to import, and needed for files only

    try:
        return metadata.version("cmsched")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


def write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = Path(f"{path}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror}") from error


def read(path: str) -> Any:
    """Return the JSON object in a file."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8
        raise OSError(f"{path} is not a valid JSON file: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, it holds a {type(config).__name__}")
    return config


def find(source: str, name: str, subfolder: str | None = None, **hub: Any) -> str:
    """Return the path of a config file, through the Hub where `source` is no existing path."""
    if os.path.isfile(source):
        if subfolder:
            raise NotADirectoryError(f"{source} is a file, it has no subfolder {subfolder!r}")
        return source
    if os.path.isdir(source):
        root = Path(source)
        file = root / (subfolder or "") / name
        if file.is_file():
            return str(file)
        others = [str(other.parent.relative_to(root)) for other in sorted(root.glob(f"*/{name}"))]
        others = ["None"] if (root / name).is_file() else [repr(other) for other in others]
        hint = f"; there is one for subfolder={' or '.join(others)}" if others else ""
        raise FileNotFoundError(f"there is no {name} in {file.parent}{hint}")
    if not _MODEL_ID.fullmatch(source):
        raise FileNotFoundError(f"{source!r} is neither an existing path nor a model id")
    return download(source, name, subfolder, **hub)


def hub_client() -> Any:
    """Return the Hub's client, or raise ImportError naming the extra."""
    try:
        import huggingface_hub
    except ImportError as error:
        need = "the Hugging Face Hub needs huggingface_hub: pip install huggingface_hub"
        raise ImportError(need) from error
    return huggingface_hub


def download(model: str, name: str, subfolder: str | None, **hub: Any) -> str:
    """Return the path of a file in the Hub's cache, fetched if need be; OSError if it cannot be."""
    client = hub_client()
    from huggingface_hub import errors

    try:
        return str(client.hf_hub_download(model, name, subfolder=subfolder, **hub))
    except Exception as error:  # the client raises many kinds, its HTTP library's among them
        causes = {
            errors.GatedRepoError: "access is restricted; ask for it on its page and pass token=",
            errors.RepositoryNotFoundError: "it is no path and no public model; is token= missing?",
            errors.RevisionNotFoundError: f"there is no revision {hub.get('revision')!r}",
            errors.LocalEntryNotFoundError: "it is not in the cache, and the Hub was not reached",
            errors.EntryNotFoundError: "there is no such file; is subfolder='scheduler' meant?",
        }  # subclasses first
        why = next((why for kind, why in causes.items() if isinstance(error, kind)), repr(error))
        file = f"{subfolder}/{name}" if subfolder else name
        missing = isinstance(error, errors.EntryNotFoundError)
        raise (FileNotFoundError if missing else OSError)(
            f"cannot load {file} of {model!r} from the Hugging Face Hub: {why}"
        ) from error


def push(
    client: Any, file: str, repo_id: str, subfolder: str | None = None, **options: Any
) -> None:
    """Upload this file only, whatever else lies in its folder."""
    name = os.path.basename(file)
    try:
        api = client.HfApi(token=options.get("token"))
        repo = api.create_repo(repo_id, exist_ok=True, private=options.get("private"))
        api.upload_file(
            path_or_fileobj=file,
            path_in_repo=f"{subfolder}/{name}" if subfolder else name,
            repo_id=repo.repo_id,
            commit_message=options.get("commit_message") or "Upload scheduler",
            create_pr=options.get("create_pr", False),
        )
    except Exception as error:  # as in _download
        raise OSError(f"saved {file}, but cannot upload it to {repo_id!r}: {error}") from error


def commit_hash(path: str) -> str | None:
    """Return the commit that a file of the Hub's cache belongs to."""
    found = re.search(r"snapshots/([0-9a-f]{40})/", Path(path).as_posix())
    return found[1] if found else None
