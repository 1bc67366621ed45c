"""Searches: plain, in pages, in order (RFC 4511, 4.5; RFC 2696; RFC 2891)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from tmad.errors import Fault, FaultCode
from tmad.protocols.ldap import codec, controls
from tmad.protocols.ldap.codec import Control, Message, Result, Search
from tmad.protocols.ldap.controls import Unsortable, Wishes
from tmad.protocols.ldap.root import BASE, Root
from tmad.protocols.ldap.selection import Selection, select
from tmad.protocols.ldap.session import Session
from tmad.protocols.ldap.tree import Entry, Page

CHUNK: Final = 50  # entries between two turns of the reactor
_MOST_WAITING: Final = 262_144  # octets that are gathered before they are written
# A search that found something and all of it.
_DONE: Final = codec.result(codec.SEARCH_DONE, Result.SUCCESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchLimits:
    """How much one search may return: entries, and entries of all its pages together."""

    anonymous: int = 50
    named: int = 1_000
    paged: int = 10_000

    def of(self, session: Session, asked: int) -> int:
        """Return the limit for one answer; ``asked`` is the client's own, 0 for none."""
        own = self.named if session.owner else self.anonymous
        return min(own, asked) if asked else own

    def of_pages(self, session: Session, asked: int) -> int:
        """Return the limit for all pages of a search."""
        own = self.paged if session.owner else self.anonymous
        return min(own, asked) if asked else own


class Outlet(Protocol):
    """Where the answers of one operation go."""

    is_over: bool  # abandoned, cancelled, out of time: nothing more is to be sent

    def write(self, octets: bytes) -> None:
        """Send whole messages."""

    def finish(self, octets: bytes, result: Result) -> None:
        """Send the last ones; nothing follows."""

    async def turn(self) -> None:
        """Let others have a turn; return when the client has read enough."""


class Searches:
    """Answers searches, by what ``Root`` finds."""

    def __init__(self, root: Root, limits: SearchLimits, *, bare_names: bool = False) -> None:
        self._root = root
        self._limits = limits
        self._bare_names = bare_names

    async def answer(self, session: Session, message: Message, outlet: Outlet) -> None:
        """Answer one search."""
        request = message.operation
        assert isinstance(request, Search)
        wishes = controls.read(message)
        selection = select(
            request.attributes, types_only=request.types_only, bare_names=self._bare_names
        )
        if wishes is controls.NO_WISHES:
            await self._at_once(session, message.id, request, selection, outlet)
            return
        answer = _Answer(message.id, selection, outlet)
        if wishes.sort is not None:
            await self._sorted(session, request, wishes, answer)
        elif wishes.page is not None:
            await self._paged(session, request, wishes, answer)
        else:
            limit = self._limits.of(session, request.size_limit)
            await self._plain(session, request, limit, answer)

    async def _at_once(
        self, session: Session, number: int, request: Search, selection: Selection, outlet: Outlet
    ) -> None:
        """Send what is found with one write, as nearly every answer fits into one."""
        limit = self._limits.of(session, request.size_limit)
        page = await self._root.search(
            session,
            request.base,
            request.scope,
            request.filter,
            limit=min(CHUNK, limit + 1),
            attributes=selection.wanted,
        )
        if page.cursor is not None or len(page.entries) > limit:
            answer = _Answer(number, selection, outlet)
            await self._plain(session, request, limit, answer, page)
            return
        encode, message = selection.encode, codec.message
        parts = [message(number, encode(entry)) for entry in page.entries]
        parts.append(message(number, _DONE))
        outlet.finish(b"".join(parts), Result.SUCCESS)

    async def _plain(
        self,
        session: Session,
        request: Search,
        limit: int,
        answer: _Answer,
        page: Page | None = None,
    ) -> None:
        """Send what is found, in chunks; one more is asked for than may be sent, to know.

        ``page`` is the first one, if it has been asked for.
        """
        after: bytes | None = None
        while True:
            if page is None:
                page = await self._root.search(
                    session,
                    request.base,
                    request.scope,
                    request.filter,
                    limit=min(CHUNK, limit - answer.sent + 1),
                    after=after,
                    attributes=answer.selection.wanted,
                )
            for entry in page.entries:
                if answer.sent == limit:
                    answer.done(Result.SIZE_LIMIT, text=f"there are more than {limit}")
                    return
                answer.add(entry)
            after, page = page.cursor, None
            if after is None:
                answer.done(Result.SUCCESS)
                return
            await answer.turn()
            if answer.is_over:
                return

    async def _paged(
        self, session: Session, request: Search, wishes: Wishes, answer: _Answer
    ) -> None:
        """Send one page (RFC 2696)."""
        assert wishes.page is not None
        size, cookie = wishes.page
        question = controls.question_of(request, session.who, None)
        sent, after = session.cookies.open(question, cookie) if cookie else (0, None)
        total = self._limits.of_pages(session, request.size_limit)
        last = codec.encode_paged(0, b"")
        if not size:
            # An estimate is asked for, which nobody makes here, or the search is given up.
            answer.done(Result.SUCCESS, [last])
            return
        room = min(size, self._limits.of(session, 0), total - sent)
        while answer.sent < room:
            page = await self._step(session, request, room - answer.sent, after, answer)
            after = page.cursor
            for entry in page.entries:
                answer.add(entry)
            if after is None:
                answer.done(Result.SUCCESS, [last])
                return
            if answer.sent < room:
                await answer.turn()
                if answer.is_over:
                    return
        sent += answer.sent
        if sent < total:
            sealed = session.cookies.seal(question, sent, after or b"")
            answer.done(Result.SUCCESS, [codec.encode_paged(0, sealed)])
        elif await self._has_more(session, request, after, answer):
            answer.done(Result.SIZE_LIMIT, [last], text=f"there are more than {total}")
        else:
            answer.done(Result.SUCCESS, [last])

    async def _step(
        self, session: Session, request: Search, room: int, after: bytes | None, answer: _Answer
    ) -> Page:
        return await self._root.search(
            session,
            request.base,
            request.scope,
            request.filter,
            limit=min(CHUNK, room),
            after=after,
            attributes=answer.selection.wanted,
        )

    async def _has_more(
        self, session: Session, request: Search, after: bytes | None, answer: _Answer
    ) -> bool:
        while after is not None and not answer.is_over:
            page = await self._step(session, request, 1, after, answer)
            if page.entries:
                return True
            after = page.cursor
            await answer.turn()
        return False

    # -- sorted -------------------------------------------------------------------------------

    async def _sorted(
        self, session: Session, request: Search, wishes: Wishes, answer: _Answer
    ) -> None:
        """Send entries in order (RFC 2891), all of them or a page of them."""
        assert wishes.sort is not None
        try:
            order = controls.order_of(wishes.sort)
            if wishes.page is None:
                await self._all_sorted(session, request, wishes, order, answer)
            else:
                await self._page_sorted(session, request, wishes, order, answer)
        except Unsortable as unsortable:
            said = codec.encode_sorted(unsortable.result, unsortable.attribute)
            if wishes.is_sort_critical:
                code = Result.UNAVAILABLE_CRITICAL_EXTENSION
                answer.done(code, [said], text="these entries cannot be sorted like that")
                return
            answer.controls.append(said)
            plain = wishes._replace(sort=None)
            if plain.page is not None:
                await self._paged(session, request, plain, answer)
            else:
                limit = self._limits.of(session, request.size_limit)
                await self._plain(session, request, limit, answer)

    async def _gather(
        self, session: Session, request: Search, attributes: frozenset[str], answer: _Answer
    ) -> list[Entry]:
        """Return everything that is found; Unsortable when that is more than may be sorted."""
        most = self._limits.of(session, 0)
        found: list[Entry] = []
        after: bytes | None = None
        while True:
            page = await self._root.search(
                session,
                request.base,
                request.scope,
                request.filter,
                limit=min(CHUNK, most - len(found) + 1),
                after=after,
                attributes=attributes,
            )
            found += page.entries
            if len(found) > most:
                raise Unsortable(Result.ADMIN_LIMIT)
            after = page.cursor
            if after is None or answer.is_over:
                return found
            await answer.turn()

    async def _all_sorted(
        self,
        session: Session,
        request: Search,
        wishes: Wishes,
        order: controls.Order,
        answer: _Answer,
    ) -> None:
        needed = answer.selection.wanted | controls.sort_names(wishes.sort or ())
        found = await self._gather(session, request, needed, answer)
        order(found)
        limit = self._limits.of(session, request.size_limit)
        for entry in found[:limit]:
            answer.add(entry)
            if not answer.sent % CHUNK:
                await answer.turn()
                if answer.is_over:
                    return
        code = Result.SIZE_LIMIT if len(found) > limit else Result.SUCCESS
        answer.done(code, [codec.encode_sorted(Result.SUCCESS)])

    async def _page_sorted(
        self,
        session: Session,
        request: Search,
        wishes: Wishes,
        order: controls.Order,
        answer: _Answer,
    ) -> None:
        """Send a page of names that were sorted once, each entry read when it is sent."""
        assert wishes.page is not None
        assert wishes.sort is not None
        size, cookie = wishes.page
        question = controls.question_of(request, session.who, wishes.sort)
        position = 0
        if cookie:
            position, _ = session.cookies.open(question, cookie)
            if session.sorted is None or session.sorted[0] != question:
                raise controls.no_such_cookie()
        elif size:
            found = await self._gather(session, request, controls.sort_names(wishes.sort), answer)
            order(found)
            session.sorted = question, [entry.dn for entry in found]
        if not size or session.sorted is None:
            session.sorted = None
            answer.done(Result.SUCCESS, [codec.encode_paged(0, b"")])
            return
        names = session.sorted[1]
        limit = self._limits.of_pages(session, request.size_limit)
        end = min(position + size, limit, len(names))
        for count, name in enumerate(names[position:end], 1):
            for entry in await self._again(session, name, request, answer):
                answer.add(entry)
            if not count % CHUNK:
                await answer.turn()
                if answer.is_over:
                    return
        code, more = Result.SUCCESS, b""
        if end < min(limit, len(names)):
            more = session.cookies.seal(question, end, b"")
        else:
            session.sorted = None
            code = Result.SIZE_LIMIT if end < len(names) else code
        said = codec.encode_sorted(Result.SUCCESS)
        answer.done(code, [codec.encode_paged(0, more), said])

    async def _again(
        self, session: Session, name: str, request: Search, answer: _Answer
    ) -> tuple[Entry, ...]:
        """Return an entry that was found before, unless it has gone or changed meanwhile."""
        try:
            page = await self._root.search(
                session, name, BASE, request.filter, limit=1, attributes=answer.selection.wanted
            )
        except Fault as fault:
            if fault.code is FaultCode.NOT_FOUND:
                return ()
            raise
        return page.entries


class _Answer:
    """The answer to one search while it is made."""

    def __init__(self, number: int, selection: Selection, outlet: Outlet) -> None:
        self.selection = selection
        self.controls: list[Control] = []
        self.sent = 0
        self._number = number
        self._outlet = outlet
        self._parts: list[bytes] = []
        self._waiting = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._outlet.is_over

    def add(self, entry: Entry) -> None:
        """Take one more entry."""
        part = codec.message(self._number, self.selection.encode(entry))
        self._parts.append(part)
        self.sent += 1
        self._waiting += len(part)
        if self._waiting > _MOST_WAITING:
            self._flush()

    def _flush(self) -> None:
        if self._parts and not self._outlet.is_over:
            self._outlet.write(b"".join(self._parts))
        self._parts.clear()
        self._waiting = 0

    async def turn(self) -> None:
        """Send what there is, and let others have a turn."""
        self._flush()
        await self._outlet.turn()

    def done(
        self, result: Result, with_controls: list[Control] | None = None, text: str = ""
    ) -> None:
        """Send the rest and the result."""
        end = _DONE if not (result or text) else codec.result(codec.SEARCH_DONE, result, text=text)
        said = (*(with_controls or ()), *self.controls)
        self._parts.append(codec.message(self._number, end, said))
        self._outlet.finish(b"".join(self._parts), result)
