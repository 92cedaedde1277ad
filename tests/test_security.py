"""What the package never does, whoever asks: unpickle, evaluate text, or start a shell."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edge_rul

PACKAGE = Path(edge_rul.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

NOT_IMPORTED = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pty", "pandas"}
NOT_CALLED = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    *("os.system", "os.popen", "pty.spawn"),  # not os.execv, which takes a list of words as subprocess.run does
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.UnsafeLoader", "yaml.FullLoader"),
    *("ssl._create_unverified_context", "tempfile.mktemp"),
}


def wrong(tree: ast.AST) -> list[str]:
    """What of it stands there, with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
        else:
            names = []
        found += [
            f"{node.lineno}: {name}" for name in names if name.split(".")[0] in NOT_IMPORTED or name in NOT_CALLED
        ]
        if isinstance(node, ast.Name | ast.Attribute) and (name := ast.unparse(node)) in NOT_CALLED:
            found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {problem}" for problem in _call(node)]
    return found


def _call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    options = {keyword.arg: keyword.value for keyword in node.keywords}
    problems = []
    for option, harmless in (("shell", False), ("allow_pickle", False)):
        value = options.get(option)
        if value is not None and not (isinstance(value, ast.Constant) and value.value is harmless):
            problems.append(f"{name}({option}=...)")
    if name in {"np.load", "numpy.load"} and "allow_pickle" not in options:
        problems.append(f"{name} that does not say allow_pickle=False")
    if name == "torch.load":
        problems.append("torch.load: weights are safetensors")
    return problems


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    assert len(FILES) > 80
    found = {f.relative_to(PACKAGE).as_posix(): wrong(ast.parse(f.read_text(encoding="utf-8"))) for f in FILES}
    assert {name: problems for name, problems in found.items() if problems} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "eval(text)",
        "import os\nos.system('ls')",
        "from os import system",
        "subprocess.run('ls', shell=True)",
        "yaml.load(text, Loader=yaml.UnsafeLoader)",
        "import builtins\nrun = exec",
    ],
)
def test_that_scan_sees_each_of_them(text: str) -> None:
    assert wrong(ast.parse(text)) != []


def test_that_scan_lets_the_rest_alone() -> None:
    text = "np.load(path, allow_pickle=False)\nsubprocess.run(['ls'], shell=False)\nyaml.safe_load(text)\nre.compile(p)"
    assert wrong(ast.parse(text)) == []
