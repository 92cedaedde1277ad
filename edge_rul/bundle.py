"""A trained model as a directory that can be copied, read and checked.

    manifest.json        what the model expects, what it answers, where it comes from, sha256 of every other file
    model.onnx           the inference graph: input `x` (B, T, C_in), outputs `rul` (B,) and `logits` (B, C)
    weights.safetensors  the torch model's state dict, for training on and for the NumPy reference
    golden.safetensors   raw windows and what the trained model answers for them

Owns the manifest's types, writing and verified loading. A bundle is identified by the sha256 of its manifest, which
covers every file through the hashes in it. Nothing is ever unpickled. Must not know torch, MQTT or the daemon.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from edge_rul.core.features import Feature, Readings
from edge_rul.core.interval import IntervalTable
from edge_rul.core.normalise import Array, Index, Normaliser
from edge_rul.core.smooth import Smoothing
from edge_rul.core.transform import Transform, plain
from edge_rul.core.valid import Ranges
from edge_rul.errors import BundleError

SCHEMA = "edge-rul/bundle/1"
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One number that a reading brings, in the order in which a payload may list them.

    low, high: least and greatest value in training, in `unit`
    valid:     the range beyond which a value is an error of the sensor, and as good as missing
    missing:   what a reading is whose value is missing: rejected, or held, where the value before stands in
    max_hold:  readings in a row that it may be held within a window that is to be answered; None sets no limit
    """

    name: str
    unit: str
    description: str
    low: float
    high: float
    valid: tuple[float, float] | None = None
    missing: Literal["reject", "hold"] = "reject"
    max_hold: Annotated[int, msgspec.Meta(ge=0)] | None = None


class HealthClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One health class. A label belongs to the first class whose `above` it passes; None takes the rest. Where the data
    set named the classes itself, all are None."""

    name: str
    above: float | None = None


class Rul(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """unit: of every RUL; max: the cap of the labels in training, in that unit."""

    unit: str
    max: float


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """DualTaskModel's arguments, and its number of parameters as a check of the weights."""

    c_in: int
    lstm_hidden: int
    num_heads: int
    shared_dim: int
    num_classes: int
    parameters: int


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Largest absolute difference from the golden outputs that an engine of a precision may show."""

    rul: float
    logits: float


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    bytes: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything about a bundle that a person or the daemon has to know. All numbers in raw units.

    features: what the model sees of the inputs, in its order; every input as it is, where left out. smooth: along the
    window's time, after the normaliser. seconds_per_cycle: as long a cycle was in training, where that is told.
    max_gap: missing cycles in a row that no window of training spanned more of, where there was such a rule.
    """

    schema: str
    name: str
    description: str
    inputs: list[Input]
    window: int
    normaliser: Normaliser
    rul: Rul
    classes: list[HealthClass]
    network: Network
    tolerance: dict[str, Tolerance]  # by precision, "float32" always among them
    training: dict[str, Any]  # provenance: command, seed, data files and their hashes, recipe, versions
    validation: dict[str, Any]  # metrics on validation lives; never test figures
    files: dict[str, FileRecord]
    interval: IntervalTable | None = None  # how far the true RUL may lie from the predicted one; None: not calibrated
    features: list[Feature] | None = None
    smooth: Smoothing | None = None
    seconds_per_cycle: float | None = None
    max_gap: Annotated[int, msgspec.Meta(ge=0)] | None = None

    @property
    def seen(self) -> list[Feature]:
        """What the model sees."""
        return plain([i.name for i in self.inputs]) if self.features is None else self.features

    @property
    def transform(self) -> Transform:
        """The way from raw windows to the network's input."""
        return Transform(
            [i.name for i in self.inputs],
            low=[i.low for i in self.inputs],
            high=[i.high for i in self.inputs],
            features=self.features,
            normaliser=self.normaliser,
            smoothing=self.smooth,
            window=self.window,
        )

    @property
    def ranges(self) -> Ranges:
        """What values may be, and what becomes of others."""
        return Ranges([i.valid for i in self.inputs], [i.missing == "hold" for i in self.inputs])

    def __post_init__(self) -> None:
        names = [i.name for i in self.inputs]
        wrong = [
            (self.schema != SCHEMA, f"schema is {self.schema!r}, this version reads {SCHEMA!r}"),
            (len(set(names)) != len(names), f"inputs name a sensor twice: {names}"),
            (
                len({c.name for c in self.classes}) != len(self.classes),
                f"classes have a name twice: {[c.name for c in self.classes]}",
            ),
            (self.window < 1, f"window is {self.window}, expected at least 1"),
            (
                self.seconds_per_cycle is not None and self.seconds_per_cycle < 1e-3,
                f"seconds_per_cycle is {self.seconds_per_cycle}, expected at least 0.001",
            ),
            (self.rul.max <= 0, f"rul.max is {self.rul.max}, expected above 0"),
            (
                not len(self.seen) == self.network.c_in == self.normaliser.width,
                f"{len(self.seen)} features, normaliser for {self.normaliser.width}, network.c_in {self.network.c_in}",
            ),
            (
                len(self.classes) != self.network.num_classes,
                f"{len(self.classes)} classes, network.num_classes {self.network.num_classes}",
            ),
            ("float32" not in self.tolerance, "tolerance has no entry for float32"),
            (
                set(self.files) != {GRAPH, WEIGHTS, GOLDEN},
                f"files lists {sorted(self.files)}, expected {sorted({GRAPH, WEIGHTS, GOLDEN})}",
            ),
        ]
        for bad, problem in wrong:
            if bad:
                raise ValueError(problem)
        self.transform  # noqa: B018 - raises ValueError where features or normaliser name an input that is not there


class Golden(msgspec.Struct, frozen=True):
    """windows (N, T, F) raw readings; rul (N,) in the bundle's unit and logits (N, C), as the trained model answers.

    before, elapsed: of a model that sees changes, as in `Readings`.
    """

    windows: Array
    rul: Array
    logits: Array
    before: Array | None = None
    elapsed: Index | None = None

    @property
    def readings(self) -> Readings:
        return Readings(self.windows, self.before, self.elapsed)

    @property
    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """By name, as they lie in the file."""
        return {name: array for name, array in msgspec.structs.asdict(self).items() if array is not None}


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle. sha256: of the manifest, so of everything."""

    path: Path
    manifest: Manifest
    sha256: str
    golden: Golden

    @property
    def golden_inputs(self) -> Array:
        """(N, T, C_in) the golden windows as an engine gets them."""
        return self.manifest.transform.apply(self.golden.readings).x

    @property
    def graph(self) -> Path:
        return self.path / GRAPH

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _error(object: Path, problem: str, hint: str = "") -> BundleError:
    return BundleError("load bundle", str(object), problem, hint=hint)


def load(path: Path) -> Bundle:
    """Read and verify the bundle at `path`: manifest, size and sha256 of each file, shapes of the golden windows.

    Raises BundleError with the file, what was found and what was expected.
    """
    if not path.is_dir():
        raise _error(
            path,
            "there is no such directory",
            "make one with `edge-rul train`, or correct the path of `bundle`",
        )
    try:
        text = (path / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(text, type=Manifest)
    except FileNotFoundError:
        raise _error(path, f"has no {MANIFEST}, so it is not a bundle") from None
    except (OSError, ValueError) as e:  # text that is not UTF-8 too, which is no DecodeError
        raise _error(path / MANIFEST, str(e)) from e
    for name, record in manifest.files.items():
        try:
            data = (path / name).read_bytes()
        except OSError as e:
            raise _error(path / name, f"cannot be read: {e.strerror}", "copy the whole directory again") from e
        if (found := _sha256(data)) != record.sha256:
            raise _error(
                path / name,
                f"{len(data)} bytes with sha256 {found[:12]}..., the manifest says {record.bytes} bytes with "
                f"{record.sha256[:12]}...",
                "the file was altered or cut short; copy the whole directory again",
            )
    return Bundle(path, manifest, _sha256(text), _golden(path / GOLDEN, manifest))


def _golden(path: Path, manifest: Manifest) -> Golden:
    try:
        tensors = load_tensors(path.read_bytes())
    except SafetensorError as e:
        raise _error(path, f"is not a safetensors file: {e}") from e
    n = len(tensors["windows"]) if "windows" in tensors else 0
    windows = (n, manifest.window, len(manifest.inputs))
    expected = {"windows": windows, "rul": (n,), "logits": (n, len(manifest.classes))}
    if manifest.transform.changes:
        expected |= {"before": windows, "elapsed": (n, manifest.window, 2)}
    found = {name: t.shape for name, t in tensors.items()}
    if found != expected or n == 0:
        raise _error(path, f"holds {found}, expected {expected} with at least one window")
    elapsed = tensors.pop("elapsed", None)
    if any(t.dtype != np.float32 or not np.isfinite(t).all() for t in tensors.values()):
        raise _error(path, "holds values that are not finite float32")
    if elapsed is not None and elapsed.dtype != np.int64:
        raise _error(path, f"holds elapsed in {elapsed.dtype}, expected int64")
    return Golden(**tensors, elapsed=elapsed)


def _tensors(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    # safetensors writes an array's memory as it lies, so an array in another order would come back scrambled.
    # (np.ascontiguousarray would do too, but gives a scalar, such as BatchNorm's batch counter, a dimension.)
    return save_tensors({name: np.asarray(array, order="C") for name, array in sorted(arrays.items())})


def claim(path: Path, *, replace: bool = False) -> None:
    """Make the directory that a bundle at `path` is to lie in. Raises BundleError where none could be written there.

    What takes hours to make a bundle asks before it begins.
    """
    try:
        if os.path.lexists(path) and not (replace and (path / MANIFEST).is_file()):
            raise BundleError(
                "write bundle", str(path), "exists already", hint="name another directory, or use --force"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        _scratch(path).cleanup()
    except OSError as e:
        raise _not_written(path, e) from e


def _scratch(path: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")


def _not_written(path: Path, e: OSError) -> BundleError:
    problem = f"cannot be written in {path.parent}: {e.strerror or e}"
    return BundleError("write bundle", str(path), problem, hint="name a place in a directory that can be written")


def write(
    path: Path,
    *,
    fields: dict[str, Any],
    graph: bytes,
    weights: dict[str, Array],
    golden: Golden,
    replace: bool = False,
) -> Bundle:
    """Write a bundle at `path`, whole or not at all, and load it back verified; an old one stays if that fails.

    fields: the manifest's fields but `schema` and `files`. weights: the state dict as arrays. An existing directory
    is an error unless `replace`, and then only if it is a bundle. The same arguments give the same bytes. Raises
    BundleError.
    """
    claim(path, replace=replace)
    contents = {
        GRAPH: graph,
        WEIGHTS: _tensors(weights),
        GOLDEN: _tensors(golden.tensors),
    }
    files = {name: FileRecord(_sha256(data), len(data)) for name, data in contents.items()}
    try:
        manifest = msgspec.convert(
            {"schema": SCHEMA, "files": msgspec.to_builtins(files), **msgspec.to_builtins(fields)}, Manifest
        )
    except msgspec.ValidationError as e:
        raise BundleError("write bundle", str(path), str(e)) from e
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    try:
        _put(path, {**contents, MANIFEST: text + b"\n"})
    except OSError as e:
        raise _not_written(path, e) from e
    return load(path)


def _put(path: Path, contents: dict[str, bytes]) -> None:
    """The files at once, verified first. Raises OSError, and leaves what was there."""
    with _scratch(path) as scratch:
        draft = Path(scratch) / "bundle"
        draft.mkdir()
        for name, data in contents.items():
            (draft / name).write_bytes(data)
        load(draft)
        old = Path(scratch) / "old"
        if path.exists():
            path.rename(old)
        try:
            draft.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
