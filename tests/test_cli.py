"""The commands as a person or a service manager meets them: exit codes, what goes to stderr, what is imported."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import free_port

import edge_rul
from bundles import bundle_parts
from edge_rul import bundle as bundles
from edge_rul import cli
from edge_rul.bundle import Bundle, Golden
from edge_rul.errors import (
    EXIT_CONFIG,
    EXIT_INTERNAL,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_TAKEOVER,
    EXIT_USAGE,
    BundleError,
    ConfigError,
    DataError,
    EdgeRulError,
    EngineError,
    SessionTakenOver,
    TransportError,
)

PACKAGE = Path(edge_rul.__file__).parent
NOT_ON_THE_BOX = ("torch", "onnx", "rich", "sklearn", "scipy", "pandas", "iotcore", "hypothesis", "jsonschema")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that one of these commands opens does not lie in this user's home."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


@pytest.fixture
def config(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A configuration that is right; its broker is not asked by `check`."""
    path = tmp_path / "edge-rul.yaml"
    path.write_text(
        f"bundle: {tiny_bundle.path}\ntopics:\n  readings: ['plant/{{asset}}/cycle']\n"
        "alarms:\n  - {name: rul_low, watch: rul, below: 30}\n"
    )
    return path


@pytest.fixture
def lying_bundle(tmp_path: Path) -> Path:
    """A bundle whose golden answers are not those of its graph; every file is as the manifest says."""
    parts = bundle_parts()
    golden = parts["golden"]
    wrong = Golden(golden.windows, golden.rul + np.float32(1), golden.logits)
    return bundles.write(tmp_path / "lying", **{**parts, "golden": wrong}).path


def command(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """`edge-rul` as a process of its own."""
    code = "import sys; from edge_rul.cli import main; sys.exit(main())"
    return python(code, *map(str, arguments), **options)


def python(code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )


def main(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0
    out, err = capsys.readouterr()
    return code, out, err


# -- usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run"], "--config"),
        (["run", "--confg", "x"], "--config"),
        (["check", "--config"], "--config"),
        (["evaluate", "bundle"], "--data"),
        (["train", "config"], "--data, --out"),
        (["train", "config", "--seed", "-1"], "--seed: expected a whole number from 0 to 4294967295, found '-1'"),
        (["train", "config", "--seed", "4294967296"], "--seed: expected a whole number from 0 to 4294967295"),
        (["model"], "COMMAND"),
        (["model", "summary", "--c-in", "0"], "--c-in: expected a whole number of at least 1, found '0'"),
        (["model", "summary", "--window", "many"], "expected a whole number of at least 1, found 'many'"),
        (["simulate", "--port", "70000"], "--port: expected a whole number from 1 to 65535, found '70000'"),
        (["simulate", "--assets", "0"], "--assets"),
    ],
)
def test_wrong_usage_is_64(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], says: str) -> None:
    code, out, err = main(capsys, *arguments)
    assert code == EXIT_USAGE == 64
    assert says in err
    assert "usage: edge-rul" in err
    assert "Traceback" not in err
    assert out == ""


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(capsys, "--version") == (EXIT_OK, f"edge-rul {importlib.metadata.version('edge-rul')}\n", "")
    code, out, _ = main(capsys, "--help")
    assert code == EXIT_OK
    for name in ("run", "check", "train", "evaluate", "model", "simulate"):
        assert f"\n    {name} " in out


# -- run and check ---------------------------------------------------------------------------------------------------


def test_check_says_what_it_found(capsys: pytest.CaptureFixture[str], config: Path, tiny_bundle: Bundle) -> None:
    code, out, err = main(capsys, "check", "--offline", "--config", config)
    assert (code, err) == (EXIT_OK, "")
    assert f"bundle         tiny, 3 inputs, window 5, sha256 {tiny_bundle.sha256[:12]}" in out
    assert "golden         6 windows answered to within " in out
    assert "subscribes to  plant/{asset}/cycle, edge-rul/command at QoS 1, on localhost:1883\n" in out
    assert "alarms         rul_low" in out
    assert out.endswith("\nok\n")
    config.write_text(f"{config.read_text()}candidate: {{bundle: {tiny_bundle.path}}}\n")
    code, out, _ = main(capsys, "check", "--offline", "--config", config)
    assert code == EXIT_OK
    assert f"candidate      tiny, sha256 {tiny_bundle.sha256[:12]}, on onnxruntime" in out


@pytest.mark.parametrize("name", ["run", "check"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no such file"),
        ("bundle: b: c\n", ":1: this is not valid YAML"),
        ("bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\nmqtt: {{prt: 1}}\n", ":3: mqtt.prt: unknown key"),
        ("bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\nmqtt: {{port: 0}}\n", ":3: mqtt.port: expected"),
        ("bundle: gone\ntopics: {{readings: ['a/{{asset}}']}}\n", ":1: bundle: there is no "),
        ("bundle: .\ntopics: {{readings: ['a/{{asset}}']}}\n", "has no manifest.json, so it is not a bundle"),
        (
            "bundle: {lying}\ntopics: {{readings: ['a/{{asset}}']}}\n",
            "no engine serves this bundle: onnxruntime: differs by",
        ),
        (
            "bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\ninputs: {{d: {{missing: hold}}}}\n",
            ":3: inputs.d: the bundle has no such input",
        ),
        (
            "bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\nmqtt:\n  tls: {{ca: edge-rul.yaml}}\n",
            ":4: mqtt.tls: ca, cert and key are not what TLS wants",
        ),
        (
            "bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\nhttp: {{port: {port}, token_file: gone}}\n",
            ":3: http.token_file: there is no ",
        ),
        (
            "bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\n"
            "http: {{port: {port}, tls_cert: gone, tls_key: gone}}\n",
            ":3: http.tls_cert: there is no ",
        ),
        (
            "bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\njournal: {{directory: edge-rul.yaml/state}}\n",
            "edge-rul.yaml/state: cannot be used: ",
        ),
        (
            "bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\ncandidate: {{bundle: gone}}\n",
            ":3: candidate.bundle: there is no ",
        ),
        (
            "bundle: {bundle}\ntopics: {{readings: ['a/{{asset}}']}}\ncandidate: {{bundle: {lying}}}\n",
            "lying on onnxruntime ",
        ),
    ],
)
def test_what_the_operator_has_to_mend_is_78(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_bundle: Bundle,
    lying_bundle: Path,
    name: str,
    text: str | None,
    says: str,
) -> None:
    path = tmp_path / "edge-rul.yaml"
    if text is not None:
        path.write_text(text.format(bundle=tiny_bundle.path, lying=lying_bundle, port=free_port()))
    code, out, err = main(capsys, name, "--config", path)
    assert code == EXIT_CONFIG == 78
    *log, message = re.split(r"(?m)^edge-rul: ", err)
    assert says in message
    assert message.count("\n") <= 2, "the message stands last, with its hint"
    assert len(log) == 1
    assert "Traceback" not in err
    assert out == ""


def test_a_daemon_whose_golden_windows_disagree_does_not_serve(tmp_path: Path, lying_bundle: Path) -> None:
    """As systemd runs it: exit code 78, and its last words on stderr."""
    path = tmp_path / "edge-rul.yaml"
    path.write_text(f"bundle: {lying_bundle}\ntopics: {{readings: ['a/{{asset}}']}}\n")
    done = command("run", "--config", path)
    assert done.returncode == EXIT_CONFIG
    assert done.stdout == ""
    assert "differs by up to 1 cycles" in done.stderr
    assert "0.001 and 0.001 are allowed" in done.stderr
    assert "hint: " in done.stderr
    assert "ready" not in done.stderr


# -- other commands --------------------------------------------------------------------------------------------------


def test_model_summary(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = main(capsys, "model", "summary")
    assert (code, err) == (EXIT_OK, "")
    assert out.splitlines()[-1].split() == ["total", "3,496,900", "100.00%"]
    code, out, _ = main(capsys, "model", "summary", "--c-in", "3", "--window", "7", "--classes", "5")
    assert code == EXIT_OK
    assert "(B, 7, 3)" in out
    assert "(B, 5)" in out


def cmapss(directory: Path) -> Path:
    """Three test engines in C-MAPSS's format; the second is shorter than a window of 5."""
    rng = np.random.default_rng(0)
    lines = [
        f"{unit} {cycle} " + " ".join(f"{v:.4f}" for v in rng.normal(20, 3, 24))
        for unit, length in ((1, 9), (2, 3), (3, 6))
        for cycle in range(1, length + 1)
    ]
    (directory / "test_FD001.txt").write_text("\n".join(lines) + "\n")
    (directory / "RUL_FD001.txt").write_text("112\n98\n20\n")
    return directory


@pytest.fixture
def cmapss_bundle(tmp_path: Path) -> Path:
    parts = bundle_parts(inputs=("T24", "T30", "Ps30"))
    training = {"dataset": {"format": "cmapss", "subset": "FD001"}}
    return bundles.write(tmp_path / "b", **{**parts, "fields": {**parts["fields"], "training": training}}).path


def test_evaluate_prints_one_json_object(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, cmapss_bundle: Path
) -> None:
    code, out, err = main(capsys, "evaluate", cmapss_bundle, "--data", cmapss(tmp_path), "--json")
    assert code == EXIT_OK
    assert err.startswith("edge-rul evaluate: no held-out figures and no tree: ") and "train_FD001.txt" in err
    report = json.loads(out)
    assert {"subset", "engines", "rmse", "nasa_score", "accuracy", "macro_f1"} <= report.keys()
    assert (report["subset"], report["engines"], report["padded"]) == ("FD001", 3, 1)
    code, out, _ = main(capsys, "evaluate", cmapss_bundle, "--data", tmp_path)
    assert code == EXIT_OK
    assert f" {report['rmse']:.2f}\n" in out


def test_evaluate_without_data_or_bundle_is_78(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, cmapss_bundle: Path, tiny_bundle: Bundle
) -> None:
    for arguments in (
        (cmapss_bundle, "--data", tmp_path / "gone"),
        (cmapss_bundle, "--data", tmp_path),  # no such file in it
        (tmp_path / "gone", "--data", tmp_path),
        (tiny_bundle.path, "--data", tmp_path),  # trained on nothing that can be loaded
    ):
        code, out, err = main(capsys, "evaluate", *arguments)
        assert (code, out) == (EXIT_CONFIG, ""), arguments
        assert err.startswith("edge-rul: ")
        assert "Traceback" not in err


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("o", "f", "p"), EXIT_CONFIG),
        (BundleError("o", "f", "p"), EXIT_CONFIG),
        (EngineError("o", "f", "p"), EXIT_CONFIG),
        (DataError("o", "f", "p"), EXIT_CONFIG),
        (TransportError("o", "f", "p"), EXIT_REFUSED),
        (SessionTakenOver("o", "f", "p"), EXIT_TAKEOVER),
        (EdgeRulError("o", "f", "p"), EXIT_INTERNAL),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(cli.COMMANDS["run"], "run", fail)
    found, out, err = main(capsys, "run", "--config", "x")
    assert (found, out) == (code, "")
    assert err == ("" if code == 130 else "edge-rul: o: f: p\n")


def test_the_exit_codes_are_those_that_the_unit_and_the_documentation_name() -> None:
    assert (EXIT_OK, EXIT_USAGE, EXIT_INTERNAL, EXIT_TAKEOVER, EXIT_REFUSED, EXIT_CONFIG) == (0, 64, 70, 76, 77, 78)


def test_a_mistake_of_ours_is_loud(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.COMMANDS["run"], "run", lambda _: 1 // 0)
    code, _, err = main(capsys, "run", "--config", "x")
    assert code == EXIT_INTERNAL
    assert "internal error: ZeroDivisionError" in err
    assert "Traceback" in err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from edge_rul.cli import main; sys.exit(main())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, "model", "summary"],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (EXIT_OK, b"")


# -- what is imported ------------------------------------------------------------------------------------------------


def test_the_daemon_never_imports_what_only_training_needs() -> None:
    code = (
        "import edge_rul.cli, edge_rul.daemon, edge_rul.engines.onnxruntime, edge_rul.adapters.mqtt, sys; "
        f"print(sorted(set(sys.modules) & set({NOT_ON_THE_BOX!r})))"
    )
    done = python(code)
    # structlog imports rich by itself where it is installed; that the daemon does without is shown below.
    assert (done.stdout.replace("'rich'", ""), done.stderr) == ("[]\n", "")


def test_check_works_where_only_the_run_time_packages_are(config: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_ON_THE_BOX!r})); "  # None: an import fails
        "from edge_rul.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = python(code, "check", "--offline", "--config", str(config))
    assert (done.returncode, done.stderr) == (EXIT_OK, "")


@pytest.mark.parametrize("arguments", [["train", "c.yaml", "--data", ".", "--out", "b"], ["model", "summary"]])
def test_what_needs_torch_says_so(arguments: Sequence[str]) -> None:
    code = "import sys; sys.modules['torch'] = None; from edge_rul.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(code, *arguments)
    assert done.returncode == EXIT_CONFIG
    assert "torch" in done.stderr
    assert "edge-rul[train]" in done.stderr
    assert "Traceback" not in done.stderr


# What the core may import besides itself and the errors. No clock, thread, log, socket, file or process among them;
# datetime converts times and is not asked for one.
CORE_MAY_IMPORT = {
    *("__future__", "collections", "collections.abc", "contextlib", "dataclasses", "enum", "functools", "itertools"),
    *(
        "bisect",
        "heapq",
        "json",
        "math",
        "operator",
        "re",
        "string",
        "typing",
        "datetime",
        "hashlib",
        "struct",
        "base64",
    ),
    *("msgspec", "numpy", "numpy.typing", "edge_rul.errors"),
}
CORE_MUST_NOT_CALL = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}
CLOCKS = {"now", "utcnow", "today"}  # of datetime and date
NUMPY_FILES = {
    f"np.{name}" for name in ("load", "save", "savez", "fromfile", "loadtxt", "savetxt", "genfromtxt", "memmap")
}


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used in this package"
            found.append((node.lineno, node.module or ""))
    return found


CORE = sorted((PACKAGE / "core").glob("*.py"))


@pytest.mark.parametrize("file", CORE, ids=lambda f: f.name)
def test_the_core_does_no_input_or_output(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    wrong = [
        f"{line}: imports {name}"
        for line, name in imports(tree)
        if name not in CORE_MAY_IMPORT and not name.startswith("edge_rul.core")
    ]
    for node in ast.walk(tree):
        # A field may bear such a name; what counts is who reads it.
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in CORE_MUST_NOT_CALL:
            wrong.append(f"{node.lineno}: uses {node.id}")
        elif isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            wrong.append(f"{node.lineno}: asks a clock, {node.attr}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in NUMPY_FILES:
            wrong.append(f"{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


def test_that_scan_sees_the_core() -> None:
    assert {"pipeline.py", "payload.py", "alarm.py"} <= {f.name for f in CORE}


def test_rooms_that_must_not_know_each_other_do_not() -> None:
    """Engines know no adapter, adapters no engine and not each other; only the daemon and its worker know both."""

    def of(pattern: str) -> dict[str, set[str]]:
        return {
            f.relative_to(PACKAGE).as_posix(): {name for _, name in imports(ast.parse(f.read_text(encoding="utf-8")))}
            for f in PACKAGE.glob(pattern)
        }

    for name, imported in of("adapters/*.py").items():
        rooms = ("edge_rul.adapters", "edge_rul.engines", "edge_rul.daemon", "edge_rul.wiring", "edge_rul.worker")
        own = f"edge_rul.adapters.{Path(name).stem.partition('_')[0]}_"  # journal.py is cut into journal_file.py, ...
        assert [i for i in imported if i.startswith(rooms) and not i.startswith(own)] == [], name
    for name, imported in of("engines/*.py").items():
        assert [i for i in imported if i.startswith(("edge_rul.adapters", "edge_rul.daemon"))] == [], name
    for name, imported in {**of("*.py"), **of("*/*.py"), **of("*/*/*.py")}.items():
        loop = {
            "daemon.py",
            "loop.py",
            "board.py",
            "reload.py",
            "worker.py",
            "intake.py",
            "scoring.py",
            "snapshots.py",
            "daemon_alarms.py",
        }
        if name not in loop | {"wiring.py", "wiring_http.py", "lookback.py"} and not name.startswith(
            ("adapters/", "commands/")
        ):
            assert [i for i in imported if i.startswith("edge_rul.adapters")] == [], name
