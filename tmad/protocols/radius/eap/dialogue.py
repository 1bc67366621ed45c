"""Identity, negotiation, then one method (RFC 3748, 2): the same outside and inside a tunnel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from tmad.errors import Fault, FaultCode
from tmad.protocols.radius.eap import codec
from tmad.protocols.radius.eap.framing import peer_fault
from tmad.protocols.radius.eap.method import Method, Turn

Makers: TypeAlias = Mapping[int, Callable[[], Method]]


class Dialogue:
    """Asks who it is, offers methods in order, and lets one of them talk."""

    def __init__(self, makers: Makers) -> None:
        """``makers`` makes the methods that may be used, the first one is offered first."""
        self._left = dict(makers)
        self._is_agreed = False
        self.identity: str | None = None
        self.method: Method | None = None

    async def receive(self, type_: int, data: bytes) -> Turn:
        """Take the type and the data of a response; raise the Fault that ends it all.

        A request that follows is one of ``method``.
        """
        if self.identity is None:
            if type_ != codec.Type.IDENTITY:
                raise peer_fault("an identity was asked for", "order")
            self.identity = codec.identity(data)
            return await self._offer(next(iter(self._left), 0))
        method = self.method
        assert method is not None
        # A Nak answers the first request of a method, and never a later one (RFC 3748, 5.3.1).
        if not self._is_agreed and type_ == codec.Type.NAK:
            return await self._offer(next((each for each in data if each in self._left), 0), data)
        if type_ != method.type:
            raise peer_fault("the response is of another type than the request", "order")
        self._is_agreed = True
        return await method.respond(data)

    def adopt(self, identity: str, type_: int) -> Method | None:
        """Go on where another worker has agreed on a method; None where it is not allowed."""
        if type_ not in self._left:
            return None
        self.identity, self._is_agreed = identity, True
        self.method = self._left.pop(type_)()
        return self.method

    async def _offer(self, type_: int, wanted: bytes | None = None) -> Turn:
        if type_ not in self._left:
            raise _no_method(wanted)
        assert self.identity is not None
        # Nothing is offered twice.
        self.method = self._left.pop(type_)()
        return Turn(await self.method.start(self.identity))


def _no_method(wanted: bytes | None) -> Fault:
    if wanted is None:
        detail = "no EAP method is allowed here"
    elif not wanted.strip(b"\x00"):
        detail = "the client wants none of the EAP methods that are allowed here, nor another"
    else:
        detail = "the client wants other EAP methods than are allowed here"
    return Fault(
        FaultCode.FORBIDDEN,
        detail,
        rule="eap.no-method",
        values={"wanted": ", ".join(_type_name(each) for each in wanted or b"")},
    )


def _type_name(type_: int) -> str:
    try:
        return codec.Type(type_).name
    except ValueError:
        return str(type_)
