"""The demo: the table that messages make, and processes that end whatever happens."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import demo
import demo_processes
import pytest
from conftest import ROOT
from demo_table import BLOCKS, Board, as_svg, sparkline
from rich.console import Console

from edge_rul.bundle import (
    GOLDEN,
    GRAPH,
    SCHEMA,
    WEIGHTS,
    FileRecord,
    HealthClass,
    Input,
    Manifest,
    Network,
    Rul,
    Tolerance,
)
from edge_rul.config import Topics, load_settings
from edge_rul.core.normalise import ZScore

TOOLS = ROOT / "tools"
LINE = "A"


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        schema=SCHEMA,
        name="cmapss_fd001",
        description="",
        inputs=[Input("T24", "°R", "", 641.0, 645.0)],
        window=30,
        normaliser=ZScore([642.0], [0.5]),
        rul=Rul("cycles", 125.0),
        classes=[HealthClass("healthy", 80.0), HealthClass("degrading", 30.0), HealthClass("critical")],
        network=Network(1, 256, 8, 32, 3, 1),
        tolerance={"float32": Tolerance(1e-3, 1e-3)},
        training={},
        validation={},
        files=dict.fromkeys((GRAPH, WEIGHTS, GOLDEN), FileRecord("", 0)),
    )


@pytest.fixture
def topics() -> Topics:
    """Those of the shipped configuration: the demo uses it."""
    return load_settings(ROOT / "configs" / "edge-rul.yaml")[0].topics


@pytest.fixture
def board(topics: Topics, manifest: Manifest) -> Board:
    return Board("SIMULATED engines", topics, manifest)


def read(board: Board, asset: str, cycle: int, now: float = 0.0) -> None:
    board.apply(f"plant/{LINE}/{asset}/cycle", json.dumps({"cycle": cycle, "values": {}}).encode(), now)


def predict(
    board: Board, asset: str, cycle: int, rul: float, health: str = "healthy", now: float = 0.0, **more: Any
) -> None:
    body = {
        **more,
        "cycle": cycle,
        "rul": rul,
        "health": {"class": health, "probabilities": {"healthy": 0.1, "degrading": 0.1, "critical": 0.1, health: 0.8}},
        "engine": {"name": "onnxruntime", "precision": "float32"},
    }
    board.apply(f"edge-rul/{LINE}/{asset}/prediction", json.dumps(body).encode(), now)


def test_intervals_have_a_column_once_a_prediction_brings_one(board: Board) -> None:
    predict(board, "engine-001", 57, 40.0)
    assert not any("interval" in line for line in picture(board, width=110))
    for asset, rul, high, reliable in (
        ("engine-001", 40.0, 53.4, True),
        ("engine-002", 99.0, None, True),
        ("engine-003", 41.0, 53.4, False),
    ):
        more = {"rul_low": rul - 13, "rul_high": high, "interval": {"level": 0.9, "reliable": reliable}}
        predict(board, asset, 58, rul, **more)
    assert any("90%" in line for line in picture(board, width=110))
    assert " 27 to 53  " in row(board, "engine-001", width=110)
    assert " ≥ 86  " in row(board, "engine-002", width=110)
    assert " 28 to 53 ?" in row(board, "engine-003", width=110)
    assert max(map(len, picture(board, width=110))) <= 110


def alarm(board: Board, asset: str, name: str, state: str, priority: str = "high") -> None:
    body = json.dumps({"alarm": name, "state": state, "priority": priority}).encode()
    board.apply(f"edge-rul/{LINE}/{asset}/alarm/{name}", body, 0.0)


def picture(board: Board, width: int = 100, height: int | None = 30, now: float = 1.0) -> list[str]:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(board.render(width, height, now, "Ctrl-C stops."))
    return [line.rstrip() for line in console.export_text().rstrip("\n").split("\n")]


def row(board: Board, asset: str, **size: int) -> str:
    (found,) = [line for line in picture(board, **size) if line.strip().startswith(asset)]
    return found


def test_a_sparkline_has_a_fixed_scale_and_the_last_values() -> None:
    assert sparkline([], 10, 125) == ""
    assert sparkline([0, 124.9, 125, 400, -3], 10, 125) == "▁████"[:4] + "▁"
    assert sparkline(range(125), 8, 125) == BLOCKS[-1] * 8
    rising = sparkline([125 * i / 8 for i in range(8)], 8, 125)
    assert rising == BLOCKS


def test_an_engine_warms_up_and_then_shows_rul_health_and_trend(board: Board) -> None:
    for cycle in range(100, 112):
        read(board, "sim-01", cycle)
    shown = row(board, "sim-01")
    assert "warming up 12/30" in shown and "end" not in shown and "overhauled" not in shown
    for cycle in range(112, 140):
        read(board, "sim-01", cycle)
        predict(board, "sim-01", cycle, 200.0 - cycle, "degrading")
    shown = row(board, "sim-01")
    assert "warming up" not in shown
    assert "139" in shown and "61.0" in shown and "● degrading" in shown and "80%" in shown
    trend = [c for c in shown if c in BLOCKS]
    assert len(trend) == 10, "28 cycles, three a block"
    assert trend == sorted(trend, reverse=True) and trend[0] > trend[-1]


def test_the_most_urgent_engine_stands_first_and_one_without_rul_last(board: Board) -> None:
    for asset, rul in (("b", 90.0), ("c", 12.0), ("d", 45.0)):
        predict(board, asset, 40, rul)
    read(board, "a", 1)
    order = [line.split()[0] for line in picture(board)[6:10]]
    assert order == ["c", "d", "b", "a"]


def test_an_overhauled_engine_starts_again(board: Board) -> None:
    for cycle in range(170, 200):
        read(board, "sim-01", cycle)
    predict(board, "sim-01", 198, 5.0, "critical")
    read(board, "sim-01", 1)
    predict(board, "sim-01", 199, 4.0, "critical")  # of the life before, overtaken by the new life's first reading
    shown = row(board, "sim-01")
    assert "warming up 1/30" in shown and "overhauled" in shown and "4.0" not in shown
    for cycle in range(2, 31):
        read(board, "sim-01", cycle)
    predict(board, "sim-01", 30, 120.0)
    assert "120.0" in row(board, "sim-01")


def test_alarms_that_are_on_are_shown_by_priority(board: Board) -> None:
    predict(board, "sim-01", 40, 20.0, "critical")
    alarm(board, "sim-01", "rul_low", "raising")
    assert "rul_low ..." in row(board, "sim-01")
    alarm(board, "sim-01", "rul_low", "active")
    alarm(board, "sim-01", "health_critical", "clearing", "urgent")
    assert "health_critical" in row(board, "sim-01") and "+1" in row(board, "sim-01")
    alarm(board, "sim-01", "health_critical", "normal", "urgent")
    assert "rul_low" in row(board, "sim-01") and "+1" not in row(board, "sim-01")
    alarm(board, "sim-01", "rul_low", "normal")
    assert "rul_low" not in row(board, "sim-01")


def test_the_head_says_what_runs_and_whether_the_daemon_is_there(board: Board) -> None:
    assert "SIMULATED engines" in picture(board)[0] and "not seen yet" in picture(board)[0]
    board.apply("edge-rul/availability", b"online", 0.0)
    for cycle in range(10):
        read(board, "sim-01", cycle + 1, now=0.1 * cycle)
        predict(board, "sim-01", cycle + 1, 100.0, now=0.1 * cycle + 0.007)
    first, second = picture(board)[:2]
    assert "online" in first
    assert "2 readings/s in, 2 predictions/s out, 7 ms later" in second
    assert "cmapss_fd001 on onnxruntime float32" in second
    assert "0 readings/s in, 0 predictions/s out" in picture(board, now=100.0)[1]
    predict(board, "sim-01", 10, 100.0, now=112.0)
    read(board, "sim-01", 11, now=110.0)
    predict(board, "sim-01", 11, 100.0, now=112.25)
    assert "2.2 s later" in picture(board, now=113.0)[1]
    board.apply("edge-rul/availability", b"offline", 0.0)
    assert "offline" in picture(board)[0]


def test_an_event_is_shown(board: Board) -> None:
    predict(board, "sim-01", 40, 20.0)
    event = {"asset": "sim-01", "alarm": "rul_low", "event": "raised", "priority": "high", "cycle": 40, "value": 28.94}
    board.apply(f"edge-rul/{LINE}/sim-01/event", json.dumps(event).encode(), 0.0)
    (line,) = [line for line in picture(board) if "raised" in line]
    assert "sim-01" in line and "rul_low" in line and "cycle 40" in line and "28.9" in line


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"{}", b'{"cycle": "x"}', b'{"cycle": null}', b"12"])
def test_what_is_not_understood_harms_nothing(board: Board, payload: bytes) -> None:
    for topic in ("cycle", "prediction", "alarm/rul_low", "event"):
        board.apply(f"edge-rul/{LINE}/sim-01/{topic}", payload, 0.0)
        board.apply(f"plant/{LINE}/sim-01/{topic}", payload, 0.0)
    board.apply("something/else", payload, 0.0)
    assert picture(board)


@pytest.mark.parametrize(("width", "height"), [(100, 30), (140, 45), (80, 24), (60, 12)])
@pytest.mark.parametrize("count", [1, 16, 100])
def test_the_picture_fits_the_terminal(topics: Topics, manifest: Manifest, width: int, height: int, count: int) -> None:
    names = [f"engine-{i:03d}" for i in range(count)]
    board = Board("C-MAPSS FD001 test engines, replayed", topics, manifest, dict.fromkeys(names, (150, 190)))
    event = {"alarm": "health_critical", "event": "raised", "priority": "urgent", "cycle": 40, "value": 28.94}
    for i, name in enumerate(names):
        read(board, name, 150)
        predict(board, name, 150, float(i), "degrading", now=0.5)
        alarm(board, name, "health_critical", "active", "urgent")
        alarm(board, name, "rul_low", "active")
        board.apply(f"edge-rul/{LINE}/{name}/event", json.dumps({"asset": name, **event}).encode(), 0.0)
    lines = picture(board, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    shown = [line for line in lines if line.startswith("engine-") and "● degr" in line]
    assert shown[0].startswith("engine-000" if width >= 80 else "engine-")
    assert len(shown) == min(count, 16) if (width, height) == (100, 30) else shown
    assert lines[-1].startswith("Ctrl-C stops.")
    if count > len(shown):
        assert any(f"and {count - len(shown)} more" in line for line in lines)
    if width >= 100:
        assert "health_critical +1" in shown[0]
        assert [line for line in lines if "…" in line] == []


def test_real_engines_show_their_true_rul_and_at_the_end_the_error(topics: Topics, manifest: Manifest) -> None:
    ends = {"engine-001": (40, 100), "engine-002": (50, 300)}
    board = Board("C-MAPSS FD001 test engines, replayed", topics, manifest, ends)
    read(board, "engine-001", 40)
    predict(board, "engine-001", 40, 63.0)
    read(board, "engine-001", 41)  # not answered yet: RUL and true RUL are still those of cycle 40
    assert row(board, "engine-001").split()[2:5] == ["41", "63.0", "60"]
    assert " end" in row(board, "engine-001")
    assert not board.finished()
    read(board, "engine-002", 50)
    predict(board, "engine-002", 50, 121.0)  # of 250 true cycles, 125 after the cap
    assert board.finished()
    assert board.rmse() == pytest.approx(((3**2 + 4**2) / 2) ** 0.5)
    assert any("RMSE 3.54 cycles" in line for line in picture(board))


def test_the_svg_is_complete_in_itself(board: Board) -> None:
    predict(board, "sim-01", 40, 20.0, "critical")
    svg = as_svg(board.render(100, 30, 1.0), 100, "demo")
    assert "sim-01" in svg and "demo" in svg
    assert "url(http" not in svg and "@font-face" not in svg
    assert svg == as_svg(board.render(100, 30, 1.0), 100, "demo")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 10.0) -> bool:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_a_dead_child_is_named_with_the_tail_of_its_log(tmp_path: Path) -> None:
    children = demo_processes.Children(tmp_path)
    child = children.start("daemon", ["-c", "import sys; print('all was well'); sys.exit('then it was not')"])
    child.process.wait(10)
    with pytest.raises(demo_processes.Failed, match=r"the daemon ended with code 1(.|\n)*then it was not"):
        children.check()
    done = children.start("fleet", ["-c", "pass"])
    done.process.wait(10)
    fresh = demo_processes.Children(tmp_path)
    fresh._all = [done]
    fresh.check(may_end=done)
    with pytest.raises(demo_processes.Failed, match="the fleet ended with code 0"):
        fresh.check()


def test_waiting_ends_when_ready_when_stopped_and_when_time_is_up(tmp_path: Path) -> None:
    children = demo_processes.Children(tmp_path)
    children.start("daemon", ["-c", "print('still busy', flush=True); import time; time.sleep(60)"])
    stop = threading.Event()
    try:
        assert children.wait_for(lambda: True, "starting", stop)
        with pytest.raises(demo_processes.Failed, match="starting: not within 0 s"):
            children.wait_for(lambda: False, "starting", stop, timeout=0.3)
        stop.set()
        assert not children.wait_for(lambda: False, "starting", stop)
    finally:
        children.stop()


def test_a_child_that_does_not_listen_is_ended_all_the_same(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    children = demo_processes.Children(tmp_path)
    both = [children.start("broker", ["-c", deaf]), children.start("daemon", ["-c", deaf])]
    assert all(wait_for(lambda c=c: "deaf" in c.tail()) for c in both)
    began = time.monotonic()
    children.stop()
    assert time.monotonic() - began < 5.0
    assert not any(child.alive() for child in both)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end a child with its parent")
def test_nothing_stays_behind_when_the_demo_itself_is_killed(tmp_path: Path) -> None:
    parent = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from demo_processes import Children
child = Children(Path(sys.argv[2])).start("x", ["-c", "import time; print(1, flush=True); time.sleep(60)"])
while "1" not in child.tail():
    time.sleep(0.01)
print(child.process.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(TOOLS), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert alive(pid)
    process.kill()
    process.wait(10)
    process.stdout.close()
    assert wait_for(lambda: not alive(pid))


def start_demo(tmp_path: Path, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TOOLS / "demo.py"), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "kept"), "PYTHONUNBUFFERED": "1"},
    )


def processes(port: str, tmp_path: Path) -> list[tuple[int, str]]:
    """Process id and command line of everything that names the demo's port or directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if port in words or any(str(tmp_path / "edge-rul-demo-") in word for word in words):
            found.append((int(path.parent.name), " ".join(words)))
    return found


def test_the_status_page_works_where_the_demo_says(shipped_bundle: Path, tmp_path: Path) -> None:
    process = start_demo(tmp_path, "--assets", "3", "--rate", "20")
    assert process.stdout is not None and process.stderr is not None
    page = ""
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            page = found[0]
            break
    try:

        def shown() -> bool:
            with urllib.request.urlopen(page, timeout=10) as answer:
                text = answer.read().decode()
            return all(f"A/sim-0{n}" in text for n in (1, 2, 3)) and text.count('<svg class="spark"') == 3

        assert wait_for(shown, 60.0)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_the_demo_end_to_end(shipped_bundle: Path, tmp_path: Path) -> None:
    svg = tmp_path / "demo.svg"
    process = start_demo(tmp_path, "--seconds", "6", "--assets", "4", "--rate", "5", "--svg", str(svg))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), out
    assert "broker up" in out and "golden windows" in out and "daemon online" in out
    table = out[out.rindex("SIMULATED engines") :]
    assert all(f"sim-{n:02d}" in table for n in (1, 2, 3, 4))
    assert "cycles" in table and "onnxruntime float32" in table
    assert "What to do next" in out and "edge-rul run --config" in out.replace("\n", "")
    assert "SIMULATED" in svg.read_text() and "sim-01" in svg.read_text()
    assert list(tmp_path.glob("edge-rul-demo-*")) == [], "the logs of a good run are removed"
    assert not (tmp_path / "kept").exists(), "and nothing is kept elsewhere: the next demo starts from nothing"


@pytest.mark.parametrize("moment", ["broker up", "golden windows", "daemon online", "sim-01"])
def test_ctrl_c_ends_everything_at_any_moment(shipped_bundle: Path, tmp_path: Path, moment: str) -> None:
    process = start_demo(tmp_path, "--assets", "3")
    assert process.stdout is not None and process.stderr is not None
    port, seen = "none", ""
    for line in process.stdout:
        seen += line
        if "broker up on" in line:
            port = line.rsplit(":", 1)[1].strip()
        if moment in line:
            break
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, ""), seen + rest
    assert time.monotonic() - began < 5.0
    assert processes(port, tmp_path) == []


@pytest.mark.parametrize("victim", ["daemon", "broker", "fleet"])
def test_a_child_that_dies_ends_the_demo_and_is_named(shipped_bundle: Path, tmp_path: Path, victim: str) -> None:
    process = start_demo(tmp_path, "--assets", "3")
    assert process.stdout is not None
    port, seen = "none", ""
    for line in process.stdout:
        seen += line
        if "broker up on" in line:
            port = line.rsplit(":", 1)[1].strip()
        if "sim-01" in line:
            break
    word = {"daemon": " run ", "broker": "broker.toml", "fleet": " simulate "}[victim]
    (pid,) = [pid for pid, command in processes(port, tmp_path) if word in command]
    os.kill(pid, signal.SIGKILL)
    rest, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, ""), seen + rest
    assert f"the {victim} ended with code -9" in rest
    assert processes(port, tmp_path) == []
    assert len(list(tmp_path.glob("edge-rul-demo-*/*.log"))) == 3, "the logs are kept"


def test_real_engines_are_named_as_such(shipped_bundle: Path, data_dir: Path, tmp_path: Path) -> None:
    argv = ["--data", str(data_dir / "cmapss"), "--assets", "3", "--rate", "200", "--seconds", "5"]
    process = start_demo(tmp_path, *argv)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), out
    assert "C-MAPSS FD001 test engines" in out and "SIMULATED" not in out
    assert "RMSE" in out[out.rindex("C-MAPSS FD001 test engines") :], "the replay ran to its end"


def test_a_daemon_that_cannot_start_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    config = tmp_path / "edge-rul.yaml"
    config.write_text((ROOT / "configs" / "edge-rul.yaml").read_text().replace("../bundles", "nowhere"))
    monkeypatch.setattr(demo, "CONFIG", config)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert demo.main(["--seconds", "1"]) == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    out = capsys.readouterr().out
    assert "nowhere" in out and "Traceback" not in out
