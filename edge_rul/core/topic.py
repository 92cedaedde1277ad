"""Topic templates: `plant/{line}/{asset}/cycle` and the topics that it stands for.

Owns the grammar of templates, the names that an asset may bear, and the identity of an asset. Knows MQTT's topic rules
but no client and no payload.
"""

from __future__ import annotations

import re

import msgspec

# A broker that takes a topic for malformed ends the connection, and again each time that the message is sent: nobody
# may bring us to publish on such a one.
NAME_LIMIT = 128
TOPIC_LIMIT = 1024  # bytes
LEVELS_LIMIT = 64  # Mosquitto allows 201, EMQX 128 by default
_LEVEL = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(rf"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")


class Asset(msgspec.Struct, frozen=True, order=True):
    """One machine. Its identity is its name and the other named levels of its topic, in the template's order.

    Two machines that are both called `pump-1`, one on line A and one on line B, are two assets.
    """

    name: str
    levels: tuple[tuple[str, str], ...] = ()

    def fields(self) -> dict[str, str]:
        """Every named level, `asset` among them, for `Template.format`."""
        return {"asset": self.name, **dict(self.levels)}

    def __str__(self) -> str:
        return "/".join([*(value for _, value in self.levels), self.name])


def name_problem(name: str) -> str | None:
    """What forbids `name` as an asset's name, or None. It has to fit into one level of a topic."""
    if not name:
        return "is empty"
    if len(name) > NAME_LIMIT:
        return f"has {len(name)} characters, at most {NAME_LIMIT} are allowed"
    if found := sorted(set(name) & set("/+#")):
        return f"contains {' '.join(found)}, which separates or matches levels of a topic"
    if _FORBIDDEN.search(name):
        return "contains a control character or a noncharacter of Unicode's"
    if name.startswith("$") or name == "_daemon":
        return "is reserved"
    return None


def topic_problem(topic: str) -> str | None:
    """What forbids publishing on `topic`, which a sender or the operator chose, or None."""
    if not topic or len(topic.encode(errors="replace")) > TOPIC_LIMIT:
        return f"is empty or longer than {TOPIC_LIMIT} bytes"
    if (levels := topic.count("/") + 1) > LEVELS_LIMIT:
        return f"has {levels} levels, at most {LEVELS_LIMIT} are allowed"
    if set(topic) & set("+#") or _FORBIDDEN.search(topic):
        return "has wildcards, control characters or noncharacters of Unicode's"
    if topic.startswith("$"):
        return "starts with $: it is the broker's own or a shared subscription"
    return None


class Template:
    """A topic with named levels, each a whole level: `plant/{line}/{asset}/cycle`.

    text:   as written       names:  the named levels in order       filter: the MQTT filter, `plant/+/+/cycle`
    levels: those of the names that belong to an asset's identity, beside its own name
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError that says what is wrong with `text`."""
        parts = text.split("/")
        names: list[str] = []
        self._fixed: list[tuple[int, str]] = []
        self._named: list[tuple[int, str]] = []
        for index, part in enumerate(parts):
            if match := _LEVEL.fullmatch(part):
                names.append(match[1])
                self._named.append((index, match[1]))
            elif set(part) & set("+#{}"):
                raise ValueError(f"level {part!r} of {text!r}: expected plain text or one {{name}}, without + or #")
            else:
                self._fixed.append((index, part))
        if problem := topic_problem(text):
            raise ValueError(f"{text!r} {problem}")
        if len(set(names)) != len(names):
            raise ValueError(f"{text!r} names a level twice")
        self.text = text
        self.names = tuple(names)
        self.levels = tuple(name for name in names if name not in ("asset", "sensor"))
        self.filter = _LEVEL.sub("+", text)
        self._size = len(parts)

    def match(self, topic: str) -> dict[str, str] | None:
        """The named levels of `topic`, or None where it is not one of ours."""
        parts = topic.split("/")
        if len(parts) != self._size or any(parts[i] != part for i, part in self._fixed):
            return None
        return {name: parts[i] for i, name in self._named}

    def format(self, levels: dict[str, str]) -> str:
        """The topic for `levels`, which must hold every named level."""
        return _LEVEL.sub(lambda m: levels[m[1]], self.text)

    def overlaps(self, other: Template) -> bool:
        """Whether one topic can be of both templates."""
        ours, theirs = self.filter.split("/"), other.filter.split("/")
        return len(ours) == len(theirs) and all(a == b or "+" in (a, b) for a, b in zip(ours, theirs, strict=True))
