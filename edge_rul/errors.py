"""Errors, by whose fault they are.

Owns the exception types and what each carries: the operation that failed, the object that it failed on, what was
wrong, and a hint for the person who has to mend it. Knows nothing of the rooms that raise them.

    BadMessage                  the sender's; costs one message and one counter, never raised past decoding
    ConfigError, BundleError    the operator's; stop the start with exit code 78
    EngineError                 the engine or its graph; exit code 78 at the start, 70 later
    TransportError              the network's; retried where `recoverable`
"""

from __future__ import annotations

from enum import Enum

EXIT_OK = 0
EXIT_FOUND = 1  # a check found something
EXIT_USAGE = 64
EXIT_INTERNAL = 70
EXIT_FATAL_CUDA = 71  # the GPU is lost to this process
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


class Reason(str, Enum):
    """Why a message, or one reading of it, was not used. Each is a counter's name."""

    TOO_LARGE = "too_large"  # above limits.payload
    TOO_FAST = "too_fast"  # its topic sends more than limits.rate
    NOT_JSON = "not_json"
    BAD_SHAPE = "bad_shape"  # JSON, but not one of the accepted shapes
    BAD_TOPIC = "bad_topic"  # matches no template
    BAD_ASSET = "bad_asset"  # an asset's name that does not fit into a topic, or none
    BAD_CYCLE = "bad_cycle"  # not an integer from 0 to 2^53
    BAD_TIME = "bad_time"
    NO_KEY = "no_key"  # neither cycle nor time at QoS 1
    FUTURE = "future"  # its time lies ahead of our clock by more than limits.skew
    BAD_VALUE = "bad_value"  # not a number
    NOT_FINITE = "not_finite"  # NaN where it may not be held, infinite, or beyond float32
    MISSING_INPUT = "missing_input"
    WRONG_LENGTH = "wrong_length"
    BAD_COMMAND = "bad_command"
    DUPLICATE = "duplicate"  # the same reading again
    CONFLICT = "conflict"  # the same cycle with other values; the first stays
    LATE = "late"  # its place in the window has passed
    OLD_LIFE = "old_life"  # older than the first reading of the asset's life
    OTHER_KEY = "other_key"  # its life goes by cycle numbers and it has none, or the other way round
    NOTHING_TO_HOLD = "nothing_to_hold"  # a missing value, and no earlier reading to take it from
    OUT_OF_RANGE = "out_of_range"  # a value beyond the input's valid range, where it may not be held
    TOO_MANY_ASSETS = "too_many_assets"  # above limits.assets
    ENGINE_NOT_FINITE = "engine_not_finite"  # the engine answered NaN or infinity; nothing is published


class BadMessage(EdgeRulError):
    """A message, or one element of a list in it, that cannot be read. `object` is its topic."""

    def __init__(self, reason: Reason, topic: str, problem: str) -> None:
        super().__init__("decode", topic, problem)
        self.reason = reason


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


class DataAbsent(DataError):
    """There is no such file, or the data set has no such part: what needs it may go on without."""


class JournalError(EdgeRulError):
    """The journal cannot be opened, read or written; a full disk is not an error but a state of the journal.

    exit_code: 70 where a restart may help, 78 where only the operator can.
    """

    def __init__(
        self, operation: str, object: str, problem: str, *, hint: str = "", exit_code: int = EXIT_INTERNAL
    ) -> None:
        super().__init__(operation, object, problem, hint=hint)
        self.exit_code = exit_code


class TransportError(EdgeRulError):
    """The broker or the network does not do what we asked."""

    exit_code = EXIT_REFUSED


class SessionTakenOver(TransportError):
    """Another client connected with our client id; coming back would only start a fight."""

    exit_code = EXIT_TAKEOVER
