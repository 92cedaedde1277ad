"""What a training run leaves for people, and for going on after a break.

    configuration.yaml   as it was read
    environment.json     versions, processor, threads, device
    begun.json           what has to be the same for the run to be taken up again
    steps.csv            loss, errors, task weights, gradient norms, learning rate of measured steps
    epochs.csv           loss, and the validation figures where assets are held out for validation
    plots/               the two as SVG
    checkpoint.json, checkpoint-*.safetensors

Owns the directory's layout and the rows that go into it. Must not know the network or a data format.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import torch

from edge_rul.errors import ConfigError, DataError
from edge_rul.training import checkpoint
from edge_rul.training.run import State
from edge_rul.whole_file import write_whole

PACKAGES = ("edge-rul", "torch", "numpy", "scikit-learn", "onnx", "onnxruntime", "safetensors")
RESULT = ("edge-rul", "torch", "numpy", "scikit-learn")  # whose versions a run's figures hang on


class RunDirectory:
    """A run's record. Rows of steps are kept until the epoch that they belong to is in a checkpoint."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where there can be no such directory."""
        with _written(path):
            path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._steps: list[dict[str, Any]] = []

    def step(self, figures: dict[str, Any]) -> None:
        self._steps.append(figures)

    def epoch(self, figures: dict[str, Any], state: Callable[[], State]) -> None:
        """Rows first, then the checkpoint: after a break between the two `last` takes the rows back."""
        _append(self.path / "steps.csv", self._steps)
        _append(self.path / "epochs.csv", [figures])
        self._steps = []
        checkpoint.write(self.path, state(), figures["epoch"])

    def last(self) -> State | None:
        """The checkpoint; rows of later epochs are removed."""
        self._steps = []
        state = checkpoint.read(self.path)
        done = 0 if state is None else len(state.plain["epochs"])
        for name in ("steps.csv", "epochs.csv"):
            _keep(self.path / name, done)
        return state

    def begin(self, configuration: bytes, same: dict[str, Any], device: torch.device, *, resume: bool) -> None:
        """Take the directory for a run. same: what an earlier part of the run must have had too, by name.

        Raises ConfigError where a run is there already and is not to be taken up, or differs in `same`, or the
        directory cannot be written, and DataError where what is there is damaged.
        """
        with _written(self.path):
            self._begin(configuration, same, device, resume=resume)

    def _begin(self, configuration: bytes, same: dict[str, Any], device: torch.device, *, resume: bool) -> None:
        path = self.path / "begun.json"
        text = json.dumps(same, indent=1, sort_keys=True)
        if path.exists():
            if not resume:
                raise ConfigError(
                    "train",
                    str(self.path),
                    "holds a run already",
                    hint="go on with --resume, or name another directory",
                )
            earlier = _begun(path)
            now = json.loads(text)
            for key in now:
                if earlier.get(key) != now[key]:
                    raise ConfigError(
                        "resume",
                        str(self.path),
                        f"{key} is not what the run began with: {_differs(earlier.get(key), now[key])}",
                        hint="a run goes on with the same configuration, data, threads and versions only",
                    )
        (self.path / "configuration.yaml").write_bytes(configuration)
        environment = json.dumps(_environment(device), indent=1)
        (self.path / "environment.json").write_text(environment + "\n", encoding="utf-8")
        write_whole(path, text.encode() + b"\n")

    def rows(self, name: str) -> dict[str, list[float]]:
        """The columns of `steps` or `epochs`, NaN where a row has no number."""
        path = self.path / f"{name}.csv"
        if not path.exists():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else ())}


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """What the disk refuses is told as the operator's."""
    try:
        yield
    except OSError as e:
        hint = "--run-dir names a directory that can be written"
        raise ConfigError("train", str(path), f"cannot be written: {e.strerror or e}", hint=hint) from e


def _begun(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except ValueError as e:
        raise DataError("resume", str(path), f"cannot be read: {e}", hint="begin again in another directory") from e


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def _keep(path: Path, epochs: int) -> None:
    """Only the rows of the first `epochs` epochs."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epochs]
    path.unlink()
    _append(path, rows)


def _differs(earlier: Any, now: Any) -> str:
    if isinstance(earlier, dict) and isinstance(now, dict):
        return "; ".join(
            f"{key} was {earlier.get(key)} and is {now.get(key)}"
            for key in dict.fromkeys([*earlier, *now])
            if earlier.get(key) != now.get(key)
        )
    return f"it was {earlier} and is {now}"


def _environment(device: torch.device) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "packages": versions(PACKAGES),
    }


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of the installed ones; None of another."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()
