"""Simulated engines: how they wear, what their sensors then show, when they fail and come back overhauled.

Owns the model and the fleet, pure numpy and the same for the same seed. The numbers are not here but in
simulator_fd001.json, which tools/fit_simulator.py fits to the run-to-failure engines of NASA C-MAPSS FD001. Must not
know time, MQTT, the daemon or its bundle.

The model, as the data show it (two directions explain FD001's sensors to within white, uncorrelated noise):

    sensor(t) = level + damage * D(t) + core * G(t) + noise
    D(t), G(t) = start + (end - start) * (exp(rate * t) - 1) / (exp(rate) - 1),    t from 0 (first cycle) to 1 (last)

D is the damage that every sensor answers to; the fleet's engines start near 0 and fail near 1. G is a drift of the core
speeds Nc and NRc that differs from engine to engine, in sign too. Start, end and rate of both, with the length of the
life, are an engine's seven traits, drawn together because they depend on one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_rul.errors import ConfigError

SCHEMA = "edge-rul/simulator/1"
FD001 = Path(__file__).with_name("simulator_fd001.json")
ENGINES_A_LINE = 6

Floats = npt.NDArray[np.float64]


class Sensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """level, and what damage 1 and core 1 add to it, in `unit`; noise: standard deviation; decimals: resolution."""

    name: str
    unit: str
    decimals: int
    level: float
    damage: float = 0.0
    core: float = 0.0
    noise: float = 0.0


class Traits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How engines differ: the quantiles of every trait, and how the traits go together.

    scores: K standard normal scores, rising, at which the quantiles stand; below the first and above the last a trait
    keeps its outermost quantile, so no engine is wilder than the data's. Each trait: K values.
    correlation: (7, 7) of the traits' normal scores, in the order of `ORDER`.
    """

    scores: list[float]
    life: list[float]  # cycles
    damage_start: list[float]
    damage_end: list[float]
    damage_rate: list[float]
    core_start: list[float]
    core_end: list[float]
    core_rate: list[float]
    correlation: list[list[float]]


ORDER = ("life", "damage_start", "damage_end", "damage_rate", "core_start", "core_end", "core_rate")


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted simulator. source: what it was fitted to; statistics only, no row of the data."""

    schema: str
    description: str
    source: dict[str, Any]
    sensors: list[Sensor]
    traits: Traits


class Reading(msgspec.Struct, frozen=True):
    """One cycle of one asset. remaining: cycles that the engine still has after this one; never published. before:
    cycles of the asset's earlier lives, for the event time."""

    asset: str
    line: str
    cycle: int
    values: dict[str, float]
    remaining: int = -1
    before: int = 0


def load_params(path: Path = FD001) -> Params:
    """Raises ConfigError when the file is missing or is not a simulator's."""
    try:
        params = msgspec.json.decode(path.read_bytes(), type=Params)
    except (OSError, ValueError) as e:  # text that is not UTF-8 too, which is no DecodeError
        raise ConfigError("load simulator", str(path), str(e)) from e
    if params.schema != SCHEMA:
        raise ConfigError("load simulator", str(path), f"schema is {params.schema!r}, this version reads {SCHEMA!r}")
    return params


def path(start: float, end: float, rate: float, t: Floats) -> Floats:
    """D or G over one life. t: (L,), 0 to 1 -> (L,)."""
    rising: Floats = np.expm1(rate * t) / np.expm1(rate)  # (L,)
    return start + (end - start) * rising


def draw_life(params: Params, rng: np.random.Generator) -> Floats:
    """One engine from its first cycle to its last: (L, S), in the order of params.sensors, rounded as published."""
    traits = params.traits
    z = rng.multivariate_normal(np.zeros(len(ORDER)), np.asarray(traits.correlation))
    drawn = {name: float(np.interp(z[i], traits.scores, getattr(traits, name))) for i, name in enumerate(ORDER)}
    cycles = round(drawn["life"])
    t = np.linspace(0.0, 1.0, cycles)
    damage = path(drawn["damage_start"], drawn["damage_end"], drawn["damage_rate"], t)  # (L,)
    core = path(drawn["core_start"], drawn["core_end"], drawn["core_rate"], t)  # (L,)
    values = np.empty((cycles, len(params.sensors)))
    for s, sensor in enumerate(params.sensors):
        noise = sensor.noise * rng.standard_normal(cycles)
        exact = sensor.level + sensor.damage * damage + sensor.core * core + noise
        values[:, s] = np.round(exact, sensor.decimals)
    return values


class Fleet:
    """Engines that run to failure and come back overhauled, for ever: iterating gives rounds, one reading an engine.

    The same params and seed give the same readings, and an engine's readings do not depend on how many others there
    are. Engines start at different points of their lives, spread from about 55 cycles before failure to new, so that
    after the first full windows a fleet shows every state of health. After its last cycle an engine's next one is
    cycle 1 of a newly drawn life.
    """

    def __init__(self, params: Params, assets: int = 12, seed: int = 0) -> None:
        self.params = params
        self.names = [f"sim-{i + 1:02d}" for i in range(assets)]
        self._rngs = [np.random.default_rng([seed, i]) for i in range(assets)]
        self._lives = [draw_life(params, rng) for rng in self._rngs]
        self._at = [_first_row(i, len(life)) for i, life in enumerate(self._lives)]  # index of the next row

    def _next(self, i: int) -> Reading:
        if self._at[i] == len(self._lives[i]):
            self._lives[i] = draw_life(self.params, self._rngs[i])
            self._at[i] = 0
        row, left = self._lives[i][self._at[i]], len(self._lives[i]) - self._at[i] - 1
        self._at[i] += 1
        values = {s.name: float(v) for s, v in zip(self.params.sensors, row, strict=True)}
        return Reading(self.names[i], line_of(i, ENGINES_A_LINE), self._at[i], values, left)

    def __iter__(self) -> Iterator[list[Reading]]:
        while True:
            yield [self._next(i) for i in range(len(self.names))]


def _first_row(i: int, life: int) -> int:
    """Where engine i starts: the index of its first row."""
    # The golden ratio's multiples fill the unit interval evenly for any number of engines, without knowing it.
    share = (0.1 + i * 0.6180339887) % 1.0
    left = round(55 + (life - 55) * float(share**1.3))  # more engines near the end than near the start
    return max(0, life - left)


def line_of(index: int, engines_a_line: int) -> str:
    """The production line of an engine counted from 0: A, B, ..., and from A again after Z."""
    return chr(ord("A") + index // engines_a_line % 26)
