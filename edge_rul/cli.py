"""The commands. Parses arguments, calls one function, turns errors into messages and exit codes. No domain in here.

Each command imports what it needs when it runs, so that `edge-rul run` never loads torch.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_rul import __version__
from edge_rul.errors import EXIT_CONFIG, EXIT_INTERNAL, EXIT_OK, EXIT_USAGE, EdgeRulError

_PRECISIONS = {
    **{"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"},
    **{name: name for name in ("float32", "float16", "bfloat16")},
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argument's type: a whole number from `low`, to `high` where there is one."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            expected = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected a whole number {expected}, found {text!r}")
        return value

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="edge-rul", description="Remaining useful life, health and alarms, next to the machine.")
    parser.add_argument("--version", action="version", version=f"edge-rul {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser("run", help="serve: cycles in over MQTT, predictions and alarms out")
    run.add_argument("--config", type=Path, required=True, metavar="FILE")

    check = commands.add_parser("check", help="check a configuration, its bundle and its engine, and say what it found")
    check.add_argument("--config", type=Path, required=True, metavar="FILE")

    train = commands.add_parser("train", help="train a bundle")
    train.add_argument("config", type=Path, metavar="CONFIG")
    train.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the data set's files are")
    train.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="directory to write")
    train.add_argument("--force", action="store_true", help="replace the bundle that is there")
    train.add_argument("--threads", type=_whole(1), default=None, metavar="N", help="torch's, of one operation")
    train.add_argument("--run-dir", type=Path, metavar="DIR", help="record the run there: checkpoints, CSV, plots")
    train.add_argument("--resume", action="store_true", help="take up the run that --run-dir holds")

    evaluate = commands.add_parser("evaluate", help="a bundle's error on its data set's test lives")
    evaluate.add_argument("bundle", type=Path, metavar="BUNDLE")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the data set's files are")
    evaluate.add_argument("--json", action="store_true", help="one JSON object on stdout")

    model = commands.add_parser("model", help="about the network")
    model_commands = model.add_subparsers(dest="model_command", required=True, metavar="COMMAND", parser_class=_Parser)
    summary = model_commands.add_parser("summary", help="its stages, shapes and parameters")
    summary.add_argument("--c-in", type=_whole(1), default=14, metavar="N", help="inputs (14)")
    summary.add_argument("--window", type=_whole(1), default=30, metavar="T", help="cycles in a window (30)")
    summary.add_argument("--classes", type=_whole(1), default=3, metavar="C", help="health classes (3)")

    _add_lookback(commands)
    _add_compile(commands)
    _add_simulate(commands)
    _add_install(commands)
    return parser


def _level(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, value


def _table(text: str) -> Path:
    if Path(text).suffix not in (".csv", ".parquet"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .csv or .parquet, found {text!r}")
    return Path(text)


def _add_lookback(commands: argparse._SubParsersAction[_Parser]) -> None:
    export = commands.add_parser("export", help="an asset's readings and predictions out of the journal")
    export.add_argument("asset", metavar="ASSET")
    export.add_argument("--config", type=Path, required=True, metavar="FILE", help="the daemon's, which may run")
    export.add_argument(
        "--level", type=_level, action="append", default=[], metavar="NAME=VALUE", help="a level of its topic, line=A"
    )
    export.add_argument(
        "--since", metavar="TIME", help="readings of this time on: 2026-01-31T12:00, or 6h, 2d, 30m ago"
    )
    export.add_argument("--out", type=_table, metavar="FILE", help=".csv or .parquet (CSV on stdout)")

    rescore = commands.add_parser("rescore", help="an export's readings through another bundle, side by side")
    rescore.add_argument("file", type=_table, metavar="FILE", help="of `edge-rul export`, .csv or .parquet")
    rescore.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    rescore.add_argument("--max-gap", type=_whole(0), default=0, metavar="N", help="as windows.max_gap (0)")
    rescore.add_argument("--json", action="store_true", help="one JSON object on stdout, with every row")
    rescore.add_argument("--out", type=_table, metavar="FILE", help="write every row, .csv or .parquet")


def _add_compile(commands: argparse._SubParsersAction[_Parser]) -> None:
    compile_ = commands.add_parser("compile", help="build a bundle's TensorRT engine, for this GPU or another")
    compile_.add_argument("bundle", type=Path, metavar="BUNDLE")
    compile_.add_argument(
        "--engine", choices=["tensorrt", "tensorrt_rtx"], default="tensorrt_rtx", help="(tensorrt_rtx)"
    )
    compile_.add_argument("--precision", choices=list(_PRECISIONS), default="fp32", help="(fp32)")
    compile_.add_argument("--target", metavar="SM", help="compute capability of the GPU to build for, as sm89")
    compile_.add_argument("--max-batch", type=_whole(1, 4096), default=32, metavar="N", help="the daemon's (32)")
    compile_.add_argument(
        "--cache", "--out", dest="cache", type=Path, metavar="DIR", help="where to keep it (the daemon's default)"
    )


def _add_simulate(commands: argparse._SubParsersAction[_Parser]) -> None:
    simulate = commands.add_parser("simulate", help="publish a fleet of simulated engines")
    simulate.add_argument("--host", default="localhost")
    simulate.add_argument("--port", type=_whole(1, 65535), default=1883)
    simulate.add_argument("--mqtt", choices=("5", "3.1.1"), default="5", dest="version", help="protocol version (5)")
    simulate.add_argument("--topic", default="plant/{line}/{asset}/cycle", metavar="TEMPLATE")
    simulate.add_argument("--username")
    simulate.add_argument("--password-file", type=Path, metavar="FILE")
    simulate.add_argument("--assets", type=_whole(1), default=12, metavar="N")
    simulate.add_argument("--rate", type=float, default=1.0, metavar="R", help="cycles a second of each engine (1)")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--warm-up", type=_whole(0), default=30, metavar="N", help="cycles sent at once first (30)")
    simulate.add_argument(
        "--cycles", type=_whole(0), default=None, metavar="N", help="stop after N cycles of each engine"
    )


def _add_install(commands: argparse._SubParsersAction[_Parser]) -> None:
    install = commands.add_parser("install-service", help="put the systemd unit, its user and directories in place")
    install.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="install below DIR instead of /")
    install.add_argument(
        "--venv", type=Path, default=Path(sys.prefix), metavar="DIR", help="environment to run from (this one)"
    )
    bundle = Path("/opt/edge-rul/bundles/cmapss_fd001")
    install.add_argument(
        "--bundle", type=Path, default=bundle, metavar="DIR", help=f"for a new edge-rul.yaml ({bundle})"
    )
    device = install.add_mutually_exclusive_group()
    device.add_argument(
        "--engine", choices=("auto", "onnxruntime", "openvino"), default="auto", help="on the CPU: the drop-in (auto)"
    )
    device.add_argument("--gpu", choices=("desktop", "jetson"), help="the drop-in that lets the service see a GPU")
    install.add_argument("--dry-run", action="store_true", help="only say what would be done")
    install.add_argument("--undo", action="store_true", help="take it back, but for configuration and state")
    install.add_argument("--purge", action="store_true", help="with --undo: configuration, state and user too")


def _install_service(args: argparse.Namespace) -> int:
    from edge_rul.install import Choice, install_command

    if args.purge and not args.undo:
        print("edge-rul install-service: --purge goes with --undo", file=sys.stderr)
        return EXIT_USAGE
    choice = Choice(args.root.resolve(), args.venv, args.bundle, args.engine, args.gpu, args.dry_run)
    return install_command(choice, undo=args.undo, purge=args.purge)


def _check(args: argparse.Namespace) -> int:
    from edge_rul.config import load_settings
    from edge_rul.engines import verify
    from edge_rul.wiring import build_transport, check_bundle, open_engine_and_bundle

    settings, source = load_settings(args.config)
    notes: list[str] = []
    bundle, engine = open_engine_and_bundle(settings, source, notes.append)
    with engine:
        check_bundle(settings, source, bundle)
        build_transport(settings, source, None)
        rul, logits = verify(engine, bundle)
    m = bundle.manifest
    print(f"configuration  {args.config}")
    print(f"bundle         {m.name}, {len(m.inputs)} inputs, window {m.window}, sha256 {bundle.sha256[:12]}")
    print(f"engine         {engine.name} {engine.version}, {engine.precision}")
    for note in notes:
        print(f"               {note}")
    print(f"golden         {len(bundle.golden.rul)} windows, off by {rul:.2g} {m.rul.unit} and {logits:.2g} in logits")
    print(f"subscribes to  {', '.join(settings.topics.readings)} on {settings.mqtt.host}:{settings.mqtt.port}")
    print(f"alarms         {', '.join(rule.name for rule in settings.alarms) or 'none'}")
    print("ok")
    return EXIT_OK


def _compile(args: argparse.Namespace) -> int:
    from edge_rul.adapters import systemd
    from edge_rul.engines.compile import compile_command
    from edge_rul.engines.flavour import parse_target

    try:
        target = parse_target(args.target) if args.target else None
    except ValueError as e:
        print(f"edge-rul compile: --target: {e}", file=sys.stderr)
        return EXIT_USAGE
    return compile_command(
        args.bundle,
        engine=args.engine,
        precision=_PRECISIONS[args.precision],
        target=target,
        max_batch=args.max_batch,
        cache=args.cache,
        notify=systemd.notify,
    )


def _export(args: argparse.Namespace) -> int:
    import time

    from edge_rul.lookback import export_command, parse_since

    try:
        since = None if args.since is None else parse_since(args.since, time.time())
    except ValueError as e:
        print(f"edge-rul export: --since: {e}", file=sys.stderr)
        return EXIT_USAGE
    return export_command(args.config, args.asset, dict(args.level), since, args.out)


def _rescore(args: argparse.Namespace) -> int:
    from edge_rul.lookback import rescore_command

    return rescore_command(args.file, args.bundle, gap=args.max_gap, json=args.json, out=args.out)


def _evaluate(args: argparse.Namespace) -> int:
    from edge_rul.training.commands import evaluate_command

    return evaluate_command(args.bundle, args.data, json=args.json)


def _run(args: argparse.Namespace) -> int:
    from edge_rul.daemon import run

    return run(args.config)


def _train(args: argparse.Namespace) -> int:
    from edge_rul.training.commands import train_command

    if args.resume and args.run_dir is None:
        print("edge-rul train: --resume takes up the run in --run-dir, which is not given", file=sys.stderr)
        return EXIT_USAGE
    return train_command(
        args.config,
        args.data,
        args.out,
        force=args.force,
        threads=args.threads,
        run_dir=args.run_dir,
        resume=args.resume,
    )


def _model(args: argparse.Namespace) -> int:
    from edge_rul.model.summary import summary

    print(summary(args.c_in, args.window, args.classes))
    return EXIT_OK


def _simulate(args: argparse.Namespace) -> int:
    from edge_rul.simulate import simulate_command

    return simulate_command(**{key: value for key, value in vars(args).items() if key != "command"})


_HANDLERS = {
    "run": _run,
    "check": _check,
    "train": _train,
    "evaluate": _evaluate,
    "model": _model,
    "export": _export,
    "rescore": _rescore,
    "compile": _compile,
    "simulate": _simulate,
    "install-service": _install_service,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        code = _HANDLERS[args.command](args)
        sys.stdout.flush()  # here, and not at the interpreter's end, where a closed pipe could not be caught
        return code
    except EdgeRulError as e:
        print(f"edge-rul: {e}", file=sys.stderr)
        return e.exit_code
    except ModuleNotFoundError as e:
        if e.name not in {"torch", "onnx", "rich", "matplotlib"}:
            raise
        print(f"edge-rul: {args.command} needs {e.name}\n  hint: pip install 'edge-rul[train]'", file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return 130
    except Exception as e:
        print(f"edge-rul: internal error: {e!r}", file=sys.stderr)
        import traceback

        traceback.print_exc()
        return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
