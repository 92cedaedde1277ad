"""`edge-rul compile`: a TensorRT engine ahead of time."""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
from pathlib import Path

from edge_rul.commands.arguments import usage, whole

HELP = "build a bundle's TensorRT engine, for this GPU or another"

_PRECISIONS = {
    **{"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"},
    **{name: name for name in ("float32", "float16", "bfloat16")},
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--engine", choices=["tensorrt", "tensorrt_rtx"], default="tensorrt_rtx", help="(tensorrt_rtx)")
    parser.add_argument("--precision", choices=list(_PRECISIONS), default="fp32", help="(fp32)")
    parser.add_argument("--target", metavar="SM", help="compute capability of the GPU to build for, as sm89")
    parser.add_argument("--max-batch", type=whole(1, 4096), default=32, metavar="N", help="the daemon's (32)")
    parser.add_argument(
        "--cache", "--out", dest="cache", type=Path, metavar="DIR", help="where to keep it (the daemon's default)"
    )
    parser.add_argument("--again", action="store_true", help="build it though it is there already")


def run(args: argparse.Namespace) -> int:
    from edge_rul.adapters import systemd
    from edge_rul.engines.compile import compile_command
    from edge_rul.engines.flavour import parse_target

    try:
        target = parse_target(args.target) if args.target else None
    except ValueError as e:
        return usage("compile", f"--target: {e}")
    return compile_command(
        args.bundle,
        engine=args.engine,
        precision=_PRECISIONS[args.precision],
        target=target,
        max_batch=args.max_batch,
        cache=args.cache,
        again=args.again,
        notify=systemd.notify,
    )
