"""A run's state as files.

    checkpoint.json                what JSON holds: epochs, learning rate, and the tensor file with its sha256
    checkpoint-0007.safetensors    the tensors after epoch 7

Owns writing and reading the two, so that a break at any moment leaves a whole checkpoint. Must not know what a run is
made of.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from edge_rul.errors import DataError
from edge_rul.training.run import State
from edge_rul.whole_file import write_whole

FILE = "checkpoint.json"


def write(directory: Path, state: State, number: int) -> None:
    """Replace the checkpoint in `directory`; the older one's tensors go once the new one is whole."""
    tensors = save(state.tensors)
    name = f"checkpoint-{number:04d}.safetensors"
    write_whole(directory / name, tensors)
    # The standard library's JSON, since the best RMSE so far begins at infinity.
    plain = {"tensors": name, "sha256": hashlib.sha256(tensors).hexdigest(), **state.plain}
    write_whole(directory / FILE, json.dumps(plain, indent=1).encode())
    for old in directory.glob("*checkpoint-*.safetensors*"):  # and what a write that was killed left of one
        if old.name != name:
            old.unlink()


def read(directory: Path) -> State | None:
    """The checkpoint, or None where there is none. Raises DataError for one that is not whole."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        plain: dict[str, Any] = json.loads(path.read_bytes())
        path = directory / plain["tensors"]
        data = path.read_bytes()
    except (OSError, ValueError, KeyError) as e:
        raise DataError("resume", str(path), f"cannot be read: {e}", hint="begin again in another directory") from e
    if hashlib.sha256(data).hexdigest() != plain["sha256"]:
        raise DataError("resume", str(path), f"is not what {FILE} describes", hint="begin again in another directory")
    return State(load(data), plain)
