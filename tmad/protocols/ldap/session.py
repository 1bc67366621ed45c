"""What a connection remembers between its operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from cryptography import x509

from tmad.protocols.ldap.controls import Cookies
from tmad.protocols.ldap.passports import Passport
from tmad.protocols.ldap.tree import ANONYMOUS


class Session:
    """Who is there, how, and since when nothing has changed.

    ``certificate`` returns what the client has shown in the TLS handshake, if anything.
    """

    def __init__(
        self,
        source: str,
        *,
        is_secure: bool,
        certificate: Callable[[], x509.Certificate | None],
    ) -> None:
        self.source = source
        self.is_secure = is_secure
        self.certificate = certificate
        self.who = ANONYMOUS
        self.owner = ""  # of a certificate or an account: "person:alice"
        self.passport: Passport | None = None  # None: it is a login by password
        # The names of a sorted search that is fetched in pages, and whose they are: one list,
        # the last one.
        self.sorted: tuple[bytes, list[str]] | None = None
        self.forget()

    def forget(self) -> None:
        """Be nobody again (RFC 4511, 4.2.1)."""
        self.who = ANONYMOUS._replace(is_secure=self.is_secure)
        self.owner = ""
        self.passport = None
        self.sorted = None

    @cached_property
    def cookies(self) -> Cookies:
        """Seals the cookies of this connection."""
        return Cookies()
