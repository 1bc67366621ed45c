"""The composition root: builds the core from the node settings; the only place that knows all."""

from __future__ import annotations

import os
import secrets as random
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.plugin import getPlugins

from tmad.audit import Audit
from tmad.ca import directory, endpoint
from tmad.ca.accounts import ACTIVE_DIRECTORY, Accounts
from tmad.ca.acme.service import ACME
from tmad.ca.adoption import Adoption
from tmad.ca.agents import Agents
from tmad.ca.approval import Requests
from tmad.ca.authority import AUTHORITY
from tmad.ca.ceremony import Ceremony
from tmad.ca.crl import CRLs
from tmad.ca.device_profiles.maker import DoorURLs, ProfileMaker
from tmad.ca.device_profiles.profiles import DeviceProfiles
from tmad.ca.directory import Directories
from tmad.ca.endpoint import Endpoints
from tmad.ca.exchanges import Exchanges
from tmad.ca.hierarchy import Hierarchy
from tmad.ca.importing import CertificateImport
from tmad.ca.inventory import Inventory
from tmad.ca.keycheck import Blocklist
from tmad.ca.numbers import RequestNumbers
from tmad.ca.pipeline import Authority
from tmad.ca.profile import PROFILE
from tmad.ca.revocation import Revocation
from tmad.ca.service_certificates import ServiceCertificates
from tmad.ca.status import StatusSource
from tmad.ca.validation.validators import Validators
from tmad.config import NodeSettings
from tmad.errors import Fault, FaultCode
from tmad.events import utc_now
from tmad.identity.active_directory import ActiveDirectories
from tmad.identity.codes import Codes
from tmad.identity.credentials import EnrollSecrets
from tmad.identity.delivery.mail import MailDelivery
from tmad.identity.delivery.outbox import Outbox
from tmad.identity.delivery.ways import ways
from tmad.identity.devices import Devices
from tmad.identity.hostclock import HostClock
from tmad.identity.login import Logins
from tmad.identity.passwords import Passwords
from tmad.identity.people import People
from tmad.identity.snmp_access import SNMPAccess
from tmad.identity.tokens import Tokens
from tmad.identity.webhook import Webhooks
from tmad.journal import Journal
from tmad.lifecycle import notification
from tmad.lifecycle.alarms import Alarms
from tmad.lifecycle.figures import Sampler
from tmad.lifecycle.log_collectors import LOG_COLLECTOR, LogCollectors
from tmad.lifecycle.notify import Notifications
from tmad.lifecycle.snmp_targets import SNMP_TARGET, SNMPTargets
from tmad.lifecycle.webhooks import WebhookSender
from tmad.managed.objects import GRANT, TENANT, Objects
from tmad.network import anchors, policy
from tmad.network.anchors import TrustAnchors
from tmad.network.clients import RADIUS_CLIENT, RadiusClients
from tmad.network.decision import Admission
from tmad.network.fetch import Fetcher
from tmad.network.issuers import Standings
from tmad.network.manufacturers import DeviceMakers
from tmad.network.sessions import Sessions
from tmad.plugin import IProtocolPlugin, ProtocolModule, Services
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.keyring import KeyHandle, Keyring, KeyStore
from tmad.signer.seal import MasterSource, PassphraseFile, Seal, read_private, systemd_credential
from tmad.signer.soft import SoftStore
from tmad.storage import private_keys
from tmad.storage.changes import Changes
from tmad.storage.database import Database

if TYPE_CHECKING:
    from pydantic import BaseModel

log = Logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """Everything that is not a socket; the daemon and the command line open the same one."""

    settings: NodeSettings
    holder: str  # this process, as leases name it
    services: Services
    seal: Seal
    objects: Objects
    secrets: EnrollSecrets
    webhooks: Webhooks
    active_directories: ActiveDirectories
    requests: Requests
    ceremony: Ceremony
    adoption: Adoption
    imports: CertificateImport
    inventory: Inventory
    people: People
    devices: Devices
    tokens: Tokens
    passwords: Passwords
    codes: Codes
    anchors: TrustAnchors
    sessions: Sessions
    notifications: Notifications

    async def close(self) -> None:
        """Finish what is under way, then let go of keys and database."""
        await self.notifications.close()
        await self.codes.close()
        self.passwords.close()
        await self.services.keyring.close()
        await self.services.database.close()


def installed() -> dict[str, IProtocolPlugin]:
    """Return the protocols that are installed, ours and other people's, by name."""
    return {found.name: found for found in getPlugins(IProtocolPlugin)}


def protocols(settings: NodeSettings) -> dict[str, ProtocolModule]:
    """Import and return the protocols that are installed, but for those switched off."""
    return {
        name: found.load()
        for name, found in installed().items()
        if settings.protocols.get(name, {}).get("enabled", True)
    }


def master_source(settings: NodeSettings) -> MasterSource:
    """Return what protects this node's master key."""
    keys = settings.keyring
    if keys.master == "passphrase":
        return PassphraseFile(keys.passphrase_file)
    if keys.master == "credential":
        return systemd_credential(keys.credential)
    from tmad.signer.token_master import TokenMaster

    assert keys.pkcs11 is not None  # the settings' own check
    return TokenMaster(keys.pkcs11, keys.hsm_label)


def database_url(settings: NodeSettings) -> str:
    """Return the database's address with its password, which never stands in tmad.toml."""
    if settings.database.password_file is None:
        return settings.database_url
    url = urlsplit(settings.database_url)
    password = quote(read_private(settings.database.password_file).decode().strip(), safe="")
    user, at, host = url.netloc.rpartition("@")
    return url._replace(netloc=f"{user}:{password}{at}{host}").geturl()


async def open_core(settings: NodeSettings, reactor: Any) -> Core:
    """Open keys and database; Fault when either refuses."""
    seal = Seal.load(settings.master_file, master_source(settings))
    database = Database(database_url(settings), reactor=reactor, threads=settings.database.threads)
    try:
        return _compose(settings, reactor, seal, database)
    except BaseException:
        await database.close()
        raise


def _compose(settings: NodeSettings, reactor: Any, seal: Seal, database: Database) -> Core:
    now = utc_now
    holder = f"{settings.node.name}:{os.getpid()}:{random.token_hex(4)}"
    changes = Changes(database)
    journal = Journal(database, settings.node.name, now)
    option_models = _OptionModels()
    objects = Objects(
        database,
        journal,
        changes,
        now,
        (
            TENANT,
            GRANT,
            AUTHORITY,
            PROFILE,
            endpoint.kind(option_models),
            ACTIVE_DIRECTORY,
            RADIUS_CLIENT,
            anchors.kind(),
            policy.kind(),
            directory.kind(),
            notification.kind(),
            LOG_COLLECTOR,
            SNMP_TARGET,
        ),
    )
    endpoints = Endpoints(objects, option_models)
    keyring = Keyring(
        _Shelf(database),
        _stores(settings, seal),
        default=settings.keyring.store,
        reactor=reactor,
        now=now,
        threads=settings.keyring.threads,
    )

    secrets = EnrollSecrets(database, journal, seal, now, endpoints.door, changes)
    webhooks = Webhooks(reactor, seal, now)
    hierarchy = Hierarchy(database, changes, base_url=settings.public_url)
    status = StatusSource(database)
    revocation = Revocation(database, journal, now)
    blocklist = Blocklist(settings.node.key_blocklist) if settings.node.key_blocklist else None
    outbox = Outbox(
        reactor, journal, now, ways(settings.delivery, reactor, host=settings.node.host)
    )
    codes = Codes(database, journal, seal, now, outbox, settings.delivery)
    passwords = Passwords(seal, settings.passwords, reactor)
    tokens = Tokens(database, journal, passwords, seal, now)
    logins = Logins(
        database,
        journal,
        passwords,
        tokens,
        seal,
        now,
        changes=changes,
        codes=codes,
        later=lambda work: reactor.callLater(0, _run, work),
        clock_is_wrong=HostClock(now).is_wrong,
        pause=lambda seconds: deferLater(reactor, seconds),
    )
    trust_anchors = TrustAnchors(database, journal, changes, now, Fetcher(reactor).get)
    active_directories = ActiveDirectories(reactor, seal, now)
    authority = Authority(
        database=database,
        journal=journal,
        keyring=keyring,
        objects=objects,
        endpoints=endpoints,
        hierarchy=hierarchy,
        secrets=secrets,
        now=now,
        webhooks=webhooks,
        logins=logins,
        accounts=Accounts(objects, active_directories),
        manufacturers=DeviceMakers(trust_anchors, changes, () if blocklist is None else blocklist),
        blocklist=blocklist,
        reactor=reactor,
    )
    sessions = Sessions(database, journal, now)
    admission = Admission(
        database=database,
        changes=changes,
        journal=journal,
        hierarchy=hierarchy,
        anchors=trust_anchors,
        now=now,
        open_sessions=sessions.open_in,
        blocklist=blocklist,
    )
    # A key that another process has destroyed is not kept in this one's memory.
    changes.listen("service_certificates", lambda key: keyring.forget("*"))
    service_certificates = ServiceCertificates(
        database,
        changes,
        journal,
        keyring,
        hierarchy,
        endpoints,
        authority,
        now,
        holder=holder,
        pause=lambda seconds: deferLater(reactor, seconds),
    )
    services = Services(
        host=settings.node.host,
        now=now,
        database=database,
        changes=changes,
        journal=journal,
        keyring=keyring,
        objects=objects,
        endpoints=endpoints,
        secrets=secrets,
        hierarchy=hierarchy,
        service_certificates=service_certificates,
        authority=authority,
        revocation=revocation,
        exchanges=Exchanges(database, journal, revocation, now),
        request_numbers=RequestNumbers(database, now),
        acme=ACME(
            database=database,
            journal=journal,
            endpoints=endpoints,
            objects=objects,
            hierarchy=hierarchy,
            status=status,
            revocation=revocation,
            secrets=secrets,
            seal=seal,
            validator=Validators(reactor),
            now=now,
            later=lambda work: reactor.callLater(0, _run, work),
            base_url=settings.https_url,
        ),
        status=status,
        crls=CRLs(
            database, changes, hierarchy, keyring, journal, now, holder=holder, reactor=reactor
        ),
        device_profiles=DeviceProfiles(
            database=database,
            journal=journal,
            seal=seal,
            endpoints=endpoints,
            enroll_secrets=secrets,
            maker=ProfileMaker(
                objects=objects,
                hierarchy=hierarchy,
                service_certificates=service_certificates,
                keyring=keyring,
                authority=authority,
                status=status,
                urls=DoorURLs(
                    host=settings.node.host,
                    http=settings.public_url,
                    https=settings.https_url,
                    https_client=settings.https_client_url,
                ),
                now=now,
            ),
            now=now,
        ),
        logins=logins,
        radius_clients=RadiusClients(database, journal, changes, seal, now),
        admission=admission,
        directories=Directories(
            database, changes, hierarchy, now, Standings(database, changes, hierarchy).check
        ),
        anchors=trust_anchors,
        sessions=sessions,
        snmp=SNMPAccess(database, journal, changes, seal, now, node=settings.node.name),
        log_collectors=LogCollectors(database, changes, journal, now),
        figures=Sampler(
            database,
            hierarchy,
            keyring,
            now,
            node=settings.node.name,
            data=settings.node.data,
        ),
        alarms=Alarms(database, journal, Audit(journal, keyring), now),
        snmp_targets=SNMPTargets(database, changes, journal, now),
        agents=Agents(
            database=database,
            journal=journal,
            hierarchy=hierarchy,
            status=status,
            endpoints=endpoints,
            objects=objects,
            now=now,
        ),
    )
    return Core(
        settings=settings,
        holder=holder,
        services=services,
        seal=seal,
        objects=objects,
        secrets=secrets,
        webhooks=webhooks,
        active_directories=active_directories,
        requests=Requests(
            database=database, journal=journal, authority=authority, secrets=secrets, now=now
        ),
        ceremony=Ceremony(
            database,
            journal,
            objects,
            keyring,
            hierarchy,
            authority,
            revocation,
            now,
            holder=holder,
        ),
        adoption=Adoption(
            database, journal, objects, keyring, hierarchy, authority, now, holder=holder
        ),
        imports=CertificateImport(database, journal, hierarchy, now),
        inventory=Inventory(database, journal, hierarchy, now),
        people=People(database, journal, passwords, seal, now),
        devices=Devices(database, journal, now),
        tokens=tokens,
        passwords=passwords,
        codes=codes,
        anchors=trust_anchors,
        sessions=sessions,
        notifications=_notifications(settings, reactor, seal, database, journal, changes),
    )


def _notifications(
    settings: NodeSettings,
    reactor: Any,
    seal: Seal,
    database: Database,
    journal: Journal,
    changes: Changes,
) -> Notifications:
    mail, host = settings.delivery.mail, settings.node.host
    return Notifications(
        database,
        journal,
        changes,
        utc_now,
        node=settings.node.name,
        mail=None if mail is None else MailDelivery(mail, reactor, utc_now, host=host),
        webhooks=WebhookSender(reactor, seal, utc_now),
    )


def _run(work: Coroutine[Deferred[Any], Any, object]) -> None:
    """Run what nobody waits for; a failure goes to the log."""
    ensureDeferred(work).addErrback(lambda failure: log.failure("left undone", failure))


def _stores(settings: NodeSettings, seal: Seal) -> dict[str, KeyStore]:
    stores: dict[str, KeyStore] = {"soft": SoftStore(seal)}
    if settings.keyring.pkcs11 is not None:
        from tmad.signer.pkcs11 import PKCS11Store

        stores["pkcs11"] = PKCS11Store(settings.keyring.pkcs11)
    return stores


class _Shelf:
    """Keeps the keyring's handles in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, key_id: str) -> KeyHandle:
        row = await self._database.lookup(private_keys.by_id, key_id)
        if row is None:
            raise Fault(FaultCode.NOT_FOUND, f"there is no key {key_id}")
        return KeyHandle(
            id=row.id,
            tenant=row.tenant,
            store=row.store,
            algorithm=KeyAlgorithm(row.algorithm),
            label=row.label,
            public_key_der=row.public_key_der,
            material=row.material,
            created_at=row.created_at,
        )

    async def save(self, handle: KeyHandle) -> None:
        row = private_keys.KeyRow(
            id=handle.id,
            tenant=handle.tenant,
            store=handle.store,
            algorithm=handle.algorithm.value,
            label=handle.label,
            public_key_der=handle.public_key_der,
            spki_sha256=sha256(handle.public_key_der).digest(),
            material=handle.material,
            created_at=handle.created_at,
        )
        await self._database.write(private_keys.insert, row)

    async def remove(self, key_id: str) -> None:
        await self._database.write(private_keys.delete, key_id)


class _OptionModels(Mapping[str, "type[BaseModel] | None"]):
    """Each protocol's EndpointOptions, imported when an endpoint of that protocol is met."""

    def __init__(self) -> None:
        self._plugins = installed()

    def __getitem__(self, protocol: str) -> type[BaseModel] | None:
        return self._plugins[protocol].load().EndpointOptions

    def __iter__(self) -> Iterator[str]:
        return iter(self._plugins)

    def __len__(self) -> int:
        return len(self._plugins)
