"""Configuration profiles for devices: made at once, or handed out once by a link.

A link is a right to one profile: whoever has it gets the enrolment secret in it, or the key that
is made for it. So its token is known here by a digest only, it ends with the secret, and it works
once.
"""

from __future__ import annotations

import secrets as randomness
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tmad.ca.device_profiles.maker import Credential, DoorURLs, ProfileMaker, takes_secret
from tmad.ca.device_profiles.platforms import Platform, platform_of
from tmad.ca.device_profiles.wish import Wish
from tmad.ca.requests import EndpointID
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event, Secret
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.identity.credentials import EnrollSecrets, new_id
from tmad.journal import Journal
from tmad.signer.seal import Seal
from tmad.storage import device_links as rows
from tmad.storage import enroll_secrets
from tmad.storage.database import Database
from tmad.storage.device_links import DeviceLink

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint, Endpoints

_TOKEN_OCTETS: Final = 24  # 192 bits
_USUAL: Final = timedelta(days=1)  # of a link without a secret
_LONGEST: Final = timedelta(days=30)
_REMEMBERED: Final = timedelta(days=90)
_PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A finished profile; ``content`` is None for a dry run."""

    platform: Platform
    name: str  # of the file
    content: Secret | None
    secret_id: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What stands behind a link, for whoever is about to open it."""

    platform: Platform
    title: str
    organisation: str
    device: str
    expires_at: datetime


class DeviceProfiles:
    """Makes profiles for those who may hand out enrolment secrets."""

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        seal: Seal,
        endpoints: Endpoints,
        enroll_secrets: EnrollSecrets,
        maker: ProfileMaker,
        now: Clock,
    ) -> None:
        self.journal = journal
        self._database = database
        self._seal = seal
        self._endpoints = endpoints
        self._secrets = enroll_secrets
        self._maker = maker
        self._now = now

    @property
    def urls(self) -> DoorURLs:
        """Return where the outside reaches this node."""
        return self._maker.urls

    # -- for actors -----------------------------------------------------------------------------

    @guarded("secret.create")
    async def make(
        self,
        actor: Actor,
        tenant: str,
        endpoint: str,
        platform: str,
        wish: Wish,
        *,
        lifetime: timedelta | None = None,
        dry_run: bool = False,
    ) -> Made:
        """Write a profile with a fresh one-time secret, where the device needs one.

        For platforms that hold the identity, the certificate is issued now. Faults: REJECTED
        (rule "device-profile.platform", …), and those of the pipeline.
        """
        found, kind = await self._endpoint(tenant, endpoint), platform_of(platform)
        description = await self._maker.check(found, kind, wish)
        credential, expires_at = await self._credential(
            actor, found, kind, wish, lifetime, dry_run=dry_run
        )
        content = None
        if not dry_run:
            content = await self._maker.write(
                found,
                kind,
                description,
                credential=credential,
                expires_at=expires_at,
                peer="",
                transaction=new_id(self._now()),
            )
            await self.journal.write(_event("device-profile.made", found, actor.name, kind, wish))
        return Made(
            platform=kind,
            name=_file_name(found, kind),
            content=content,
            secret_id=None if credential is None or dry_run else credential.reference,
            expires_at=expires_at,
        )

    @guarded("secret.create")
    async def link(
        self,
        actor: Actor,
        tenant: str,
        endpoint: str,
        platform: str,
        wish: Wish,
        *,
        lifetime: timedelta | None = None,
        dry_run: bool = False,
    ) -> tuple[DeviceLink, Secret]:
        """Return a link, and the address that opens it, this one time."""
        found, kind = await self._endpoint(tenant, endpoint), platform_of(platform)
        if not self.urls.https:
            raise Fault(
                FaultCode.REJECTED,
                "there is no HTTPS listener that could serve a link; see listen.https",
                rule="device-profile.link.https",
            )
        await self._maker.check(found, kind, wish)
        credential, expires_at = await self._credential(
            actor, found, kind, wish, lifetime, dry_run=dry_run
        )
        now = self._now()
        link_id, token = new_id(now), Secret(randomness.token_urlsafe(_TOKEN_OCTETS))
        row = DeviceLink(
            id=link_id,
            tenant=tenant,
            endpoint=endpoint,
            platform=kind.name,
            wish=wish.model_dump_json(exclude_defaults=True),
            secret_id=None if credential is None else credential.reference,
            sealed=None
            if credential is None
            else self._seal.seal(credential.secret.reveal(), about=_about(link_id, endpoint)),
            created_by=actor.name,
            created_at=now,
            expires_at=expires_at or now + _checked(_USUAL if lifetime is None else lifetime),
        )
        event = _event("device-link.created", found, actor.name, kind, wish, link=row.id)
        await self._database.write(self._insert, row, self._digest(token), event, dry_run=dry_run)
        return row, Secret(f"{self.urls.https}/enroll/{token.reveal().decode()}")

    @guarded("secret.read")
    async def links(
        self,
        actor: Actor,
        tenant: str,
        endpoint: str | None = None,
        *,
        after: str = "",
        limit: int = 100,
    ) -> tuple[DeviceLink, ...]:
        """Return a page of a tenant's links without what opens them, oldest first."""
        return await self._database.read(rows.find, tenant, endpoint, after, limit)

    @guarded("secret.revoke")
    async def revoke(
        self, actor: Actor, tenant: str, link_id: str, *, dry_run: bool = False
    ) -> bool:
        """Make a link unusable, and its secret; tell whether it was not so before."""
        return await self._database.write(self._revoke, actor, tenant, link_id, dry_run=dry_run)

    # -- for whoever has a link -------------------------------------------------------------------

    async def offer(self, token: Secret) -> Offer:
        """Say what a link is for; it stays as good as it was. Fault(NOT_FOUND) for a bad one."""
        link = await self._good(token)
        endpoint = await self._endpoints.by_id(EndpointID.parse(link.endpoint))
        platform, wish = platform_of(link.platform), Wish.model_validate_json(link.wish)
        description = await self._maker.check(endpoint, platform, wish)
        return Offer(
            platform=platform,
            title=description.title,
            organisation=description.organisation,
            device=description.common_name,
            expires_at=link.expires_at,
        )

    async def open(self, token: Secret, peer: str) -> Made:
        """Use a link up and return its profile; Fault(NOT_FOUND) for one that is not good.

        It is used up when the profile is finished, right before it leaves: what fails before
        that may work at the next attempt.
        """
        link = await self._good(token, opened_by=peer)
        endpoint = await self._endpoints.by_id(EndpointID.parse(link.endpoint))
        platform, wish = platform_of(link.platform), Wish.model_validate_json(link.wish)
        description = await self._maker.check(endpoint, platform, wish)
        credential = None
        if link.sealed is not None:
            assert link.secret_id is not None
            secret = self._seal.open(link.sealed, about=_about(link.id, link.endpoint))
            credential = Credential(reference=link.secret_id, secret=secret)
        content = await self._maker.write(
            endpoint,
            platform,
            description,
            credential=credential,
            expires_at=link.expires_at,
            peer=peer,
            transaction=link.id,
        )
        event = _event("device-link.opened", endpoint, "", platform, wish, link=link.id, peer=peer)
        await self._database.write(self._use_up, link, peer, event)
        return Made(
            platform=platform,
            name=_file_name(endpoint, platform),
            content=content,
            secret_id=link.secret_id,
            expires_at=link.expires_at,
        )

    async def forget(self) -> int:
        """Wipe the secrets of links that have ended, and old links; return how many rows."""
        now = self._now()
        return await self._database.write(rows.forget, now, now - _REMEMBERED, _PAGE)

    # -- steps ------------------------------------------------------------------------------------

    async def _endpoint(self, tenant: str, name: str) -> Endpoint:
        try:
            found = await self._endpoints.by_id(EndpointID.parse(name))
        except ValueError as error:
            raise Fault(FaultCode.NOT_FOUND, str(error), rule="endpoint.absent") from None
        if found.tenant != tenant:
            # Another tenant's endpoint is one that does not exist.
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no such endpoint",
                rule="endpoint.absent",
                values={"endpoint": name},
            )
        return found

    async def _credential(
        self,
        actor: Actor,
        endpoint: Endpoint,
        platform: Platform,
        wish: Wish,
        lifetime: timedelta | None,
        *,
        dry_run: bool,
    ) -> tuple[Credential | None, datetime | None]:
        if not takes_secret(endpoint, platform):
            return None, None
        row, secret = await self._secrets.create(
            actor,
            endpoint.tenant,
            str(endpoint.id),
            lifetime=lifetime,
            bound_to=wish.binding,
            dry_run=dry_run,
        )
        return Credential(reference=row.id, secret=secret), row.expires_at

    async def _good(self, token: Secret, *, opened_by: str | None = None) -> DeviceLink:
        link, fault = await self._database.lookup(self._find, self._digest(token))
        if fault is None:
            assert link is not None
            return link
        # Anybody can ask for any token: that is counted, not journaled.
        if link is not None and opened_by is not None:
            await self.journal.refuse(
                fault,
                tenant=link.tenant,
                actor=link.endpoint,
                object=f"endpoint/{link.endpoint}",
                data={"link": link.id, "peer": opened_by},
            )
        raise fault

    def _digest(self, token: Secret) -> bytes:
        return self._seal.digest("device-link", token)

    # -- transactions ---------------------------------------------------------------------------

    def _find(
        self, connection: Connection, digest: bytes
    ) -> tuple[DeviceLink | None, Fault | None]:
        link = rows.by_digest(connection, digest)
        if link is None:
            return None, _no_link("device-profile.link.absent")
        if link.revoked_at is not None:
            return link, _no_link("device-profile.link.revoked", link.id)
        if link.opened_at is not None:
            return link, _no_link("device-profile.link.used", link.id)
        if link.expires_at <= self._now():
            return link, _no_link("device-profile.link.expired", link.id)
        if link.secret_id is not None:
            secret = enroll_secrets.by_id(connection, link.tenant, link.secret_id)
            if secret is None or secret.revoked_at is not None or secret.uses_left == 0:
                return link, _no_link("device-profile.link.secret", link.id)
        return link, None

    def _insert(self, connection: Connection, row: DeviceLink, digest: bytes, event: Event) -> None:
        rows.insert(connection, row, digest)
        self.journal.append(connection, event)

    def _use_up(self, connection: Connection, link: DeviceLink, peer: str, event: Event) -> None:
        if not rows.open_once(connection, link.id, peer, self._now()):
            raise _no_link("device-profile.link.used", link.id)
        self.journal.append(connection, event)

    def _revoke(self, connection: Connection, actor: Actor, tenant: str, link_id: str) -> bool:
        link = rows.by_id(connection, tenant, link_id)
        if link is None:
            raise Fault(
                FaultCode.NOT_FOUND,
                f"there is no link {link_id}",
                rule="device-profile.link.absent",
            )
        now = self._now()
        changed = rows.revoke(connection, link_id, now)
        if link.secret_id is not None:
            # Also of a link that was opened: the device may not have enrolled yet.
            changed |= enroll_secrets.revoke(connection, tenant, link.secret_id, now)
        if changed:
            self.journal.append(
                connection,
                Event(
                    kind="device-link.withdrawn",
                    tenant=tenant,
                    actor=actor.name,
                    object=f"endpoint/{link.endpoint}",
                    data={"link": link_id, "secret": link.secret_id},
                ),
            )
        return changed


def _about(link_id: str, endpoint: str) -> str:
    return f"device-link {link_id} {endpoint}"


def _no_link(rule: str, link_id: str = "") -> Fault:
    """Return the one answer to a link that is unknown, used, withdrawn or too old."""
    return Fault(
        FaultCode.NOT_FOUND,
        "this link is not good, or not any more; ask for another one",
        rule=rule,
        values={"link": link_id} if link_id else {},
    )


def _checked(lifetime: timedelta) -> timedelta:
    if not timedelta(0) < lifetime <= _LONGEST:
        raise Fault(
            FaultCode.REJECTED,
            f"a link lives at most {_LONGEST.days} days",
            rule="device-profile.link.lifetime",
            values={"lifetime": str(lifetime)},
        )
    return lifetime


def _file_name(endpoint: Endpoint, platform: Platform) -> str:
    return f"{endpoint.id.protocol}-{endpoint.id.label}{platform.suffix}"


def _event(
    kind: str, endpoint: Endpoint, actor: str, platform: Platform, wish: Wish, **others: JSON
) -> Event:
    return Event(
        kind=kind,
        tenant=endpoint.tenant,
        actor=actor or str(endpoint.id),
        object=f"endpoint/{endpoint.id}",
        data={
            "platform": platform.name,
            "subject": list(wish.subject),
            "names": list(wish.names),
            **others,
        },
    )
