"""How the two tasks' errors become one gradient: one file a loss, chosen by `loss.name` in the configuration.

    fixed        RUL error + class_weight * class error
    uncertainty  learned weights (Kendall et al.)
    amnl         windows near the end of life count more; tasks alike
    gaba         by the gradient norms on the shared backbone; grace with amnl's sample weights inside
    gradnorm     weights that let both tasks learn at one rate (Chen et al.)

To add one, write a file with a settings struct (its `name` is the struct's tag, its fields are the loss's settings) and
a `Loss` that says how it combines two errors, and put the struct into LossSettings. Losses know the tasks' errors and
the norms of their gradients, and nothing of data, windows or the training loop.
"""

from __future__ import annotations

from edge_rul.training.losses.amnl import AmnlSettings
from edge_rul.training.losses.fixed import FixedSettings
from edge_rul.training.losses.gaba import GabaSettings, GraceSettings
from edge_rul.training.losses.gradnorm import GradNormSettings
from edge_rul.training.losses.uncertainty import UncertaintySettings

# The settings of all losses; msgspec tells them apart by `name`.
LossSettings = FixedSettings | UncertaintySettings | AmnlSettings | GabaSettings | GraceSettings | GradNormSettings

__all__ = ["LossSettings"]
