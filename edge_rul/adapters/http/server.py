"""The HTTP server: its threads, TLS, who may ask, and the routes for machines.

    GET /metrics             for Prometheus
    GET /healthz, /readyz    for whoever restarts things; open to all
    everything else          the status page's

Owns the listening socket and the headers of every answer. Knows nothing of what a page shows. Who may ask: bearers of
the token, or a browser that gives it as the password, where there is one; without one everybody who reaches the socket,
but on loopback only under a name of loopback, or any web site could read us through its visitor's browser.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import bottle
from cheroot import wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter

from edge_rul.adapters.http.metrics import GpuMemory, Metrics
from edge_rul.adapters.http.pages import Catalogue, Pages
from edge_rul.errors import EXIT_CONFIG, EdgeRulError
from edge_rul.log import Summary

WATCHERS = 8  # pages that are updated live at the same time; each holds a thread
_THREADS = WATCHERS + 8
_OPEN = ("/healthz", "/readyz")
_LOOK = 1.0  # seconds between two looks whether a watcher is still there
_AGED = 5.0  # seconds after which what is said of time is said again
_SOCKET = "edge_rul.socket"
_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]

_Environ = dict[str, Any]


class HttpServer:
    """Serves until `close`. ready, alive: say why not, or ""; called on the server's threads."""

    def __init__(
        self,
        metrics: Metrics,
        host: str,
        port: int,
        *,
        ready: Callable[[], str],
        alive: Callable[[], str],
        pages: Pages | None = None,
        token: str | None = None,
        tls: tuple[str, str] | None = None,
        log: Any = None,
    ) -> None:
        """port: 0 takes a free one. token: that a caller has to bear. tls: certificate and key files.

        Raises EdgeRulError (78).
        """
        self.metrics = metrics
        self._token = token
        self._loopback = _is_loopback(host)
        self._pages = pages
        self._stop = threading.Event()
        self._seats = threading.BoundedSemaphore(WATCHERS)
        self._log = log
        self._faults = Summary(log)
        self._app = self._routes(ready, alive)
        self._server = wsgi.Server((host, port), self._wsgi, numthreads=_THREADS, timeout=10, shutdown_timeout=2)
        self._server.gateway = _Gateway
        self._server.max_request_header_size = 32 * 1024
        self._server.max_request_body_size = 64 * 1024
        self._server.server_name = "edge-rul"
        self._server.error_log = self._failed  # type: ignore[method-assign]
        try:
            if tls is not None:
                self._server.ssl_adapter = _Tls(*tls)
            self._server.prepare()
        except (OSError, OverflowError) as e:
            error = EdgeRulError("serve HTTP", f"{host}:{port}", str(e), hint="choose another http.host or http.port")
            error.exit_code = EXIT_CONFIG
            raise error from e
        self.port: int = self._server.bind_addr[1]
        scheme, shown = ("http" if tls is None else "https"), (f"[{host}]" if ":" in host else host)
        self.url = f"{scheme}://{shown}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve, name="http", daemon=True)
        self._thread.start()

    def show(self, catalogue: Catalogue, info: dict[str, str], gpu_memory: GpuMemory | None) -> None:
        """What pages and metrics say of the bundle, its engine and its limits from now on."""
        self.metrics.info, self.metrics.gpu_memory = info, gpu_memory
        if self._pages is not None:
            self._pages.catalogue = catalogue

    def refused(self, problem: str) -> None:
        """Why the last reload was refused, or "" once one is taken."""
        if self._pages is not None:
            self._pages.refused = problem

    def close(self) -> None:
        self._stop.set()
        self._server.stop()
        self._thread.join(2.0)

    # -- routes -------------------------------------------------------------------------------------------------------

    def _routes(self, ready: Callable[[], str], alive: Callable[[], str]) -> Any:
        app = bottle.Bottle()
        app.default_error_handler = lambda error: _plain(f"{error.status_line}: {error.body}\n")
        app.route("/metrics", callback=self._metrics)
        app.route("/healthz", callback=lambda: _health(alive()))
        app.route("/readyz", callback=lambda: _health(ready()))
        if self._pages is not None:
            self._pages.install(app)
            app.route("/live/<page>", callback=self._live)
        app.add_hook("before_request", self._admit)
        return app

    def _metrics(self) -> bytes:
        body, bottle.response.content_type = self.metrics.exposition(bottle.request.get_header("Accept", ""))
        return body

    def _live(self, page: str) -> Any:
        """The live part of a page, again whenever it has changed, as server-sent events."""
        assert self._pages is not None
        render = self._pages.live(page)
        if not self._seats.acquire(blocking=False):
            raise bottle.HTTPError(503, f"{WATCHERS} pages are watched already", **{"Retry-After": "30"})
        bottle.response.content_type = "text/event-stream"
        bottle.response.set_header("Cache-Control", "no-store")
        return self._events(self._pages.wait, render, bottle.request.environ[_SOCKET])

    def _events(
        self, wait: Callable[[int, float], int], render: Callable[[], str], caller: socket.socket
    ) -> Iterator[bytes]:
        """At most one a second; every few seconds at least a comment, as what is said of time ages."""
        try:
            version, shown, due = -1, "", 0.0
            while not self._stop.is_set() and not _hung_up(caller):
                newer = wait(version, _LOOK)
                if newer == version and time.monotonic() < due:
                    continue
                version, due = newer, time.monotonic() + _AGED
                text = render()
                yield _event(text) if text != shown else b": nothing new\n\n"
                shown = text
                self._stop.wait(_LOOK)
        except bottle.HTTPError:
            return  # the asset was removed
        finally:
            self._seats.release()

    # -- who may ask --------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Raises bottle.HTTPError where the caller may not ask what it asks."""
        request = bottle.request
        if request.path in _OPEN:
            return
        if self._token is not None:
            if not hmac.compare_digest(_secret_of(request.get_header("Authorization", "")), self._token.encode()):
                challenge = 'Basic realm="edge-rul, any user, the token as password", charset="UTF-8"'
                raise bottle.HTTPError(401, "a bearer token is needed", **{"WWW-Authenticate": challenge})
        elif self._loopback and not _is_loopback(_host_of(request.get_header("Host", "localhost"))):
            raise bottle.HTTPError(421, "ask for localhost, or set http.token_file to be reached under another name")

    # -- around every answer ------------------------------------------------------------------------------------------

    def _wsgi(self, environ: _Environ, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, *_HEADERS], *rest)

        environ["wsgi.errors"] = _Errors(self._failed)
        return self._app(environ, start)

    def _failed(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """What a page or the server raised. A caller that hangs up is nothing to tell."""
        if self._log is not None and level > 20:
            kind = msg.rstrip().rpartition("\n")[2][:200]  # the exception at a traceback's end
            self._faults.fault("http_failed", kind, time.monotonic(), level="error", problem=msg[-4000:])


class _Gateway(wsgi.Gateway_10):
    """Tells a route the caller's socket: one that only listens would not be missed before the next thing is sent."""

    def get_environ(self) -> _Environ:  # type: ignore[override]  # cheroot's stubs say None
        environ: _Environ = super().get_environ()  # type: ignore[no-untyped-call]
        environ[_SOCKET] = self.req.conn.socket
        return environ


class _Tls(BuiltinSSLAdapter):
    """The handshake happens with the first read, on the request's own thread: here it would be on the thread that
    accepts, and one slow caller would keep out all others."""

    def __init__(self, certificate: str, key: str) -> None:
        super().__init__(certificate, key)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    def wrap(self, sock: Any) -> tuple[ssl.SSLSocket, dict[str, str]]:
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}


class _Errors:
    """Where bottle writes the traceback of a page that failed."""

    def __init__(self, failed: Callable[[str, int], None]) -> None:
        self._failed = failed

    def write(self, text: str) -> None:
        if text.strip():
            self._failed(text, 40)

    def flush(self) -> None: ...


def _plain(text: str) -> str:
    bottle.response.content_type = "text/plain; charset=utf-8"
    return text


def _health(problem: str) -> str:
    bottle.response.status = 503 if problem else 200
    return _plain(f"{problem or 'ok'}\n")


def _event(text: str) -> bytes:
    """A server-sent event of any number of lines."""
    return "".join(f"data: {line}\n" for line in text.splitlines()).encode() + b"\n"


def _hung_up(caller: socket.socket) -> bool:
    """Who listens to events says nothing more: what can be read is the end of the connection."""
    poll = select.poll()
    poll.register(caller, select.POLLIN)
    return bool(poll.poll(0))


def _secret_of(authorization: str) -> bytes:
    """The token of a Bearer header, or the password of a Basic one."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return rest.encode() if scheme.lower() == "bearer" else b""


def _host_of(header: str) -> str:
    """A Host header without its port."""
    return header.partition("]")[0].lstrip("[") if header.startswith("[") else header.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
