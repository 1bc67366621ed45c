"""G-AUTHZ-1: every operation, every role, every tenant.

The table below says who may; an operation that is not in it fails the build, and so does an
operation that asks for no permission.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import tmad
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.identity.access import KINDS, OPERATIONS, ROLES
from tmad.identity.actors import Actor, Grant

# A administrator, O operator, P approver, U auditor, S system.
MATRIX = """
tmad.audit.Audit.explain                               audit.read            A  US
tmad.audit.Audit.export                                audit.verify          A  US
tmad.audit.Audit.tail                                  audit.read            A  US
tmad.audit.Audit.verify                                audit.verify          A  US
tmad.ca.acme.service.ACME.deactivate_account           acme.write            AO
tmad.ca.acme.service.ACME.list_accounts                acme.read             AO US
tmad.ca.acme.service.ACME.list_orders                  acme.read             AO US
tmad.ca.acme.service.ACME.show_account                 acme.read             AO US
tmad.ca.acme.service.ACME.show_order                   acme.read             AO US
tmad.ca.agents.Agents.forget                           agent.delete          AO
tmad.ca.agents.Agents.list                             agent.read            AO US
tmad.ca.agents.Agents.show                             agent.read            AO US
tmad.ca.adoption.Adoption.cross_sign                   authority.create      A
tmad.ca.adoption.Adoption.csr                          authority.install     A
tmad.ca.adoption.Adoption.import_                      authority.import      A
tmad.ca.adoption.Adoption.install                      authority.install     A
tmad.ca.approval.Requests.approve                      request.approve       A P
tmad.ca.approval.Requests.comment                      request.comment       AOP
tmad.ca.approval.Requests.deny                         request.deny          A P
tmad.ca.approval.Requests.list                         request.read          AOPUS
tmad.ca.approval.Requests.show                         request.read          AOPUS
tmad.ca.ceremony.Ceremony.activate                     authority.rekey       A    S
tmad.ca.ceremony.Ceremony.compromise                   authority.withdraw    A
tmad.ca.ceremony.Ceremony.create                       authority.create      A
tmad.ca.ceremony.Ceremony.rekey                        authority.rekey       A    S
tmad.ca.ceremony.Ceremony.renew                        authority.renew       A    S
tmad.ca.ceremony.Ceremony.withdraw                     authority.withdraw    A
tmad.ca.crl.CRLs.build                                 crl.build             AO   S
tmad.ca.crl.CRLs.show                                  crl.read              AO U S
tmad.ca.device_profiles.profiles.DeviceProfiles.link   secret.create         AO
tmad.ca.device_profiles.profiles.DeviceProfiles.links  secret.read           AO U S
tmad.ca.device_profiles.profiles.DeviceProfiles.make   secret.create         AO
tmad.ca.device_profiles.profiles.DeviceProfiles.revoke secret.revoke         AO
tmad.ca.hierarchy.Hierarchy.list                       authority.read        AOPUS
tmad.ca.hierarchy.Hierarchy.show                       authority.read        AOPUS
tmad.ca.importing.CertificateImport.import_            certificate.import    AO
tmad.ca.inventory.Inventory.expiring                   certificate.read      AOPUS
tmad.ca.inventory.Inventory.find                       certificate.read      AOPUS
tmad.ca.inventory.Inventory.list                       certificate.read      AOPUS
tmad.ca.pipeline.Authority.issue                       certificate.issue     AO   S
tmad.ca.revocation.Revocation.hold                     certificate.hold      AO
tmad.ca.revocation.Revocation.release                  certificate.release   AO
tmad.ca.revocation.Revocation.revoke                   certificate.revoke    AO   S
tmad.ca.revocation.Revocation.revoke_by_id             certificate.revoke    AO   S
tmad.ca.revocation.Revocation.revoke_many              certificate.revoke    AO   S
tmad.identity.codes.Codes.count_emergency              token.read            AO U S
tmad.identity.codes.Codes.make_emergency               token.write           AO
tmad.identity.codes.Codes.revoke_emergency             token.delete          AO
tmad.identity.codes.Codes.test_delivery                configuration.apply   A
tmad.identity.credentials.EnrollSecrets.create         secret.create         AO
tmad.identity.credentials.EnrollSecrets.list           secret.read           AO U S
tmad.identity.credentials.EnrollSecrets.revoke         secret.revoke         AO
tmad.identity.devices.Devices.block                    device.block          AO
tmad.identity.devices.Devices.create                   device.write          AO
tmad.identity.devices.Devices.delete                   device.delete         AO
tmad.identity.devices.Devices.list                     device.read           AO US
tmad.identity.devices.Devices.show                     device.read           AO US
tmad.identity.devices.Devices.unblock                  device.block          AO
tmad.identity.devices.Devices.update                   device.write          AO
tmad.identity.people.People.change_groups              person.write          AO
tmad.identity.people.People.create                     person.write          AO
tmad.identity.people.People.delete                     person.delete         AO
tmad.identity.people.People.disable                    person.write          AO
tmad.identity.people.People.enable                     person.write          AO
tmad.identity.people.People.list                       person.read           AO US
tmad.identity.people.People.remove_password            person.password       AO
tmad.identity.people.People.set_end                    person.write          AO
tmad.identity.people.People.set_password               person.password       AO
tmad.identity.people.People.show                       person.read           AO US
tmad.identity.people.People.unlock                     person.write          AO
tmad.identity.people.People.update                     person.write          AO
tmad.identity.tokens.Tokens.activate                   token.write           AO
tmad.identity.tokens.Tokens.assign                     token.write           AO
tmad.identity.tokens.Tokens.create                     token.write           AO
tmad.identity.tokens.Tokens.delete                     token.delete          AO
tmad.identity.tokens.Tokens.disable                    token.write           AO
tmad.identity.tokens.Tokens.enable                     token.write           AO
tmad.identity.tokens.Tokens.import_                    token.import          AO
tmad.identity.tokens.Tokens.list                       token.read            AO US
tmad.identity.tokens.Tokens.resync                     token.reset           AO
tmad.identity.tokens.Tokens.set_pin                    token.write           AO
tmad.identity.tokens.Tokens.show                       token.read            AO US
tmad.identity.tokens.Tokens.unassign                   token.write           AO
tmad.identity.tokens.Tokens.unlock                     token.reset           AO
tmad.managed.objects.Objects.apply                     configuration.apply   A
tmad.managed.objects.Objects.export                    configuration.export  A  U
tmad.managed.objects.Objects.get(tenant)               tenant.read           AOPUS
tmad.managed.objects.Objects.get(authority)            authority.read        AOPUS
tmad.managed.objects.Objects.get(profile)              profile.read          AOPUS
tmad.managed.objects.Objects.get(endpoint)             endpoint.read         AOPUS
tmad.managed.objects.Objects.get(grant)                grant.read            A  U S
tmad.managed.objects.Objects.list(tenant)              tenant.read           AOPUS
tmad.managed.objects.Objects.list(authority)           authority.read        AOPUS
tmad.managed.objects.Objects.list(profile)             profile.read          AOPUS
tmad.managed.objects.Objects.list(endpoint)            endpoint.read         AOPUS
tmad.managed.objects.Objects.list(grant)               grant.read            A  U S
tmad.managed.objects.Objects.revisions(tenant)         tenant.read           AOPUS
tmad.managed.objects.Objects.revisions(authority)      authority.read        AOPUS
tmad.managed.objects.Objects.revisions(profile)        profile.read          AOPUS
tmad.managed.objects.Objects.revisions(endpoint)       endpoint.read         AOPUS
tmad.managed.objects.Objects.revisions(grant)          grant.read            A  U S
tmad.managed.objects.Objects.put(tenant)               tenant.write          A
tmad.managed.objects.Objects.put(authority)            authority.write       A
tmad.managed.objects.Objects.put(profile)              profile.write         A
tmad.managed.objects.Objects.put(endpoint)             endpoint.write        A
tmad.managed.objects.Objects.put(grant)                grant.write           A
tmad.managed.objects.Objects.delete(tenant)            tenant.delete         A
tmad.managed.objects.Objects.delete(authority)         authority.delete      A
tmad.managed.objects.Objects.delete(profile)           profile.delete        A
tmad.managed.objects.Objects.delete(endpoint)          endpoint.delete       A
tmad.managed.objects.Objects.delete(grant)             grant.delete          A
tmad.managed.objects.Objects.get(active-directory)       active-directory.read   AO U S
tmad.managed.objects.Objects.list(active-directory)      active-directory.read   AO U S
tmad.managed.objects.Objects.revisions(active-directory) active-directory.read   AO U S
tmad.managed.objects.Objects.put(active-directory)       active-directory.write  A
tmad.managed.objects.Objects.delete(active-directory)    active-directory.delete A
tmad.managed.objects.Objects.get(directory)            directory.read        AO U S
tmad.managed.objects.Objects.list(directory)           directory.read        AO U S
tmad.managed.objects.Objects.revisions(directory)      directory.read        AO U S
tmad.managed.objects.Objects.put(directory)            directory.write       A
tmad.managed.objects.Objects.delete(directory)         directory.delete      A
tmad.managed.objects.Objects.get(log-collector)        log-collector.read    AO U S
tmad.managed.objects.Objects.list(log-collector)       log-collector.read    AO U S
tmad.managed.objects.Objects.revisions(log-collector)  log-collector.read    AO U S
tmad.managed.objects.Objects.put(log-collector)        log-collector.write   A
tmad.managed.objects.Objects.delete(log-collector)     log-collector.delete  A
tmad.lifecycle.log_collectors.LogCollectors.testing    log-collector.test    A
tmad.lifecycle.log_collectors.LogCollectors.waiting    log-collector.read    AO U S
tmad.managed.objects.Objects.get(snmp-target)          snmp-target.read      AO U S
tmad.managed.objects.Objects.list(snmp-target)         snmp-target.read      AO U S
tmad.managed.objects.Objects.revisions(snmp-target)    snmp-target.read      AO U S
tmad.managed.objects.Objects.put(snmp-target)          snmp-target.write     A
tmad.managed.objects.Objects.delete(snmp-target)       snmp-target.delete    A
tmad.lifecycle.snmp_targets.SNMPTargets.testing        snmp-target.test      A
tmad.network.anchors.TrustAnchors.lists                trust-anchor.read     AO U S
tmad.network.anchors.TrustAnchors.refresh              trust-anchor.write    A
tmad.network.decision.Admission.test                   radius-policy.read    AO U S
tmad.network.clients.RadiusClients.set_secret          radius-client.secret  A
tmad.network.clients.RadiusClients.state               radius-client.read    AO U S
tmad.network.clients.RadiusClients.unlearn             radius-client.write   A
tmad.managed.objects.Objects.get(radius-client)        radius-client.read    AO U S
tmad.managed.objects.Objects.get(radius-policy)        radius-policy.read    AO U S
tmad.managed.objects.Objects.get(trust-anchor)         trust-anchor.read     AO U S
tmad.managed.objects.Objects.list(radius-client)       radius-client.read    AO U S
tmad.managed.objects.Objects.list(radius-policy)       radius-policy.read    AO U S
tmad.managed.objects.Objects.list(trust-anchor)        trust-anchor.read     AO U S
tmad.managed.objects.Objects.revisions(radius-client)  radius-client.read    AO U S
tmad.managed.objects.Objects.revisions(radius-policy)  radius-policy.read    AO U S
tmad.managed.objects.Objects.revisions(trust-anchor)   trust-anchor.read     AO U S
tmad.managed.objects.Objects.put(radius-client)        radius-client.write   A
tmad.managed.objects.Objects.put(radius-policy)        radius-policy.write   A
tmad.managed.objects.Objects.put(trust-anchor)         trust-anchor.write    A
tmad.managed.objects.Objects.delete(radius-client)     radius-client.delete  A
tmad.managed.objects.Objects.delete(radius-policy)     radius-policy.delete  A
tmad.managed.objects.Objects.delete(trust-anchor)      trust-anchor.delete   A
tmad.network.sessions.Sessions.accounting              session.read          AO US
tmad.network.sessions.Sessions.disconnect              session.disconnect    AO  S
tmad.network.sessions.Sessions.list                    session.read          AO US
tmad.network.sessions.Sessions.show                    session.read          AO US
tmad.identity.snmp_access.SNMPAccess.add_community     snmp-user.write       A
tmad.identity.snmp_access.SNMPAccess.add_user          snmp-user.write       A
tmad.identity.snmp_access.SNMPAccess.communities       snmp-user.read        AO US
tmad.identity.snmp_access.SNMPAccess.engine_state      snmp-user.read        AO US
tmad.identity.snmp_access.SNMPAccess.remove_community  snmp-user.delete      A
tmad.identity.snmp_access.SNMPAccess.remove_user       snmp-user.delete      A
tmad.identity.snmp_access.SNMPAccess.users             snmp-user.read        AO US
tmad.lifecycle.notify.Notifications.deliveries         notification.read     AO U S
tmad.lifecycle.notify.Notifications.redeliver          notification.write    A
tmad.lifecycle.notify.Notifications.test               notification.write    A
tmad.managed.objects.Objects.get(notification)         notification.read     AO U S
tmad.managed.objects.Objects.list(notification)        notification.read     AO U S
tmad.managed.objects.Objects.revisions(notification)   notification.read     AO U S
tmad.managed.objects.Objects.put(notification)         notification.write    A
tmad.managed.objects.Objects.delete(notification)      notification.delete   A
"""

LETTERS = {
    "administrator": "A",
    "operator": "O",
    "approver": "P",
    "auditor": "U",
    "system": "S",
}

# Takes an actor without asking for a permission, because of the reason given.
UNGUARDED = {
    "tmad.ca.founding.Founding.begin": "the steps of Ceremony.create and Ceremony.rekey",
    "tmad.ca.founding.Founding.sign": "a step of Ceremony.renew, too",
    "tmad.ca.ordering.Ordering.by_hand": "the first half of Authority.issue; changes nothing",
    "tmad.ca.pipeline.Authority.issue_pending": "the second half of Requests.approve",
    "tmad.managed.objects.Objects.visible_tenants": "answers with what the actor may see",
}

# Has no journal of its own: whoever called it journals the refusal (tmad/cli/context.py).
WITHOUT_JOURNAL = {"Hierarchy"}


def _modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(tmad.__path__, "tmad."):
        if ".migrations." not in found.name:
            yield importlib.import_module(found.name)


MODULES = tuple(_modules())
TABLE = {
    operation: (permission, set(letters) - {" "})
    for operation, permission, letters in (
        tuple(line.split(maxsplit=2)) for line in MATRIX.split("\n") if line
    )
}


def _listed(operation: str) -> Iterator[tuple[str, str]]:
    """Yield an operation as the table names it, with its permission; once a kind."""
    permission = OPERATIONS[operation]
    if "{kind}" not in permission:
        yield operation, permission
    for kind in KINDS if "{kind}" in permission else ():
        yield f"{operation}({kind})", permission.format(kind=kind)


def test_authz_1_every_operation_is_in_the_table_with_its_permission() -> None:
    registered = {
        name: permission
        for operation in OPERATIONS
        if operation.startswith("tmad.")
        for name, permission in _listed(operation)
    }
    assert registered == {name: permission for name, (permission, _) in TABLE.items()}


def test_authz_1_every_method_that_takes_an_actor_is_guarded() -> None:
    takes_actor = {
        f"{member.__module__}.{member.__qualname__}"
        for module in MODULES
        for _, owner in inspect.getmembers(module, inspect.isclass)
        if owner.__module__ == module.__name__
        for _, member in inspect.getmembers(owner, inspect.iscoroutinefunction)
        if not member.__name__.startswith("_")
        and str(inspect.signature(member).parameters.get("actor", "")).endswith("Actor'")
    }
    assert takes_actor - set(OPERATIONS) == set(UNGUARDED)
    assert not set(UNGUARDED) & set(OPERATIONS)


def test_authz_1_every_guarded_service_has_a_journal_for_its_refusals() -> None:
    without = {
        owner.__name__
        for owner in map(_owner, (name for name in OPERATIONS if name.startswith("tmad.")))
        if "self.journal = " not in inspect.getsource(owner.__init__)
    }
    assert without == WITHOUT_JOURNAL


def test_every_role_has_a_letter() -> None:
    assert LETTERS.keys() == ROLES.keys()


class Notes:
    def __init__(self) -> None:
        self.refused: list[str] = []

    async def refuse(self, fault: Fault, **about: Any) -> str:
        self.refused.append(fault.rule)
        return "TEST-0001"


def _owner(operation: str) -> Any:
    path, owner, _ = operation.rsplit(".", 2)
    return getattr(importlib.import_module(path), owner)


def _answer(name: str, actor: Actor, tenant: str) -> FaultCode | None:
    """Call the real method on an empty object; return why its guard said no, or None."""
    operation, _, kind = name.rstrip(")").partition("(")
    owner = _owner(operation)
    service = object.__new__(owner)
    service.journal = notes = Notes()
    method = getattr(service, operation.rpartition(".")[2])
    arguments = {
        parameter.name: kind if parameter.name == "kind" else "x"
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    try:
        drive(method(**(arguments | {"actor": actor, "tenant": tenant})))
    except Fault as fault:
        return _journaled(fault, notes)
    except Exception:  # the guard let it through, and the object is empty
        return None
    return None


def _journaled(fault: Fault, notes: Notes) -> FaultCode | None:
    by_guard = fault.rule.startswith("access.")
    assert notes.refused == ([fault.rule] if by_guard else [])
    return fault.code if by_guard else None


@pytest.mark.parametrize("name", TABLE)
def test_authz_1_cell(name: str) -> None:
    _, letters = TABLE[name]
    for role, letter in LETTERS.items():
        allowed = letter in letters
        here = Actor("person:x", (Grant(role, "acme"),))
        everywhere = Actor("person:x", (Grant(role, "*"),))
        elsewhere = Actor("person:x", (Grant(role, "other"),))
        refusal = None if allowed else FaultCode.FORBIDDEN
        assert _answer(name, here, "acme") is refusal, role
        assert _answer(name, everywhere, "acme") is refusal, role
        assert _answer(name, elsewhere, "acme") is FaultCode.NOT_FOUND, role
        assert _answer(name, here, "*") is FaultCode.FORBIDDEN, role
    assert _answer(name, Actor("nobody"), "acme") is FaultCode.NOT_FOUND
