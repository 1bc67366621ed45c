"""A private SoftHSM token for a test, and the same token behind a p11-kit server.

Nothing is shared: each token has its own directory, configuration, random PIN and serial
number. SoftHSM reads its configuration when it is initialised, from SOFTHSM2_CONF: pass
``token.environment`` to a child process, or use the fixture ``softhsm``, which sets it here
(in a test module: ``softhsm = tests.softhsm.softhsm``).
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TOKEN_LABEL = "tmad-test"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What [keyring.pkcs11] of tmad.toml says."""

    module: Path
    token_label: str | None
    token_serial: str | None = None
    pin_file: Path
    threads: int = 2
    timeout_seconds: float = 2.0
    queue: int = 128


@dataclass(frozen=True, kw_only=True)
class SoftToken:
    """One initialised token; ``pin`` is what the canary tests search for."""

    directory: Path
    module: Path
    pin: str = field(repr=False)
    label: str = TOKEN_LABEL

    @property
    def environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")}

    @property
    def pin_file(self) -> Path:
        return self.directory / "pin"

    def settings(self, **changes: object) -> Settings:
        values: dict[str, object] = {
            "module": self.module,
            "token_label": self.label,
            "pin_file": self.pin_file,
        }
        return Settings(**{**values, **changes})  # type: ignore[arg-type]

    @property
    def toml(self) -> str:
        """The section of tmad.toml for a daemon that uses this token.

        With patience, for tests of what it does: the machine may be busy with others.
        """
        return self.toml_for(self.module) + "timeout_seconds = 15\n"

    def toml_for(self, module: Path) -> str:
        """The same for one that reaches the token through some module, without more patience."""
        return (
            "[keyring.pkcs11]\n"
            f'module = "{module}"\n'
            f'token_label = "{self.label}"\n'
            f'pin_file = "{self.pin_file}"\n'
        )


def module_path() -> Path | None:
    """Return where Debian (or another distribution) keeps SoftHSM's module."""
    return _first("softhsm/libsofthsm2.so")


def client_path() -> Path | None:
    """Return p11-kit's module that talks to a p11-kit server."""
    return _first("pkcs11/p11-kit-client.so")


def _first(name: str) -> Path | None:
    for pattern in (f"/usr/lib*/{name}", f"/usr/lib*/*/{name}"):
        for found in sorted(glob.glob(pattern)):
            return Path(found)
    return None


def create_token(directory: Path, *, label: str = TOKEN_LABEL, pin: str = "") -> SoftToken:
    """Make and initialise a token below ``directory``."""
    module = module_path()
    assert module is not None
    (directory / "tokens").mkdir(parents=True)
    (directory / "softhsm2.conf").write_text(
        f"directories.tokendir = {directory / 'tokens'}\n"
        "objectstore.backend = file\n"
        "log.level = ERROR\n"
        "slots.removable = false\n"
    )
    pin = pin or f"pin-{secrets.token_hex(8)}"
    token = SoftToken(directory=directory, module=module, pin=pin, label=label)
    token.pin_file.touch(mode=0o600)
    token.pin_file.write_text(pin + "\n")
    subprocess.run(
        [
            "softhsm2-util",
            "--init-token",
            "--free",
            *("--label", label),
            *("--pin", pin),
            *("--so-pin", secrets.token_hex(8)),
        ],
        env={**os.environ, **token.environment},
        check=True,
        capture_output=True,
        timeout=30,
    )
    return token


@pytest.fixture
def softhsm(tmp_path: Path, require_client, monkeypatch: pytest.MonkeyPatch) -> SoftToken:  # type: ignore[no-untyped-def]
    """Return a token that this process may load."""
    require_client("softhsm2-util")
    token = create_token(tmp_path / "softhsm")
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    return token


class RemoteToken:
    """A token behind ``p11-kit server``, whose processes can be killed and stopped.

    The server makes a child for each connection: that child is the HSM, as it were.
    """

    def __init__(self, token: SoftToken, client: Path) -> None:
        self.token = token
        self.client = client
        # The client library asks for the address only once, when it is loaded; and the path
        # of a Unix socket may have no more than 107 octets, while pytest's folders are long.
        self._socket = Path(tempfile.gettempdir()) / f"tmad-p11-{os.getpid()}"
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"P11_KIT_SERVER_ADDRESS": f"unix:path={self._socket}"}

    @property
    def toml(self) -> str:
        return self.token.toml_for(self.client)

    def settings(self, **changes: object) -> Settings:
        return self.token.settings(module=self.client, **changes)

    def start(self) -> None:
        self._server = subprocess.Popen(
            [
                "p11-kit",
                "server",
                "--foreground",
                *("--provider", str(self.token.module)),
                *("--name", str(self._socket)),
                f"pkcs11:token={self.token.label}",
            ],
            env={**os.environ, **self.token.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(500):
            if self._socket.exists():
                return
            time.sleep(0.01)
        raise AssertionError("p11-kit server did not start")

    def children(self) -> list[int]:
        """Return the processes that serve connections now."""
        assert self._server is not None
        pid = self._server.pid
        try:
            return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to whatever serves connections."""
        for child in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    def stop(self) -> None:
        """End the server and all it started: nothing listens any more."""
        if self._server is not None:
            self.signal(signal.SIGKILL)
            self._server.kill()
            self._server.wait()
            self._server = None
        self._socket.unlink(missing_ok=True)


@pytest.fixture
def remote_token(  # type: ignore[no-untyped-def]
    softhsm: SoftToken, require_client, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RemoteToken]:
    """Return the token behind a running p11-kit server."""
    require_client("p11-kit")
    client = Path(require_client(str(client_path() or "p11-kit-client.so")))
    remote = RemoteToken(softhsm, client)
    for name, value in remote.environment.items():
        monkeypatch.setenv(name, value)
    remote.start()
    yield remote
    remote.stop()
