"""Try variations of a training configuration on validation assets, and put them in one table beside the tree.

    python tools/search_recipe.py SEARCH.yaml --data DIR --out DIR [--minutes 60] [--threads 1]

SEARCH.yaml names the configuration to vary, of whatever data set, the validation splits, and the candidates, each with
the keys that it changes (see configs/search). A candidate is judged by windows of the validation assets, which are
drawn from what the configuration leaves after its calibration assets: those, and every test set, decide nothing. The
tree of `training/tree.py` and the mean of the labels are of the same split. With `judge: teachers` no network is
trained: the teachers that it would learn from answer the windows themselves, which takes a tenth of the time. Where
the recipe stops early, a network is judged as of its best epoch, which is the one that would ship.

Runs go candidate by candidate through the first split, then through the next, so that an early end leaves a fair table.
Each result is a line of results.jsonl in the output directory; a run that stands there is not made again, so the
command can be broken off and started again. No run begins that would pass the end of --minutes if it took as long as
the longest of its subset has. The table, in Markdown, is written to results.md and printed: of the runs of this search
as its files are now, though results.jsonl may hold those of an earlier base or of other candidates too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np

from edge_rul.errors import EXIT_OK, ConfigError, EdgeRulError
from edge_rul.yaml_file import load_yaml

if TYPE_CHECKING:
    from torch import Tensor

    from edge_rul.core.normalise import Array
    from edge_rul.training.fit import Fitted
    from edge_rul.training.prepared import Prepared
    from edge_rul.training.progress import Progress
    from edge_rul.training.run import Epoch
    from edge_rul.training.settings import TrainingSettings

Keys = dict[str, Any]
Judge = Literal["network", "teachers"]
SEES: Literal["line's end, slope, mean"] = "line's end, slope, mean"
CHUNK = 4096  # windows at once


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """base: the configuration, relative to this file; `{subset}` in it is the subset's name in small letters, where
    each has its own. subsets: of a data set that has some. splits: each a `validation` section. stride: from one judged
    window to the next. common: keys that every candidate changes, such as a narrower network, so that more can be tried
    in an hour. judge: the network, or the teachers of `recipe.distil`."""

    base: str
    splits: list[Keys]
    candidates: dict[str, Keys]
    subsets: list[str] | None = None
    stride: int = 1
    common: Keys = {}
    judge: Judge = "network"

    def base_of(self, subset: str | None) -> str:
        return self.base.replace("{subset}", (subset or "").lower())


class Figures(msgspec.Struct, frozen=True):
    """On the validation windows; RMSEs in the RUL's unit, over windows whose RUL is known. mean_rmse: of always
    answering the training labels' mean. auc, tree_auc: where the data set asks for detection. nasa: the NASA score
    over the windows that it is of, where the RUL is in cycles."""

    rmse: float
    accuracy: float
    macro_f1: float
    tree_rmse: float
    seconds: float
    mean_rmse: float
    auc: float | None = None
    tree_auc: float | None = None
    nasa: float | None = None


class Planned(NamedTuple):
    """A run that the search asks for, by all its keys. key: a hash of what decides its figures. The rest as Result."""

    key: str
    subset: str
    candidate: str
    split: int
    keys: Keys


class Result(msgspec.Struct, frozen=True):
    """subset: or the configuration's name, where the data set has none. split: its fold or its seed."""

    key: str
    subset: str
    candidate: str
    split: int
    figures: Figures


def merged(base: Keys, change: Keys) -> Keys:
    """`base` with the keys of `change` in place of its own; sections are merged, but one of another kind replaces."""
    out = dict(base)
    for key, value in change.items():
        old = out.get(key)
        same = isinstance(value, dict) and isinstance(old, dict) and not {"name", "kind"} & value.keys()
        out[key] = merged(old, value) if same else value  # type: ignore[arg-type]
    return out


def planned(search: Search, directory: Path) -> Iterator[Planned]:
    """The search's runs in their order. directory: that its base is relative to."""
    subsets: list[str | None] = [*(search.subsets or [None])]
    bases = {s: load_yaml(directory / search.base_of(s), dict[str, Any]) for s in subsets}
    for split in search.splits:
        for subset in subsets:
            for name, change in search.candidates.items():
                keys = merged(merged(bases[subset], search.common), change)
                keys = merged(keys, {"dataset": {"subset": subset}}) if subset else keys
                keys["validation"] = split
                content = json.dumps([keys, search.stride, search.judge], sort_keys=True).encode()
                key = hashlib.sha256(content).hexdigest()[:16]
                yield Planned(key, subset or keys["name"], name, split.get("fold", split.get("seed", 0)), keys)


def run(keys: Keys, data: Path, stride: int, judge: Judge = "network") -> Figures:
    """Train by the keys; the figures on every `stride`-th validation window. Raises EdgeRulError."""
    from edge_rul.training import fit, lives, progress  # noqa: PLC0415
    from edge_rul.training.detection import detect  # noqa: PLC0415
    from edge_rul.training.normaliser import ConditionSettings  # noqa: PLC0415
    from edge_rul.training.prepared import fit_transform, predict, prepare, score  # noqa: PLC0415
    from edge_rul.training.settings import TrainingSettings  # noqa: PLC0415
    from edge_rul.training.tree import Tree  # noqa: PLC0415
    from edge_rul.training.windows import full_windows  # noqa: PLC0415

    try:
        settings = msgspec.convert(keys, TrainingSettings)
    except msgspec.ValidationError as e:
        raise ConfigError("search", "candidate", str(e)) from e
    began = time.monotonic()
    _, learnt, judged, _ = lives.read(settings, data)
    assert judged is not None
    training = full_windows(learnt, settings.window, settings.stride)
    validation = full_windows(judged, settings.window, stride)
    with progress.on_stderr(settings.recipe.epochs, fit.steps_per_epoch(training, settings.recipe)) as shown:
        if judge == "teachers":
            seen = prepare(validation, settings, fit_transform(learnt, settings))
            answers = _of_teachers(settings, prepare(training, settings, seen.transform), seen, shown)
            reached, own = score(answers, seen), answers[0]
        else:
            fitted = fit.fit(training, validation, settings, shown)
            reached, own = judged_epoch(fitted, settings).validation, None
            if settings.dataset.detection is not None:  # the rest was judged while training
                own, _ = predict(fitted.model, prepare(validation, settings, fitted.transform))
    assert reached is not None
    assert reached.accuracy is not None
    assert reached.macro_f1 is not None
    assert reached.nasa_score is not None

    # The tree sees what it always sees: windows as they are, and each of them.
    normaliser = settings.normaliser
    if isinstance(normaliser, ConditionSettings):
        normaliser = msgspec.structs.replace(normaliser, loadings=False)
    plain = msgspec.structs.replace(settings, smooth=None, normaliser=normaliser)
    transform = fit_transform(learnt, plain)
    taught, asked = (prepare(w, plain, transform) for w in (full_windows(learnt, settings.window), validation))
    known, judges = ~taught.labels.is_lower_bound, ~asked.labels.is_lower_bound
    answer = Tree(SEES, described(taught)[known], taught.labels.rul[known]).predict(described(asked))

    def rmse(rul: Array | float) -> float:
        return float(np.sqrt(np.mean((rul - asked.labels.rul)[judges] ** 2)))

    def auc(rul: Array | None) -> float | None:
        wanted = settings.dataset.detection
        return None if wanted is None or rul is None else detect(validation, rul, wanted, settings.rul.unit, None).auc

    return Figures(
        rmse=reached.rmse,
        accuracy=reached.accuracy,
        macro_f1=reached.macro_f1,
        tree_rmse=rmse(answer),
        seconds=time.monotonic() - began,
        mean_rmse=rmse(float(taught.labels.rul[known].mean())),
        auc=auc(own),
        tree_auc=auc(answer),
        nasa=reached.nasa_score / max(1, int(judges.sum())) if settings.rul.unit == "cycles" else None,
    )


def judged_epoch(fitted: Fitted, settings: TrainingSettings) -> Epoch:
    """The epoch whose model would ship: the best where the recipe stops early, else the last."""
    told = {e.validation.rmse: e for e in fitted.epochs if e.validation is not None}
    return fitted.epochs[-1] if settings.recipe.early_stopping is None else told[min(told)]


def _of_teachers(settings: TrainingSettings, learn: Prepared, asked: Prepared, shown: Progress) -> tuple[Array, Array]:
    """rul (N,) in its unit and logits (N, C), as `predict` has them: of the teachers, in the mean of all folds. A class
    is that of the RUL."""
    import torch  # noqa: PLC0415

    from edge_rul.training.fit import teach  # noqa: PLC0415
    from edge_rul.training.windows import class_of  # noqa: PLC0415

    if settings.recipe.distil is None:
        raise ConfigError("search", "recipe.distil", "is null, expected teachers, since judge is teachers")
    teachers = teach(settings.recipe.distil, learn, settings.seed, shown)
    folds = range(max(1, settings.recipe.distil.folds))
    ruls = []
    for x in chunks(asked):  # (B, T, C)
        ruls.append(np.mean([teachers(x, torch.full((len(x),), k)).numpy() for k in folds], axis=0))
    rul = (np.concatenate(ruls) / asked.scale).astype(np.float32)  # (N,)
    return rul, np.eye(len(settings.classes), dtype=np.float32)[class_of(rul, settings.classes)]


def described(side: Prepared) -> Array:
    """(N, D) the numbers by which the tree sees each window."""
    from edge_rul.training.tree import describe  # noqa: PLC0415

    return np.concatenate([describe(x.numpy(), SEES) for x in chunks(side)])


def chunks(side: Prepared) -> Iterator[Tensor]:
    """The windows (B, T, C) in order, as many at once as memory bears."""
    for begin in range(0, len(side.windows), CHUNK):
        yield side.inputs(np.arange(begin, min(begin + CHUNK, len(side.windows))))


def table(results: list[Result]) -> str:
    """One row a candidate and subset: means over the splits that it has been through."""
    groups: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    for r in results:
        groups[r.subset, r.candidate].append(r.figures)
    detects = any(r.figures.auc is not None for r in results)
    scored = all(r.figures.nasa is not None for r in results)
    head = ["data", "candidate", "splits", "RMSE", "tree", "mean", "difference", "accuracy", "macro F1"]
    head += ["NASA score a window"] * scored + ["AUC, tree"] * detects + ["seconds a run"]
    lines = [head, ["---"] * len(head)]
    for (subset, name), fs in sorted(groups.items(), key=lambda g: (g[0][0], mean(f.rmse - f.tree_rmse for f in g[1]))):
        lines.append(
            [
                *(subset, name, f"{len(fs)}"),
                *(f"{mean(getattr(f, key) for f in fs):.2f}" for key in ("rmse", "tree_rmse", "mean_rmse")),
                f"{mean(f.rmse - f.tree_rmse for f in fs):+.2f}",
                *(f"{mean(getattr(f, key) for f in fs):.3f}" for key in ("accuracy", "macro_f1")),
                *[_mean_of(f.nasa for f in fs)] * scored,
                *[", ".join(_mean_of(getattr(f, key) for f in fs) for key in ("auc", "tree_auc"))] * detects,
                f"{mean(f.seconds for f in fs):.0f}",
            ]
        )
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _mean_of(values: Iterable[float | None]) -> str:
    """Of those that there are: a split without failures has none."""
    told = [v for v in values if v is not None]
    return f"{mean(told):.2f}" if told else "none"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="results.jsonl and results.md go there")
    parser.add_argument("--minutes", type=float, default=60.0, help="no run begins that would go on after this")
    parser.add_argument("--threads", type=int, default=1, help="torch's; 1 is best beside other work")
    options = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `edge-rul train` has it
    import torch  # noqa: PLC0415

    torch.set_num_threads(options.threads)
    search = load_yaml(options.search, Search)
    runs = list(planned(search, options.search.parent))
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "results.jsonl"
    done = [msgspec.json.decode(line, type=Result) for line in log.read_bytes().splitlines()] if log.exists() else []
    end = time.monotonic() + 60 * options.minutes
    left, needed = 0, 0.0
    for key, of, name, number, keys in runs:
        if any(r.key == key for r in done):
            continue
        longest = max((r.figures.seconds for r in done if r.subset == of), default=0.0)
        if time.monotonic() + longest >= end:
            left, needed = left + 1, max(needed, longest / 60)
            continue
        print(f"{of}, split {number}: {name}", file=sys.stderr, flush=True)
        try:
            result = Result(key, of, name, number, run(keys, options.data, search.stride, search.judge))
        except EdgeRulError as e:
            print(f"{name}: {e}", file=sys.stderr, flush=True)
            continue
        done.append(result)
        with log.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")
    if left:
        more = f" with --minutes above {needed:.0f}, as long as one took" if needed >= options.minutes else ""
        print(f"no time for {left} of {len(runs)} runs: call again{more}", file=sys.stderr)
    found = {r.key: r for r in done}
    # By the name that the search has for it now.
    text = table([msgspec.structs.replace(found[p.key], candidate=p.candidate) for p in runs if p.key in found])
    (options.out / "results.md").write_text(text)
    print(text, end="")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
