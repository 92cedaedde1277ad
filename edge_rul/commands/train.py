"""`edge-rul train`: a configuration and a data set to a bundle."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from pathlib import Path

from edge_rul.commands.arguments import usage, whole

HELP = "train a bundle"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the directory with the data set's files, or a table"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="directory to write")
    parser.add_argument("--force", action="store_true", help="replace the bundle that is there")
    parser.add_argument("--threads", type=whole(1), default=None, metavar="N", help="torch's, of one operation")
    parser.add_argument(
        "--seed",
        type=whole(0, 2**32 - 1),  # as the configuration's, whose type is not loaded here
        metavar="N",
        help="of the network, and of which assets are kept for calibration",
    )
    parser.add_argument(
        "--fold", type=whole(0), metavar="K", help="the fold to keep for the test, or the asset to leave out"
    )
    parser.add_argument("--init-from", type=Path, metavar="BUNDLE", help="begin with its weights, as far as they fit")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="record the run there: checkpoints, CSV, plots")
    parser.add_argument("--resume", action="store_true", help="take up the run that --run-dir holds")


def run(args: argparse.Namespace) -> int:
    from edge_rul.training.commands import train_command

    if args.resume and args.run_dir is None:
        return usage("train", "--resume takes up the run in --run-dir, which is not given")
    return train_command(
        args.config,
        args.data,
        args.out,
        force=args.force,
        threads=args.threads,
        run_dir=args.run_dir,
        resume=args.resume,
        seed=args.seed,
        fold=args.fold,
        init_from=args.init_from,
    )
