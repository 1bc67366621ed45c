"""A certificate into its places, the service onto the certificate; and back when that fails."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tmad.agent import commands, files
from tmad.agent.files import Owner
from tmad.agent.identity import Identity, read_certificates
from tmad.agent.settings import CertificateSettings
from tmad.agent.store import Store
from tmad.errors import Fault, FaultCode
from tmad.events import Secret

SAME, OTHER, UNREACHABLE = "same", "other", "unreachable"
_DIRECTORY_MODE: Final = 0o755
_TRY_SECONDS: Final = 0.2


class Deployment:
    """The places of one certificate, and the service that reads them."""

    def __init__(self, store: Store, settings: CertificateSettings) -> None:
        self._store = store
        self._settings = settings
        self._before = store.directory / "before"

    # -- before

    def check_not_newer(self, candidate: Identity, known: Iterator[bytes]) -> None:
        """Raise Fault(CONFLICT) where somebody has put a newer certificate than this one.

        ``known`` are the fingerprints of those that the agent has put there itself.
        """
        ours = {candidate.sha256, *known}
        for path in self._shown():
            found = _certificate_in(path)
            if found is None or _sha256(found) in ours:
                continue
            if found.not_valid_before_utc > candidate.not_before:
                raise Fault(
                    FaultCode.CONFLICT,
                    f"{path} holds a newer certificate, which the agent did not put there; "
                    "tmad agent remove, or tmad agent adopt it, or move it away",
                    rule="agent.newer",
                )

    def _shown(self) -> Iterator[Path]:
        place = self._settings.place
        for kind, text in place.files():
            if kind != "key" and kind != "chain":
                yield Path(text)
        if place.directory:
            yield Path(place.directory) / "certificate.pem"

    def keep(self) -> None:
        """Keep what is in the places now, for the case that the new one does not work."""
        contents: dict[str, bytes] = {}
        places = []
        for number, path in enumerate(self._all()):
            places.append(_describe(path, str(number), contents))
        answers = self._look() is not None if self._settings.check.address else False
        manifest = {"places": places, "answered": answers}
        contents["manifest.json"] = json.dumps(manifest).encode()
        files.write_directory(self._before, contents)

    def forget(self) -> None:
        """Forget what was there before."""
        files.remove_directory(self._before)

    # -- in place

    def place(self, identity: Identity, number: int) -> None:
        """Write every file; Fault(REJECTED) for what cannot be written."""
        place = self._settings.place
        try:
            owner = _owner(place.user, place.group)
            for kind, text in place.files():
                files.write(Path(text), identity.pem(kind), mode=self._mode(kind), owner=owner)
            if place.pkcs12:
                octets = identity.pkcs12(
                    self._store.name,
                    Secret(Path(place.pkcs12_password_file).read_bytes().rstrip(b"\r\n")),
                    is_compatible=place.pkcs12_form == "compatible",
                )
                files.write(Path(place.pkcs12), octets, mode=self._mode("key"), owner=owner)
            if place.directory:
                self._place_directory(Path(place.directory), identity, number, owner)
        except OSError as error:
            raise Fault(
                FaultCode.REJECTED,
                f"{error.filename}: {error.strerror}",
                rule="agent.place",
            ) from None

    def _mode(self, kind: str) -> int:
        place = self._settings.place
        return int(place.key_mode if kind in ("key", "bundle") else place.mode, 8)

    def _place_directory(self, link: Path, identity: Identity, number: int, owner: Owner) -> None:
        """Fill a new directory beside the link, then let the link lead there."""
        if link.exists() and not link.is_symlink():
            raise Fault(
                FaultCode.CONFLICT,
                f"{link} is there and is no symbolic link; name another place.directory",
                rule="agent.place",
            )
        target = link.with_name(f".{link.name}.{number}")
        if not (link.is_symlink() and os.readlink(link) == target.name):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(mode=_DIRECTORY_MODE)
            target.chmod(_DIRECTORY_MODE)
        for name, content in identity.contents().items():
            kind = name.removesuffix(".pem")
            files.write(target / name, content, mode=self._mode(kind), owner=owner)
        files.point(link, Path(target.name))

    def tidy(self, number: int) -> None:
        """Remove the directories of earlier generations beside the link."""
        if self._settings.place.directory:
            link = Path(self._settings.place.directory)
            for found in link.parent.glob(f".{link.name}.*"):
                text = found.name.rpartition(".")[2]
                if text.isdigit() and int(text) < number - 1:
                    shutil.rmtree(found, ignore_errors=True)

    def restore(self) -> None:
        """Put back what was there before; Fault(REJECTED)."""
        try:
            manifest = json.loads((self._before / "manifest.json").read_bytes())
            for each in manifest["places"]:
                _put_back(each, self._before)
        except FileNotFoundError:
            return  # it was put back, and the process ended before it could say so
        except (OSError, ValueError, KeyError) as error:
            raise Fault(
                FaultCode.REJECTED, f"{self._before} cannot be put back: {error}",
                rule="agent.place",
            ) from None  # fmt: skip

    def _all(self) -> list[Path]:
        place = self._settings.place
        found = [Path(text) for _, text in place.files()]
        found += [Path(text) for text in (place.pkcs12, place.directory) if text]
        return found

    # -- the service

    def reload(self) -> None:
        """Run the reload command; Fault(UNAVAILABLE) with what it said when it fails."""
        command, seconds = self._settings.reload.command, self._settings.reload.seconds
        if not command:
            return
        commands.run(
            command, seconds,
            what="the reload command has failed, the old files are back",
            rule="agent.reload", name=self._store.name,
        )  # fmt: skip

    def check(self, identity: Identity) -> str:
        """Return what the service shows, waiting for it to change; "" where nobody looks.

        Fault(UNAVAILABLE) when it answered before, and does not any more.
        """
        check = self._settings.check
        if not check.address:
            return ""
        wanted = identity.sha256
        deadline = time.monotonic() + check.seconds
        while True:
            found = self._look()
            if found == wanted:
                return SAME
            if time.monotonic() >= deadline:
                break
            time.sleep(_TRY_SECONDS)
        if found is None and self._answered():
            raise Fault(
                FaultCode.UNAVAILABLE,
                f"{check.address} does not answer any more",
                rule="agent.service-gone",
            )
        return UNREACHABLE if found is None else OTHER

    def glance(self, identity: Identity) -> str:
        """Return what the service shows just now."""
        if not self._settings.check.address:
            return ""
        found = self._look()
        return UNREACHABLE if found is None else SAME if found == identity.sha256 else OTHER

    def _answered(self) -> bool:
        try:
            manifest = json.loads((self._before / "manifest.json").read_bytes())
        except (OSError, ValueError):
            return False
        return bool(manifest.get("answered"))

    def _look(self) -> bytes | None:
        """Return the fingerprint of the certificate that the service shows now."""
        check = self._settings.check
        host, _, port = check.address.rpartition(":")
        host = host.strip("[]")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # whoever it is: the certificate is what is compared
        try:
            with (
                socket.create_connection((host, int(port)), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname=self._server_name(host)) as tls,
            ):
                shown = tls.getpeercert(binary_form=True)
        except (OSError, ValueError, OverflowError):
            return None
        return None if shown is None else _sha256(x509.load_der_x509_certificate(shown))

    def _server_name(self, host: str) -> str:
        names = [n.removeprefix("dns:") for n in self._settings.names if n.startswith("dns:")]
        plain = [name for name in names if not name.startswith("*")]
        return self._settings.check.server_name or (plain[0] if plain else host)


def _describe(path: Path, name: str, contents: dict[str, bytes]) -> dict[str, Any]:
    """Return one place as the manifest keeps it, and keep its octets."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return {"path": str(path), "link": os.readlink(path)}
        contents[name] = path.read_bytes()
    except FileNotFoundError:
        return {"path": str(path)}
    except OSError as error:
        raise Fault(FaultCode.REJECTED, f"{path}: {error.strerror}", rule="agent.place") from None
    return {
        "path": str(path),
        "content": name,
        "mode": stat.S_IMODE(status.st_mode),
        "owner": [status.st_uid, status.st_gid],
    }


def _put_back(each: dict[str, Any], directory: Path) -> None:
    path = Path(each["path"])
    if "link" in each:
        files.point(path, Path(each["link"]))
    elif "content" in each:
        content = (directory / each["content"]).read_bytes()
        files.write(path, content, mode=each["mode"], owner=Owner(*each["owner"]))
    elif path.is_symlink() or path.exists():
        files.remove(path)


def _certificate_in(path: Path) -> x509.Certificate | None:
    try:
        return read_certificates(path.read_bytes())[0]
    except (OSError, Fault):
        return None


def _sha256(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())


def _owner(user: str, group: str) -> Owner:
    try:
        return Owner(
            pwd.getpwnam(user).pw_uid if user else -1, grp.getgrnam(group).gr_gid if group else -1
        )
    except KeyError:
        raise Fault(
            FaultCode.REJECTED,
            f"there is no user {user!r} or no group {group!r} on this machine",
            rule="agent.owner",
        ) from None
