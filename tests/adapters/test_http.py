"""Metrics, health and the status page, asked over a real socket."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import numpy as np
import pytest
import structlog
from page_fleet import CATALOGUE, CRITICAL, INFO, INPUTS, LOW, STATISTICS, MadeUp, make_fleet, prediction
from prometheus_client.parser import text_string_to_metric_families

from edge_rul.adapters.http.metrics import Metrics
from edge_rul.adapters.http.pages import Pages
from edge_rul.adapters.http.server import WATCHERS, HttpServer
from edge_rul.core.alarm import Change, State, Status
from edge_rul.core.answers import Answered
from edge_rul.core.fleet import Fleet
from edge_rul.core.payload import Reading
from edge_rul.core.prediction import BundleId, Quality
from edge_rul.core.status import Candidate, ServingEngine
from edge_rul.core.topic import Asset
from edge_rul.errors import EXIT_CONFIG, EdgeRulError

NASTY = """<script>alert(1)</script>"'&{{13*17}}"""


class Site:
    """A server over a fleet of the test's own."""

    def __init__(self, fleet: Fleet | None = None, **options: Any) -> None:
        self.source = MadeUp(make_fleet(12, 1000.0, cycles=60) if fleet is None else fleet)
        of_metrics = {k: options.pop(k) for k in ("asset_series", "gpu_memory", "starts") if k in options}
        self.metrics = Metrics(INFO, self.source, **of_metrics)
        self.problem = ""
        pages = Pages(self.source, self.metrics, CATALOGUE, ready=lambda: self.problem, wall=lambda: 1000.0)
        given = {"ready": lambda: self.problem, "alive": lambda: "", "pages": pages, "log": structlog.get_logger()}
        self.server = HttpServer(self.metrics, "127.0.0.1", 0, **{**given, **options})

    def open(self, path: str, **headers: str) -> Any:
        context = None
        if self.server.url.startswith("https"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(self.server.url.rstrip("/") + path, headers=headers)
        try:
            return urllib.request.urlopen(request, timeout=30, context=context)
        except urllib.error.HTTPError as e:
            return e

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        with self.open(path, **headers) as answer:
            return answer.status, answer.read().decode()


@contextlib.contextmanager
def serving(fleet: Fleet | None = None, **options: Any) -> Iterator[Site]:
    site = Site(fleet, **options)
    with contextlib.closing(site.server):
        yield site


def samples(text: str) -> dict[str, float]:
    return {
        s.name + "".join(f"{{{k}={v}}}" for k, v in sorted(s.labels.items()) if s.name != "edge_rul_info"): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


# -- metrics and health --------------------------------------------------------------------------------------------


def test_metrics_are_what_was_handed_over() -> None:
    with serving(starts=(7, 2), gpu_memory=lambda: (3, 8)) as site:
        site.metrics.update(STATISTICS)
        site.metrics.batch(4, 0.02)
        site.metrics.answered(0.3, [1.0, 2.0])
        site.metrics.candidate = Candidate(
            BundleId("next", "0" * 64), ServingEngine("onnxruntime", "1", "float32", "CPU"), 9, 1, 0.5, 2.0, 0.1
        )
        site.source.daemon_alarms = {"disk_full": (True, 1.0), "skipping": (False, 0.0)}
        code, text = site.get("/metrics")
    found = samples(text)
    assert code == 200
    assert found["edge_rul_readings_total"] == STATISTICS.readings
    assert found["edge_rul_dropped_total{reason=duplicate}"] == STATISTICS.dropped["duplicate"]
    assert found["edge_rul_lag_seconds"] == STATISTICS.lag_seconds
    assert found["edge_rul_oldest_unanswered_seconds"] == STATISTICS.oldest_unanswered
    assert found["edge_rul_mqtt_connected"] == 1
    assert found["edge_rul_info"] == 1
    assert found["edge_rul_batch_windows_sum"] == 4
    assert found["edge_rul_engine_seconds_count"] == 1
    assert found["edge_rul_receive_to_publish_seconds_count"] == 1
    assert found["edge_rul_event_to_publish_seconds_count"] == 2
    assert (found["edge_rul_candidate_windows_total"], found["edge_rul_candidate_skipped_total"]) == (9, 1)
    assert found["edge_rul_candidate_rul_mean_difference"] == 0.5
    assert (found["edge_rul_starts_total"], found["edge_rul_unclean_starts_total"]) == (7, 2)
    assert (found["edge_rul_gpu_memory_used_bytes"], found["edge_rul_gpu_memory_bytes"]) == (3, 8)
    assert found["edge_rul_daemon_alarm{alarm=disk_full}"] == 1
    assert found["edge_rul_daemon_alarm{alarm=skipping}"] == 0
    assert found["edge_rul_assets_in_alarm{priority=urgent}"] == 1
    assert found["edge_rul_assets_in_alarm{priority=low}"] == 0


def test_before_the_first_statistics_only_what_is_known_is_told() -> None:
    with serving() as site:
        code, text = site.get("/metrics")
    assert code == 200
    assert "edge_rul_readings_total" not in text
    assert 'bundle="cmapss_fd001"' in text
    assert "edge_rul_gpu_memory" not in text, "there is no GPU"


def test_the_number_of_series_does_not_grow_with_the_plant_unless_that_is_asked_for() -> None:
    def series(assets: int, **options: Any) -> int:
        with serving(make_fleet(assets, 1000.0, cycles=60), **options) as site:
            site.metrics.update(STATISTICS)
            return len(samples(site.get("/metrics")[1]))

    assert series(5) == series(60)
    asked_for = [series(n, asset_series=True) for n in (20, 40)]
    assert asked_for[1] - asked_for[0] == 3 * 20 - 1, "RUL, alarm and time of each; one of the twenty has no RUL yet"


def test_an_asset_is_a_label_whatever_it_is_called() -> None:
    fleet = Fleet(5)
    fleet.heard(Reading(Asset('a"b\\c'), 1, None, np.zeros(1, np.float32)), 7.0)
    with serving(fleet, asset_series=True) as site:
        found = samples(site.get("/metrics")[1])
    assert found['edge_rul_asset_seen_timestamp_seconds{asset=a"b\\c}'] == 7.0


def test_health_and_readiness_say_why_not() -> None:
    state = {"ready": "not connected to the broker", "alive": ""}
    with serving(ready=lambda: state["ready"], alive=lambda: state["alive"]) as site:
        assert site.get("/healthz") == (200, "ok\n")
        assert site.get("/readyz") == (503, "not connected to the broker\n")
        state["ready"] = ""
        assert site.get("/readyz")[0] == 200
        state["alive"] = "stuck"
        assert site.get("/healthz") == (503, "stuck\n")


# -- who may ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/metrics", "/", "/daemon", "/asset?name=A/engine-000", "/live/fleet", "/static/live.js"]
)
def test_a_token_guards_everything_but_the_health(path: str) -> None:
    with serving(token="secret") as site:
        with site.open(path) as refused:
            assert refused.status == 401 and "Basic" in refused.headers["WWW-Authenticate"]
        basic = [base64.b64encode(f"anybody:{text}".encode()).decode() for text in ("secret", "wrong")]
        for wrong in (
            "Bearer wrong",
            "Bearer",
            "Bearer secrets",
            "secret",
            "Basic !",
            f"Basic {basic[1]}",
            "Basic c2VjcmV0",
        ):
            with site.open(path, Authorization=wrong) as refused:
                assert refused.status == 401, wrong
        for right in ("Bearer secret", f"Basic {basic[0]}"):
            with site.open(path, Authorization=right) as answer:
                assert answer.status == 200
        assert site.get("/healthz")[0] == 200


def test_on_loopback_another_name_is_refused_unless_a_token_is_borne() -> None:
    for host in ("evil.example", "evil.example:9108", "10.0.0.1"):
        with serving() as site:
            assert site.get("/", Host=host)[0] == 421
            assert site.get("/metrics", Host=host)[0] == 421
        with serving(token="t") as site:
            assert site.get("/", Host=host, Authorization="Bearer t")[0] == 200
    with serving() as site:
        for host in ("localhost:9108", "127.0.0.1", "[::1]:9108"):
            assert site.get("/", Host=host)[0] == 200


def test_every_answer_forbids_what_the_page_does_not_need() -> None:
    with serving() as site:
        for path in ("/", "/metrics", "/nothing", "/static/style.css", "/healthz"):
            with site.open(path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy and "unsafe" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"


def certificate(directory: Path) -> tuple[str, str]:
    cert, key = str(directory / "cert.pem"), str(directory / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_tls_serves_all_and_a_caller_that_never_shakes_hands_keeps_nobody_out(tmp_path: Path) -> None:
    with serving(tls=certificate(tmp_path), token="t") as site:
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(socket.create_connection(("127.0.0.1", site.server.port)))
            with socket.create_connection(("127.0.0.1", site.server.port)) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert site.get("/healthz") == (200, "ok\n")
            code, text = site.get("/", Authorization="Bearer t")
            assert code == 200 and "engine-000" in text
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", site.server.port)) as old,
            pytest.raises((ssl.SSLError, OSError)),
        ):
            context.wrap_socket(old)


def test_a_port_that_is_taken_is_the_operators_fault() -> None:
    with serving() as site:
        with pytest.raises(EdgeRulError, match=r"serve HTTP: 127.0.0.1") as caught:
            HttpServer(site.metrics, "127.0.0.1", site.server.port, ready=lambda: "", alive=lambda: "")
        assert caught.value.exit_code == EXIT_CONFIG


def test_a_certificate_that_is_none_is_the_operators_fault(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(EdgeRulError) as caught:
        Site(tls=(str(tmp_path / "x.pem"), str(tmp_path / "x.pem")))
    assert caught.value.exit_code == EXIT_CONFIG


# -- the page ------------------------------------------------------------------------------------------------------


def order(text: str) -> list[str]:
    return re.findall(r'<a id="asset-([^"]*)"', text)


def test_the_fleet_is_shown_by_urgency_with_what_an_operator_asks() -> None:
    with serving() as site:
        code, text = site.get("/")
    assert code == 200
    assert order(text)[0] == "A/engine-000" and len(order(text)) == 12
    row = text[text.index('id="asset-A/engine-000"') :].partition("</tr>")[0]
    for said in ("critical", "<b>4.0</b>", "health_critical", "urgent", "good", "<svg", "now"):
        assert said in row, said
    assert text.count('scope="col"') == 8 and 'aria-sort="ascending"' in text


def test_what_an_operator_saw_to_is_shown_and_what_was_shelved_is_found() -> None:
    with serving(make_fleet(60, 1000.0, cycles=60)) as site:
        text = site.get("/?show=alarm")[1]
        assert "high, acknowledged" in text[text.index('id="asset-C/engine-002"') :].partition("</tr>")[0]
        assert "acknowledged" in site.get("/asset?name=C/engine-002")[1]
        text = site.get("/?show=shelved")[1]
        assert order(text) == ["A/engine-003"] and "rul_low shelved until cycle " in text
        assert "shelved until cycle " in site.get("/asset?name=A/engine-003")[1]


def test_what_was_shelved_is_told_of_beside_an_alarm_that_is_on_and_of_each_alarm() -> None:
    fleet = Fleet(5)
    asset = Asset("pump")
    fleet.answered(Answered(asset, prediction(asset, 0, 150, 9.0), True))
    known = Status(State.ACTIVE, 0, 140, 0.9, acknowledged=True)
    shelved = Status(State.ACTIVE, 0, 140, 9.0, shelved_until=170)
    with serving(fleet) as site:
        fleet.alarms(
            asset, [Change(asset, CRITICAL, known, 150, None, None), Change(asset, LOW, shelved, 150, None, None)]
        )
        row = site.get("/?show=shelved")[1].partition("<tbody")[2]
        assert "health_critical" in row and "rul_low shelved until cycle 170" in row
        fleet.alarms(asset, [Change(asset, rule, shelved, 150, None, None) for rule in (CRITICAL, LOW)])
        row = site.get("/?show=shelved")[1].partition("<tbody")[2]
        assert "health_critical shelved until cycle 170, rul_low shelved until cycle 170" in row


def test_an_alarm_whose_delay_runs_is_called_the_same_on_both_pages() -> None:
    fleet = Fleet(5)
    asset = Asset("pump")
    fleet.answered(Answered(asset, prediction(asset, 0, 150, 9.0), True))
    fleet.alarm(Change(asset, LOW, Status(State.RAISING, 0, 149, 9.0), 150, None, None))
    with serving(fleet) as site:
        assert "rul_low raising" in site.get("/")[1]
        assert "raising since cycle 149" in site.get("/asset?name=pump")[1]


def test_filter_sort_and_page_are_the_servers() -> None:
    with serving(make_fleet(60, 1000.0, cycles=60)) as site:
        assert sorted(name[2:] for name in order(site.get("/?q=ENGINE-01")[1])) == [f"engine-01{n}" for n in range(10)]
        up, down = (order(site.get(f"/?sort=asset&desc={d}&size=200")[1]) for d in ("0", "1"))
        assert up == sorted(up) and down == up[::-1] and len(up) == 60
        first, second = site.get("/?sort=asset")[1], site.get("/?sort=asset&page=2")[1]
        assert order(first) + order(second) == up and len(order(first)) == 50
        assert 'rel="next"' in first and 'rel="prev"' not in first and "Page 2 of 2" in second
        assert len(order(site.get("/?show=waiting")[1])) == 3
        assert "No asset matches" in site.get("/?q=nobody")[1]


def shows(text: str) -> dict[str, tuple[str, int]]:
    """The link and the count of each choice of assets."""
    found = re.findall(r'<a id="show-([^"]*)" href="([^"]*)".*?<b>(\d+)</b>', text)
    return {label: (link.replace("&amp;", "&"), int(count)) for label, link, count in found}


@pytest.mark.parametrize("filtered", ["", "q=B/", "health=critical", "q=engine-01&health=degrading", "q=nobody"])
def test_behind_each_choice_of_assets_stand_as_many_as_it_says(filtered: str) -> None:
    with serving(make_fleet(60, 1000.0, cycles=60)) as site:
        choices = shows(site.get("/?size=200&" + filtered)[1])
        assert len(choices) == 6
        for link, count in choices.values():
            assert len(order(site.get(link)[1])) == count, link
    with serving(Fleet(5)) as site:
        assert "No asset has been heard of yet" in site.get("/?" + filtered)[1]


@pytest.mark.parametrize(
    "query",
    [
        "page=-1",
        "page=1e9",
        "page=99999999999999",
        "size=0",
        "sort=__class__",
        "show=%00",
        "q=%ff%fe",
        "desc=x",
        "page=²",
    ],
)
def test_a_query_that_means_nothing_is_as_if_it_were_not_there(query: str) -> None:
    with serving() as site:
        assert site.get("/?" + quote(query, safe="=%"))[0] == 200


def test_one_asset_with_its_history_and_its_sensors_against_their_training_range() -> None:
    fleet = make_fleet(12, 1000.0, cycles=60)
    with serving(fleet) as site:
        code, text = site.get("/asset?" + urlencode({"name": "B/engine-004"}))
    assert code == 200
    assert '<svg class="chart"' in text and "rul_low 30" in text
    assert "uncertain" in text and "2 held" in text
    for shown in INPUTS:
        assert shown.name in text
    hot = text[text.index('role="rowheader">T30') :].partition("</tr>")[0]
    assert "above" in hot and "1571 to 1616.9" in hot


def test_an_interval_is_shown_with_its_open_end_and_where_it_is_not_to_be_relied_upon() -> None:
    fleet = Fleet(5)
    for name, rul, changes in (
        ("closed", 40.0, {}),
        ("open", 124.0, {}),
        ("beyond", 40.0, {"quality": Quality("uncertain", 0, 0, ["T30"], 0)}),
        ("none", 40.0, {"rul_low": msgspec.UNSET, "rul_high": msgspec.UNSET}),
    ):
        asset = Asset(name, ())
        fleet.answered(Answered(asset, prediction(asset, 0, 3, rul, **changes), True))
    with serving(fleet) as site:
        said = {name: site.get(f"/asset?name={name}")[1] for name in ("closed", "open", "beyond", "none")}
        rows = site.get("/")[1].split("<tr")
    assert "<p>28.8 to 51.2</p>" in said["closed"]
    assert "<p>at least 97.7</p>" in said["open"]
    assert "28.8 to 51.2, not to be relied upon" in said["beyond"]
    assert "28.8" not in said["none"] and "relied" not in said["none"]
    shown = {name: next(row for row in rows if f'id="asset-{name}"' in row) for name in said}
    assert "<small>28.8 to 51.2</small>" in shown["closed"] and "<small>28.8 to 51.2 ?</small>" in shown["beyond"]
    assert "at least 97.7" in shown["open"] and "28.8" not in shown["none"]


def test_an_asset_that_waits_and_one_that_is_unknown() -> None:
    with serving(make_fleet(20, 1000.0, cycles=40)) as site:
        code, text = site.get("/asset?name=B/engine-019")
        assert code == 200 and "30 readings" in text
        code, text = site.get("/asset?name=nobody")
        assert code == 404 and "no asset called &#039;nobody&#039; was heard of" in text
        assert '<link rel="stylesheet"' in text and '<a href="/">To the fleet</a>' in text
        assert site.get("/asset")[0] == 404
        assert site.get("/live/asset?name=nobody")[0] == 404


def test_the_daemons_own_state() -> None:
    with serving(starts=(7, 2)) as site:
        assert "starting" in site.get("/daemon")[1]
        site.metrics.update(STATISTICS)
        site.problem = "not connected to the broker"
        site.source.daemon_alarms = {"disk_full": (True, 1.0)}
        text = site.get("/daemon")[1]
    for said in ("43,210", "duplicate", "onnxruntime", "7, of them 2", "not connected to the broker", "disk_full"):
        assert said in text, said


def rows(text: str) -> dict[str, str]:
    """The daemon's rows, in their order."""
    return dict(re.findall(r'<th scope="row">([^<]*)</th><td[^>]*>([^<]*)</td>', text))


def test_the_daemon_has_run_for_a_time_its_journal_grows_or_does_not_and_stale_assets_are_told_of() -> None:
    with serving() as site:
        young = {"uptime": 7.5, "assets": 67, "stale_assets": 67, "journal_rate": -301.2e6}
        site.metrics.update(msgspec.structs.replace(STATISTICS, **young))
        said = rows(site.get("/daemon")[1].partition("What serves")[0])
        assert said["Running for"] == "5 s"
        assert said["Assets"] == "67, of them 67 stale"
        assert said["Journal"] == "7.3 MB, 0 B an hour"
        site.metrics.update(STATISTICS)
        said = rows(site.get("/daemon")[1].partition("What serves")[0])
        assert said["Running for"] == "75 min" and said["Journal"].endswith("5.9 MB an hour")


def test_what_serves_is_told_in_the_words_and_the_order_of_a_person() -> None:
    with serving() as site:
        said = list(rows(site.get("/daemon")[1].partition("What serves")[2]))
    assert said[:5] == ["Version", "Bundle", "Bundle sha256", "Engine", "Engine version"]


def test_the_daemons_page_says_why_a_reload_was_refused_until_one_is_taken() -> None:
    with serving() as site:
        assert "reload" not in site.get("/daemon")[1]
        site.server.refused("edge-rul.yaml, line 9: alarms[0].below: got '<b>', expected a number")
        assert "line 9: alarms[0].below: got &#039;&lt;b&gt;&#039;" in site.get("/daemon")[1]
        with site.open("/live/daemon") as stream:
            assert "line 9" in next_event(stream)
        site.server.refused("")
        assert "reload" not in site.get("/daemon")[1]


def test_what_came_by_mqtt_is_text_wherever_it_stands() -> None:
    fleet = Fleet(5)
    asset = Asset(NASTY, (("line", NASTY),))
    fleet.heard(Reading(asset, 3, 1000, np.zeros(6, np.float32)), 999.0)
    fleet.answered(Answered(asset, prediction(asset, 0, 3, 9.0), True))
    fleet.alarm(Change(asset, LOW, Status(State.ACTIVE, 0, 3, 9.0), 3, None, None))
    name = f"{NASTY}/{NASTY}"
    with serving(fleet) as site:
        pages = [site.get("/")[1], site.get("/?" + urlencode({"q": NASTY, "health": NASTY}))[1]]
        code, page = site.get("/asset?" + urlencode({"name": name}))
        missing = site.get("/asset?" + urlencode({"name": NASTY + "x"}))
    assert code == 200 and "&lt;script&gt;alert" in page
    for text in [*pages, page, missing[1]]:
        assert "<script>alert" not in text
        assert "221" not in re.sub(r"<svg.*?</svg>", "", text), "no template is made of it"
        assert re.findall(r"<script[^>]*>", text) == ['<script src="/static/live.js" defer>']
    assert missing[0] == 404


@pytest.mark.parametrize(
    "path", ["/nothing", "/metrics/", "/../etc/passwd", "/static/../pages.py", "/static/%2e%2e/pages.py", "/live/pages"]
)
def test_there_is_nothing_else(path: str) -> None:
    with serving() as site:
        assert site.get(path)[0] == 404


def test_it_takes_no_commands() -> None:
    with serving() as site:
        for method in ("POST", "PUT", "DELETE"):
            request = urllib.request.Request(site.server.url, method=method, data=b"x")
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=30)
            assert caught.value.code == 405


# -- live ----------------------------------------------------------------------------------------------------------


def next_event(stream: Any) -> str:
    lines = []
    while (line := stream.readline().decode().rstrip("\n")) or not lines:
        if line.startswith("data: "):
            lines.append(line[6:])
        elif not line and not lines:
            continue
    return "\n".join(lines)


def test_a_change_is_sent_to_who_watches() -> None:
    with serving() as site, site.open("/live/fleet?sort=asset") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert order(next_event(stream))[0] == "A/engine-000"
        asset = Asset("first", (("line", "0"),))
        with site.source.fleet() as fleet:
            fleet.forget(Asset("engine-000", (("line", "A"),)))
            fleet.answered(Answered(asset, prediction(asset, 0, 9, 55.5), True))
        site.source.turn()
        changed = next_event(stream)
        assert order(changed)[0] == "0/first" and "55.5" in changed


def test_so_many_may_watch_and_the_machines_are_served_all_the_same() -> None:
    with serving() as site, contextlib.ExitStack() as stack:
        streams = [stack.enter_context(site.open("/live/daemon")) for _ in range(WATCHERS)]
        assert all("The daemon" in next_event(stream) for stream in streams)
        assert site.get("/live/daemon")[0] == 503
        assert site.get("/metrics")[0] == 200
        assert site.get("/healthz")[0] == 200


def test_a_seat_is_free_again_when_the_watcher_has_gone() -> None:
    with serving() as site:
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                for _ in range(WATCHERS):
                    stream = stack.enter_context(site.open("/live/daemon"))
                    assert stream.status == 200 and next_event(stream)
            for _ in range(100):  # nothing is sent meanwhile that could fail
                if site.server._seats._value == WATCHERS:
                    break
                site.server._stop.wait(0.1)
            assert site.server._seats._value == WATCHERS


def test_an_asset_that_is_removed_ends_its_stream() -> None:
    with serving() as site, site.open("/live/asset?name=A/engine-000") as stream:
        assert "A/engine-000" in next_event(stream)
        with site.source.fleet() as fleet:
            fleet.forget(Asset("engine-000", (("line", "A"),)))
        site.source.turn()
        stream.read()  # comes to its end
        assert site.get("/metrics")[0] == 200


def test_closing_ends_the_watching() -> None:
    site = Site()
    with site.open("/live/fleet") as stream:
        next_event(stream)
        site.server.close()
        stream.read()  # comes to its end
