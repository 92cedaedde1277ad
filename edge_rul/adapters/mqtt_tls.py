"""TLS towards the broker: what it has to prove before a byte of ours goes out, and what we prove to it.

Owns the oldest version, the check of the broker's name, our certificate, and words for what fails. Knows no MQTT.
"""

from __future__ import annotations

import ssl

from edge_rul.config import Tls

_OLDEST = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def context(settings: Tls, ca: str | None, cert: tuple[str, str] | None) -> ssl.SSLContext:
    """ca: PEM file of the only authority to trust; None trusts the system's. cert: files of our certificate and key.

    Raises OSError, of which ssl.SSLError is one, where a file is not what it has to be.
    """
    made = ssl.create_default_context(cafile=ca)
    made.minimum_version = _OLDEST[settings.min_version]  # whatever the system's OpenSSL would allow
    made.check_hostname = settings.check_hostname
    if cert is not None:
        made.load_cert_chain(*cert, password=_no_passphrase)
    return made


def _no_passphrase() -> str:
    """Without this OpenSSL would ask on the terminal, and a service would hang there."""
    raise ssl.SSLError("the key is encrypted, and nobody is there to type its passphrase")


def hint(error: BaseException | None) -> str:
    """What to do about a handshake that failed, or ""."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if "mismatch" in error.verify_message:  # of a host name or an IP address
            return "set mqtt.host to a name in the broker's certificate, or have one issued for this name"
        return "mqtt.tls.ca must be the authority that signed the broker's certificate, and both must be in date"
    text = str(error).upper() if isinstance(error, ssl.SSLError) else ""
    if "PROTOCOL_VERSION" in text or "UNSUPPORTED_PROTOCOL" in text:
        return "the broker speaks none but older versions than mqtt.tls.min_version"
    # A broker without TLS takes our hello for a malformed packet, and hangs up.
    hung_up = isinstance(error, ConnectionResetError | ssl.SSLEOFError)
    if hung_up or "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER" in text:
        return "does this port speak TLS? It is mostly 8883"
    if "ALERT" in text:
        return "the broker refuses our certificate, or wants one: mqtt.tls.cert and mqtt.tls.key"
    return ""
