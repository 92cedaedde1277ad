"""The wiring of what is shown: history, metrics, status page and their server, where `http` is configured.

Owns what these have to be told of settings and bundle. What is not asked for is not imported.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_rul import __version__
from edge_rul.bundle import Bundle
from edge_rul.config import Settings
from edge_rul.core.alarm import RulAlarm
from edge_rul.engines import Engine
from edge_rul.secrets import http_token, refuse_open_secret
from edge_rul.yaml_file import Source

if TYPE_CHECKING:
    from edge_rul.adapters.history import History
    from edge_rul.adapters.http.pages import Catalogue
    from edge_rul.adapters.http.server import HttpServer


def labels(bundle: Bundle, engine: Engine, journal: str) -> dict[str, str]:
    """What serves, as Prometheus is told."""
    return {
        "version": __version__,
        "bundle": bundle.manifest.name,
        "bundle_sha256": bundle.sha256,
        "engine": engine.name,
        "engine_version": engine.version,
        "precision": engine.precision,
        "journal": journal,
    }


def open_history(settings: Settings, state: Path, log: Any) -> History | None:
    """What the status page shows, kept in the state directory, where `http` is configured."""
    if settings.http is None:
        return None
    from edge_rul.adapters.history import History

    return History(state, max_assets=settings.limits.assets, log=log)


def catalogue(settings: Settings, bundle: Bundle) -> Catalogue:
    """What the pages show of both."""
    from edge_rul.adapters.http.pages import Catalogue, ShownInput

    manifest = bundle.manifest
    return Catalogue(
        unit=manifest.rul.unit,
        max_rul=manifest.rul.max,
        window=manifest.window,
        classes=tuple(c.name for c in manifest.classes),
        inputs=tuple(ShownInput(i.name, i.unit, i.description, i.low, i.high) for i in manifest.inputs),
        limits=tuple((rule.name, rule.below) for rule in settings.alarms if isinstance(rule, RulAlarm)),
    )


def http_files(settings: Settings, source: Source) -> tuple[str, str] | None:
    """Certificate and key of the status page, None without. Raises ConfigError where they are not what TLS wants."""
    http = settings.http
    if http is None or not (http.tls_cert and http.tls_key):
        return None
    files = str(source.file("http.tls_cert", http.tls_cert)), str(key := source.file("http.tls_key", http.tls_key))
    refuse_open_secret(key, "http.tls_key", source)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password="")  # or OpenSSL would ask for one
    except OSError as e:
        hint = "PEM files that belong together, and the key must have no passphrase"
        raise source.error("http.tls_cert", f"it and http.tls_key are not what TLS wants: {e}", hint) from None
    return files


def open_http(
    settings: Settings,
    source: Source,
    bundle: Bundle,
    engine: Engine,
    history: History | None,
    *,
    info: dict[str, str],
    starts: tuple[int, int],
    ready: Callable[[], str],
    alive: Callable[[], str],
    log: Any,
) -> HttpServer | None:
    """Metrics, health and the status page, where `http` is configured. Raises ConfigError, EdgeRulError.

    ready, alive: why not, or ""; called on the server's threads.
    """
    http = settings.http
    if http is None or history is None:
        return None
    from edge_rul.adapters.http.metrics import Metrics
    from edge_rul.adapters.http.pages import Pages
    from edge_rul.adapters.http.server import HttpServer

    files = http_files(settings, source)
    memory = getattr(engine, "gpu_memory", None)
    metrics = Metrics(info, history, starts=starts, gpu_memory=memory, asset_series=http.asset_series)
    pages = Pages(history, metrics, catalogue(settings, bundle), ready=ready)
    server = HttpServer(
        metrics,
        http.host,
        http.port,
        ready=ready,
        alive=alive,
        pages=pages,
        token=http_token(settings, source),
        tls=files,
        log=log,
    )
    log.info("http", url=server.url)
    return server
