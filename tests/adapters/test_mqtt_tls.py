"""TLS towards a real Mosquitto with certificates made here, and handshakes in memory for what no broker offers."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from conftest import Broker, absent, start_mosquitto

from edge_rul.adapters import mqtt_tls as tls
from edge_rul.adapters.mqtt import MqttTransport
from edge_rul.adapters.mqtt_visit import Visit
from edge_rul.config import Mqtt, Tls
from edge_rul.errors import TransportError

from .test_mqtt import PATIENCE, transport, until


class Certificates:
    """Authorities, and certificates that they signed, as PEM files of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def pair(self, name: str) -> tuple[str, str]:
        return str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key")

    def authority(self, name: str) -> str:
        self._openssl(f"req -x509 {_KEY} -nodes -days 2 -keyout {name}.key -out {name}.pem -subj /CN={name}")
        return self.pair(name)[0]

    def sign(self, name: str, authority: str, *alternatives: str) -> None:
        (self._directory / f"{name}.cnf").write_text(f"subjectAltName={','.join(alternatives or [f'DNS:{name}'])}\n")
        self._openssl(f"req {_KEY} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signer = f"-CA {authority}.pem -CAkey {authority}.key -CAcreateserial"
        self._openssl(f"x509 -req -in {name}.csr {signer} -days 2 -out {name}.pem -extfile {name}.cnf")
        (self._directory / f"{name}.key").chmod(0o644)  # Mosquitto may run as a user of its own

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self._directory, check=True, capture_output=True)


_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        absent("openssl")
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.authority("ours")
    made.authority("stranger")
    made.sign("broker", "ours", "IP:127.0.0.1")
    made.sign("elsewhere", "ours", "DNS:broker.example")
    made.sign("daemon", "ours")
    made.sign("intruder", "stranger")
    return made


def broker_of(certificates: Certificates, directory: Path, name: str, more: str = "") -> Iterator[Broker]:
    cert, key = certificates.pair(name)
    broker = start_mosquitto(directory, f"allow_anonymous true\ncertfile {cert}\nkeyfile {key}\n{more}")
    yield broker
    broker.process.terminate()
    broker.process.wait(10)


@pytest.fixture(scope="module")
def broker(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    yield from broker_of(certificates, tmp_path_factory.mktemp("broker"), "broker")


@pytest.fixture(scope="module")
def elsewhere(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker whose certificate is right, and of another name."""
    yield from broker_of(certificates, tmp_path_factory.mktemp("broker"), "elsewhere")


@pytest.fixture(scope="module")
def strict(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that wants a client's certificate."""
    more = f"cafile {certificates.pair('ours')[0]}\nrequire_certificate true"
    yield from broker_of(certificates, tmp_path_factory.mktemp("broker"), "broker", more)


def connects(broker: Broker, context: ssl.SSLContext) -> MqttTransport:
    with transport(broker.port, tls=Tls(), context=context) as made:
        until(made, lambda: made.subscribed)
    return made


def refusal(broker: Broker, context: ssl.SSLContext) -> dict[str, Any]:
    """What the log says of a connection that fails."""
    with structlog.testing.capture_logs() as logs, transport(broker.port, tls=Tls(), context=context) as made:
        assert made.attempted.wait(PATIENCE)
        assert not made.connected
    found = [line for line in logs if line["event"] == "connect_failed"]
    assert len(found) == 1, logs
    return found[0]


def test_the_right_authority_and_name_are_trusted(broker: Broker, certificates: Certificates) -> None:
    connects(broker, tls.context(Tls(), certificates.pair("ours")[0], None))


def test_another_authority_is_not_trusted(broker: Broker, certificates: Certificates) -> None:
    for ca in (certificates.pair("stranger")[0], None):  # None: those of this system
        found = refusal(broker, tls.context(Tls(), ca, None))
        assert "CERTIFICATE_VERIFY_FAILED" in found["reason"]
        assert "mqtt.tls.ca" in found["hint"]


def test_another_name_is_not_trusted_unless_it_is_said(elsewhere: Broker, certificates: Certificates) -> None:
    ca = certificates.pair("ours")[0]
    found = refusal(elsewhere, tls.context(Tls(), ca, None))
    assert "mismatch" in found["reason"]
    assert "mqtt.host" in found["hint"]
    connects(elsewhere, tls.context(Tls(check_hostname=False), ca, None))
    # The authority counts all the same.
    refusal(elsewhere, tls.context(Tls(check_hostname=False), certificates.pair("stranger")[0], None))


def test_a_client_certificate_is_shown_where_one_is_wanted(strict: Broker, certificates: Certificates) -> None:
    ca = certificates.pair("ours")[0]
    connects(strict, tls.context(Tls(), ca, certificates.pair("daemon")))
    for cert in (None, certificates.pair("intruder")):
        assert "mqtt.tls.cert" in refusal(strict, tls.context(Tls(), ca, cert))["hint"]


def test_a_port_without_tls_is_told(mosquitto: Broker, certificates: Certificates) -> None:
    """Mosquitto takes a TLS hello for a malformed packet and hangs up."""
    context = tls.context(Tls(), certificates.pair("ours")[0], None)
    found = refusal(mosquitto, context)
    assert found["reason"]
    assert found["broker"] == f"127.0.0.1:{mosquitto.port}"
    with pytest.raises(TransportError) as caught:
        Visit(Mqtt(host="127.0.0.1", port=mosquitto.port, tls=Tls()), None, context)
    assert "8883" in found["hint"] and caught.value.hint == found["hint"]


@pytest.mark.parametrize("problem", ["another's key", "an encrypted key", "no certificate"])
def test_files_that_are_no_pair_are_refused_at_once(certificates: Certificates, tmp_path: Path, problem: str) -> None:
    cert, key = certificates.pair("daemon")
    if problem == "another's key":
        key = certificates.pair("broker")[1]
    elif problem == "an encrypted key":
        closed = tmp_path / "closed.key"
        subprocess.run(
            ["openssl", "pkcs8", "-topk8", "-in", key, "-out", closed, "-passout", "pass:secret"],
            check=True,
            capture_output=True,
        )
        key = str(closed)
    else:
        cert = key
    with pytest.raises(ssl.SSLError):  # nobody is asked for a passphrase
        tls.context(Tls(), None, (cert, key))


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """The version that the two agree on, without a socket. Raises ssl.SSLError, the client's first."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        refused: ssl.SSLError | None = None
        for side in (other, one):  # the server's alert has to be heard by the client before it is raised here
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as e:
                refused = e
        if refused is not None:
            raise refused
        if version := one.version():
            return version
    raise AssertionError("the two do not come to an end")


def server_of(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*certificates.pair("broker"))
    made.set_ciphers("ALL:@SECLEVEL=0")
    made.minimum_version = made.maximum_version = version
    return made


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_1_1_is_refused(certificates: Certificates) -> None:
    server = server_of(certificates, ssl.TLSVersion.TLSv1_1)
    ca = certificates.pair("ours")[0]
    lax = tls.context(Tls(), ca, None)
    lax.set_ciphers("ALL:@SECLEVEL=0")
    lax.minimum_version = ssl.TLSVersion.TLSv1
    try:
        assert handshake(lax, server) == "TLSv1.1"
    except ssl.SSLError as e:
        pytest.skip(f"this OpenSSL speaks no TLS 1.1: {e}")
    ours = tls.context(Tls(), ca, None)
    ours.set_ciphers("ALL:@SECLEVEL=0")  # so that only the version stands between the two
    with pytest.raises(ssl.SSLError) as caught:
        handshake(ours, server)
    assert "mqtt.tls.min_version" in tls.hint(caught.value)


def test_tls_1_2_can_be_refused_too(certificates: Certificates) -> None:
    server = server_of(certificates, ssl.TLSVersion.TLSv1_2)
    ca = certificates.pair("ours")[0]
    assert handshake(tls.context(Tls(), ca, None), server) == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        handshake(tls.context(Tls(min_version="TLSv1.3"), ca, None), server)
