"""Checkpoint files: written whole or not at all, checked before they are read, loaded as plain data only."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from depthlab.errors import InputError
from depthlab.records.atomic_files import remove_leftovers, replacing
from depthlab.records.safe_files import UnfitFile, is_inside

FOLDER = "checkpoints"
KEEP = 2
SAFETENSORS = ".safetensors"
NETWORK = "network."  # before the names of weights in a file of safetensors
OF_PREPROCESSING = ("scale", "offset")  # what of the preprocessing are tensors
MOST_DIGEST = 1000  # characters: a sum and a name


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies in a run's directory."""
    return directory / FOLDER / f"step-{step:08d}.ckpt"


def list_checkpoints(directory: Path) -> list[Path]:
    """A run's checkpoints, the newest first."""
    return sorted((directory / FOLDER).glob("step-*.ckpt"), reverse=True)


def save_checkpoint(directory: Path, step: int, content: dict[str, Any]) -> Path:
    """Write a checkpoint, then remove all but the last two.

    The SHA-256 of the file lies beside it (the format of sha256sum): torch does not check a file's own sums.

    Raises:
        OSError: the disk is full or the directory cannot be written; the checkpoints before are untouched.
        UnfitFile: the folder of checkpoints is a link that leads out of `directory`.
    """
    path = checkpoint_path(directory, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_folder(directory)
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as file:  # closed before the error is told: an open file keeps its space
                torch.save(content, file)
        except (RuntimeError, OSError) as error:  # torch makes its own error of a failed write in its archive
            raise OSError(f"{path} could not be written ({_cause_of_failed_write(error, path)}).") from None
        with replacing(_digest_path(path)) as digest:
            digest.write_text(f"{_sha256(temporary)}  {path.name}\n")
    for old in list_checkpoints(directory)[KEEP:]:
        remove_checkpoint(old)
    return path


def _cause_of_failed_write(error: BaseException, path: Path) -> str:
    """The system's own words, which torch may have wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    free = shutil.disk_usage(path.parent).free
    return f"{free / 1e6:,.0f} MB are free there; {str(error).splitlines()[0]}"


def _check_folder(directory: Path) -> None:
    """Old checkpoints are removed: those of this run, and not what somebody's link leads to."""
    if not is_inside(directory / FOLDER, directory):
        raise UnfitFile(f"{directory / FOLDER} is a link that leads out of the run's directory. Remove it.")


def state_sha256(state: Mapping[str, Any]) -> str:
    """Hash of a network's weights: name, type, shape and bytes of each tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor: torch.Tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: tensors and plain data, nothing that could run code.

    Raises:
        InputError: the file is missing, damaged, or no checkpoint of this project.
    """
    if not (path.is_file() and _digest_path(path).is_file()):
        raise InputError(f"{path} is not a checkpoint with its .sha256 file beside it.")
    content = load_checkpoint_file(path)
    if path.name != checkpoint_path(path, content["step"]).name:
        raise InputError(f"{path} is not a checkpoint of a run of this project.")
    return content


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that may have been copied or renamed; its sum is checked where it lies beside it.

    A file of `save_safetensors` is read as well.

    Raises:
        InputError: the file is missing, damaged, or no checkpoint of this project.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file.")
    if path.suffix == SAFETENSORS:
        return _load_safetensors(path)
    if _digest_path(path).is_file():
        _check_digest(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of bytes that are no checkpoint: a dozen kinds of error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} is not a checkpoint: {reason}") from None
    if not _is_checkpoint(content):
        raise InputError(f"{path} is not a checkpoint of a run of this project.")
    return dict(content)


def save_safetensors(path: Path, content: dict[str, Any]) -> None:
    """Write the weights, the preprocessing and the record of a checkpoint in the format of Hugging Face's library."""
    from safetensors.torch import save_file

    state, preprocessing = content["network"], dict(content["preprocessing"])
    tensors = {f"{NETWORK}{name}": value.contiguous() for name, value in state.items()}
    tensors |= {name: preprocessing.pop(name).contiguous() for name in OF_PREPROCESSING}
    plain = {"step": content["step"], "record": content["record"], "preprocessing": preprocessing}
    save_file(tensors, path, {name: json.dumps(value) for name, value in plain.items()})


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import safe_open
    except ImportError:
        raise InputError(f"{path}: install what reads it: pip install 'depthlab[export]'") from None
    try:
        with safe_open(path, framework="pt") as file:
            content = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        content["network"] = {
            name.removeprefix(NETWORK): value for name, value in tensors.items() if name.startswith(NETWORK)
        }
        content["preprocessing"] |= {name: tensors[name] for name in OF_PREPROCESSING}
    except Exception as error:  # of the library, or of JSON that is none
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path} is not a file that `depthlab export` writes ({reason}).") from None
    if not _is_checkpoint(content):
        raise InputError(f"{path} is not a checkpoint of a run of this project.")
    return content


def _check_digest(path: Path) -> None:
    try:
        with _digest_path(path).open(encoding="utf-8") as file:
            expected = file.read(MOST_DIGEST).split()[0]
        intact = _sha256(path) == expected
    except (OSError, IndexError, UnicodeDecodeError):
        raise InputError(f"{path} is not a checkpoint with its .sha256 file beside it.") from None
    if not intact:
        raise InputError(f"{path} is damaged: its SHA-256 is not the one written beside it.")


def _is_checkpoint(content: Any) -> bool:
    """Whether it holds a step and the weights of a network, at least."""
    if not isinstance(content, dict) or type(content.get("step")) is not int:
        return False
    network = content.get("network")
    return isinstance(network, dict) and all(isinstance(value, torch.Tensor) for value in network.values())


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and the sum beside it."""
    path.unlink(missing_ok=True)
    _digest_path(path).unlink(missing_ok=True)


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_newest(directory: Path, tidy: bool) -> dict[str, Any] | None:
    """The newest whole checkpoint; a damaged one is passed over with a line that says so.

    Args:
        directory: a run's directory.
        tidy: whether this process holds the run and goes on from there. What is damaged is renamed then, lest it takes
            one of the two places of those that are kept, and what a killed process left half written is removed.
    """
    _check_folder(directory)
    if tidy:
        remove_leftovers(directory / FOLDER)
    damaged = 0
    for path in list_checkpoints(directory):
        try:
            content = load_checkpoint(path)
        except InputError as error:
            damaged += 1
            if tidy:
                path.replace(path.with_name(f"{path.name}.damaged"))
                _digest_path(path).unlink(missing_ok=True)
                print(f"{error} It is now {path.name}.damaged.")
            continue
        if damaged and tidy:
            print(f"Going on from the checkpoint before, of step {content['step']:,}.")
        return content
    if damaged and tidy:
        print("No checkpoint is whole: the run starts again from step 0.")
    return None
