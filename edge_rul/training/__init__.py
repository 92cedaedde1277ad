"""From run-to-failure data to a bundle, and from a bundle to its figures. Never imported by `edge-rul run`."""
