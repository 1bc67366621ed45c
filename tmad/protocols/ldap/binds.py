"""Binds: anonymous, by password under TLS, by client certificate (RFC 4511, 4.2; RFC 4513, 5)."""

from __future__ import annotations

from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.login import Accepted, LoginRules, Logins
from tmad.protocols.ldap.codec import Bind
from tmad.protocols.ldap.passports import Passports
from tmad.protocols.ldap.session import Session
from tmad.protocols.ldap.tree import Login, Tree

EXTERNAL: Final = "EXTERNAL"
_LONGEST_NAME: Final = 256
# Whom a name means that is nobody's: judged like anybody else, for the same time.
_NOBODY_TENANT: Final = "default"


class Binds:
    """Decides who a client is; the session is nobody's until that is known."""

    def __init__(self, tree: Tree, logins: Logins, passports: Passports, rules: LoginRules) -> None:
        self._tree = tree
        self._logins = logins
        self._passports = passports
        self._rules = rules

    async def bind(self, session: Session, request: Bind) -> None:
        """Make the session somebody's; raise the Fault that refuses."""
        # RFC 4511, 4.2.1: whatever comes of it, the client is no longer who it was.
        session.forget()
        if request.version != 3:
            raise _refusal(FaultCode.UNSUPPORTED, "this server speaks LDAPv3 only", "ldap.version")
        if request.mechanism:
            await self._sasl(session, request)
        elif request.secret:
            await self._simple(session, request.name, request.secret)
        elif request.name:
            # RFC 4513, 5.1.2: some clients would take success for a proof of the password.
            raise _refusal(
                FaultCode.REJECTED,
                "a name without a password is no login; leave both empty to be anonymous",
                "ldap.empty-password",
            )

    async def recheck(self, session: Session) -> None:
        """Raise Fault(UNAUTHENTICATED, ldap.ended) once a login holds no longer.

        Asked before each operation: a certificate that is revoked, an account that is disabled
        or a password that is replaced takes its connections with it.
        """
        if not session.owner:
            return
        try:
            if session.passport is not None:
                await self._passports.recheck(session.passport)
            who = await self._tree.who_is(
                session.who.tenant, session.owner, is_secure=session.is_secure
            )
        except Fault as fault:
            if fault.code is not FaultCode.UNAUTHENTICATED:
                raise
            raise _ended(fault.private) from fault
        if who is None:
            raise _ended("the account is closed, or no directory publishes it any more")
        if session.passport is None and who.password_at != session.who.password_at:
            raise _ended("the password is another one since")

    async def _simple(self, session: Session, name: str, password: Secret) -> None:
        if not session.is_secure:
            raise _refusal(
                FaultCode.FORBIDDEN,
                "a password needs TLS: StartTLS first, or connect to ldaps",
                "ldap.confidentiality",
            )
        login = await self._tree.login_of(name) if name else None
        accepted = await self._judge(login, name, password, session.source)
        if login is None:
            raise _refusal(FaultCode.UNAUTHENTICATED, "login refused", "ldap.login")
        await self._enter(session, login.tenant, f"person:{accepted.person.name}", "ldap.login")
        # The password that was judged: it may have been replaced since.
        session.who = session.who._replace(password_at=accepted.person.password_at)

    async def _judge(
        self, login: Login | None, name: str, password: Secret, source: str
    ) -> Accepted:
        accepted = await self._logins.begin(
            tenant=login.tenant if login else _NOBODY_TENANT,
            name=(login.name if login else name)[:_LONGEST_NAME],
            password=password,
            rules=self._rules,
            source=source,
            via="ldap",
        )
        if not isinstance(accepted, Accepted):
            # A bind has no second question (RFC 4511, 4.2): rules that need one let nobody in.
            raise _refusal(FaultCode.UNAUTHENTICATED, "login refused", "ldap.login")
        return accepted

    async def _sasl(self, session: Session, request: Bind) -> None:
        if request.mechanism != EXTERNAL:
            raise _refusal(
                FaultCode.UNSUPPORTED,
                "only simple and SASL EXTERNAL binds are possible here",
                "ldap.mechanism",
            )
        certificate = session.certificate()
        if certificate is None:
            raise _refusal(
                FaultCode.REJECTED,
                "EXTERNAL needs TLS and a client certificate in its handshake",
                "ldap.no-certificate",
            )
        passport = await self._passports.check(certificate)
        await self._enter(session, passport.tenant, passport.owner, "ldap.holder")
        wanted = request.secret.reveal().decode(errors="replace") if request.secret else ""
        if wanted not in ("", f"dn:{session.who.dn}"):
            session.forget()
            raise _refusal(
                FaultCode.UNAUTHENTICATED,
                "a certificate speaks for its holder and nobody else",
                "ldap.authorization",
            )
        session.passport = passport

    async def _enter(self, session: Session, tenant: str, owner: str, rule: str) -> None:
        who = await self._tree.who_is(tenant, owner, is_secure=session.is_secure)
        if who is None:
            is_certificate = rule == "ldap.holder"
            raise _refusal(
                FaultCode.REJECTED if is_certificate else FaultCode.UNAUTHENTICATED,
                "the certificate is nobody's in this directory"
                if is_certificate
                else "login refused",
                rule,
            )
        session.who = who
        session.owner = owner


def _refusal(code: FaultCode, detail: str, rule: str) -> Fault:
    return Fault(code, detail, rule=rule)


def _ended(why: str) -> Fault:
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the login of this connection holds no longer",
        private=why,
        rule="ldap.ended",
        values={"why": why},
    )
