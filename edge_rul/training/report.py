"""The figures that a bundle is judged by.

Owns which figures there are, over which windows, and their names in JSON. Must not know how windows were answered, nor
how figures look. Must not need torch.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edge_rul.bundle import Bundle, Manifest
from edge_rul.core.normalise import Array
from edge_rul.training.bootstrap import Difference, rmse_difference
from edge_rul.training.breakdown import Band, Bounds, Coverage, LeadTime, bands, confusion, coverage, lead_time
from edge_rul.training.calibrate import IntervalSettings, cross_held
from edge_rul.training.dataset import DatasetSettings
from edge_rul.training.detection import Detection, detect
from edge_rul.training.evaluate import Evidence, Judged, dataset_of, gather
from edge_rul.training.format import SECONDS, Protocol
from edge_rul.training.metrics import Scores, scores
from edge_rul.training.tree import Features
from edge_rul.training.windows import class_of


class Section(msgspec.Struct, frozen=True):
    """Figures over the windows of a `Judged`.

    padded: lives shorter than the window, padded at the front by repeating their first reading. nasa_score: over last
    windows only, as it is a sum over lives, and of a RUL that is one a cycle. trees: by what they look at; their
    classes follow from their RUL by the labels' limits. difference: the network's RMSE minus the better tree's. bands:
    by true RUL. coverage: of intervals that these windows did not make.
    """

    what: str
    lives: int
    windows: int
    padded: int
    network: Scores
    trees: dict[str, Scores]
    difference: Difference | None
    bands: list[Band]
    tree_bands: list[Band]
    confusion: list[list[int]]
    coverage: Coverage | None


class Report(msgspec.Struct, frozen=True):
    """The figures that are compared between bundles, and the sections that they come from; null where data is lacking.

    rmse, mae, bias, nasa_score, accuracy, macro_f1: by the protocol. heldout_rmse: over all windows of the lives kept
    for calibration. coverage, mean_width: of the intervals, over all full windows of the test lives. tree: which of the
    trees `tree_rmse` is of, the one with the lower held-out RMSE, since the test decides nothing. mean_rmse: of always
    answering the mean of the training labels. rmse, mae, bias, cap and mean_width are in `unit`; rmse_of_cap and
    mae_of_cap are shares. detection: where the data set asks how far ahead failures are told at all; auc is its own.
    rules: what the rules for dirt did, by part.
    """

    bundle: str
    sha256: str
    domain: str
    subset: str
    protocol: Protocol
    lives: int
    engines: int
    windows: int
    padded: int
    unit: str
    cap: float
    classes: list[str]
    rmse: float | None
    mae: float | None
    bias: float | None
    nasa_score: float | None
    accuracy: float | None
    macro_f1: float | None
    heldout_rmse: float | None
    coverage: float | None
    mean_width: float | None
    tree: str | None
    tree_rmse: float | None
    tree_heldout_rmse: float | None
    rmse_of_cap: float | None
    mae_of_cap: float | None
    mean_rmse: float | None
    auc: float | None
    tree_auc: float | None
    test: Section | None
    test_all: Section | None
    heldout: Section | None
    lead_time: LeadTime | None
    tree_lead_time: LeadTime | None
    detection: Detection | None
    tree_detection: Detection | None
    rules: dict[str, dict[str, int]]
    notes: list[str]

    @property
    def sections(self) -> list[Section]:
        """Those that there are, each once: a protocol that judges all windows has no other section of them."""
        every = [s for s in (self.test, self.test_all, self.heldout) if s is not None]
        return [s for i, s in enumerate(every) if all(s.what != earlier.what for earlier in every[:i])]


def evaluate(bundle: Bundle, data_dir: Path, *, threads: int = 0) -> Report:
    """The bundle's figures on the lives in `data_dir`. Raises as `gather`."""
    return summarise(bundle, gather(bundle, data_dir, threads=threads))


def summarise(bundle: Bundle, evidence: Evidence) -> Report:
    """All figures of the evidence."""
    manifest, settings = bundle.manifest, dataset_of(bundle)
    judged, kept = evidence.protocol, evidence.held_out
    better = None if kept is None else _better(kept)
    scored = settings.protocol == "last_windows" and manifest.rul.unit not in SECONDS
    test, whole, heldout = (
        None
        if j is None
        else _section(manifest, j, better, bounds(bundle, j, own=j is kept), nasa=scored and j is judged)
        for j in (judged, evidence.whole, kept)
    )
    figures = {name: getattr(test.network, name) for name in _FIGURES} if test else dict.fromkeys(_FIGURES)
    found = _detection(manifest, settings, evidence.whole, None)
    by_tree = None if better is None else _detection(manifest, settings, evidence.whole, better)
    return Report(
        bundle=manifest.name,
        sha256=bundle.sha256,
        domain=manifest.training["dataset"]["format"],
        subset=settings.called,
        protocol=settings.protocol,
        lives=test.lives if test else 0,
        engines=test.lives if test else 0,
        windows=test.windows if test else 0,
        padded=test.padded if test else 0,
        unit=manifest.rul.unit,
        cap=manifest.rul.max,
        classes=[c.name for c in manifest.classes],
        **figures,
        heldout_rmse=heldout.network.rmse if heldout else None,
        coverage=whole.coverage.coverage if whole and whole.coverage else None,
        mean_width=whole.coverage.mean_width if whole and whole.coverage else None,
        tree=better,
        tree_rmse=test.trees[better].rmse if test and better else None,
        tree_heldout_rmse=heldout.trees[better].rmse if heldout and better else None,
        rmse_of_cap=test.network.rmse / manifest.rul.max if test else None,
        mae_of_cap=test.network.mae / manifest.rul.max if test else None,
        mean_rmse=_rmse_of(evidence.mean, judged),
        auc=found.auc if found else None,
        tree_auc=by_tree.auc if by_tree else None,
        test=test,
        test_all=whole,
        heldout=heldout,
        lead_time=None if kept is None else _lead_time(manifest, kept, kept.rul),
        tree_lead_time=None if kept is None or better is None else _lead_time(manifest, kept, kept.trees[better]),
        detection=found,
        tree_detection=by_tree,
        rules={str(part): counts for part, counts in evidence.rules.items()},
        notes=evidence.notes,
    )


_FIGURES = ("rmse", "mae", "bias", "nasa_score", "accuracy", "macro_f1")


def bounds(bundle: Bundle, judged: Judged, *, own: bool) -> Bounds | None:
    """(N,) low and high of the windows' intervals; None where there are none.

    own: they are the windows that the bundle's table was made from, which it holds better than others; so each is told
    by a table made from other lives of them.
    """
    table, cap = bundle.manifest.interval, bundle.manifest.rul.max
    if table is None:
        return None
    if not own:
        return table.bounds(judged.rul, cap)
    settings = IntervalSettings(level=table.level, bins=len(table.at))
    asset = judged.windows.table.asset[judged.windows.last].tolist()
    low, high = cross_held(judged.rul, judged.true, asset, cap, settings)
    return None if np.isnan(low).any() else (low, high)


def _better(kept: Judged) -> Features | None:
    """The tree with the lower RMSE on the lives kept for calibration."""
    known = ~kept.true.is_lower_bound
    error = {
        f: float(np.mean((rul[known] - kept.true.rul[known]) ** 2)) for f, rul in kept.trees.items() if known.any()
    }
    return min(error, key=lambda f: error[f], default=None)


def _section(
    manifest: Manifest, judged: Judged, better: Features | None, bounds: Bounds | None, *, nasa: bool
) -> Section:
    windows, true, cap = judged.windows, judged.true, manifest.rul.max
    known = ~true.is_lower_bound
    asset = windows.table.asset[windows.last][known].tolist()
    error = {name: (rul - true.rul)[known].astype(np.float64) for name, rul in judged.trees.items()}
    own = (judged.rul - true.rul)[known].astype(np.float64)
    told = None if bounds is None or not known.any() else (bounds[0][known], bounds[1][known])

    def figures(rul: Array, logits: Array) -> Scores:
        found = scores(rul, logits, true.rul, true.health, true.is_lower_bound)
        return found if nasa else msgspec.structs.replace(found, nasa_score=None)

    one_hot = np.eye(len(manifest.classes), dtype=np.float32)

    def by_tree(rul: Array) -> Scores:
        found = figures(rul, one_hot[class_of(rul, manifest.classes)])
        named = windows.table.health is not None  # which a RUL does not tell
        return msgspec.structs.replace(found, accuracy=None, macro_f1=None) if named else found

    return Section(
        what=judged.what,
        lives=len(np.unique(windows.first)),
        windows=len(windows),
        padded=int((windows.padding > 0).sum()),
        network=figures(judged.rul, judged.logits),
        trees={f: by_tree(rul) for f, rul in judged.trees.items()},
        difference=rmse_difference(own, error[better], asset) if better and known.any() else None,
        bands=bands(judged.rul[known], true.rul[known], cap, told),
        tree_bands=bands(judged.trees[better][known], true.rul[known], cap, None) if better else [],
        confusion=confusion(judged.logits.argmax(axis=1), true.health, len(manifest.classes)),
        coverage=coverage(true.rul[known], cap, told, manifest.interval.level) if told and manifest.interval else None,
    )


def _rmse_of(answer: float | None, judged: Judged | None) -> float | None:
    """Of always answering this."""
    if answer is None or judged is None or judged.true.is_lower_bound.all():
        return None
    known = judged.true.rul[~judged.true.is_lower_bound].astype(np.float64)
    return float(np.sqrt(np.mean((known - answer) ** 2)))


def _detection(
    manifest: Manifest, settings: DatasetSettings, whole: Judged | None, by: Features | None
) -> Detection | None:
    """By the network, or by a tree."""
    if whole is None or settings.detection is None or (by is not None and by not in whole.trees):
        return None
    rul = whole.rul if by is None else whole.trees[by]
    return detect(whole.windows, rul, settings.detection, manifest.rul.unit, settings.seconds_per_cycle)


def _lead_time(manifest: Manifest, judged: Judged, rul: Array) -> LeadTime | None:
    """With the limit of the last health class; None where classes have no limits."""
    limits = [c.above for c in manifest.classes if c.above is not None]
    return lead_time(judged.windows, rul, min(limits)) if limits else None
