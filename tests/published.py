"""Small synthetic files in the formats in which the domains' data sets are published. Nothing in them was measured."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

SAYS = "Made by tests/published.py: nothing in these files was measured.\n"
SMART = (5, 9, 187, 188, 193, 194, 197, 198, 241, 242)
WIND = (
    *("wind_speed_ms", "wind_dir_rel_deg", "ambient_c", "nacelle_c", "rotor_rpm", "generator_rpm", "pitch_deg"),
    *("power_kw", "possible_power_kw", "gear_oil_c", "gear_bearing_c", "gen_bearing1_c", "gen_bearing2_c"),
    *("gen_phase1_c", "gen_phase2_c", "gen_phase3_c", "gen_slipring_c", "hyd_oil_c", "trafo1_c", "trafo2_c"),
    *("trafo3_c", "busbar_c"),
)
CELL = ("qd_ah", "qc_ah", "ir_ohm", "tmax_c", "tavg_c", "charge_time_min")
FLIGHT = (
    *("alt", "Mach", "TRA", "T2", "T24", "T30", "T48", "T50", "P15", "P2", "P21", "P24", "Ps30", "P40", "P50"),
    *("Nf", "Nc", "Wf"),
)


def write(path: Path, head: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "SYNTHETIC.txt").write_text(SAYS)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([head, *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def wear(length: int, life: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(length,) from 0 towards 1 at the life's end."""
    return (np.arange(length) / max(life - 1, 1)) ** 2


def batteries(directory: Path, cells: dict[str, tuple[int, str]]) -> None:
    """cells: cycles and status by name. Cycle 1 is all zeros, as in the published file."""
    random = np.random.default_rng(1)
    rows: list[list[object]] = []
    for cell, (cycles, _) in cells.items():
        worn = wear(cycles, cycles)
        for c in range(cycles):
            values = [1.07 - 0.19 * worn[c], 1.07, 0.017 + 0.002 * worn[c], 35 + worn[c], 32, 13]
            noisy = random.normal(values, 0.001) if c else np.zeros(6)
            rows.append([cell, c + 1, *noisy.round(6)])
    write(directory / "severson_batch1_cycles.csv.gz", ["cell", "cycle", *CELL], rows)
    ends: list[list[object]] = [[cell, cycles, status] for cell, (cycles, status) in cells.items()]
    write(directory / "severson_batch1_cells.csv", ["cell", "cycles", "status"], ends)


def flights(directory: Path, train: dict[int, int], test: dict[int, int]) -> None:
    """Flights by engine; the labels hs and RUL are beside, as published."""
    random = np.random.default_rng(2)
    head = ["engine_id", "cycle", "Fc", "hs", "n_samples_in_cycle"]
    head += [f"{name}_{kind}" for name in FLIGHT for kind in ("mean", "std", "min", "max")] + ["RUL"]
    for part, engines in (("train", train), ("test", test)):
        rows: list[list[object]] = []
        for engine, count in engines.items():
            for c in range(count):
                numbers = random.normal(500 + 20 * wear(count, count)[c], 1, 4 * len(FLIGHT)).round(6)
                rows.append([engine, c + 1, 3, int(c < 5), int(random.integers(900, 1800)), *numbers, count - 1 - c])
        write(directory / f"DS02_{part}_cycle_features.csv", head, rows)


def snapshots(directory: Path, bearings: dict[str, int], *, semicolons: str = "") -> None:
    """Raw snapshots by `Learning_set/Bearing1_1`; the folder `semicolons` is separated by these."""
    random = np.random.default_rng(3)
    for name, count in bearings.items():
        worn = wear(count, count)
        for s in range(count):
            path = directory / name / f"acc_{s + 1:05d}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            (directory / "SYNTHETIC.txt").write_text(SAYS)
            second, acceleration = s * 10, random.normal(0.5, 0.4 + 5 * worn[s], (2560, 2)).round(3)
            clock = f"9,{second // 60},{second % 60},6.5664e+04"
            text = "".join(f"{clock},{h},{v}\n" for h, v in acceleration.tolist())
            path.write_text(text.replace(",", ";") if name == semicolons else text)


def wind(directory: Path, days: int, failures: list[tuple[str, str, float]], *, turbines: tuple[str, ...]) -> None:
    """Records every 10 minutes from 2017-06-01; failures: turbine, component and the day from then."""
    random = np.random.default_rng(4)
    begin = datetime(2017, 6, 1, tzinfo=timezone.utc)
    rows: list[list[object]] = []
    for turbine in turbines:
        for r in range(days * 144):
            time = begin + timedelta(minutes=10 * r)
            numbers = random.normal(18 + 4 * np.sin(r / 23), 1.5, len(WIND)).round(1)
            rows.append([f"{time:%Y-%m-%dT%H:%MZ}", turbine, *numbers, int(r % 3000 == 2999)])
    write(directory / "edp_2017h2_continuous.csv.gz", ["time_utc", "turbine", *WIND, "repeated_row"], rows)
    log: list[list[object]] = [
        [turbine, component, f"{begin + timedelta(days=day):%Y-%m-%dT%H:%M:%SZ}", "synthetic", 1, 1]
        for turbine, component, day in failures
    ]
    write(
        directory / "failures.csv",
        ["turbine", "component", "time_utc", "remarks", "in_continuous", "signals_available"],
        log,
    )


def disks(directory: Path, name: str, drives: dict[str, tuple[int, bool]], *, days: int) -> None:
    """drives: how many of the days it is there, and whether its last row says failure."""
    random = np.random.default_rng(5)
    rows: list[list[object]] = []
    for serial, (count, failed) in drives.items():
        for d in range(count):
            near = failed and d > count - 15
            bad, hours = int(near) * (d - count + 15), 20_000 + 24 * d
            values = [8 * bad, hours, bad, 0, 500 * d, random.integers(20, 35), bad, bad, 10**9 + 10**6 * d, 10**10 + d]
            date = f"{datetime(2018, 1, 1) + timedelta(days=d):%Y-%m-%d}"
            rows.append([date, serial, "ST4000DM000", int(failed and d == count - 1), *values])
    assert max(count for count, _ in drives.values()) == days
    write(directory / name, ["date", "serial_number", "model", "failure", *(f"smart_{n}_raw" for n in SMART)], rows)
