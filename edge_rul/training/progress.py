"""What a person sees of a training run, on stderr.

Owns progress bars on a terminal and plain lines elsewhere. Must not know data, the network or torch. Reads a clock only
for what it shows: no result depends on it.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol


class Progress(Protocol):
    """Told of each step and each epoch; used as a context manager."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None) -> None: ...

    def say(self, text: str) -> None:
        """A line that stays."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Both counted from 1."""

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """At the end of each epoch, with figures of the validation assets."""


class Silent:
    """For tests and searches."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def say(self, text: str) -> None: ...

    def step(self, epoch: int, step: int, loss: float) -> None: ...

    def epoch(self, epoch: int, figures: dict[str, float]) -> None: ...


class Lines:
    """A line for each epoch, and one every `interval` seconds between."""

    def __init__(self, epochs: int, steps: int, interval: float = 20.0) -> None:
        self.epochs, self.steps, self.interval = epochs, steps, interval
        self._begun = self._shown = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def step(self, epoch: int, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._shown >= self.interval:
            self._shown = now
            self.say(f"epoch {epoch}/{self.epochs}  step {step}/{self.steps}  loss {loss:.4g}")

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        self._shown = time.monotonic()
        self.say(f"epoch {epoch}/{self.epochs}  {_text(figures)}  {self._shown - self._begun:.0f} s since the start")


class Bars:
    """rich's bars for epochs and steps, and a line for each epoch above them."""

    def __init__(self, epochs: int, steps: int) -> None:
        from rich.console import Console  # noqa: PLC0415  rich comes with the extra `train`
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as RichProgress  # noqa: PLC0415

        self._bars = RichProgress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._steps, self._epochs = steps, epochs
        self._all = self._bars.add_task("training", total=epochs * steps, note="")
        self._one = self._bars.add_task("epoch 1", total=steps, note="")

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def step(self, epoch: int, step: int, loss: float) -> None:
        self._bars.update(self._one, description=f"epoch {epoch}", completed=step, note=f"loss {loss:.4g}")
        self._bars.update(self._all, completed=(epoch - 1) * self._steps + step)

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        self.say(f"epoch {epoch}/{self._epochs}  {_text(figures)}")


def _text(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def on_stderr(epochs: int, steps: int) -> Progress:
    """Bars where a person watches a terminal, lines elsewhere."""
    return Bars(epochs, steps) if sys.stderr.isatty() else Lines(epochs, steps)
