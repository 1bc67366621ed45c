"""Accounts of a directory as owners of certificates, and the names that they get (T-AD-01)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from tmad.ca.names import UPN
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.active_directory import Account, ActiveDirectories, ActiveDirectory, Principal
from tmad.managed.catalogue import Kind
from tmad.managed.objects import Objects
from tmad.wire import der

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.profile import ProfileDocument

KIND: Final = "active-directory"
ACTIVE_DIRECTORY = Kind(name=KIND, model=ActiveDirectory)
# Begins the owner of a certificate that is an account's: "account:DIRECTORY/objectGUID".
ACCOUNT: Final = "account:"
_COMMON_NAME: Final = 64  # characters (RFC 5280, A.1)


class Accounts:
    """Finds accounts for the pipeline, in the directory that an endpoint names."""

    def __init__(self, objects: Objects, directories: ActiveDirectories) -> None:
        self._objects = objects
        self._directories = directories

    async def by_principal(self, endpoint: Endpoint, principal: Principal) -> Account:
        """Return whoever showed a ticket; Faults of ``ActiveDirectories``."""
        domain, about = await self._domain(endpoint)
        account = await self._directories.by_principal(
            domain, about, principal, with_groups=_asks_for_groups(endpoint)
        )
        return _in_groups(account, endpoint)

    async def by_password(self, endpoint: Endpoint, user: str, password: Secret) -> Account:
        """Return whose name and password the directory takes; Faults as above."""
        domain, about = await self._domain(endpoint)
        account = await self._directories.by_password(
            domain, about, user, password, with_groups=_asks_for_groups(endpoint)
        )
        return _in_groups(account, endpoint)

    async def by_owner(self, endpoint: Endpoint, owner: str) -> Account:
        """Return the account that a certificate belongs to, as it is now.

        Fault(UNAUTHENTICATED) when it is of another directory, gone or disabled.
        """
        directory, _, guid = owner.removeprefix(ACCOUNT).partition("/")
        if directory != endpoint.document.directory:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "the certificate belongs to an account of another directory",
                rule="directory.other",
                values={"owner": owner[:255], "directory": endpoint.document.directory},
            )
        domain, about = await self._domain(endpoint)
        account = await self._directories.by_id(
            domain, about, guid, with_groups=_asks_for_groups(endpoint)
        )
        return _in_groups(account, endpoint)

    async def _domain(self, endpoint: Endpoint) -> tuple[ActiveDirectory, str]:
        name = endpoint.document.directory
        stored = await self._objects.load(endpoint.tenant, KIND, name)
        document: ActiveDirectory = stored.document
        return document, f"{endpoint.tenant}/{name}"


def owner_of(endpoint: Endpoint, account: Account) -> str:
    """Return how a certificate says that it is an account's."""
    return f"{ACCOUNT}{endpoint.document.directory}/{account.id}"


def names_of(
    account: Account, profile: ProfileDocument
) -> tuple[x509.Name, tuple[x509.GeneralName, ...]]:
    """Return the names of an account, as far as a profile has a place for them."""
    common_name = account.dns if account.is_machine else account.name
    attributes = []
    if "CN" in profile.subject.attributes and common_name:
        # A longer one cannot stand there; it stands among the alternative names.
        fits = len(common_name) <= _COMMON_NAME
        text = common_name if fits else account.login.rstrip("$")
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, text))
    rules = profile.names
    names: list[x509.GeneralName] = []
    if account.dns and rules.dns is not None:
        names.append(x509.DNSName(account.dns))
    if account.upn and rules.upn is not None:
        names.append(x509.OtherName(UPN, der.tlv(0x0C, account.upn.encode())))
    if account.mail.isascii() and account.mail and rules.email is not None:
        names.append(x509.RFC822Name(account.mail))
    return x509.Name(attributes), tuple(names)


def _asks_for_groups(endpoint: Endpoint) -> bool:
    return bool(endpoint.document.people.groups)


def _in_groups(account: Account, endpoint: Endpoint) -> Account:
    wanted = {group.casefold() for group in endpoint.document.people.groups}
    if wanted and wanted.isdisjoint(group.casefold() for group in account.groups):
        raise Fault(
            FaultCode.FORBIDDEN,
            "this account may not enrol here",
            rule="directory.groups",
            values={"account": account.login, "groups": ", ".join(sorted(wanted))[:500]},
        )
    return account
