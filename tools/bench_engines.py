"""How fast each engine of this machine is, in one table, side by side in one run.

    python tools/bench_engines.py bundles/cmapss_fd001 [--batches 1,16,32,64,256,1024] [--seconds 3] [--json]
                                  [--engines "onnxruntime,openvino int8"]

For each engine and batch: windows/s (median and best call), p50 and p99 of a call in milliseconds, the factor to torch
eager on the training graph, the share of the machine's roofline, and CPU milliseconds of a lone window. The engines
take turns of a quarter of a second, so that whatever else the machine does falls on all alike; ratios are the figures
to cite, and a loaded machine is said to be one. The roofline is a float32 matrix product of NumPy's on all CPUs, in the
same run, against FLOP a window counted from the network's sizes; a GPU has none here. Torch computes on the CPU. An
engine that does not open is told with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle
from edge_rul.core.normalise import Array
from edge_rul.engines import Engine, open_engine
from edge_rul.engines.cache import default_directory
from edge_rul.engines.choose import device_of, installed
from edge_rul.engines.threads import usable_threads
from edge_rul.errors import EdgeRulError

BASELINE = "torch eager"  # on the CPU, whatever computes beside it
_TURN = 0.25  # seconds


def flop(bundle: Bundle) -> float:
    """Of one window in the inference graph: a multiplication and an addition for each weight and step."""
    m = bundle.manifest
    T, C, H = m.window, m.network.c_in, m.network.lstm_hidden
    cnn = 3 * (C * 64 + 64 * 128 + 128 * 64) * T
    lstm = 2 * 4 * H * ((64 + H) + (2 * H + H)) * T
    D = 2 * H
    attention = 2 * D * D + 2 * D * D + 2 * m.network.num_heads * D * T  # query and output; probe and value; scores
    dense = D * 256 + 256 * 64 + 64 * m.network.shared_dim + 32 * 64 + 64 * 32 + 32 * 16  # funnel and heads
    return 2.0 * (cnn + lstm + attention + dense)


def peak() -> float:
    """FLOP/s of a large float32 matrix product on all CPUs that this process may use, the best of several."""
    a = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    best = min(_seconds(lambda: a @ a) for _ in range(10))
    return 2 * 1024**3 / best


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def candidates(
    bundle: Bundle, largest: int, threads: int, wanted: list[str], say: Callable[[str], None]
) -> dict[str, Engine]:
    """Every engine that opens here, of the wanted ones if any are named; what does not is told with its reason."""
    options: dict[str, dict[str, Any]] = {
        "onnxruntime": {"name": "onnxruntime"},
        "onnxruntime cuda": {"name": "onnxruntime", "provider": "cuda"},
        "onnxruntime tensorrt": {"name": "onnxruntime", "provider": "tensorrt"},
        "openvino": {"name": "openvino"},
        "openvino bfloat16": {"name": "openvino", "precision": "bfloat16"},
        "openvino int8": {"name": "openvino", "precision": "int8"},
        "tensorrt_rtx": {"name": "tensorrt_rtx"},
        "tensorrt_rtx float16": {"name": "tensorrt_rtx", "precision": "float16"},
        "tensorrt_rtx bfloat16": {"name": "tensorrt_rtx", "precision": "bfloat16"},
        "tensorrt": {"name": "tensorrt"},
        "tensorrt float16": {"name": "tensorrt", "precision": "float16"},
        "tensorrt bfloat16": {"name": "tensorrt", "precision": "bfloat16"},
    }
    found: dict[str, Engine] = {}
    if "torch" in installed() and not wanted:
        from edge_rul.engines.torch import TorchEngine  # noqa: PLC0415

        found[BASELINE] = TorchEngine(bundle, max_batch=largest, threads=threads)
        try:
            compiled = TorchEngine(bundle, max_batch=largest, threads=threads, compiled=True)
            compiled.infer(np.zeros((2, bundle.manifest.window, bundle.manifest.network.c_in), np.float32))
            found["torch compiled"] = compiled
        except Exception as e:  # its compiler needs a C++ toolchain, and says so in many ways
            say(f"torch compiled: {str(e).splitlines()[0] if str(e) else e!r}")
    elif not wanted:
        say(f"{BASELINE}: not installed, so there are no factors")
    for label, option in options.items():
        if wanted and label not in wanted:
            continue
        try:
            found[label] = open_unverified(bundle, largest, threads, **option)
        except EdgeRulError as e:
            say(f"{label}: {e.problem}")
    return found


def open_unverified(
    bundle: Bundle, largest: int, threads: int, name: str, precision: str = "float32", provider: str = "cpu"
) -> Engine:
    """The engine; OpenVINO's in a reduced precision also where the bundle has no tolerance for it: this measures, it
    does not serve."""
    if name == "openvino" and name in installed() and precision not in {"float32", *bundle.manifest.tolerance}:
        from edge_rul.engines.openvino import OpenVinoEngine  # noqa: PLC0415

        return OpenVinoEngine(bundle, max_batch=largest, threads=threads, precision=precision)
    cache = default_directory()
    return open_engine(
        name, bundle, max_batch=largest, threads=threads, precision=precision, provider=provider, cache=cache
    )


def measure(engines: dict[str, Engine], x: Array, seconds: float) -> dict[str, list[float]]:
    """Seconds of each call. The engines take turns of a quarter of a second, until each has had `seconds` or so.

    The first call of a turn does not count: the threads of the engine before may still spin, which torch's do.
    """
    taken: dict[str, list[float]] = {name: [] for name in engines}
    spent = dict.fromkeys(engines, 0.0)
    while min(spent.values()) < seconds or min(map(len, taken.values())) < 5:
        for name, engine in engines.items():
            engine.infer(x)
            until = time.perf_counter() + _TURN
            calls: list[float] = []
            while not calls or time.perf_counter() < until:
                calls.append(_seconds(lambda engine=engine: engine.infer(x)))  # type: ignore[misc]
            taken[name] += calls
            spent[name] += sum(calls)
    return taken


def lone_cpu(engine: Engine, x: Array) -> float:
    """CPU milliseconds of this process for a lone window, with the pause after it in which threads may spin."""
    began, rounds = time.process_time(), 20
    for _ in range(rounds):
        engine.infer(x[:1])
        time.sleep(0.02)
    return (time.process_time() - began) / rounds * 1e3


def rows(
    bundle: Bundle, batches: list[int], seconds: float, threads: int, wanted: list[str], say: Callable[[str], None]
) -> Any:
    golden = bundle.golden_inputs
    engines = candidates(bundle, max(batches), threads, wanted, say)
    top = peak()
    result = []
    try:
        alone = {name: lone_cpu(engine, golden) for name, engine in engines.items()}
        for batch in batches:
            x = np.resize(golden, (batch, *golden.shape[1:]))
            for name, calls in (taken := measure(engines, x, seconds)).items():
                median = statistics.median(calls)
                base = statistics.median(taken[BASELINE]) if BASELINE in taken else None
                result.append(
                    {
                        "engine": name,
                        "version": engines[name].version,
                        "precision": engines[name].precision,
                        "batch": batch,
                        "calls": len(calls),
                        "windows_per_s": batch / median,
                        "windows_per_s_best": batch / min(calls),
                        "p50_ms": median * 1e3,
                        "p99_ms": float(np.percentile(calls, 99)) * 1e3,
                        "factor": base / median if base else None,
                        # The CPU's, so it says nothing of a GPU.
                        "roofline": batch / median * flop(bundle) / top if device_of(engines[name]) == "CPU" else None,
                        "lone_cpu_ms": alone[name],
                    }
                )
    finally:
        for engine in engines.values():
            engine.close()
    return {
        "machine": f"{platform.machine()}, {usable_threads()} threads usable, load {os.getloadavg()[0]:.1f}",
        "threads": threads or usable_threads(),
        "mflop_per_window": flop(bundle) / 1e6,
        "gflops_of_a_matrix_product": top / 1e9,
        "rows": result,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batches", default="1,16,32,64,256,1024")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each engine and batch")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--engines", default="", help="these labels only, and no torch")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    load = os.getloadavg()[0]
    wanted = [label.strip() for label in args.engines.split(",") if label.strip()]
    batches = [int(n) for n in args.batches.split(",")]

    def say(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    table = rows(bundles.load(args.bundle), batches, args.seconds, args.threads, wanted, say)
    table["load_before"] = load
    if args.json:
        print(json.dumps(table, indent=1))
        return 0
    print(f"{table['machine']}; load before {load:.1f}")
    print(
        f"{table['mflop_per_window']:.0f} MFLOP a window; "
        f"a matrix product does {table['gflops_of_a_matrix_product']:.0f} GFLOP/s"
    )
    if load > 0.5:
        print("the machine was busy: take the factors, not the rates")
    print(
        f"{'engine':<22}{'batch':>6}{'windows/s':>11}{'best':>8}{'p50 ms':>9}{'p99 ms':>9}{'factor':>8}"
        f"{'roofline':>10}{'lone CPU ms':>13}"
    )
    for row in sorted(table["rows"], key=lambda r: (r["batch"], r["windows_per_s"])):
        factor = f"{row['factor']:.2f}x" if row["factor"] else "-"
        share = f"{row['roofline']:.0%}" if row["roofline"] else "-"
        print(
            f"{row['engine']:<22}{row['batch']:>6}{row['windows_per_s']:>11.0f}{row['windows_per_s_best']:>8.0f}"
            f"{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{factor:>8}{share:>10}{row['lone_cpu_ms']:>13.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
