"""Files and directories put below a root, each thing said before it is done; a dry run only says.

Owns what may be replaced or removed: a file that we wrote and nobody altered since. Such a file carries a digest of
itself in its first line, so that no record of an installation is needed. All may read it: none holds a secret. Must not
know what it places, or why.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from edge_rul.whole_file import write_whole

_OURS = "# Placed by edge-rul install-service, which replaces it unless it was altered; digest "


class Hands:
    """What is done to the file system below `root`. Paths are given as they will be without it."""

    def __init__(self, root: Path, *, dry_run: bool) -> None:
        self._root = root
        self._dry_run = dry_run
        self.live = root == Path("/") and Path("/run/systemd/system").is_dir()  # systemd runs here, and it is this one

    def path(self, path: Path) -> Path:
        return self._root / path.relative_to("/")

    def say(self, verb: str, what: Path | str, why: str = "") -> bool:
        """Returns whether to do it."""
        shown = self.path(what) if isinstance(what, Path) else what
        print(f"{verb:<8} {shown}{f': {why}' if why else ''}")
        return not self._dry_run

    def place(self, where: Path, text: str) -> None:
        """Write a file of ours, unless there is another, or it was altered."""
        path, text = self.path(where), _marked(text)
        if path.is_symlink():
            self.say("leave", where, "it is a symbolic link; a masked unit is one to /dev/null")
        elif not path.exists():
            if self.say("write", where):
                write_whole(path, text.encode(), mode=0o644)
        elif (found := path.read_text(encoding="utf-8", errors="replace")) == text:
            self.say("leave", where, "it is there")
        elif not _unaltered(found):
            self.say("leave", where, "it was altered, or is not ours; `--root DIR` writes ours elsewhere, to compare")
        elif self.say("update", where):
            write_whole(path, text.encode(), mode=0o644)

    def offer(self, where: Path, text: str) -> None:
        """Write a file that is the operator's from then on."""
        path = self.path(where)
        if path.exists() or path.is_symlink():
            self.say("leave", where, "it is there, and yours")
        elif self.say("write", where):
            write_whole(path, text.encode(), mode=0o644)

    def take_back(self, where: Path, why: str = "", *, altered: bool = False) -> None:
        """Remove a file of ours, and one that was altered only where `altered` says so."""
        path = self.path(where)
        if path.is_symlink() or not path.exists():
            return
        if not altered and not _unaltered(path.read_text(encoding="utf-8", errors="replace")):
            more = f"; {why}, so remove it yourself" if why else ""
            self.say("leave", where, f"it was altered, or is not ours{more}")
        elif self.say("remove", where, why):
            path.unlink()

    def directory(self, where: Path, mode: int, owner: str | None = None) -> None:
        path = self.path(where)
        if path.is_dir():
            found = path.stat().st_mode & 0o7777
            self.say("leave", where, "it is there" + (f", mode {found:o} and not {mode:o}" if found != mode else ""))
        elif self.say("make", where, f"mode {mode:o}" + (f", {owner}" if owner else "")):
            path.mkdir(parents=True)
            path.chmod(mode)  # mkdir's mode is subject to the umask
            if owner and (found_user := self.user(owner)) and os.geteuid() == 0:
                os.chown(path, found_user.pw_uid, found_user.pw_gid)
            elif owner:
                self.say("note", where, f"systemd gives it to {owner} at the start")

    def remove_tree(self, where: Path) -> None:
        path = self.path(where)
        if path.is_dir() and self.say("remove", where, "with all that is in it"):
            shutil.rmtree(path)

    def remove_empty(self, where: Path) -> None:
        path = self.path(where)
        if not path.is_dir():
            return
        left = [p for p in path.iterdir() if not (self._dry_run and _unaltered(p.read_text(errors="replace")))]
        if left:
            self.say("leave", where, "it holds files that are not ours")
        elif self.say("remove", where):
            path.rmdir()

    def run(self, *command: str) -> bool:
        """Returns whether it succeeded. One that fails is told and does not end the rest."""
        if not self.say("run", " ".join(command)):
            return True
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.say("note", command[0], f"failed: {(done.stderr or done.stdout).strip()}")
        return done.returncode == 0

    def user(self, name: str) -> pwd.struct_passwd | None:
        if self._root == Path("/"):
            try:
                return pwd.getpwnam(name)  # which need not stand in /etc/passwd
            except KeyError:
                return None
        try:
            rows = self.path(Path("/etc/passwd")).read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        found = [row.split(":") for row in rows if row.startswith(f"{name}:")]
        return pwd.struct_passwd([*found[0][:2], int(found[0][2]), int(found[0][3]), *found[0][4:]]) if found else None

    def prefix(self, option: str) -> list[str]:
        """The option that keeps a command below the root; none where the root is the machine's."""
        return [] if self._root == Path("/") else [f"{option}={self._root}"]


def _marked(text: str) -> str:
    return f"{_OURS}{_digest(text)}\n{text}"


def _unaltered(text: str) -> bool:
    first, _, rest = text.partition("\n")
    return first == f"{_OURS}{_digest(rest)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
