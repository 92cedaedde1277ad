"""Try variations of a training configuration on validation assets, and put them in one table beside the tree.

    python tools/search_recipe.py SEARCH.yaml --data DIR --out DIR [--minutes 60] [--threads 1]

SEARCH.yaml names the configuration to vary, the validation splits, and the candidates, each with the keys that it
changes (see configs/search/cmapss.yaml). A candidate is judged by all windows of the validation assets, which are drawn
from what the configuration leaves after its calibration assets: those, and every test set, are never read. The tree of
`training/tree.py` is fitted on the same split.

Runs go candidate by candidate through the first split, then through the next, so that an early end leaves a fair table.
Each result is a line of results.jsonl in the output directory; a run that stands there is not made again, so the
command can be broken off and started again. No run begins after --minutes. The table, in Markdown, is written to
results.md and printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import msgspec
import numpy as np

from edge_rul.errors import EXIT_OK, ConfigError, EdgeRulError
from edge_rul.yaml_file import load_yaml

Keys = dict[str, Any]
SEES: Literal["line's end, slope, mean"] = "line's end, slope, mean"


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """base: the configuration, relative to this file. subsets: of the data set. splits: seeds of `validation`.
    common: keys that every candidate changes, such as a narrower network, so that more can be tried in an hour."""

    base: str
    subsets: list[str]
    splits: list[int]
    candidates: dict[str, Keys]
    common: Keys = {}
    share: float = 0.2


class Result(msgspec.Struct, frozen=True):
    key: str
    subset: str
    candidate: str
    split: int
    rmse: float
    accuracy: float
    macro_f1: float
    tree_rmse: float
    seconds: float


def merged(base: Keys, change: Keys) -> Keys:
    """`base` with the keys of `change` in place of its own; sections are merged, but one of another kind replaces."""
    out = dict(base)
    for key, value in change.items():
        old = out.get(key)
        same = isinstance(value, dict) and isinstance(old, dict) and not {"name", "kind"} & value.keys()
        out[key] = merged(old, value) if same else value  # type: ignore[arg-type]
    return out


def run(keys: Keys, data: Path) -> dict[str, float]:
    """Train by the keys; the figures on the validation assets. Raises EdgeRulError."""
    from edge_rul.training import fit, lives, progress  # noqa: PLC0415
    from edge_rul.training.prepared import fit_transform, prepare  # noqa: PLC0415
    from edge_rul.training.settings import TrainingSettings  # noqa: PLC0415
    from edge_rul.training.tree import Tree, describe  # noqa: PLC0415
    from edge_rul.training.windows import full_windows  # noqa: PLC0415

    try:
        settings = msgspec.convert(keys, TrainingSettings)
    except msgspec.ValidationError as e:
        raise ConfigError("search", "candidate", str(e)) from e
    began = time.monotonic()
    _, learnt, judged, _ = lives.read(settings, data)
    assert judged is not None
    training = full_windows(learnt, settings.window, settings.stride)
    validation = full_windows(judged, settings.window)
    with progress.on_stderr(settings.recipe.epochs, fit.steps_per_epoch(training, settings.recipe)) as shown:
        fitted = fit.fit(training, validation, settings, shown)
    reached = fitted.epochs[-1].validation
    assert reached is not None

    # The tree sees what it always sees: windows as they are, and each of them.
    plain = msgspec.structs.replace(settings, smooth=None)
    transform = fit_transform(learnt, plain)
    sides = [prepare(w, plain, transform) for w in (full_windows(learnt, settings.window), validation)]
    (x, y), (z, true) = ((s.inputs(np.arange(len(s.windows))).numpy(), s.labels.rul) for s in sides)
    answer = Tree(SEES, describe(x, SEES), y).predict(describe(z, SEES))
    return {
        "rmse": reached.rmse,
        "accuracy": reached.accuracy,
        "macro_f1": reached.macro_f1,
        "tree_rmse": float(np.sqrt(np.mean((answer - true) ** 2))),
        "seconds": time.monotonic() - began,
    }


def table(results: list[Result]) -> str:
    """One row a candidate and subset: means over the splits that it has been through."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for r in results:
        groups[r.subset, r.candidate].append(r)
    lines = [
        "| subset | candidate | splits | RMSE | tree | difference | accuracy | macro F1 | seconds a run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (subset, name), rs in sorted(groups.items(), key=lambda g: (g[0][0], mean(r.rmse - r.tree_rmse for r in g[1]))):
        lines.append(
            f"| {subset} | {name} | {len(rs)} | {mean(r.rmse for r in rs):.2f} | {mean(r.tree_rmse for r in rs):.2f} | "
            f"{mean(r.rmse - r.tree_rmse for r in rs):+.2f} | {mean(r.accuracy for r in rs):.3f} | "
            f"{mean(r.macro_f1 for r in rs):.3f} | {mean(r.seconds for r in rs):.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="results.jsonl and results.md go there")
    parser.add_argument("--minutes", type=float, default=60.0, help="no run begins after this")
    parser.add_argument("--threads", type=int, default=1, help="torch's; 1 is best beside other work")
    options = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `edge-rul train` has it
    import torch  # noqa: PLC0415

    torch.set_num_threads(options.threads)
    search = load_yaml(options.search, Search)
    base = load_yaml(options.search.parent / search.base, dict[str, Any])
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "results.jsonl"
    done = [msgspec.json.decode(line, type=Result) for line in log.read_bytes().splitlines()] if log.exists() else []
    end = time.monotonic() + 60 * options.minutes
    for split in search.splits:
        for subset in search.subsets:
            for name, change in search.candidates.items():
                keys = merged(merged(base, search.common), change)
                keys = merged(keys, {"dataset": {"subset": subset}})
                keys["validation"] = {"share": search.share, "seed": split}
                key = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16]
                if any(r.key == key for r in done) or time.monotonic() > end:
                    continue
                print(f"{subset}, split {split}: {name}", file=sys.stderr, flush=True)
                try:
                    result = Result(key, subset, name, split, **run(keys, options.data))
                except EdgeRulError as e:
                    print(f"{name}: {e}", file=sys.stderr, flush=True)
                    continue
                done.append(result)
                with log.open("ab") as file:
                    file.write(msgspec.json.encode(result) + b"\n")
    text = table(done)
    (options.out / "results.md").write_text(text)
    print(text, end="")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
