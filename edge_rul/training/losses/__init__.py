"""How the two tasks' errors become one gradient: one file a loss, chosen by `loss.name` in the configuration.

To add one, write a file with a settings struct (its `name` is the struct's tag, its fields are the loss's settings) and
a `Loss`, and put the struct into LossSettings. Losses know the tasks' errors and the shared backbone's parameters, and
nothing of data, windows or the training loop.
"""

from __future__ import annotations

from edge_rul.training.losses.fixed import FixedSettings

# A union of the settings of all losses; msgspec tells them apart by `name`.
LossSettings = FixedSettings

__all__ = ["LossSettings"]
