"""Errors, by whose fault they are.

Owns the exception types and what each carries: the operation that failed, the object that it failed on, what was
wrong, and a hint for the person who has to mend it. Knows nothing of the rooms that raise them.

    BadMessage                  the sender's; costs one message and one counter, never raised past decoding
    ConfigError, BundleError    the operator's; stop the start with exit code 78
    EngineError                 the engine or its graph; exit code 78 at the start, 70 later
    TransportError              the network's; retried where `recoverable`
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FOUND = 1  # a check found something
EXIT_USAGE = 64
EXIT_INTERNAL = 70
EXIT_TAKEOVER = 76  # another client took our MQTT session
EXIT_REFUSED = 77  # the broker refuses us or a subscription
EXIT_CONFIG = 78


class EdgeRulError(Exception):
    """An error that a person can act on.

    operation:   what was being done, e.g. "load bundle"
    object:      what it was done to: a file, a dotted key, a topic
    problem:     what was found and what was expected
    hint:        what to do about it; may be empty
    recoverable: True where trying again later can help
    exit_code:   sysexits code of a command that ends with this error
    """

    exit_code = EXIT_INTERNAL

    def __init__(self, operation: str, object: str, problem: str, *, hint: str = "", recoverable: bool = False) -> None:
        self.operation = operation
        self.object = object
        self.problem = problem
        self.hint = hint
        self.recoverable = recoverable
        super().__init__(f"{operation}: {object}: {problem}" + (f"\n  hint: {hint}" if hint else ""))


class ConfigError(EdgeRulError):
    """The configuration cannot be used; `object` is file:line: dotted.key where that is known."""

    exit_code = EXIT_CONFIG


class BundleError(EdgeRulError):
    """A bundle is incomplete, altered, or not what it says."""

    exit_code = EXIT_CONFIG


class EngineError(EdgeRulError):
    """An engine cannot be opened, or refuses its input."""

    exit_code = EXIT_CONFIG


class DataError(EdgeRulError):
    """A training or test file is missing or malformed; `object` is file:line where that is known."""

    exit_code = EXIT_CONFIG


class TransportError(EdgeRulError):
    """The broker or the network does not do what we asked."""

    exit_code = EXIT_REFUSED
