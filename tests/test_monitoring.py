"""The dashboard and the alert rules speak of what the daemon says, and Prometheus takes the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from conftest import ROOT, absent
from page_fleet import INFO, STATISTICS, MadeUp, make_fleet
from prometheus_client.parser import text_string_to_metric_families

from edge_rul.adapters.http.metrics import Metrics
from edge_rul.core.prediction import BundleId
from edge_rul.core.status import Candidate, ServingEngine
from edge_rul.daemon_alarms import NAMES

CONFIGS = ROOT / "configs"
RULES = CONFIGS / "prometheus-rules.yaml"
DASHBOARD = json.loads((CONFIGS / "grafana-dashboard.json").read_text(encoding="utf-8"))
MONITORING = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
NAME = re.compile(r"\b(?:edge_rul|process)_[a-z0-9_]+\b")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def exposition(**options: Any) -> str:
    source = MadeUp(make_fleet(12, 1000.0, cycles=60))
    source.daemon_alarms = dict.fromkeys(
        ("disk_full", "gpu_given_up", "journal_corrupt", "reload_refused", "skipping"), (True, 0.0)
    )
    metrics = Metrics(INFO, source, gpu_memory=lambda: (1, 2), asset_series=True, **options)
    metrics.update(STATISTICS)
    metrics.candidate = Candidate(
        BundleId("next", "0" * 64), ServingEngine("onnxruntime", "1", "float32", "CPU"), 9, 1, 0.5, 2.0, 0.1
    )
    metrics.batch(1, 0.1)
    metrics.answered(0.1, [0.1])
    return metrics.exposition("")[0].decode()


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """The sample names, each with the names of its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[tuple[str, str]]:
    of_rules = [(rule["alert"], rule["expr"]) for rule in rules()]
    of_panels = [(p["title"], t["expr"]) for p in DASHBOARD["panels"] for t in p.get("targets", [])]
    variables = [(v["name"], v["query"]["query"]) for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    return [*of_rules, *of_panels, *variables]


def test_every_metric_that_they_name_is_exposed_with_its_labels(exposed: dict[str, set[str]]) -> None:
    for where, expression in expressions():
        names = [name for name in NAME.findall(expression) if name != "edge_rul"]
        assert names or "up{" in expression, where
        for name in names:
            assert name in exposed, f"{where} names {name}"
        for name, selector in re.findall(r"\b(edge_rul_[a-z0-9_]+)\{([^}]*)\}", expression):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector)) - {"instance", "job"}
            assert labels <= exposed[name], f"{where}: {name} has no {labels - exposed[name]}"


def test_every_metric_has_its_place_in_the_documentation_and_none_that_is_not() -> None:
    families = {family.name for family in text_string_to_metric_families(exposition())}
    ours = {name.removeprefix("edge_rul_") for name in families if name.startswith("edge_rul")}
    rows = re.findall(r"(?m)^\| (`.*?) \|", MONITORING.partition("## Metrics")[2])
    told = {text.partition("{")[0] for row in rows for text in re.findall(r"`([^`]+)`", row)} - {"process_*"}
    assert {name.removesuffix("_total") for name in told} == {"info" if n == "edge_rul" else n for n in ours}


def test_every_alert_says_how_grave_it_is_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert rule["annotations"]["summary"] and len(rule["annotations"]["runbook"]) > 40, rule["alert"]
        for document in re.findall(r"docs/[a-z]+\.md", rule["annotations"]["runbook"]):
            assert (ROOT / document).exists(), rule["alert"]


def test_every_alarm_of_the_daemons_own_has_a_rule_and_is_named_to_the_operator() -> None:
    assert set(re.findall(r'edge_rul_daemon_alarm\{alarm="(\w+)"', RULES.read_text())) == set(NAMES)
    (named,) = re.findall(r"(?m)^  daemon_alarm: .*# retained: (.*)$", (CONFIGS / "edge-rul.yaml").read_text())
    assert named.split(", ") == sorted(NAMES)


@pytest.mark.parametrize(
    "command", [["check", "rules", RULES.name], ["test", "rules", "prometheus-rules.test.yaml"]], ids=["check", "test"]
)
def test_prometheus_takes_the_rules(command: list[str]) -> None:
    program = shutil.which("promtool")
    if program is None:
        absent("promtool (apt-get install prometheus)")
    done = subprocess.run([str(program), *command], cwd=CONFIGS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_metrics() -> None:
    program = shutil.which("promtool")
    if program is None:
        absent("promtool (apt-get install prometheus)")
    done = subprocess.run(
        [str(program), "check", "metrics"], input=exposition(), capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: advice on style
    assert "error" not in done.stderr, done.stderr


def test_the_dashboards_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
