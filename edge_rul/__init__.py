"""edge_rul: remaining useful life, health and alarms, computed next to the machine."""

__version__ = "0.1.0"
