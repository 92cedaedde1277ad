"""A bundle on disk: what is written comes back, what was altered is refused, and nothing in it is ever executed."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from bundles import bundle_parts, make_bundle
from edge_rul import bundle as bundles
from edge_rul.bundle import FileRecord, Golden, HealthClass, Input, Manifest, Rul
from edge_rul.core.normalise import ZScore
from edge_rul.errors import EXIT_CONFIG, BundleError

FILES = {bundles.GRAPH, bundles.WEIGHTS, bundles.GOLDEN}
PACKAGE = Path(bundles.__file__).parent


@pytest.fixture
def copy(tiny_bundle: bundles.Bundle, tmp_path: Path) -> Path:
    """A bundle that the test may spoil."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Alter the manifest as a person with an editor would."""
    manifest = json.loads((path / bundles.MANIFEST).read_text())
    change(manifest)
    (path / bundles.MANIFEST).write_text(json.dumps(manifest))


def put(path: Path, name: str, data: bytes) -> None:
    """Replace a file, with a manifest that vouches for it: what is left to find is the content."""
    (path / name).write_bytes(data)
    record = msgspec.to_builtins(FileRecord(bundles._sha256(data), len(data)))
    edit(path, lambda m: m["files"].update({name: record}))


def refused(path: Path, match: str) -> BundleError:
    with pytest.raises(BundleError, match=match) as caught:
        bundles.load(path)
    assert caught.value.exit_code == EXIT_CONFIG
    assert str(path) in caught.value.object
    return caught.value


# -- what is written comes back --------------------------------------------------------------------------------------


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    parts = bundle_parts(inputs=("T24", "T30"), classes=("healthy", "critical"), window=7)
    bundle = bundles.write(tmp_path / "b", **parts)
    m, fields = bundle.manifest, parts["fields"]
    assert {name: getattr(m, name) for name in fields} == fields
    assert m.schema == bundles.SCHEMA
    assert set(m.files) == FILES
    for name in ("windows", "rul", "logits"):
        assert np.array_equal(getattr(bundle.golden, name), getattr(parts["golden"], name))
    weights = load_tensors(bundle.weights.read_bytes())
    assert weights.keys() == parts["weights"].keys()
    assert all(np.array_equal(weights[k], v) and weights[k].dtype == v.dtype for k, v in parts["weights"].items())
    assert bundle.graph.read_bytes() == parts["graph"]
    assert bundles.load(bundle.path).sha256 == bundle.sha256


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    parts = bundle_parts()
    backwards = dict(reversed(parts["weights"].items()))
    first = bundles.write(tmp_path / "one" / "b", **parts)
    second = bundles.write(tmp_path / "another", **{**parts, "weights": backwards})
    assert content(first.path) == content(second.path)
    assert first.sha256 == second.sha256


def test_the_identity_covers_every_file(tmp_path: Path) -> None:
    parts = bundle_parts()
    weights = {**parts["weights"], "rul_head.layers.0.bias": parts["weights"]["rul_head.layers.0.bias"] + 1}
    golden = Golden(parts["golden"].windows + 1, parts["golden"].rul, parts["golden"].logits)
    variants: list[dict[str, Any]] = [
        {},
        {"weights": weights},
        {"golden": golden},
        {"graph": bundle_parts(seed=1)["graph"]},
        {"fields": {**parts["fields"], "description": "another"}},
    ]
    made = {bundles.write(tmp_path / str(i), **{**parts, **change}).sha256 for i, change in enumerate(variants)}
    assert len(made) == len(variants)


def test_the_manifest_is_for_people_to_read(tiny_bundle: bundles.Bundle) -> None:
    text = (tiny_bundle.path / bundles.MANIFEST).read_text()
    assert text.startswith('{\n  "schema": "edge-rul/bundle/1"')
    assert text.endswith("}\n")
    assert max(len(line) for line in text.splitlines()) < 200


def test_arrays_in_another_memory_order_are_written_as_they_read(tmp_path: Path) -> None:
    parts = bundle_parts()
    windows, logits = parts["golden"].windows, parts["golden"].logits
    weights = {k: np.asfortranarray(v) if v.ndim > 1 else v for k, v in parts["weights"].items()}
    wide = np.zeros((len(windows), 10, 3), np.float32)
    wide[:, ::2] = windows
    bundle = bundles.write(
        tmp_path / "b",
        **{
            **parts,
            "weights": weights,
            "golden": Golden(wide[:, ::2], parts["golden"].rul[::-1][::-1], np.asfortranarray(logits)),
        },
    )
    assert np.array_equal(bundle.golden.windows, windows)
    assert np.array_equal(bundle.golden.logits, logits)
    read = load_tensors(bundle.weights.read_bytes())
    assert all(np.array_equal(read[k], v) for k, v in parts["weights"].items())


# -- what was altered is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize(
    "spoil",
    [lambda d: d[:-1], lambda d: b"", lambda d: d + b"\0", lambda d: bytes([d[0] ^ 1]) + d[1:]],
    ids=["cut", "emptied", "longer", "altered"],
)
def test_an_altered_file_is_refused_by_name(copy: Path, name: str, spoil: Callable[[bytes], bytes]) -> None:
    data = spoil((copy / name).read_bytes())
    (copy / name).write_bytes(data)
    error = refused(copy, f"{len(data)} bytes with sha256")
    assert error.object == str(copy / name)
    assert "copy the whole directory again" in error.hint


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_refused_by_name(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert refused(copy, "cannot be read: No such file").object == str(copy / name)


def test_a_directory_in_place_of_a_file(copy: Path) -> None:
    (copy / bundles.GRAPH).unlink()
    (copy / bundles.GRAPH).mkdir()
    refused(copy, "cannot be read: Is a directory")


def test_no_directory_and_no_bundle_are_told_apart(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "there is no such directory")
    refused(tmp_path, "has no manifest.json, so it is not a bundle")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(extra=1), "unknown field `extra`"),
        (lambda m: m["rul"].update(low=1), r"unknown field `low` - at `\$.rul`"),
        (lambda m: m.pop("window"), "missing required field `window`"),
        (lambda m: m.update(schema="edge-rul/bundle/2"), "schema is 'edge-rul/bundle/2', this version reads"),
        (lambda m: m.update(window="5"), r"\$.window"),
        (lambda m: m.update(window=0), "window is 0, expected at least 1"),
        (lambda m: m["inputs"].pop(), "2 features, normaliser for 3, network.c_in 3"),
        (lambda m: m["normaliser"]["mean"].pop(), "mean has 2 numbers and std 3"),
        (lambda m: m["normaliser"].update(std=[1, 0, -1]), "not negative"),
        (lambda m: m["normaliser"].update(kind="minmax"), r"\$.normaliser"),
        (lambda m: m["inputs"][1].update(name="a"), "inputs name a sensor twice"),
        (lambda m: m["classes"][1].update(name="healthy"), r"classes have a name twice: \['healthy', 'healthy', "),
        (lambda m: m["classes"].pop(), "2 classes, network.num_classes 3"),
        (lambda m: m["rul"].update(max=0), "rul.max is 0.0, expected above 0"),
        (lambda m: m.update(tolerance={}), "tolerance has no entry for float32"),
        (lambda m: m["files"].pop("model.onnx"), "files lists"),
        (lambda m: m["files"].update({"../../etc/passwd": m["files"]["model.onnx"]}), "files lists"),
    ],
)
def test_a_manifest_that_is_wrong_says_what(copy: Path, change: Callable[[dict[str, Any]], None], says: str) -> None:
    edit(copy, change)
    assert refused(copy, says).object == str(copy / bundles.MANIFEST)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'"' + b"\xff" + b'"', b"[" * 100_000])
def test_a_manifest_that_is_no_json_object(copy: Path, text: bytes) -> None:
    (copy / bundles.MANIFEST).write_bytes(text)
    refused(copy, "manifest.json")


def test_a_manifest_in_another_encoding_is_the_operators_fault(copy: Path) -> None:
    manifest = copy / bundles.MANIFEST
    text = manifest.read_text(encoding="utf-8").replace('"unit": "', '"unit": "°', 1)
    assert "°" in text
    manifest.write_bytes(text.encode("latin-1"))
    refused(copy, "manifest.json")


def test_an_edited_manifest_is_another_bundle(copy: Path, tiny_bundle: bundles.Bundle) -> None:
    edit(copy, lambda m: m["rul"].update(unit="hours"))
    assert bundles.load(copy).sha256 != tiny_bundle.sha256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update(windows=t["windows"][:, 1:].copy()), r"\(6, 4, 3\)"),
        (lambda t: t.update(windows=t["windows"][..., 1:].copy()), r"\(6, 5, 2\)"),
        (lambda t: t.update(rul=t["rul"][:, None].copy()), r"\(6, 1\)"),
        (lambda t: t.update(rul=t["rul"][1:].copy()), r"\(5,\)"),
        (lambda t: t.update(logits=t["logits"][:, 1:].copy()), r"\(6, 2\)"),
        (lambda t: t.update({k: v[:0] for k, v in t.items()}), "at least one window"),
        (lambda t: t.pop("rul"), "expected"),
        (lambda t: t.pop("windows"), "at least one window"),
        (lambda t: t.update(more=t["rul"]), "'more'"),
        (lambda t: t.update(rul=t["rul"].astype(np.float64)), "not finite float32"),
        (lambda t: t.update(rul=np.full_like(t["rul"], np.nan)), "not finite float32"),
        (lambda t: t.update(logits=np.full_like(t["logits"], np.inf)), "not finite float32"),
    ],
)
def test_golden_windows_of_another_shape_are_refused(
    copy: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    tensors = load_tensors((copy / bundles.GOLDEN).read_bytes())
    change(tensors)
    put(copy, bundles.GOLDEN, save_tensors(tensors))
    assert refused(copy, says).object == str(copy / bundles.GOLDEN)


# -- nothing in it is executed ---------------------------------------------------------------------------------------


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_in_place_of_tensors_is_refused_and_not_loaded(copy: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    data = pickle.dumps(Trap(sprung))
    pickle.loads(data)
    assert sprung.exists(), "the trap does not work"
    sprung.unlink()
    put(copy, bundles.GOLDEN, data)
    refused(copy, "is not a safetensors file")
    assert not sprung.exists()


def test_nothing_in_the_package_unpickles() -> None:
    """joblib, cloudpickle and dill unpickle; torch.load and numpy.load can; shelve and marshal are no better."""
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            where = f"{file.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                found += [f"{where} import {a.name}" for a in node.names if a.name.split(".")[0] in modules]
            elif isinstance(node, ast.ImportFrom):
                if (node.module or "").split(".")[0] in modules:
                    found.append(f"{where} from {node.module}")
                elif (node.module or "").split(".")[0] in {"torch", "numpy"}:
                    found += [f"{where} from {node.module} import load" for a in node.names if a.name == "load"]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                unsafe = {"torch": {"load"}, "np": {"load"}, "numpy": {"load"}, "jit": {"load"}}
                if node.attr in unsafe.get(node.value.id, set()):
                    found.append(f"{where} {node.value.id}.{node.attr}")
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found.append(f"{where} allow_pickle")
    # safetensors' own `load` reads numbers and nothing else.
    assert found == []


# -- writing ---------------------------------------------------------------------------------------------------------


def test_an_existing_bundle_is_kept_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "b"
    old = make_bundle(path)
    with pytest.raises(BundleError, match="exists already") as caught:
        make_bundle(path, seed=1)
    assert "--force" in caught.value.hint
    assert bundles.load(path).sha256 == old.sha256
    new = make_bundle(path, seed=1, replace=True)
    assert new.sha256 != old.sha256
    assert bundles.load(path).sha256 == new.sha256
    assert [f.name for f in tmp_path.iterdir()] == ["b"]


def test_a_directory_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("thesis")
    with pytest.raises(BundleError, match="exists already"):
        make_bundle(tmp_path, replace=True)
    file = tmp_path / "file"
    file.write_text("thesis")
    with pytest.raises(BundleError, match="exists already"):
        make_bundle(file, replace=True)
    assert {f.name for f in tmp_path.iterdir()} == {"precious.txt", "file"}


def test_parents_are_made(tmp_path: Path) -> None:
    assert make_bundle(tmp_path / "a" / "b" / "c").path.is_dir()


@pytest.mark.parametrize("where", ["file/b", "file/deeper/b", "x" * 300])
def test_where_no_bundle_can_be_written_is_said_beforehand(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("thesis")
    for attempt in (bundles.claim, make_bundle):
        with pytest.raises(BundleError, match=r"write bundle: .*: cannot be written in .*\n  hint: name a place"):
            attempt(tmp_path / where, replace=True)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_a_link_that_leads_nowhere_is_no_place_for_a_bundle(tmp_path: Path) -> None:
    """It could not be replaced once the bundle is made."""
    (tmp_path / "b").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="exists already"):
        bundles.claim(tmp_path / "b")


def test_a_claim_makes_the_parents_and_leaves_nothing_else(tmp_path: Path) -> None:
    bundles.claim(tmp_path / "a" / "b")
    assert [f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*")] == ["a"]


@pytest.mark.parametrize("place", ["new", "old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever among the file operations of a write the disk fails."""
    path = tmp_path / "b"
    before = content(make_bundle(path).path) if place == "old" else {}
    operations = ("write_bytes", "rename", "mkdir")
    left = [1000]

    def failing(name: str) -> Callable[..., Any]:
        real = getattr(Path, name)

        def operation(self: Path, *args: Any, **kwargs: Any) -> Any:
            if self.is_relative_to(tmp_path):
                left[0] -= 1
                if left[0] == -1:  # once: what puts things back may use the disk
                    raise OSError(28, "No space left on device", str(self))
            return real(self, *args, **kwargs)

        return operation

    for name in operations:
        monkeypatch.setattr(Path, name, failing(name))
    for good in range(100):
        left[0] = good
        try:
            made = make_bundle(path, seed=1, replace=True)
        except BundleError as e:
            assert e.problem == f"cannot be written in {tmp_path}: No space left on device"
            assert (content(path) if path.exists() else {}) == before, f"after {good} operations"
            assert [f.name for f in tmp_path.iterdir()] == (["b"] if before else []), f"after {good} operations"
        else:
            break
    assert good > 4
    assert bundles.load(path).sha256 == made.sha256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"window": 6}, r"\(6, 5, 3\)"),
        ({"inputs": [Input("a", "-", "", 0, 1)] * 3}, "twice"),
        ({"classes": [HealthClass("a")]}, "1 classes"),
        ({"rul": Rul("cycles", -1)}, "rul.max"),
        ({"normaliser": ZScore([0.0], [1.0])}, "normaliser for 1"),
        ({"nonsense": 1}, "nonsense"),
        ({"tolerance": {}}, "float32"),
    ],
)
def test_what_could_not_be_loaded_is_not_written(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    parts = bundle_parts()
    with pytest.raises(BundleError, match=says):
        bundles.write(tmp_path / "b", **{**parts, "fields": {**parts["fields"], **change}})
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_needs_nothing_but_its_own_text(tiny_bundle: bundles.Bundle) -> None:
    text = (tiny_bundle.path / bundles.MANIFEST).read_bytes()
    assert msgspec.json.decode(text, type=Manifest) == tiny_bundle.manifest
    assert str(tiny_bundle.path.parent).encode() not in text
