"""What serves, as it is published: a bundle on an engine, how the last reload went, and how a candidate differs.

Owns these shapes and their words. Knows no topic and no client.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edge_rul.core.prediction import BundleId

Count = Annotated[int, msgspec.Meta(ge=0)]


class ServingEngine(msgspec.Struct, frozen=True):
    """What computes. device: where. precision: of its arithmetic."""

    name: str
    version: str
    precision: str
    device: Literal["CPU", "GPU"]

    def __str__(self) -> str:
        return f"{self.name} {self.version}, {self.precision} on the {self.device}"


class Reloaded(msgspec.Struct, frozen=True):
    """The last reload. changed: sections of the configuration. problem: why it was refused and the configuration before
    goes on; empty where it was taken."""

    ts: str
    changed: list[str]
    problem: str


class Candidate(msgspec.Struct, frozen=True):
    """A second bundle that scores the same windows, and how far it is from what serves, since it was set beside it.

    windows: that both answered; skipped: that were left out so that nothing had to wait. rul_mean, rul_largest: of the
    absolute difference in RUL. disagreement: share of the windows to which it gives another health class. problem: why
    it scores no more; empty while it does.
    """

    bundle: BundleId
    engine: ServingEngine
    windows: Count
    skipped: Count
    rul_mean: float | None
    rul_largest: float | None
    disagreement: Annotated[float, msgspec.Meta(ge=0, le=1)] | None
    problem: str = ""


class Status(msgspec.Struct, frozen=True):
    """What serves, while `availability` says `online`; published when it changes.

    words: the same for people. started: when the process did. problems: what is not as the configuration asks.
    """

    schema: Literal["edge-rul/status/1"]
    ts: str
    words: str
    version: str
    started: str
    bundle: BundleId
    engine: ServingEngine
    journal: str
    problems: list[str]
    reload: Reloaded | None = None
    candidate: Candidate | None = None


def words(bundle: BundleId, engine: ServingEngine, problems: list[str]) -> str:
    """One line for people."""
    return "; ".join([f"{bundle.name} on {engine}", *problems])


def gpu_given_up(failures: int) -> str:
    """failures: of the GPU, for which the CPU serves."""
    return f"CPU serves: GPU given up after {failures} failures"
