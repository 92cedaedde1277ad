"""`edge-rul install-service` below a scratch root, and the daemon that it installs, started by hand as its own user."""

from __future__ import annotations

import json
import os
import pwd
import queue
import re
import select
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from conftest import ROOT, Broker, absent, start_mosquitto
from paho.mqtt.enums import CallbackAPIVersion
from test_systemd import sandbox

from edge_rul import cli, install
from edge_rul.adapters.journal import Journal
from edge_rul.bundle import Bundle
from edge_rul.config import JournalSettings, load_settings
from edge_rul.core.payload import Reading
from edge_rul.core.topic import Asset
from edge_rul.errors import EXIT_CONFIG, EXIT_OK, EXIT_USAGE, ConfigError
from edge_rul.place import Hands

ACL = ROOT / "configs" / "mosquitto-acl.conf"
UNIT = Path("etc/systemd/system/edge-rul.service")
DROP_INS = Path("etc/systemd/system/edge-rul.service.d")
CONFIG = Path("etc/edge-rul/edge-rul.yaml")
PATIENCE = 60.0

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a user")


@pytest.fixture
def root() -> Iterator[Path]:
    """A scratch root that another user may enter; pytest's own directories are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="edge-rul-root-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


Service = Callable[..., list[str]]


@pytest.fixture
def service(root: Path, capsys: pytest.CaptureFixture[str]) -> Service:
    """`edge-rul install-service` below the root; the lines that it says."""

    def run(*arguments: str, code: int = EXIT_OK) -> list[str]:
        if not {"--venv", "--undo"} & set(arguments):
            arguments = ("--venv", "/opt/edge-rul/venv", *arguments)
        assert cli.main(["install-service", "--root", str(root), *arguments]) == code
        out, err = capsys.readouterr()
        return [line.replace(str(root), "") for line in (out + err).splitlines()]

    return run


def everything(root: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """What lies below the root, as far as a second run could change it."""
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else b""
        found[str(path.relative_to(root))] = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, content)
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- in place --------------------------------------------------------------------------------------------------------


def test_what_lies_where(root: Path, service: Service) -> None:
    said = service("--venv", "/srv/edge/venv", "--bundle", "/srv/edge/pumps", "--engine", "onnxruntime")
    unit = (root / UNIT).read_text()
    assert "\nExecStart=/srv/edge/venv/bin/edge-rul run --config /etc/edge-rul/edge-rul.yaml\n" in unit
    assert sorted(p.name for p in (root / DROP_INS).iterdir()) == ["10-cpu-onnxruntime.conf", "20-credentials.conf"]
    settings, _ = load_settings(root / CONFIG)
    assert (settings.bundle, settings.engine.name) == ("/srv/edge/pumps", "onnxruntime")
    assert settings.journal.directory is None, "systemd says where the state is"
    modes = {"etc/edge-rul": 0o755, "var/lib/edge-rul": 0o700, "var/cache/edge-rul": 0o700, str(UNIT): 0o644}
    assert {name: mode(root / name) for name in modes} == modes
    for name in (UNIT, CONFIG, "etc/edge-rul/edge-rul.env", "etc/sysusers.d/edge-rul.conf"):
        assert f"write    /{name}" in said
    assert any("/srv/edge/pumps: is not there yet" in line for line in said)
    check = "sudo -u edge-rul /srv/edge/venv/bin/edge-rul check --offline --config /etc/edge-rul/edge-rul.yaml"
    assert f"         {check}" in said
    assert check.replace("/srv/edge", "/opt/edge-rul") in (ROOT / "docs" / "service.md").read_text()


@pytest.mark.parametrize("engine", ["auto", "onnxruntime", "openvino"])
def test_the_example_is_right_for_each_engine(root: Path, service: Service, engine: str) -> None:
    service("--engine", engine)
    assert load_settings(root / CONFIG)[0].engine.name == engine


@pytest.mark.parametrize("gpu", ["desktop", "jetson"])
def test_one_drop_in_of_the_four(root: Path, service: Service, gpu: str) -> None:
    service()
    assert (root / DROP_INS / "10-cpu.conf").exists()
    said = service("--gpu", gpu)
    assert sorted(p.name for p in (root / DROP_INS).glob("10-*")) == [f"10-gpu-{gpu}.conf"]
    assert f"remove   /{DROP_INS}/10-cpu.conf: 10-gpu-{gpu}.conf takes its place" in said


def test_twice_is_as_once(root: Path, service: Service) -> None:
    service()
    before = everything(root)
    said = service()
    assert everything(root) == before
    doing = {line.split()[0] for line in said if not line.startswith(" ")}
    assert doing <= ({"leave", "note", "next"} if os.geteuid() == 0 else {"leave", "note", "next", "run"})


@only_root
def test_a_dry_run_says_the_same_and_does_nothing(root: Path, service: Service) -> None:
    would = service("--dry-run")
    assert everything(root) == {}
    assert would[0] == "dry run: nothing is changed"
    assert would[1:] == service()
    before = everything(root)
    would = service("--undo", "--dry-run")
    assert everything(root) == before
    assert would[1:] == service("--undo")


def test_what_the_operator_altered_stays(root: Path, service: Service) -> None:
    service()
    (root / CONFIG).write_text("mine\n")
    (root / UNIT).write_text((root / UNIT).read_text().replace("RestartSec=5", "RestartSec=60"))
    (root / DROP_INS / "20-credentials.conf").unlink()
    (root / DROP_INS / "20-credentials.conf").symlink_to("/dev/null")
    before = everything(root)
    said = service()
    assert everything(root) == before
    assert any(line.startswith(f"leave    /{UNIT}: it was altered") for line in said)
    assert f"leave    /{CONFIG}: it is there, and yours" in said
    assert any(line.startswith(f"leave    /{DROP_INS}/20-credentials.conf: it is a symbolic link") for line in said)


def test_an_update_replaces_what_nobody_altered(
    root: Path, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service()
    now = (root / UNIT).read_text()
    newer = tmp_path / "edge-rul.service"
    newer.write_text((ROOT / "systemd" / "edge-rul.service").read_text().replace("RestartSec=5", "RestartSec=9"))
    shared = install.shared
    monkeypatch.setattr(install, "shared", lambda name: newer if name.endswith(".service") else shared(name))
    assert f"update   /{UNIT}" in service()
    assert "RestartSec=9" in (root / UNIT).read_text() != now


def test_a_secret_that_is_there_becomes_a_credential(root: Path, service: Service) -> None:
    service()
    drop_in = root / DROP_INS / "20-credentials.conf"
    assert "\nLoadCredential" not in drop_in.read_text(), "it would stop the start"
    secret = root / "etc/edge-rul/mqtt.pass"
    secret.write_text("secret\n")
    secret.chmod(0o640)
    said = service()
    assert re.findall(r"(?m)^LoadCredential=(.*)$", drop_in.read_text()) == ["mqtt_password:/etc/edge-rul/mqtt.pass"]
    assert any(line.endswith("chmod 600 /etc/edge-rul/mqtt.pass") for line in said)
    secret.chmod(0o600)
    assert not any("chmod" in line for line in service())


@only_root
def test_the_user_without_sysusers(root: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a box without systemd-sysusers, whose /etc/passwd is there."""
    (root / "etc").mkdir()
    for name in ("passwd", "group"):
        (root / "etc" / name).write_text("")
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    service("--gpu", "jetson")
    (user,) = (root / "etc/passwd").read_text().splitlines()
    assert re.fullmatch(r"edge-rul:[^:]*:\d+:\d+::/var/lib/edge-rul:/usr/sbin/nologin", user)
    assert {row.split(":")[0] for row in (root / "etc/group").read_text().split()} == {"edge-rul", "video", "render"}
    assert (root / "var/lib/edge-rul").stat().st_uid == int(user.split(":")[2])


# -- and out again ---------------------------------------------------------------------------------------------------


def test_undo_keeps_what_cannot_be_made_again(root: Path, service: Service) -> None:
    service()
    (root / "var/lib/edge-rul/journal.db").write_text("readings")
    (root / DROP_INS / "override.conf").write_text("[Service]\n")
    (root / DROP_INS / "10-cpu.conf").write_text("[Service]\n# mine\n")
    said = service("--undo")
    assert not (root / UNIT).exists()
    assert sorted(p.name for p in (root / DROP_INS).iterdir()) == ["10-cpu.conf", "override.conf"]
    assert (root / "var/lib/edge-rul/journal.db").read_text() == "readings"
    assert (root / CONFIG).exists()
    assert any(line.startswith(f"leave    /{DROP_INS}/10-cpu.conf: it was altered") for line in said)
    assert "leave    /var/lib/edge-rul: yours; --purge removes it" in said
    assert not [line for line in service("--undo") if line.startswith("remove")], "there is nothing left to take back"


def test_purge_leaves_nothing(root: Path, service: Service) -> None:
    service()
    (root / "var/lib/edge-rul/journal.db").write_text("readings")
    (root / UNIT).write_text("altered\n")
    service("--undo", "--purge")
    assert list(root.rglob("*edge-rul*")) == []
    if os.geteuid() == 0:
        assert "edge-rul" not in (root / "etc/passwd").read_text()


def test_purge_does_not_follow_a_link(root: Path, service: Service, tmp_path: Path) -> None:
    service()
    (tmp_path / "precious").write_text("")
    (root / "var/lib/edge-rul").rmdir()
    (root / "var/lib/edge-rul").symlink_to(tmp_path)
    service("--undo", "--purge", code=EXIT_CONFIG)
    assert (tmp_path / "precious").exists()


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--venv", "/home/me/venv"], "the service cannot see it"),
        (["--bundle", "/tmp/bundle"], "the service cannot see it"),
        (["--venv", "/opt/my venv"], "expected an absolute path"),
        (["--venv", "/opt/%n"], "expected an absolute path"),
        (["--venv", "venv"], "expected an absolute path"),
        (["--bundle", "/opt/a/../../root"], "expected an absolute path"),
    ],
)
def test_paths_that_the_service_could_not_use(root: Path, service: Service, arguments: list[str], says: str) -> None:
    assert says in "\n".join(service(*arguments, code=EXIT_CONFIG))
    assert everything(root) == {}


def test_purge_alone_is_a_mistake(root: Path, service: Service) -> None:
    service("--purge", code=EXIT_USAGE)
    assert everything(root) == {}


def test_only_root_may_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(install, "_install", lambda *_: pytest.fail("it began"))
    assert cli.main(["install-service"]) == EXIT_CONFIG
    assert "only root can write there" in capsys.readouterr().err


# -- what a wheel brings ---------------------------------------------------------------------------------------------


def test_a_wheel_has_all_that_is_installed(
    root: Path, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placed as pyproject.toml says, with no repository beside it."""
    section = (ROOT / "pyproject.toml").read_text().partition("[tool.hatch.build.targets.wheel.force-include]\n")[2]
    for source, target in re.findall(r'(?m)^"(.*)" = "(.*)"$', section.partition("\n[")[0]):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / target)
    service()
    from_the_repository = {name: found[-1] for name, found in everything(root).items()}
    shutil.rmtree(root / "etc")
    monkeypatch.setattr(install, "__file__", str(tmp_path / "edge_rul" / "install.py"))
    service()
    placed = {name: found[-1] for name, found in everything(root).items()}
    assert {n: c for n, c in placed.items() if "edge-rul" in n} == {
        n: c for n, c in from_the_repository.items() if "edge-rul" in n
    }
    assert install.shared("configs/mosquitto-acl.conf").is_relative_to(tmp_path)


# -- docs/service.md -------------------------------------------------------------------------------------------------


def test_the_copy_of_a_running_journal_is_whole(tmp_path: Path) -> None:
    """The command that the documentation gives, while the journal is open and its newest pages are in the -wal."""
    text = (ROOT / "docs" / "service.md").read_text()
    (line,) = re.findall(r"(?m)^python3 -c .*$", text)
    state, copy = tmp_path / "state", tmp_path / "restored"
    copy.mkdir()
    with Journal(state, JournalSettings()) as journal:
        journal.append([Reading(Asset("pump"), 7, None, np.array([1.0, 2.0], np.float32))], 0.0)
        assert journal.commit(0, wall=1_767_225_600)
        assert (state / "journal.db-wal").stat().st_size
        words = shlex.split(line.replace("/var/lib/edge-rul", str(state)).replace("journal-backup.db", "journal.db"))
        subprocess.run([sys.executable, *words[1:]], check=True, cwd=copy)
        known = (journal.id, journal.last)
    with Journal(copy, JournalSettings()) as restored:
        assert (restored.id, restored.last, restored.set_aside) == (*known, None)


# -- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "refused"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_password_that_everybody_can_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, refused: bool
) -> None:
    from edge_rul.secrets import mqtt_password

    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    secret, config = tmp_path / "mqtt.pass", tmp_path / "edge-rul.yaml"
    secret.write_text("secret\n")
    secret.chmod(bits)
    config.write_text(
        "bundle: b\ntopics: {readings: ['a/{asset}']}\nmqtt:\n  username: u\n  password_file: mqtt.pass\n"
    )
    settings, source = load_settings(config)
    if not refused:
        assert mqtt_password(settings, source) == "secret"
        return
    with pytest.raises(ConfigError) as caught:
        mqtt_password(settings, source)
    assert caught.value.exit_code == EXIT_CONFIG
    assert caught.value.object == f"{config}:5: mqtt.password_file"
    assert f"its mode is {bits:o}" in caught.value.problem
    assert caught.value.hint.startswith(f"chmod o= {secret}")
    assert "secret\n" not in str(caught.value)
    # systemd's own directory is closed to others, whatever the mode of what lies in it.
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert mqtt_password(settings, source) == "secret"


# -- the installed daemon, as its user, under a broker that lets nobody do more than it must ------------------------


class Client:
    """A user of the broker's; `told` gives what it hears, in order."""

    def __init__(self, port: int, user: str) -> None:
        self._heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._acknowledged: queue.Queue[str] = queue.Queue()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.username_pw_set(user, f"{user}'s")
        self.client.on_message = lambda _c, _u, m: self._heard.put((m.topic, m.payload))
        self.client.on_publish = lambda _c, _u, _mid, reason, _p: self._acknowledged.put(str(reason))
        subscribed: queue.Queue[str] = queue.Queue()
        self.client.on_subscribe = lambda _c, _u, _mid, reasons, _p: subscribed.put(str(reasons[0]))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe("edge-rul/#", qos=1)
        subscribed.get(timeout=PATIENCE)

    def publish(self, topic: str, payload: Any) -> str:
        """Returns how the broker acknowledged it."""
        self.client.publish(topic, json.dumps(payload), qos=1)
        return self._acknowledged.get(timeout=PATIENCE)

    def told(self, topic: str) -> bytes:
        while True:
            found, payload = self._heard.get(timeout=PATIENCE)
            if found == topic:
                return payload

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A broker under configs/mosquitto-acl.conf, with its users."""
    program = shutil.which("mosquitto_passwd")
    if program is None:
        absent("mosquitto_passwd")
    acl, passwords = tmp_path / "acl", tmp_path / "passwords"
    acl.write_text(ACL.read_text())
    passwords.touch()
    for user in re.findall(r"(?m)^user (\S+)$", ACL.read_text()):
        subprocess.run([str(program), "-b", str(passwords), user, f"{user}'s"], check=True, capture_output=True)
    for path in (acl, passwords):
        path.chmod(0o600)
    broker = start_mosquitto(tmp_path, f"allow_anonymous false\npassword_file {passwords}\nacl_file {acl}")
    yield broker
    broker.process.terminate()
    broker.process.wait(10)


@pytest.fixture
def client(guarded: Broker) -> Iterator[Callable[[str], Client]]:
    made: list[Client] = []

    def connect(user: str) -> Client:
        made.append(Client(guarded.port, user))
        return made[-1]

    yield connect
    for one in made:
        one.close()


@pytest.fixture
def packages() -> Iterator[tuple[int, ...]]:
    """The directories that hold our package and what it needs, open."""
    found = [path for path in sys.path if "site-packages" in path]
    opened = tuple(os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (*found, ROOT))
    yield opened
    for descriptor in opened:
        os.close(descriptor)


@pytest.fixture
def installed(
    root: Path, service: Service, guarded: Broker, tiny_bundle: Bundle, packages: tuple[int, ...]
) -> pwd.struct_passwd:
    """The service below the root, as an operator would make it ready: its user. The bundle is the tests' small one, and
    the program puts itself under the unit's filter of system calls first."""
    program = root / "opt/edge-rul/venv/bin/edge-rul"
    program.parent.mkdir(parents=True)
    bundle = root / "opt/edge-rul/bundles/cmapss_fd001"
    shutil.copytree(tiny_bundle.path, bundle)
    for path in (bundle, *bundle.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (root / "etc/edge-rul").mkdir(parents=True)
    secret = root / "etc/edge-rul/mqtt.pass"
    secret.write_text("edge-rul's\n")
    secret.chmod(0o600)
    service("--engine", "onnxruntime")
    config = root / CONFIG
    text = config.read_text().replace("/opt/", f"{root}/opt/").replace("port: 1883", f"port: {guarded.port}")
    config.write_text(text.replace("# username: edge-rul", "username: edge-rul"))
    user = Hands(root, dry_run=False).user("edge-rul")
    assert user is not None
    confined = sandbox("10-cpu-onnxruntime")
    program.write_text(f"{interpreter(user, packages)}{confined}from edge_rul.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return user


def interpreter(user: pwd.struct_passwd, opened: tuple[int, ...]) -> str:
    """The first lines of a program that the user can run with this test's packages, given as open directories: they may
    lie in somebody's home, where the user may not enter. For the same reason it may need another Python than ours."""
    first = f"import sys\nsys.path[:0] = {[f'/proc/self/fd/{fd}' for fd in opened]!r}\n"

    def runs(python: str) -> bool:
        command = [python, "-c", f"{first}import edge_rul"]
        try:
            return not subprocess.run(command, check=False, env={}, pass_fds=opened, **as_user(user)).returncode
        except OSError:
            return False

    python = next(filter(runs, (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")), None)
    if python is None:
        absent(f"a Python 3.{sys.version_info.minor} that another user can run")
    return f"#!{python}\n{first}"


def as_user(user: pwd.struct_passwd) -> dict[str, Any]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


@pytest.fixture
def daemon(root: Path, installed: pwd.struct_passwd, packages: tuple[int, ...]) -> Iterator[subprocess.Popen[bytes]]:
    """The installed unit's command as systemd would start it, and READY seen."""
    credentials = root / "run/credentials/edge-rul.service"
    credentials.mkdir(parents=True)
    for row in re.findall(r"(?m)^LoadCredential=(.*)$", (root / DROP_INS / "20-credentials.conf").read_text()):
        name, _, source = row.partition(":")
        shutil.copy(root / source.lstrip("/"), credentials / name)
        (credentials / name).chmod(0o400)
        os.chown(credentials / name, installed.pw_uid, installed.pw_gid)
    (start,) = re.findall(r"(?m)^ExecStart=(.*)$", (root / UNIT).read_text())
    command = [str(root / word.lstrip("/")) if word.startswith("/") else word for word in shlex.split(start)]
    name = f"edge-rul-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (root / "log").open("wb") as out:
        manager.bind(f"\0{name}")
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "NOTIFY_SOCKET": f"@{name}",
            "CONFIGURATION_DIRECTORY": str(root / "etc/edge-rul"),
            "STATE_DIRECTORY": str(root / "var/lib/edge-rul"),
            "CACHE_DIRECTORY": str(root / "var/cache/edge-rul"),
            "CREDENTIALS_DIRECTORY": str(credentials),
        }
        process = subprocess.Popen(
            command, env=environment, umask=0o077, stdout=out, stderr=out, pass_fds=packages, **as_user(installed)
        )
        try:
            pidfd = os.pidfd_open(process.pid)
            ready, _, _ = select.select([manager, pidfd], [], [], PATIENCE)
            os.close(pidfd)
            assert manager in ready, (root / "log").read_text()
            assert manager.recv(4096).startswith(b"READY=1"), (root / "log").read_text()
            yield process
        finally:
            process.kill()
            process.wait(10)


@only_root
def test_the_installed_daemon_serves_and_obeys_only_whom_it_should(
    root: Path,
    installed: pwd.struct_passwd,
    client: Callable[[str], Client],
    daemon: subprocess.Popen[bytes],
) -> None:
    dashboard, gateway, operator = client("dashboard"), client("gateway-a"), client("operator")
    assert dashboard.told("edge-rul/availability") == b"online"
    prediction = "edge-rul/line-a/pump/prediction"
    reset = {"command": "reset", "asset": "pump", "levels": {"line": "line-a"}}

    def read(cycle: int, by: Client = gateway, line: str = "line-a") -> str:
        return by.publish(f"plant/{line}/pump/cycle", {"cycle": cycle, "values": [10, 20, 30]})

    # The broker says whether anybody was there to hear it; until the daemon is, the reading goes to nobody.
    while read(0) == "No matching subscribers":
        assert daemon.poll() is None, (root / "log").read_text()
    for cycle in range(1, 5):
        read(cycle)
    first = json.loads(dashboard.told(prediction))
    assert (first["life"], first["cycle"]) == (0, 4)

    for outsider in (dashboard, gateway):
        assert outsider.publish("edge-rul/command", reset) == "Not authorized"
        assert outsider.publish(prediction, {"rul": 1000}) == "Not authorized"
    assert read(9, by=dashboard) == "Not authorized"
    assert read(9, line="line-b") == "Not authorized"
    # Nothing of it arrived: the window is as full as before, and the life the same.
    read(5)
    following = json.loads(dashboard.told(prediction))
    assert (following["life"], following["cycle"], following["quality"]["missing_cycles"]) == (0, 5, 0)

    # Mosquitto's "Success" is that of a message that reached somebody.
    assert operator.publish("edge-rul/command", reset) == "Success"
    for cycle in range(6, 11):
        read(cycle)
    assert dashboard.told(prediction) == b"", "what the ended life left retained is withdrawn"
    after = json.loads(dashboard.told(prediction))
    assert (after["life"], after["cycle"]) == (1, 10), "a window of the new life's five readings alone"

    daemon.terminate()
    assert dashboard.told("edge-rul/availability") == b"offline"
    assert daemon.wait(PATIENCE) == EXIT_OK, (root / "log").read_text()
    state = [p for p in (root / "var/lib/edge-rul").rglob("*") if p.is_file()]
    assert state
    assert {(p.stat().st_uid, mode(p) & 0o077) for p in state} == {(installed.pw_uid, 0)}
    assert "edge-rul's" not in (root / "log").read_text()
