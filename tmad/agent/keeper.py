"""Keeping one certificate: what is due now, one durable step after the other.

Whenever the process ends, the next run goes on with the step that was under way: it asks again
with the same key and the same request, or puts the same files in place again.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final, TypeAlias

from cryptography import x509

from tmad.agent import identity as identities
from tmad.agent import reporting, revocation, sources, timing
from tmad.agent import settings as settings_
from tmad.agent.deployment import Deployment
from tmad.agent.identity import Identity, PrivateKey
from tmad.agent.settings import CertificateSettings
from tmad.agent.source import Certificates, Source, Wait, Window
from tmad.agent.store import State, Store
from tmad.agent.transport import Trust
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, utc_now
from tmad.wire import reports
from tmad.wire.reports import Report

REVOKED: Final = "revoked"
_WORDS: Final = {REVOKED: REVOKED, "hold": "on hold", "withdrawn": "withdrawn"}
_AGAIN: Final = timedelta(hours=24)  # how often to look, where nothing is due before
_PAUSE: Final = timedelta(minutes=1)
_SKEW: Final = timedelta(minutes=10)
_SOON: Final = timedelta(minutes=10)  # after which a server that did not answer is asked again
_WISH: Final = {"subject", "names", "key", "est", "acme", "scep"}
_BUSY: Final = frozenset({FaultCode.UNAVAILABLE, FaultCode.RATE_LIMITED})
StatusOf: TypeAlias = Callable[[Identity, datetime], str]
SourceOf: TypeAlias = Callable[[Store, CertificateSettings, State, int], Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one run ended: what was done, and when to come again."""

    name: str
    done: tuple[str, ...] = ()
    fault: Fault | None = None
    next_at: datetime


class Keeper:
    """Does for one certificate what is due."""

    def __init__(
        self,
        store: Store,
        settings: CertificateSettings,
        *,
        now: Clock = utc_now,
        source_of: SourceOf = sources.source_of,
        status_of: StatusOf = revocation.status,
    ) -> None:
        self._store = store
        self._settings = settings
        self._now = now
        self._source_of = source_of
        self._status_of = status_of
        self._deployment = Deployment(store, settings)
        self._state = State()
        self._done: list[str] = []
        self._is_placed = False

    def run(self, *, is_forced: bool = False) -> Result:
        """Do what is due; with ``is_forced`` renew whatever the time is.

        A Fault of the work is kept, with the time of the next attempt, and returned; one of the
        store is raised.
        """
        with self._store.locked():
            self._state = self._store.load()
            fault = None
            try:
                self._work(is_forced)
            except Fault as found:
                fault = found
                self._note(found)
            self._report()
            return Result(
                name=self._store.name,
                done=tuple(self._done),
                fault=fault,
                next_at=self._next_at(),
            )

    # -- what is due

    def _work(self, is_forced: bool) -> None:
        self._recover()
        state, now = self._state, self._now()
        if not is_forced and state.retry_at is not None and now < state.retry_at:
            return
        if self._store.candidate(state) and self._is_worth_placing():
            self._install()
        elif not state.current or self._store.pending.is_dir():
            self._obtain()
        else:
            self._ask(is_forced=is_forced)
            if is_forced or self._is_due():
                self._obtain()
        if self._is_placed:
            self._ask(is_forced=False)
        else:
            self._watch()

    def _recover(self) -> None:
        """Finish what an earlier process was in the middle of."""
        match self._state.step:
            case "installing":
                self._finish_install(self._store.candidate(self._state))
            case "restoring":
                self._restore()

    def _is_worth_placing(self) -> bool:
        """Tell whether the newest generation that is not in place is still good for anything."""
        found = self._store.identity(self._store.candidate(self._state))
        if found.not_after > self._now():
            return True
        # It never worked, and is over: a new one is asked for instead.
        self._store.remove(self._store.candidate(self._state))
        return False

    def _is_due(self) -> bool:
        state = self._state
        if state.withdrawn:
            return state.withdrawn == REVOKED and self._settings.renewal.revoked == "enroll"
        return self._now() >= self._renewal_at()

    def _renewal_at(self) -> datetime:
        found = self._store.identity(self._state.current)
        return timing.renewal_at(found, self._state, self._settings.renewal)

    def _ask(self, *, is_forced: bool) -> None:
        """Ask the server when it would like to see us, and whether the certificate still holds.

        Before a renewal it is asked anew: what was revoked a minute ago must not be renewed.
        """
        state, now = self._state, self._now()
        is_early = state.ask_at is not None and now < state.ask_at
        if is_early and not is_forced and not self._is_due():
            return
        old = self._store.identity(state.current)
        window = self._attempt(lambda: self._source().window(old))
        told = self._attempt(self._tell) if self._settings.report else None
        if told is None:
            found = self._status_of(old, now)
            told = Window(None, None, timing.ASK.total_seconds(), found) if found else None
        if window is not None or told is not None:
            self._heed(window, told)

    def _attempt(self, question: Callable[[], Window | None]) -> Window | None:
        """Ask; a server that does not answer says nothing, and the renewal itself will tell."""
        try:
            return question()
        except Fault as fault:
            self._done.append(fault.detail)
            self._change(ask_at=self._now() + _SOON)
            return None

    def _heed(self, window: Window | None, told: Window | None) -> None:
        """Remember what the servers said; a certificate that either calls bad is not renewed."""
        status = next((w.status for w in (told, window) if w and w.status != "good"), "good")
        withdrawn = "" if status in ("good", "expired") else status
        if withdrawn and withdrawn != self._state.withdrawn:
            self._done.append(f"the server says: {withdrawn}")
        wish = window or told
        now = self._now()
        seconds = wish.seconds if wish else timing.ASK.total_seconds()
        self._change(
            withdrawn=withdrawn,
            window_start=wish.start if wish else None,
            window_end=wish.end if wish else None,
            ask_at=now + timedelta(seconds=seconds),
        )

    # -- a new certificate

    def _obtain(self) -> None:
        state = self._state
        old = self._store.identity(state.current) if state.current else None
        if state.withdrawn and not self._is_due():
            raise Fault(
                FaultCode.FORBIDDEN,
                f"the certificate is {_WORDS[state.withdrawn]}; it is not renewed"
                " (renewal.revoked=enroll would begin anew)",
                rule="agent.withdrawn",
            )
        key, request_der = self._request(old)
        try:
            answer = self._fetch(key, request_der, old)
        except Fault as fault:
            if fault.code not in _BUSY:
                self._drop_request()
            raise
        self._state = self._store.load()  # a source may have kept something there
        if isinstance(answer, Wait):
            at = self._now() + timedelta(seconds=max(answer.seconds, 1.0))
            self._change(waits=True, retry_at=at, error="", rule="", failures=0)
            self._done.append("the server lets us wait")
            return
        self._accept(key, answer)
        self._install()

    def _fetch(
        self, key: PrivateKey, request_der: bytes, old: Identity | None
    ) -> Certificates | Wait:
        source = self._source()
        if old is None or self._state.withdrawn == REVOKED:
            return source.first(key, request_der)
        try:
            return source.next(key, request_der, old)
        except Fault:
            is_over = old.not_after <= self._now()
            if not (is_over and self._settings.secret_file):
                raise
            # Too late to show the old one: as at the beginning.
            return source.first(key, request_der)

    def _request(self, old: Identity | None) -> tuple[PrivateKey, bytes]:
        """Return the request under way, or begin one."""
        # Whoever changes the settings meanwhile means the next request, not this one.
        wish = self._settings.model_dump_json(include=_WISH)
        pending = self._store.request(wish)
        if pending is not None:
            key_pem, request_der = pending
            return identities.read_key(key_pem), request_der
        if old is not None and not self._settings.renewal.new_key and not self._state.withdrawn:
            key = old.key
        else:
            key = identities.make_key(self._settings.key)
        if old is not None and self._settings.source != "acme":
            # RFC 7030, 4.2.2: subject and names of a renewal are those of the certificate.
            request_der = identities.request_again(key, old.certificate)
        else:
            request_der = identities.make_request(key, self._settings.subject, self._settings.names)
        if self._state.order:
            self._change(order="")  # which was for an earlier request
        self._store.begin(identities.key_pem(key), request_der, wish)
        return key, request_der

    def _accept(self, key: PrivateKey, answer: Certificates) -> None:
        """Keep what came as a generation of its own, if it is what was asked for."""
        try:
            identities.check_answer(key, self._settings.names, answer.certificate)
        except Fault:
            self._drop_request()
            raise
        found = Identity(
            key=key,
            certificate=answer.certificate,
            chain=identities.order(answer.certificate, answer.others),
        )
        now = self._now()
        if not found.not_before - _SKEW <= now < found.not_after:
            self._drop_request()
            raise Fault(
                FaultCode.BAD_TIME,
                "the server's certificate is not valid now; look at the clocks",
                rule="agent.clock",
            )
        self._store.add(found)
        self._change(waits=False, order="", error="", rule="", failures=0, retry_at=None)
        self._store.drop_request()
        self._done.append(f"got a certificate until {found.not_after:%Y-%m-%d %H:%M} UTC")

    def _drop_request(self) -> None:
        """Begin anew at the next attempt, from the settings as they are then."""
        self._store.drop_request()
        self._state = self._store.load()
        self._change(order="")

    # -- in place

    def _install(self) -> None:
        number = self._store.candidate(self._state)
        candidate = self._store.identity(number)
        self._store.drop_request()
        known = (self._store.identity(each).sha256 for each in self._store.numbers())
        self._deployment.check_not_newer(candidate, known)
        self._deployment.keep()
        self._change(step="installing")
        self._finish_install(number)

    def _finish_install(self, number: int) -> None:
        candidate = self._store.identity(number)
        try:
            self._deployment.place(candidate, number)
            self._deployment.reload()
            served = self._deployment.check(candidate)
        except Fault as fault:
            self._change(step="restoring")
            self._restore()
            raise fault from None
        self._change(
            step="idle", current=number, served=served, error="", rule="", failures=0,
            retry_at=None, withdrawn="", window_start=None, window_end=None, ask_at=None,
        )  # fmt: skip
        self._deployment.forget()
        self._deployment.tidy(number)
        self._store.prune(self._state)
        self._done.append("put it in place")
        self._is_placed = True

    def _restore(self) -> None:
        """Put the old files back and let the service read them."""
        self._deployment.restore()
        try:
            self._deployment.reload()
        except Fault:
            self._done.append("the reload command fails with the old files, too")
        self._change(step="idle")
        self._deployment.forget()

    def _watch(self) -> None:
        """Look what the service shows; just after a change the old one may answer, too."""
        if self._state.current:
            found = self._deployment.glance(self._store.identity(self._state.current))
            if found != self._state.served:
                self._change(served=found)

    # -- what others see

    def _note(self, fault: Fault) -> None:
        self._state = self._store.load()
        current = self._state.current
        end = self._store.identity(current).not_after if current else None
        self._change(failures=self._state.failures + 1)
        self._change(
            error=f"{fault.detail}"[:500],
            rule=fault.rule,
            retry_at=timing.retry_at(self._now(), self._state, fault, end),
        )

    def _report(self) -> None:
        """Tell the server how it is, when that is new to it."""
        if not self._settings.report or not self._state.current:
            return
        if self._digest(self._told()) == self._state.reported:
            return
        try:
            told = self._tell()
        except Fault as fault:
            # Whoever does not hear from us misses us: `tmad agent list --silent-for`.
            self._done.append(fault.detail)
            return
        if self._settings.acme is None:
            self._heed(None, told)

    def _tell(self) -> Window:
        report = self._told()
        url = self._settings.report
        trust = Trust(self._settings.trust, self._store.generation(self._state.current))
        told = reporting.send(url, trust, report)
        self._change(reported=self._digest(report), reported_at=self._now())
        return told

    @staticmethod
    def _digest(report: Report) -> str:
        """Return what tells a report from the last one; when it renews is said with the next."""
        return identities.fingerprint(reports.encode_report(replace(report, renew_at=None)))

    def _told(self) -> Report:
        state = self._state
        return Report(
            id=state.id,
            host=platform.node(),
            label=self._store.name,
            version=own_version(),
            source=self._settings.source,
            state=condition(state),
            served=state.served,
            error=state.error,
            renew_at=None if state.withdrawn else self._renewal_at(),
        )

    def _next_at(self) -> datetime:
        state, now = self._state, self._now()
        if state.retry_at is not None and state.retry_at > now:
            return min(state.retry_at, now + _AGAIN)  # nothing else is done before
        due = [now + _AGAIN]
        if state.current and not state.withdrawn:
            due.append(self._renewal_at())
        if state.ask_at is not None:
            due.append(state.ask_at)
        return max(min(due), now + _PAUSE)

    def _source(self) -> Source:
        return self._source_of(self._store, self._settings, self._state, self._state.current)

    def _change(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=changes)
        self._store.save(self._state)


def condition(state: State) -> str:
    """Return how a certificate is in one word: good, waiting, failing or withdrawn."""
    if state.withdrawn:
        return "withdrawn"
    return "failing" if state.error else "waiting" if state.waits else "good"


def own_version() -> str:
    """Return the agent's version."""
    try:
        return version("tmad")
    except PackageNotFoundError:
        return "unknown"


def adopt(
    store: Store, settings: CertificateSettings, key_pem: bytes, certificates_pem: bytes
) -> x509.Certificate:
    """Take over a certificate that is there: the first generation, in place already."""
    found = Identity.load(key_pem, certificates_pem)
    settings_.save(store.directory, settings)
    with store.locked():
        store.drop_request()
        number = store.add(found)
        store.save(State(current=number))
    return found.certificate
