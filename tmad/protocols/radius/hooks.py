"""What an EAP conversation asks the core: certificates, passwords and codes of one visit."""

from __future__ import annotations

from collections.abc import Awaitable

from cryptography import x509

from tmad.errors import Fault
from tmad.events import Secret
from tmad.identity.login import Accepted, Logins, Prompt
from tmad.network.client import Client
from tmad.network.decision import Admission
from tmad.network.logins import Admitted, TLSLogin
from tmad.network.visit import Visit
from tmad.network.wish import Wish
from tmad.protocols.radius.eap.method import Greeting, HandedOver
from tmad.protocols.radius.eap.method import Prompt as Question
from tmad.protocols.radius.workers import Workers


def source_of(visit: Visit) -> str:
    """Return whose failures count together: the station, or the client that names none."""
    return visit.calling_station or visit.address


class LoginHooks:
    """The core, as the conversation about one visit sees it (eap/method.py: Hooks)."""

    def __init__(
        self,
        visit: Visit,
        client: Client,
        admission: Admission,
        logins: Logins,
        workers: Workers | None = None,
    ) -> None:
        self.wants_session_id = visit.wants_key_name
        self._workers = workers
        self._visit = visit
        self._client = client
        self._admission = admission
        self._logins = logins
        self._chain: tuple[x509.Certificate, ...] = ()  # by which it was decided last
        self._method = ""
        self._nt_hash: Secret | None = None  # by which a response was checked last

    def certificate(
        self, chain: tuple[x509.Certificate, ...], login: TLSLogin
    ) -> Awaitable[Admitted]:
        """Let in whoever showed this certificate."""
        self._chain, self._method = chain, login.method
        return self._admission.certificate(self._visit, chain, login)

    async def hand_over(self, greeting: Greeting) -> HandedOver | None:
        """Let another worker go on that holds a session of the greeting."""
        if self._workers is None:
            return None
        return await self._workers.hand_over(self._client, self._visit, greeting)

    async def password(self, name: str, password: Secret, method: str) -> Admitted | Prompt:
        """Let in whoever knows this password, or ask for more."""
        wish = Wish(self._admission, self._visit, method)
        outcome = await self._logins.begin(
            tenant=self._client.tenant,
            name=name,
            password=password,
            rules=self._client.document.login,
            source=source_of(self._visit),
            via="radius",
            purpose=wish,
        )
        return await self._admit(outcome, wish, method)

    async def answer(self, prompt: Question, code: Secret, method: str) -> Admitted | Prompt:
        """Let in whoever answered this, or ask for more."""
        assert isinstance(prompt, Prompt), "it came from here"
        wish = Wish(self._admission, self._visit, method)
        outcome = await self._logins.answer(
            prompt, code, source=source_of(self._visit), via="radius", purpose=wish
        )
        return await self._admit(outcome, wish, method)

    async def nt_hash(self, name: str, method: str) -> Secret | None:
        """Return the hash for MSCHAPv2; None for whoever has none or does not exist."""
        client = self._client
        self._nt_hash = await self._logins.nt_hash(client.tenant, name, client.document.login)
        return self._nt_hash

    async def failed(self, name: str, method: str) -> Fault:
        """Count a wrong MSCHAPv2 response; return the refusal."""
        try:
            await self._conclude(name, None)
        except Fault as fault:
            return fault
        raise AssertionError("a wrong response is refused")

    async def admit(self, name: str, method: str) -> Admitted:
        """Let in whoever has proved by MSCHAPv2 to know the password."""
        accepted = await self._conclude(name, self._nt_hash)
        self._chain, self._method = (), method
        return await self._admission.person(self._visit, accepted.person, method)

    async def confirm(self, admitted: Admitted) -> None:
        """Look whether what was decided some messages ago still holds."""
        await self._admission.confirm(self._visit, admitted, self._method, chain=self._chain)

    async def _conclude(self, name: str, nt_hash: Secret | None) -> Accepted:
        return await self._logins.conclude_mschap(
            tenant=self._client.tenant,
            name=name,
            nt_hash=nt_hash,
            rules=self._client.document.login,
            source=source_of(self._visit),
            via="radius",
        )

    async def _admit(
        self, outcome: Accepted | Prompt, wish: Wish, method: str
    ) -> Admitted | Prompt:
        if isinstance(outcome, Prompt):
            return outcome
        self._chain, self._method = (), method
        return await wish.granted(outcome.person)
