"""The conversation with the core: one operation in, its answers out (RFC 4511, 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.logger import Logger

from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import ber, codec, controls, schema
from tmad.protocols.ldap import matching as rules
from tmad.protocols.ldap.binds import Binds
from tmad.protocols.ldap.codec import (
    Bind,
    Compare,
    Extended,
    Message,
    Result,
    Search,
    Write,
)
from tmad.protocols.ldap.evaluation import tester
from tmad.protocols.ldap.filters import Equal, Present
from tmad.protocols.ldap.root import BASE, Root
from tmad.protocols.ldap.searches import Outlet, Searches, SearchLimits
from tmad.protocols.ldap.session import Session

log = Logger()

_ANY: Final = Present("objectClass")


class Ended(Exception):  # noqa: N818  an answer, not an error of ours
    """The connection has to end: its login holds no longer."""


_TAGS: Final[Mapping[type, int]] = {
    Bind: codec.BIND_RESPONSE,
    Search: codec.SEARCH_DONE,
    Compare: codec.COMPARE_RESPONSE,
    Extended: codec.EXTENDED_RESPONSE,
}


class Responder:
    """Answers operations; the connection brings them one by one or side by side."""

    def __init__(
        self,
        root: Root,
        binds: Binds,
        limits: SearchLimits,
        *,
        bare_names: bool = False,
    ) -> None:
        self._root = root
        self._binds = binds
        self._searches = Searches(root, limits, bare_names=bare_names)
        self._answers: Mapping[type, Callable[[Session, Message, Outlet], Any]] = {
            Search: self._searches.answer,
            Compare: self._compare,
            Bind: self._bind,
            Extended: self._extended,
            Write: self._write,
        }

    async def respond(self, session: Session, message: Message, outlet: Outlet) -> None:
        """Answer one operation; raise nothing but Ended."""
        operation = message.operation
        try:
            if session.owner:
                await self._recheck(session, operation)
            await self._answers[type(operation)](session, message, outlet)
        except Fault as fault:
            self.refuse(message, outlet, fault)
        except Ended:
            raise
        except Exception:
            log.failure("LDAP: an operation failed")
            self.end(message, outlet, Result.OTHER, "internal error")

    async def _recheck(self, session: Session, operation: Any) -> None:
        if isinstance(operation, Bind):
            return
        try:
            await self._binds.recheck(session)
        except Fault as fault:
            if fault.rule != "ldap.ended":
                raise
            log.info(
                "LDAP: the login of {owner} from {source} has ended: {why}",
                owner=session.owner,
                source=session.source,
                why=fault.private,
            )
            raise Ended(fault.detail) from None

    def refuse(self, message: Message, outlet: Outlet, fault: Fault) -> None:
        """Answer an operation with a Fault."""
        if fault.private:
            log.info("LDAP: {detail} ({private})", detail=fault.detail, private=fault.private)
        code = codec.result_of(fault)
        text = f"{fault.detail} [{fault.explain_id}]" if fault.explain_id else fault.detail
        matched = fault.values.get("matched", "") if code is Result.NO_SUCH_OBJECT else ""
        self.end(message, outlet, code, text, matched)

    @staticmethod
    def end(
        message: Message, outlet: Outlet, code: Result, text: str = "", matched: str = ""
    ) -> None:
        """Answer an operation that has no more to say than a result."""
        operation = message.operation
        tag = operation.answer if isinstance(operation, Write) else _TAGS[type(operation)]
        outlet.finish(codec.message(message.id, codec.result(tag, code, matched, text)), code)

    # -- the other operations -----------------------------------------------------------------

    async def _compare(self, session: Session, message: Message, outlet: Outlet) -> None:
        request = message.operation
        assert isinstance(request, Compare)
        controls.read(message)
        kind = schema.find(request.attribute)
        if kind is None:
            raise _refusal("there is no such attribute type", "ldap.undefined-type")
        wanted = frozenset(each.name.lower() for each in schema.subtypes(kind))
        page = await self._root.search(
            session, request.name, BASE, _ANY, limit=1, attributes=wanted
        )
        if not page.entries:
            raise Fault(FaultCode.NOT_FOUND, "there is no such entry", rule="ldap.no-such-object")
        [entry] = page.entries
        if not tester(Present(request.attribute), schema)(entry):
            raise _refusal("the entry has no such attribute", "ldap.no-such-attribute")
        rule = rules.rule_of(kind.equality)
        if rule is None:
            raise _refusal("this attribute cannot be compared", "ldap.inappropriate-matching")
        said = tester(Equal(request.attribute, request.value), schema)(entry)
        if said is None:
            raise _refusal("this is no value of the attribute", "ldap.assertion")
        self.end(message, outlet, Result.COMPARE_TRUE if said else Result.COMPARE_FALSE)

    async def _bind(self, session: Session, message: Message, outlet: Outlet) -> None:
        request = message.operation
        assert isinstance(request, Bind)
        try:
            controls.read(message)
        except Fault:
            session.forget()
            raise
        await self._binds.bind(session, request)
        self.end(message, outlet, Result.SUCCESS)

    async def _extended(self, session: Session, message: Message, outlet: Outlet) -> None:
        request = message.operation
        assert isinstance(request, Extended)
        controls.read(message)
        if request.name != codec.WHO_AM_I:
            # StartTLS and Cancel are the connection's own business.
            raise Fault(
                FaultCode.UNSUPPORTED,
                f"there is no extended operation {request.name[:100]} here",
                rule="ldap.extended",
            )
        if request.value is not None:
            raise ber.malformed("whoami has no value")  # RFC 4532, 2.1
        who = f"dn:{session.who.dn}".encode() if session.owner else b""
        answer = codec.extended(Result.SUCCESS, value=who)
        outlet.finish(codec.message(message.id, answer), Result.SUCCESS)

    async def _write(self, session: Session, message: Message, outlet: Outlet) -> None:
        controls.read(message)
        raise Fault(
            FaultCode.REJECTED,
            "this directory shows what tmad knows: change it with tmad's commands or its API",
            rule="ldap.read-only",
        )


def _refusal(detail: str, rule: str) -> Fault:
    return Fault(FaultCode.REJECTED, detail, rule=rule)
