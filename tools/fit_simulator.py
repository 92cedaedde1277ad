"""Fit the simulator of edge_rul/simulator.py to NASA C-MAPSS FD001, and show how close it comes.

    python tools/fit_simulator.py --data DIR        DIR holds train_FD001.txt

Owns the fit and its check; writes edge_rul/simulator_fd001.json. Statistics go into that file, no row of the data.

The fit: each engine's sensors are smoothed by a polynomial, which leaves the noise. In units of that noise the smooth
part has two directions that matter (the printed singular values say so). They are turned so that the first, damage, is
the fleet's mean way from new to failed, and the second, core, the way in which failed engines differ most. Projected
on them, each engine's cycles give its damage and core, and an exponential path is fitted to both. Last, levels,
sensitivities and noise are fitted once more by least squares on those paths.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_rul.errors import EXIT_OK, DataError
from edge_rul.simulator import FD001, ORDER, SCHEMA, Params, draw_life, load_params, path
from edge_rul.training.cmapss import SENSORS, load

Floats = npt.NDArray[np.float64]

# fmt: off
UNITS = (  # Saxena et al. 2008, table 2, in the order of SENSORS
    "°R", "°R", "°R", "°R", "psia", "psia", "psia", "rpm", "rpm", "-", "psia", "pps/psi", "rpm", "rpm", "-", "-",
    "-", "rpm", "%", "lbm/s", "lbm/s",
)
# fmt: on
MOVING = ("T24", "T30", "T50", "P30", "Nf", "Nc", "Ps30", "phi", "NRf", "NRc", "BPR", "htBleed", "W31", "W32")
COLUMNS = [SENSORS.index(name) for name in MOVING]
DEGREE = 6  # of the smoothing polynomial
SCORES = {0.01: -2.326, 0.1: -1.282, 0.25: -0.674, 0.5: 0.0, 0.75: 0.674, 0.9: 1.282, 0.99: 2.326}
EARLY, LATE = 20, 5  # cycles at an engine's start and end that count as new and as failed
RATES = np.arange(0.5, 10.01, 0.05)
# Where a path is flat its rate is anybody's guess; this prior, about the fleet's median, decides only there.
RATE_MEAN, RATE_SD = 4.0, 1.5


def read(data: Path) -> tuple[list[Floats], dict[str, str]]:
    """One array an engine, (L, 21) in the order of SENSORS, and the file's sha256 by its name. Raises DataError."""
    table = load(data, "FD001", "train", SENSORS)
    return np.split(table.inputs.astype(np.float64), table.starts[1:]), table.files


def noise_of(life: Floats) -> Floats:
    """What a smooth curve leaves of each sensor: (L, S) -> (L, S)."""
    basis = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, len(life)), DEGREE)  # (L, DEGREE + 1)
    return life - basis @ np.linalg.lstsq(basis, life, rcond=None)[0]


def fit_path(score: Floats, sd: float) -> tuple[float, float, float]:
    """start, end, rate of the exponential through one engine's damage or core. score: (L,); sd: of its noise."""
    t = np.linspace(0, 1, len(score))
    best = (np.inf, 0.0, 0.0, 0.0)
    for rate in RATES:
        basis = np.stack([1 - path(0, 1, rate, t), path(0, 1, rate, t)], axis=1)  # (L, 2)
        (start, end), *_ = np.linalg.lstsq(basis, score, rcond=None)
        misfit = float(np.sum((score - basis @ [start, end]) ** 2)) / sd**2 + ((rate - RATE_MEAN) / RATE_SD) ** 2
        best = min(best, (misfit, float(start), float(end), float(rate)))
    return best[1:]


def fit(lives: list[Floats]) -> tuple[dict[str, Any], Floats]:
    """lives: one (L, 14) an engine -> the parameter file's `sensors` and `traits`, and the singular values."""
    x = np.concatenate(lives)  # (N, 14)
    noise = np.concatenate([noise_of(life) for life in lives])
    dof = sum(len(life) - DEGREE - 1 for life in lives)
    sd = np.sqrt((noise**2).sum(axis=0) / dof)  # (14,)
    whole = (x - noise - x.mean(axis=0)) / sd  # (N, 14), smooth, in units of noise
    _, singular, rows = np.linalg.svd(whole, full_matrices=False)
    plane = rows[:2]  # (2, 14)

    flat = [((life - x.mean(axis=0)) / sd) @ plane.T for life in lives]  # (L, 2) an engine
    new = np.mean([f[:EARLY].mean(axis=0) for f in flat], axis=0)
    failed = np.stack([f[-LATE:].mean(axis=0) for f in flat])  # (engines, 2)
    damage = failed.mean(axis=0) - new
    core = np.linalg.eigh(np.cov(failed.T))[1][:, -1]
    core *= np.sign((plane.T @ core)[MOVING.index("Nc")])  # the sign is free: core speed up is positive
    turn = np.linalg.inv(np.stack([damage, core], axis=1))  # (2, 2)
    scale = np.linalg.norm(turn, axis=1)  # noise of damage and core

    traits, paths = [], []
    for f in flat:
        scores = (f - new) @ turn.T  # (L, 2)
        ways = [fit_path(scores[:, k], float(scale[k])) for k in (0, 1)]
        traits.append([len(f), *ways[0], *ways[1]])
        t = np.linspace(0, 1, len(f))
        paths.append(np.stack([np.ones(len(f)), *(path(*way, t) for way in ways)], axis=1))
    basis = np.concatenate(paths)  # (N, 3)
    weights, *_ = np.linalg.lstsq(basis, x, rcond=None)  # (3, 14)
    rest = np.sqrt(((x - basis @ weights) ** 2).mean(axis=0))
    sensors = {
        name: {"level": weights[0, i], "damage": weights[1, i], "core": weights[2, i], "noise": rest[i]}
        for i, name in enumerate(MOVING)
    }
    return {"sensors": sensors, "traits": _traits(np.array(traits))}, singular / np.sqrt(len(x))


def _traits(drawn: Floats) -> dict[str, Any]:
    """drawn: (engines, 7) in ORDER -> quantiles, and the correlation of normal scores."""
    ranks = drawn.argsort(axis=0).argsort(axis=0)  # (engines, 7)
    normal = np.interp((ranks + 0.5) / len(drawn), list(SCORES), list(SCORES.values()))
    quantiles = np.quantile(drawn, list(SCORES), axis=0)  # (K, 7)
    return {
        "scores": list(SCORES.values()),
        **{name: quantiles[:, i].tolist() for i, name in enumerate(ORDER)},
        "correlation": np.corrcoef(normal.T).tolist(),
    }


def _short(value: Any, digits: int = 5) -> Any:
    if isinstance(value, list):
        return [_short(v, digits) for v in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def as_text(fitted: dict[str, Any], lives: list[Floats], files: dict[str, str]) -> str:
    """The parameter file: one line a sensor and a trait, so that a person can read it and a diff shows what moved."""
    every = np.concatenate(lives).astype(np.float32)  # (N, 21)
    sensors = []
    for i, (name, unit) in enumerate(zip(SENSORS, UNITS, strict=True)):
        decimals = max(len(str(value).partition(".")[2].rstrip("0")) for value in np.unique(every[:, i]))
        fit = {k: _short(float(v), 7 if k == "level" else 5) for k, v in fitted["sensors"].get(name, {}).items()}
        constant = {"level": float(str(np.median(every[:, i])))}
        sensors.append({"name": name, "unit": unit, "decimals": decimals} | (fit or constant))
    traits = {k: _short(v, 4) for k, v in fitted["traits"].items()}
    head = {
        "schema": SCHEMA,
        "description": "Simulated turbofan engines, fitted to NASA C-MAPSS FD001 by tools/fit_simulator.py",
        "source": {"files": files, "engines": len(lives), "cycles": len(every)},
    }
    correlation = ",\n".join(f"      {json.dumps(row)}" for row in traits.pop("correlation"))
    lines = [f'  "{k}": {json.dumps(v)},' for k, v in head.items()]
    lines += ['  "sensors": [', ",\n".join(f"    {json.dumps(s, ensure_ascii=False)}" for s in sensors), "  ],"]
    lines += ['  "traits": {', *(f'    "{k}": {json.dumps(v)},' for k, v in traits.items())]
    lines += ['    "correlation": [', correlation, "    ]", "  }"]
    return "\n".join(["{", *lines, "}"]) + "\n"


def summary(lives: list[Floats]) -> dict[str, Floats]:
    """What the check compares, each (14,) but the matrices. lives: one (L, 14) an engine."""
    x = np.concatenate(lives)
    rests = [noise_of(life) for life in lives]
    early = np.stack([life[:EARLY].mean(axis=0) for life in lives])
    late = np.stack([life[-LATE:].mean(axis=0) for life in lives])
    return {
        "mean": x.mean(axis=0),
        "sd": x.std(axis=0),
        "early": early.mean(axis=0),
        "early sd": early.std(axis=0),
        "end": late.mean(axis=0),
        "end sd": late.std(axis=0),
        "lag-1": np.mean([[np.corrcoef(r[1:, s], r[:-1, s])[0, 1] for s in range(r.shape[1])] for r in rests], axis=0),
        "correlation": np.corrcoef(x.T),
        "noise correlation": np.corrcoef(np.concatenate(rests).T),
    }


def check(params: Params, lives: list[Floats], engines: int) -> str:
    """A table of simulated against real. lives: one (L, 14) an engine; engines: how many to simulate."""
    rng = np.random.default_rng(0)
    drawn = [draw_life(params, rng)[:, COLUMNS] for _ in range(engines)]
    real, sim = summary(lives), summary(drawn)
    keys = ["mean", "sd", "early", "early sd", "end", "end sd", "lag-1"]
    lines = [
        f"real: {len(lives)} engines, {sum(map(len, lives))} cycles; simulated: {engines} engines; "
        f"early: first {EARLY} cycles, end: last {LATE}, each with the deviation between engines",
        " ".join([f"{'':8}", *(f"{k:^19}" for k in keys)]),
        " ".join([f"{'sensor':8}", *(f"{'real':>9} {'sim':>9}" for _ in keys)]),
    ]
    for i, name in enumerate(MOVING):
        cells = (f"{_number(real[k][i])} {_number(sim[k][i])}" for k in keys)
        lines.append(" ".join([f"{name:8}", *cells]))
    for key in ("correlation", "noise correlation"):
        upper = np.triu_indices(len(MOVING), 1)
        lines.append(
            f"{key}: largest difference {np.abs(real[key] - sim[key])[upper].max():.3f}, largest "
            f"{np.abs(real[key])[upper].max():.3f} real, {np.abs(sim[key])[upper].max():.3f} simulated"
        )
    marks = (0, 10, 25, 50, 75, 90, 100)
    for label, group in (("real", lives), ("simulated", drawn)):
        lengths = np.percentile([len(life) for life in group], marks)
        lines.append(f"life in cycles, percentiles {marks}, {label}: " + " ".join(f"{v:.0f}" for v in lengths))
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:9.4f}" if abs(value) < 100 else f"{value:9.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Fit the engine simulator to C-MAPSS FD001.")
    parser.add_argument("--data", type=Path, required=True, help="directory with train_FD001.txt")
    parser.add_argument("--out", type=Path, default=FD001, help="parameter file to write (default: the packaged one)")
    parser.add_argument("--engines", type=int, default=500, help="engines to simulate for the check (default 500)")
    args = parser.parse_args()
    try:
        lives, files = read(args.data)
    except DataError as e:
        print(f"fit_simulator: {e}", file=sys.stderr)
        return e.exit_code
    moving = [life[:, COLUMNS] for life in lives]
    fitted, singular = fit(moving)
    args.out.write_text(as_text(fitted, lives, files), encoding="utf-8")
    print(f"singular values of the smooth part, in units of noise: {np.round(singular[:5], 2)} (two are kept)")
    print(check(load_params(args.out), moving, args.engines))
    print(f"wrote {args.out.name}, {args.out.stat().st_size} bytes")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
