"""Accounts of an Active Directory, read when somebody asks for a certificate and not before.

What stands in a certificate about an account comes from here: its names and its SID (T-AD-01,
CVE-2022-26923, KB5014754). An account is found by its SID or objectGUID, which nobody can give
to themselves; a Kerberos principal alone is only a name (CVE-2020-25719).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.identity.ldapclient import LDAPClient, LDAPSession, Server, unavailable
from tmad.signer.seal import Seal
from tmad.wire import ldap, parsing
from tmad.wire.ldap import Entry

_ADDRESS: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(:[0-9]{1,5})?")
_REALM: Final = re.compile(r"[A-Z0-9][A-Z0-9.-]{0,252}")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,60}")
_HOST: Final = re.compile(
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+"
)
_NETBIOS: Final = 15  # characters of a computer's name that its account keeps (MS-ADTS 3.1.1.1.6)

# userAccountControl (MS-ADTS 2.2.16)
_DISABLED: Final = 0x2
_NORMAL: Final = 0x200
_MACHINES: Final = 0x1000 | 0x2000  # workstations, servers and domain controllers
_NEVER: Final = frozenset({0, 0x7FFFFFFFFFFFFFFF})
_BEGIN: Final = datetime(1601, 1, 1, tzinfo=UTC)


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError("a server is HOST or HOST:PORT; its certificate must name the host")
    return text


def _attribute(text: str) -> str:
    if not _ATTRIBUTE.fullmatch(text):
        raise ValueError("not the name of an attribute")
    return text


class ActiveDirectory(BaseModel):
    """One domain: where its controllers are, and who asks them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    servers: tuple[Annotated[str, AfterValidator(_address)], ...] = Field(
        min_length=1,
        max_length=10,
        description="Domain controllers, HOST or HOST:PORT, asked in this order over TLS (636).",
    )
    base: str = Field(
        min_length=3, max_length=500, description='Below which accounts are: "DC=corp,DC=test".'
    )
    realm: str = Field(
        description="The Kerberos realm, in upper case: only its principals are believed."
    )
    bind: str = Field(
        min_length=1,
        max_length=500,
        description='Who asks: "tmad@corp.test" or a distinguished name; reading is enough.',
    )
    password: str = Field(
        default="", description="Sealed; `tmad active-directory password` sets it."
    )
    trusted: str = Field(
        default="",
        max_length=200_000,
        description="Authorities of the servers' TLS, in PEM; empty: those that the node trusts.",
    )
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    description: str = Field(default="", max_length=500)
    person_name: Annotated[str, AfterValidator(_attribute)] = Field(
        default="displayName", description="The attribute that becomes the CN of a person."
    )
    dns_domains: tuple[str, ...] = Field(
        default=(),
        description="Domains that a computer's DNS name may end in; empty: the realm's own.",
    )
    pac: Literal["required", "optional"] = Field(
        default="required",
        description="optional: a ticket without Windows' authorisation data names its account by"
        " the principal alone, as with a plain Kerberos server.",
    )

    @field_validator("realm")
    @classmethod
    def _realm_is_one(cls, value: str) -> str:
        if not _REALM.fullmatch(value):
            raise ValueError("a realm is a domain in upper case: CORP.TEST")
        return value

    @field_validator("trusted")
    @classmethod
    def _trusted_are_certificates(cls, value: str) -> str:
        if value:
            try:
                parsing.certificates(value.encode())
            except ValueError:
                raise ValueError("must be certificates in PEM") from None
        return value

    @field_validator("password")
    @classmethod
    def _password_is_sealed(cls, value: str) -> str:
        try:
            b64decode(value, validate=True)
        except ValueError:
            raise ValueError(
                "must be a sealed password; tmad active-directory password makes it"
            ) from None
        return value

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the domains that a computer's name may end in, in lower case."""
        return tuple(each.lower().strip(".") for each in self.dns_domains) or (self.realm.lower(),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who has shown a Kerberos ticket: "bob@CORP.TEST", and the SID in it, if any."""

    name: str
    sid: str = ""

    @property
    def user(self) -> str:
        """Return what stands before the realm."""
        return self.name.rpartition("@")[0]

    @property
    def realm(self) -> str:
        """Return the realm."""
        return self.name.rpartition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the directory holds of one account, now. Names that it does not have are empty."""

    id: str  # objectGUID
    is_machine: bool
    login: str  # sAMAccountName
    sid: str
    name: str  # for people
    dns: str
    upn: str
    mail: str
    groups: tuple[str, ...] = ()


_WANTED: Final = (
    "objectGUID", "objectSid", "sAMAccountName", "userAccountControl", "accountExpires",
    "dNSHostName", "userPrincipalName", "mail", "cn",
)  # fmt: skip


class ActiveDirectories:
    """Asks the domains. ``about`` names the object whose sealed password is used."""

    def __init__(self, reactor: Any, seal: Seal, now: Clock) -> None:
        self._client = LDAPClient(reactor)
        self._seal = seal
        self._now = now

    def seal_password(self, about: str, password: Secret) -> str:
        """Return what a document may hold of the password."""
        sealed = self._seal.seal(password.reveal(), about=f"active-directory {about}")
        return b64encode(sealed).decode()

    async def by_principal(
        self, domain: ActiveDirectory, about: str, principal: Principal, *, with_groups: bool
    ) -> Account:
        """Return the account of whoever showed a ticket.

        Fault(UNAUTHENTICATED) when there is no such account that may be used now,
        Fault(UNAVAILABLE) when the directory gives no answer.
        """
        if principal.realm != domain.realm:
            raise _refused(
                "directory.realm",
                "the ticket is of another realm",
                principal=principal.name[:255],
                realm=domain.realm,
            )
        if principal.sid:
            wanted = ldap.equal("objectSid", ldap.sid_octets(principal.sid))
        elif domain.pac == "required":
            raise _refused(
                "directory.pac",
                "the ticket does not hold the account's SID",
                principal=principal.name[:255],
            )
        else:
            wanted = ldap.equal("sAMAccountName", principal.user.encode())
        return await self._found(domain, about, wanted, with_groups=with_groups)

    async def by_login(self, domain: ActiveDirectory, about: str, login: str) -> Account:
        """Return the account with a sAMAccountName, with its groups; Faults as above.

        For administrators who want to know what a certificate would say.
        """
        wanted = ldap.equal("sAMAccountName", login.encode())
        return await self._found(domain, about, wanted, with_groups=True)

    async def by_id(
        self,
        domain: ActiveDirectory,
        about: str,
        guid: str,
        *,
        with_groups: bool,
    ) -> Account:
        """Return the account with an objectGUID; Faults as of :meth:`by_principal`."""
        return await self._found(
            domain, about, ldap.equal("objectGUID", bytes.fromhex(guid)), with_groups=with_groups
        )

    async def by_password(
        self,
        domain: ActiveDirectory,
        about: str,
        user: str,
        password: Secret,
        *,
        with_groups: bool,
    ) -> Account:
        r"""Return the account of a name and a password that the directory takes.

        ``user`` is bob, bob@corp.test, or CORP\bob. Faults as of :meth:`by_principal`.
        """
        login = user.rpartition("\\")[2]
        wanted = ldap.equal("sAMAccountName", login.encode())
        if "@" in login:
            wanted = ldap.equal("userPrincipalName", login.encode())
            name, _, realm = login.rpartition("@")
            if realm.upper() == domain.realm:
                # Every account may also log in so, whatever its userPrincipalName is.
                wanted = ldap.any_of(wanted, ldap.equal("sAMAccountName", name.encode()))
        session = await self._open(domain, about)
        try:
            entry = await self._one(session, domain, wanted)
            account = await self._account(session, domain, entry, with_groups=with_groups)
            if not await session.bind(entry.name, password):
                raise _refused("directory.password", "the credential was not accepted")
            return account
        finally:
            session.close()

    async def check(self, domain: ActiveDirectory, about: str) -> None:
        """Raise Fault(UNAVAILABLE) or Fault(FORBIDDEN) unless the directory answers."""
        session = await self._open(domain, about)
        session.close()

    async def _found(
        self, domain: ActiveDirectory, about: str, wanted: bytes, *, with_groups: bool
    ) -> Account:
        session = await self._open(domain, about)
        try:
            entry = await self._one(session, domain, wanted)
            return await self._account(session, domain, entry, with_groups=with_groups)
        finally:
            session.close()

    async def _open(self, domain: ActiveDirectory, about: str) -> LDAPSession:
        if not domain.password:
            raise unavailable("no password is set; tmad active-directory password sets it")
        session = await self._client.connect(
            Server(
                addresses=domain.servers,
                trusted=domain.trusted,
                seconds=domain.timeout_seconds,
            )
        )
        try:
            password = self._seal.open(
                b64decode(domain.password), about=f"active-directory {about}"
            )
            if await session.bind(domain.bind, password):
                return session
        except BaseException:
            session.close()
            raise
        session.close()
        raise unavailable("the directory does not take our own name and password")

    async def _one(self, session: LDAPSession, domain: ActiveDirectory, wanted: bytes) -> Entry:
        found = await session.search(
            domain.base,
            ldap.all_of(ldap.equal("objectClass", b"user"), wanted),
            (*_WANTED, domain.person_name),
            limit=2,
        )
        if len(found) != 1:
            raise _refused(
                "directory.account",
                "the credential was not accepted",
                accounts=str(len(found)),
            )
        return found[0]

    async def _account(
        self, session: LDAPSession, domain: ActiveDirectory, entry: Entry, *, with_groups: bool
    ) -> Account:
        control = entry.number("userAccountControl")
        self._check_usable(entry, control)
        is_machine = bool(control & _MACHINES)
        if not is_machine and not control & _NORMAL:
            raise _refused("directory.kind", "this kind of account gets no certificate")
        account = Account(
            id=entry.octets("objectGUID").hex(),
            is_machine=is_machine,
            login=entry.text("sAMAccountName"),
            sid=ldap.sid_text(entry.octets("objectSid")),
            name=entry.text(domain.person_name) or entry.text("cn"),
            dns=entry.text("dNSHostName").lower() if is_machine else "",
            upn="" if is_machine else _upn(entry, domain),
            mail="" if is_machine else entry.text("mail"),
            groups=await _groups(session, domain, entry) if with_groups else (),
        )
        _check_host(account, domain)
        await self._check_unique(session, domain, account)
        return account

    def _check_usable(self, entry: Entry, control: int) -> None:
        expires = entry.number("accountExpires")
        is_over = expires not in _NEVER and self._now() >= _instant(expires)
        if control & _DISABLED or is_over:
            raise _refused(
                "directory.disabled",
                "the credential was not accepted",
                account=entry.text("sAMAccountName"),
                state="expired" if is_over else "disabled",
            )

    async def _check_unique(
        self, session: LDAPSession, domain: ActiveDirectory, account: Account
    ) -> None:
        """Refuse names that two accounts have: each could become the other with them."""
        names = []
        if account.dns:
            names.append(ldap.equal("dNSHostName", account.dns.encode()))
        if account.upn:
            user, _, realm = account.upn.rpartition("@")
            names.append(ldap.equal("userPrincipalName", account.upn.encode()))
            if realm.upper() == domain.realm:
                names.append(ldap.equal("sAMAccountName", user.encode()))
        if not names:
            return
        found = await session.search(
            domain.base,
            ldap.all_of(ldap.equal("objectClass", b"user"), ldap.any_of(*names)),
            ("sAMAccountName",),
            limit=2,
        )
        if len(found) > 1:
            raise Fault(
                FaultCode.FORBIDDEN,
                "another account of the directory has the same name",
                rule="directory.ambiguous",
                values={"dns": account.dns, "upn": account.upn},
            )


def _upn(entry: Entry, domain: ActiveDirectory) -> str:
    return entry.text("userPrincipalName") or (
        f"{entry.text('sAMAccountName')}@{domain.realm.lower()}"
    )


def _check_host(account: Account, domain: ActiveDirectory) -> None:
    """A computer's DNS name is that of its account: who may write the one must have the other.

    Else the owner of any computer's account could be a domain controller (CVE-2022-26923).
    """
    if not account.dns:
        return
    label, _, rest = account.dns.partition(".")
    own = account.login.rstrip("$").lower()
    is_own = own in (label, label[:_NETBIOS])
    if not (is_own and rest in domain.domains and _HOST.fullmatch(account.dns)):
        raise Fault(
            FaultCode.FORBIDDEN,
            "the directory's DNS name is not that of the account",
            rule="directory.dns-name",
            values={
                "dns": account.dns[:255],
                "account": account.login,
                "domains": ", ".join(domain.domains),
            },
        )


async def _groups(session: LDAPSession, domain: ActiveDirectory, entry: Entry) -> tuple[str, ...]:
    """Return the names of all groups that an account is in, directly or over others."""
    found = await session.search(
        domain.base,
        ldap.all_of(ldap.equal("objectClass", b"group"), ldap.in_chain("member", entry.name)),
        ("sAMAccountName",),
        limit=1_000,
    )
    return tuple(sorted(each.text("sAMAccountName") for each in found))


def _instant(filetime: int) -> datetime:
    try:
        return _BEGIN + timedelta(microseconds=filetime // 10)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _refused(rule: str, detail: str, **values: str) -> Fault:
    return Fault(FaultCode.UNAUTHENTICATED, detail, rule=rule, values=values)
