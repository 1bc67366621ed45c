"""EST for accounts of a directory: the same rule as for Windows, since the core has it."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

from cryptography import x509

from tests.support import drive
from tests.unit.est_world import Session, basic, certificate_of, make_csr
from tests.unit.wstep_world import World, common_name, world
from tmad.protocols.est.responder import ESTResponder
from tmad.wire.http import Request, Response


def ask(w: World, user: str, word: str, *, csr_der: bytes | None = None) -> Response:
    services: Any = SimpleNamespace(
        endpoints=w.endpoints, authority=w.authority, objects=w.objects, journal=w.journal,
        hierarchy=w.hierarchy, now=w.clock,
    )  # fmt: skip
    headers = {"content-type": "application/pkcs10"}
    if user:
        headers["authorization"] = basic(user, word)
    return drive(
        ESTResponder(services).respond(
            Request(
                method="POST",
                path=b"/.well-known/est/staff/simpleenroll",
                tail=b"/staff/simpleenroll",
                headers=headers,
                body=base64.b64encode(csr_der or make_csr("Administrator")),
                peer="192.0.2.9",
                secure=True,
                tls=Session(),
            )
        )
    )


def staffed() -> World:
    w = world()
    given = {"authenticate": ["directory"], "directory": "corp", "profile": "user"}
    drive(w.open("est", "staff", **given))
    return w


def test_an_account_enrols_over_est_under_its_own_name() -> None:
    w = staffed()
    certificate = certificate_of(ask(w, "bob", "bob's own word"))
    assert common_name(certificate) == "Bob Builder"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "bob@corp.test" in names.get_values_for_type(x509.RFC822Name)


def test_a_wrong_password_is_asked_for_again() -> None:
    w = staffed()
    for user, word in (("", ""), ("bob", "wrong"), ("nobody", "bob's own word")):
        answer = ask(w, user, word)
        assert answer.status == 401
        assert answer.headers[0][0] == "WWW-Authenticate"
    rules = [json.loads(event.data)["rule"] for event in w.events("request.refused")]
    assert rules == ["directory.password", "directory.account"]
