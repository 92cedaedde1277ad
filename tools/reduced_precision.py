"""What a reduced precision costs on FD001's test engines, and the tolerance that its engines are held to.

    python tools/reduced_precision.py bundles/cmapss_fd001 --data DIR [--json] [--write]

For each reduced precision that computes here, beside float32's: RMSE and NASA score by the standard protocol (last
window of each test engine), and the largest single difference from float32 over all full test windows. float16 and
bfloat16 of the TensorRT engines run on a GPU; without one float16's graph is computed by ONNX Runtime, which rounds as
the graph says, and is labelled so. --write puts each measured precision's tolerance into the bundle's manifest, so that
the daemon serves it (this changes the bundle's sha256): twice the largest difference over all full windows of the
*training* lives, as nothing in a manifest may come from the test files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_rul import bundle as bundles
from edge_rul.bundle import Bundle, Tolerance
from edge_rul.core.normalise import Array
from edge_rul.engines import infer_all, open_engine
from edge_rul.engines.choose import installed
from edge_rul.errors import EdgeRulError
from edge_rul.training.evaluate import load_table
from edge_rul.training.metrics import scores
from edge_rul.training.windows import Windows, full_windows, labels, last_windows

BATCH = 64
WORST = 0.02  # of the largest RUL; a precision that is further off is not the trained model
MARGIN = 2.0

Infer = Callable[[Array], tuple[Array, Array]]


def reduced(bundle: Bundle, say: Callable[[str], None]) -> dict[str, tuple[str, Infer]]:
    """Label -> (precision, its answers), for each that computes here."""
    found: dict[str, tuple[str, Infer]] = {}
    if "openvino" in installed():
        from edge_rul.engines.openvino import OpenVinoEngine  # noqa: PLC0415

        for precision in ("bfloat16", "int8"):
            try:
                engine = OpenVinoEngine(bundle, max_batch=BATCH, precision=precision)
            except EdgeRulError as e:
                say(f"openvino {precision}: {e.problem}")
                continue
            found[f"openvino {precision}"] = (precision, lambda x, engine=engine: infer_all(engine, x))  # type: ignore[misc]
    try:
        found["float16 (its graph in onnxruntime)"] = ("float16", _float16(bundle))
    except EdgeRulError as e:
        say(f"float16: {e.problem}")
    return found


def _float16(bundle: Bundle) -> Infer:
    import onnxruntime  # noqa: PLC0415

    from edge_rul.engines.onnx_precision import in_precision  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(in_precision(bundle.graph.read_bytes(), "float16"), options)

    def infer(x: Array) -> tuple[Array, Array]:
        parts = [session.run(["rul", "logits"], {"x": x[i : i + BATCH]}) for i in range(0, len(x), BATCH)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    return infer


def cost(bundle: Bundle, data: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for float32 and each reduced precision, over the test lives."""
    m = bundle.manifest
    table = load_table(bundle, data, "test")
    ends, every = last_windows(table, m.window), full_windows(table, m.window)
    true = labels(ends, m.rul.max, m.classes)
    x_ends, x_every = _inputs(bundle, ends), _inputs(bundle, every)
    result = []
    with open_engine("onnxruntime", bundle, max_batch=BATCH) as engine:
        exact = infer_all(engine, x_every)
        of_float32 = ("float32", lambda x: infer_all(engine, x))
        for label, (precision, infer) in {"onnxruntime float32": of_float32, **reduced(bundle, say)}.items():
            report = scores(*infer(x_ends), true.rul, true.health)
            row = {"engine": label, "precision": precision, "rmse": report.rmse, "nasa_score": report.nasa_score}
            result.append({**row, **_difference(infer(x_every), exact)})
    say(f"largest differences over {len(every)} windows of test lives")
    return result


def differences(bundle: Bundle, data: Path, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Precision -> its largest differences from float32 over the training lives."""
    x = _inputs(bundle, full_windows(load_table(bundle, data, "train"), bundle.manifest.window))
    with open_engine("onnxruntime", bundle, max_batch=BATCH) as engine:
        exact = infer_all(engine, x)
    found = {precision: _difference(infer(x), exact) for precision, infer in reduced(bundle, say).values()}
    say(f"tolerances from {len(x)} windows of training lives")
    return found


def _inputs(bundle: Bundle, windows: Windows) -> Array:
    transform = bundle.manifest.transform
    return transform.apply(windows.readings(before=transform.changes)).x


def _difference(answers: tuple[Array, Array], exact: tuple[Array, Array]) -> dict[str, float]:
    rul, logits = (float(np.abs(a - b).max()) for a, b in zip(answers, exact, strict=True))
    return {"largest_difference": rul, "largest_difference_logits": logits}


def write_tolerances(bundle: Bundle, found: Mapping[str, Mapping[str, float]]) -> Bundle:
    """The bundle again with a tolerance for each precision of `found`, as `differences` gives it."""
    tolerance = dict(bundle.manifest.tolerance)
    for precision, off in found.items():
        if off["largest_difference"] > WORST * bundle.manifest.rul.max:
            print(f"  {precision}: no tolerance written, it is too far from float32", file=sys.stderr)
        else:
            rul, logits = (float(f"{MARGIN * off[k]:.2g}") for k in ("largest_difference", "largest_difference_logits"))
            tolerance[precision] = Tolerance(rul=rul, logits=logits)
    fields = {f: getattr(bundle.manifest, f) for f in bundle.manifest.__struct_fields__ if f not in ("schema", "files")}
    from safetensors.numpy import load_file  # noqa: PLC0415

    return bundles.write(
        bundle.path,
        fields={**fields, "tolerance": tolerance},
        graph=bundle.graph.read_bytes(),
        weights=load_file(bundle.weights),
        golden=bundle.golden,
        replace=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="where the data set's files are")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="the tolerances into the manifest")
    args = parser.parse_args(argv)
    bundle = bundles.load(args.bundle)

    def say(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    result = cost(bundle, args.data, say)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{'engine':<38}{'RMSE':>8}{'NASA score':>12}{'largest difference':>20}")
        for row in result:
            print(
                f"{row['engine']:<38}{row['rmse']:>8.3f}{row['nasa_score']:>12.1f}"
                f"{row['largest_difference']:>13.3f} {bundle.manifest.rul.unit}"
            )
    if args.write:
        made = write_tolerances(bundle, differences(bundle, args.data, say))
        tolerances = msgspec.json.encode(made.manifest.tolerance).decode()
        print(f"wrote {made.path}, sha256 {made.sha256[:12]}: {tolerances}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
