"""The service's files in place, and out again: unit, drop-ins, user, directories, a first configuration.

Owns what lies where, with which mode, and what of it is the operator's. How a file is put in place or taken back stands
in `place`. Must not know what a setting means, and starts nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from edge_rul.errors import EXIT_OK, ConfigError
from edge_rul.place import Hands

USER = "edge-rul"
UNIT = "edge-rul.service"
_OPERATION = "install service"
_UNITS = Path("/etc/systemd/system")
_DROP_INS = _UNITS / f"{UNIT}.d"
_SYSUSERS = Path("/etc/sysusers.d/edge-rul.conf")
_CONFIGURATION = Path("/etc/edge-rul")
_STATE = Path("/var/lib/edge-rul")
_CACHE = Path("/var/cache/edge-rul")
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # from the service, by ProtectHome and PrivateTmp
_BY_ENGINE = {"auto": "10-cpu", "openvino": "10-cpu", "onnxruntime": "10-cpu-onnxruntime"}
_NO_OTHERS = 0o077


class Choice(NamedTuple):
    """What is to be installed. Paths are as the service will see them, without `root`."""

    root: Path
    venv: Path
    bundle: Path
    engine: str = "auto"
    gpu: str | None = None
    dry_run: bool = False

    @property
    def drop_in(self) -> str:
        return f"10-gpu-{self.gpu}" if self.gpu else _BY_ENGINE[self.engine]


def shared(name: str) -> Path:
    """A file that ships beside the code: in a wheel under `share`, in a checkout in the repository's own folders."""
    package = Path(__file__).parent
    for base in (package / "share", package.parent):
        if (base / name).exists():
            return base / name
    raise ConfigError(_OPERATION, name, "is missing from this installation", hint="install the package again")


def drop_ins() -> list[str]:
    return sorted(path.stem for path in shared(f"systemd/{UNIT}.d").glob("*.conf"))


def install_command(choice: Choice, *, undo: bool = False, purge: bool = False) -> int:
    """Install, or take back what was installed. Returns the exit code; raises ConfigError."""
    if choice.root == Path("/") and os.geteuid() != 0 and not choice.dry_run:
        raise ConfigError(_OPERATION, "/", "only root can write there", hint="sudo, or --dry-run, or --root DIR")
    hands = Hands(choice.root, dry_run=choice.dry_run)
    if choice.dry_run:
        print("dry run: nothing is changed")
    try:
        if undo:
            _undo(hands, purge=purge)
        else:
            _install(hands, choice)
    except OSError as e:
        raise ConfigError(_OPERATION, str(e.filename or choice.root), e.strerror or str(e)) from None
    return EXIT_OK


def _install(hands: Hands, choice: Choice) -> None:
    for what, path in (("--venv", choice.venv), ("--bundle", choice.bundle)):
        _check(what, path)
    for directory in (_UNITS, _DROP_INS, _SYSUSERS.parent):
        if not hands.path(directory).is_dir():
            hands.directory(directory, 0o755)
    unit = _replaced(shared(f"systemd/{UNIT}").read_text("utf-8"), r"(?m)^(ExecStart=)/\S+/venv(?=/)", str(choice.venv))
    hands.place(_UNITS / UNIT, unit)
    for name in drop_ins():
        path = _DROP_INS / f"{name}.conf"
        if name.startswith("10-") and name != choice.drop_in:
            hands.take_back(path, f"{choice.drop_in}.conf takes its place")
        else:
            text = shared(f"systemd/{UNIT}.d/{name}.conf").read_text("utf-8")
            hands.place(path, _with_credentials(text, hands))
    _make_user(hands, choice)
    hands.directory(_CONFIGURATION, 0o755)
    hands.directory(_STATE, 0o700, USER)
    hands.directory(_CACHE, 0o700, USER)
    hands.offer(_CONFIGURATION / "edge-rul.yaml", _configuration(choice))
    hands.offer(_CONFIGURATION / "edge-rul.env", shared("systemd/edge-rul.env").read_text("utf-8"))
    if hands.live:
        hands.run("systemctl", "daemon-reload")
    _remaining(hands, choice)


def _make_user(hands: Hands, choice: Choice) -> None:
    """By sysusers where it is installed."""
    lines = [f'u {USER} - "edge_rul daemon" {_STATE}', *(["g video -", "g render -"] if choice.gpu == "jetson" else [])]
    hands.place(_SYSUSERS, "\n".join([*lines, ""]))
    found = hands.user(USER)
    if found and choice.gpu != "jetson":
        hands.say("leave", f"user {USER}", f"it is there, uid {found.pw_uid}")
    elif shutil.which("systemd-sysusers"):
        hands.run("systemd-sysusers", *hands.prefix("--root"), "--inline", *lines)
    else:
        prefix = hands.prefix("--prefix")
        if choice.gpu == "jetson":
            for group in ("video", "render"):
                hands.run("groupadd", *prefix, "--system", "--force", group)
        shell = "--shell=/usr/sbin/nologin"
        if not found:
            hands.run(
                "useradd", *prefix, "--system", "--user-group", "--no-create-home", shell, f"--home={_STATE}", USER
            )


def _remaining(hands: Hands, choice: Choice) -> None:
    """What a person has to see to."""
    program = choice.venv / "bin" / "edge-rul"
    if not hands.path(program).exists():
        hands.say("note", program, "is not there yet; the unit starts it")
    elif choice.root == Path("/") and _hidden(python := (choice.venv / "bin" / "python").resolve()):
        hands.say("note", program, f"the service cannot see its Python, {python}; make the environment with another")
    if not hands.path(choice.bundle).exists():
        hands.say("note", choice.bundle, "is not there yet; copy the bundle, or name yours in edge-rul.yaml")
    for path in _secrets():
        if hands.path(path).exists() and hands.path(path).stat().st_mode & _NO_OTHERS:
            hands.say("note", path, f"others than its owner can read it: chmod 600 {hands.path(path)}")
    print(f"next     look through {hands.path(_CONFIGURATION / 'edge-rul.yaml')}, then check and start:")
    # Without the broker: only systemd hands out its password.
    print(f"         sudo -u {USER} {program} check --offline --config {_CONFIGURATION / 'edge-rul.yaml'}")
    print("         systemctl enable --now edge-rul     (after an update: systemctl restart edge-rul)")


def _undo(hands: Hands, *, purge: bool) -> None:
    if hands.live and hands.path(_UNITS / UNIT).exists():
        hands.run("systemctl", "disable", "--now", UNIT)
    for name in drop_ins():
        hands.take_back(_DROP_INS / f"{name}.conf", altered=purge)
    hands.take_back(_UNITS / UNIT, altered=purge)
    hands.take_back(_SYSUSERS, altered=purge)
    if purge:
        for tree in (_DROP_INS, _CONFIGURATION, _STATE, _CACHE):
            hands.remove_tree(tree)
        if hands.user(USER):
            hands.run("userdel", *hands.prefix("--prefix"), USER)
    else:
        hands.remove_empty(_DROP_INS)
        for kept in (_CONFIGURATION, _STATE, _CACHE):
            if hands.path(kept).exists():
                hands.say("leave", kept, "yours; --purge removes it")
        if hands.user(USER):
            hands.say("leave", f"user {USER}", "it owns what is left; --purge removes it")
    if hands.live:
        hands.run("systemctl", "daemon-reload")


def _replaced(text: str, pattern: str, value: str) -> str:
    """Text with `value` after the pattern's first group, which has to be there once."""
    text, count = re.subn(pattern, lambda match: match[1] + value, text)
    assert count == 1, pattern
    return text


def _configuration(choice: Choice) -> str:
    text = shared("configs/edge-rul.yaml").read_text("utf-8")
    text = _replaced(text, r"(?m)^(bundle: )\S+", str(choice.bundle))
    if choice.engine != "auto":
        text = _replaced(text, r"(?m)^(engine:\n  name: )\S+", choice.engine)
    return text


_CREDENTIAL = re.compile(r"(?m)^#(LoadCredential=\w+:(/\S+))$")


def _secrets() -> list[Path]:
    text = shared(f"systemd/{UNIT}.d/20-credentials.conf").read_text("utf-8")
    return [Path(match[2]) for match in _CREDENTIAL.finditer(text)]


def _with_credentials(text: str, hands: Hands) -> str:
    """The lines of those secrets that are there take effect; the others would stop the start."""
    return _CREDENTIAL.sub(lambda match: match[1] if hands.path(Path(match[2])).exists() else match[0], text)


def _check(option: str, path: Path) -> None:
    if not re.fullmatch(r"/[\w./+-]*", str(path), re.ASCII) or ".." in path.parts:
        raise ConfigError(_OPERATION, f"{option} {path}", "expected an absolute path of letters, digits and / . _ + -")
    if _hidden(path):
        raise ConfigError(
            _OPERATION,
            f"{option} {path}",
            f"the service cannot see it: the unit hides {', '.join(_HIDDEN)}",
            hint="take /opt/edge-rul: `python3 -m venv /opt/edge-rul/venv`, install edge-rul there, and run its own "
            "`edge-rul install-service`; bundles go beside it",
        )


def _hidden(path: Path) -> bool:
    return any(path.is_relative_to(hidden) for hidden in _HIDDEN)
