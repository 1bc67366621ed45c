"""What TTLS and PEAP share: a tunnel that only the server shows a certificate for."""

from __future__ import annotations

from tmad.protocols.radius.eap.dialogue import Dialogue, Makers
from tmad.protocols.radius.eap.eaptls import TLSMethod
from tmad.protocols.radius.eap.method import Hooks
from tmad.protocols.radius.eap.tls import Engine, Session


class TunnelMethod(TLSMethod):
    """A TLS tunnel with a dialogue of its own inside."""

    def __init__(self, engine: Engine, hooks: Hooks, fragment_size: int, *, makers: Makers) -> None:
        super().__init__(engine, hooks, fragment_size)
        self._inner = Dialogue(makers)

    async def _open(self) -> Session:
        return await self._engine.tunnel()

    @property
    def asks_person(self) -> bool:
        """Return whether a person is being asked inside."""
        inner = self._inner.method
        return inner is not None and inner.asks_person

    def close(self) -> None:
        """Free the TLS session, and one inside."""
        super().close()
        if self._inner.method is not None:
            self._inner.method.close()

    def stage(self) -> str:
        """Return how far it has come."""
        inner = self._inner.method
        return f"{inner.name}: {inner.stage()}" if inner is not None else super().stage()
