"""The source that a certificate's settings name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tmad.agent.acme import ACMESource
from tmad.agent.est import ESTSource
from tmad.agent.scep import LEGACY, MODERN, SCEPSource
from tmad.agent.settings import CertificateSettings
from tmad.agent.source import Source
from tmad.agent.store import State, Store
from tmad.errors import Fault, FaultCode
from tmad.events import Secret


def source_of(store: Store, settings: CertificateSettings, state: State, current: int) -> Source:
    """Return the source; ``current`` is the generation that is in place, 0 for none."""
    if settings.est is not None:
        est = settings.est
        return ESTSource(
            est.url,
            settings.trust,
            user=est.user or store.name,
            secret=partial(read_secret, est.secret_file),
            identity=store.generation(current) if current else None,
        )
    if settings.acme is not None:
        return ACMESource(
            store,
            settings.acme,
            settings.names,
            settings.trust,
            partial(read_secret, settings.acme.eab_key_file),
        )
    scep = settings.scep
    assert scep is not None  # the settings' own check
    return SCEPSource(
        scep.url,
        settings.trust,
        secret=partial(read_secret, scep.secret_file),
        policy=LEGACY if scep.legacy else MODERN,
    )


def read_secret(path: str) -> Secret | None:
    """Return the first line of a file; None for no file; Fault(NOT_FOUND)."""
    if not path:
        return None
    try:
        with Path(path).open("rb") as file:
            return Secret(file.readline(4_096).strip())
    except OSError as error:
        raise Fault(
            FaultCode.NOT_FOUND, f"{path}: {error.strerror}", rule="agent.secret-file"
        ) from None
