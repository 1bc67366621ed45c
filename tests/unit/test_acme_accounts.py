"""ACME accounts: who may sign what, bindings, keys, and what ends an account."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import drive
from tests.unit.acme_world import BASE, Answer, Client, World, b64, fixtures, jwk, sign
from tests.unit.ca_bench import ADMIN
from tmad.errors import Fault, FaultCode
from tmad.identity.actors import Actor, Grant
from tmad.protocols.acme import codec
from tmad.storage import certificates

world, client, _ = fixtures(contact=["mailto:a@example.test"])


def test_the_directory_says_where_everything_is(world: World) -> None:
    world.change(
        options={
            "terms_of_service": "https://ca.example.test/terms",
            "website": "https://ca.example.test/",
            "preauthorization": True,
            "validation": {"caa_identities": ["ca.example.test"]},
            "profiles": {"web": {"profile": "tls-server", "description": "for servers"}},
            "default_profile": "web",
        }
    )
    answer = world.get("/default/directory")
    assert answer.status == 200
    assert answer.body["newOrder"] == f"{BASE}/acme/default/new-order"
    assert answer.body["newAuthz"]
    assert answer.body["renewalInfo"].endswith("/renewal-info")
    assert answer.body["meta"] == {
        "externalAccountRequired": False,
        "termsOfService": "https://ca.example.test/terms",
        "website": "https://ca.example.test/",
        "caaIdentities": ["ca.example.test"],
        "profiles": {"web": "for servers"},
    }
    assert not answer.links
    assert "Replay-Nonce" not in answer.headers
    assert b"\\" not in answer.raw
    assert b"\n" not in answer.raw


def test_a_nonce_is_there_for_the_asking(world: World) -> None:
    got = world.get("/default/new-nonce")
    head = world.send("/default/new-nonce", method="GET", headers={}, is_head=True)
    assert (got.status, head.status) == (204, 200)  # RFC 8555, 7.2
    for answer in (got, head):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.links == [f'<{BASE}/acme/default/directory>;rel="index"']
    assert got.headers["Replay-Nonce"] != head.headers["Replay-Nonce"]


def test_what_is_not_there_is_not_found(world: World, client: Client) -> None:
    assert world.get("/none/directory").status == 404
    assert world.get("/\xe9/directory").status == 404
    assert world.get("/default/none").problem == "malformed"
    assert world.get("/default").status == 404
    assert client.post("account/x/y").status == 404


@pytest.mark.parametrize("path", ["new-account", "order/x", "certificate/x", "revoke-cert"])
def test_resources_are_not_got(world: World, path: str) -> None:
    answer = world.get(f"/default/{path}")
    assert (answer.status, answer.problem, answer.headers["Allow"]) == (405, "malformed", "POST")


def test_new_nonce_is_not_posted(client: Client) -> None:
    assert client.post("new-nonce").status == 405


def test_the_content_type_counts(world: World, client: Client) -> None:
    message = sign(client.key, client.header("new-order"), {})
    answer = world.send("/default/new-order", message, headers={"content-type": "application/json"})
    assert (answer.status, answer.problem) == (415, "malformed")
    assert answer.headers["Replay-Nonce"]


def test_an_account_is_made_once(world: World, client: Client) -> None:
    again = client.post("new-account", {"contact": ["mailto:b@example.test"]}, kid=None,
                        jwk=jwk(client.key))  # fmt: skip
    assert (again.status, again.headers["Location"]) == (200, client.kid)
    assert again.body["contact"] == ["mailto:a@example.test"]
    assert again.body["status"] == "valid"
    found = drive(world.acme.list_accounts(ADMIN, "default"))
    assert [each.id for each in found] == [client.kid.rsplit("/")[-1]]
    assert drive(world.acme.show_account(ADMIN, "default", found[0].id)) == found[0]


def test_only_an_existing_account_is_found(world: World) -> None:
    stranger = Client(world)
    answer = stranger.post("new-account", {"onlyReturnExisting": True})
    assert (answer.status, answer.problem) == (400, "accountDoesNotExist")


@pytest.mark.parametrize(
    ("contact", "word"),
    [
        (["tel:+123"], "unsupportedContact"),
        (["mailto:a@b.test,c@b.test"], "invalidContact"),
        (["mailto:a@b.test?subject=x"], "invalidContact"),
        (["mailto:nobody"], "invalidContact"),
        (["mailto:a@b.test"] * 11, "invalidContact"),
        ([7], "invalidContact"),
        ("mailto:a@b.test", "invalidContact"),
    ],
)
def test_contacts_that_are_refused(world: World, contact: Any, word: str) -> None:
    answer = Client(world).post("new-account", {"contact": contact})
    assert (answer.status, answer.problem) == (400, word)


def test_the_terms_must_be_agreed_to(world: World) -> None:
    world.change(options={"terms_of_service": "https://ca.example.test/terms"})
    client = Client(world)
    assert client.post("new-account", {}).problem == "userActionRequired"
    assert client.post("new-account", {"termsOfServiceAgreed": 1}).problem == "malformed"
    assert client.post("new-account", {"termsOfServiceAgreed": True}).status == 201


def test_contacts_change_and_an_account_ends(client: Client) -> None:
    answer = client.post(client.kid, {"contact": [], "unknown": {"a": 1}})
    assert answer.body["contact"] == []
    assert "unknown" not in answer.body
    assert client.post(client.kid).body["contact"] == []
    assert client.post(client.kid, {"status": "revoked"}).problem == "malformed"
    ended = client.post(client.kid, {"status": "deactivated"})
    assert ended.body["status"] == "deactivated"
    for path, payload in ((client.kid, ""), ("new-order", {"identifiers": []})):
        answer = client.post(path, payload)
        assert (answer.status, answer.problem) == (401, "unauthorized")
    again = client.post("new-account", {}, kid=None, jwk=jwk(client.key))
    assert (again.status, again.problem) == (401, "unauthorized")


def test_an_operator_closes_an_account(world: World, client: Client) -> None:
    account_id = client.kid.rsplit("/")[-1]
    close = world.acme.deactivate_account
    assert drive(close(ADMIN, "default", account_id, dry_run=True))
    assert client.post(client.kid).status == 200
    assert drive(close(ADMIN, "default", account_id))
    assert not drive(close(ADMIN, "default", account_id))
    assert client.post(client.kid).status == 401
    with pytest.raises(Fault):
        drive(close(ADMIN, "default", "none"))


def test_another_tenant_sees_nothing(world: World, client: Client) -> None:
    other = Actor("person:eve", (Grant("administrator", "other"),))
    account_id = client.kid.rsplit("/")[-1]
    assert drive(world.acme.list_accounts(other, "other")) == ()
    assert drive(world.acme.list_orders(other, "other")) == ()
    for call in (world.acme.show_account, world.acme.deactivate_account):
        with pytest.raises(Fault) as raised:
            drive(call(other, "other", account_id))
        assert raised.value.code is FaultCode.NOT_FOUND


# -- signatures -----------------------------------------------------------------------------------


def test_a_nonce_is_used_once(world: World, client: Client) -> None:
    message = sign(client.key, client.header(client.kid), "")
    assert world.send(client.kid, message).status == 200
    again = world.send(client.kid, message)
    assert (again.status, again.problem) == (400, "badNonce")
    assert again.headers["Replay-Nonce"]


def test_a_nonce_is_used_once_among_all_workers(world: World) -> None:
    nonce, other = world.nonce(), world.process()
    drive(other.nonces.use(nonce))
    with pytest.raises(Fault) as raised:
        drive(world.acme.nonces.use(nonce))
    assert raised.value.values["problem"] == "badNonce"


def test_a_nonce_becomes_too_old(world: World) -> None:
    nonce = world.nonce()
    world.bench.clock.advance(hours=1, seconds=1)
    with pytest.raises(Fault):
        drive(world.acme.nonces.use(nonce))


def test_used_nonces_are_forgotten(world: World) -> None:
    for _ in range(3):
        drive(world.acme.nonces.use(world.nonce()))
    assert drive(world.acme.forget()) == 0
    world.bench.clock.advance(hours=2)
    assert drive(world.acme.forget()) == 3


@pytest.mark.parametrize("nonce", ["", "AAAA", "é", "A" * 44, "!" * 44])
def test_nonces_of_others_are_none(world: World, nonce: str) -> None:
    with pytest.raises(Fault) as raised:
        drive(world.acme.nonces.use(nonce))
    assert raised.value.values["problem"] == "badNonce"


def test_a_wrong_signature_uses_no_nonce(world: World, client: Client) -> None:
    """ACME-09: strangers cannot burn nonces."""
    header = client.header(client.kid)
    wrong = sign(ec.generate_private_key(ec.SECP256R1()), header, "")
    assert world.send(client.kid, wrong).problem == "malformed"
    assert world.send(client.kid, sign(client.key, header, "")).status == 200


def test_the_url_must_be_this_one(world: World, client: Client) -> None:
    for url in (f"{BASE}/acme/default/new-account", client.kid + "/", client.kid.upper()):
        answer = client.post(client.kid, "", url=url)
        assert (answer.status, answer.problem) == (401, "unauthorized")


def test_kid_and_jwk_each_have_their_place(world: World, client: Client) -> None:
    answer = client.post("new-account", {})
    assert answer.problem == "malformed"  # with a kid
    answer = client.post("new-order", {}, kid=None, jwk=jwk(client.key))
    assert answer.problem == "malformed"
    for kid in (client.kid.replace("default", "other"), client.kid.rsplit("/")[-1]):
        assert client.post(client.kid, "", kid=kid).problem == "malformed"
    answer = client.post(client.kid, "", kid=f"{BASE}/acme/default/account/none")
    assert (answer.status, answer.problem) == (400, "accountDoesNotExist")


def test_an_account_of_another_endpoint_is_none_here(world: World, client: Client) -> None:
    world.open("second")
    other = replace(client, label="second", kid=client.kid.replace("default", "second"))
    assert other.post("new-order", {"identifiers": []}).problem == "accountDoesNotExist"


def test_others_accounts_are_not_there(world: World, client: Client) -> None:
    """T-ACME-09."""
    other = Client(world).register()
    for path in (client.kid, client.kid.replace("account", "orders")):
        assert other.post(path).status == 404
    assert other.post(client.kid, {"status": "deactivated"}).status == 404
    assert client.post(client.kid).status == 200


# -- external account binding ---------------------------------------------------------------------


def bind(client: Client, kid: str, key: str, **other: Any) -> Answer:
    return client.post("new-account", {"externalAccountBinding": client.binding(kid, key, **other)})


def test_a_binding_is_good_once(world: World) -> None:
    world.change(options={"external_account_required": True})
    assert Client(world).post("new-account", {}).problem == "externalAccountRequired"
    kid, key = world.secret()
    client = Client(world)
    assert bind(client, kid, key).status == 201
    assert bind(client, kid, key).status == 200  # the same account
    again = bind(Client(world), kid, key)
    assert (again.status, again.problem) == (403, "unauthorized")
    assert client.register().post(client.kid).body["externalAccountBinding"]["protected"]
    (account,) = drive(world.acme.list_accounts(ADMIN, "default", "acme/default"))
    assert account.secret_id == kid


def test_a_static_binding_is_good_for_many(world: World) -> None:
    kid, key = world.secret(uses=None)
    assert [bind(Client(world), kid, key).status for _ in range(3)] == [201] * 3


@pytest.mark.parametrize("how", ["mac", "kid", "endpoint", "expired", "revoked", "unsealed"])
def test_bindings_that_are_not_accepted(world: World, how: str) -> None:
    world.open("second")
    kid, key = world.secret(endpoint="acme/second" if how == "endpoint" else "acme/default")
    if how == "mac":
        key = b64(b"x" * 32)
    if how == "kid":
        kid = "01AAAAAAAAAAAAAAAAAAAAAAAA"
    if how == "expired":
        world.bench.clock.advance(days=2)
    if how == "revoked":
        drive(world.bench.secrets.revoke(ADMIN, "default", kid))
    if how == "unsealed":
        row, clear = drive(world.bench.secrets.create(ADMIN, "default", "acme/default"))
        kid, key = row.id, b64(clear.reveal())
    answer = bind(Client(world), kid, key)
    assert (answer.status, answer.problem) == (403, "unauthorized")
    assert key not in answer.raw.decode()


def test_guessing_ends(world: World) -> None:
    kid, _ = world.secret()
    answers = [bind(Client(world), kid, b64(b"x" * 32)) for _ in range(12)]
    assert answers[-1].problem == "rateLimited"
    assert answers[-1].headers["Retry-After"]


def test_bindings_that_make_no_sense(world: World) -> None:
    kid, key = world.secret()
    client, other = Client(world), Client(world)
    cases = [
        {"externalAccountBinding": client.binding(kid, key, nonce="x")},
        {"externalAccountBinding": client.binding(kid, key, url=f"{BASE}/other")},
        {"externalAccountBinding": client.binding(kid, key, alg="ES256")},
        {"externalAccountBinding": other.binding(kid, key)},
        {"externalAccountBinding": "x"},
        {"externalAccountBinding": {**client.binding(kid, key), "header": {}}},
    ]
    answers = [client.post("new-account", case) for case in cases]
    assert [answer.status for answer in answers] == [400] * len(cases)
    assert bind(client, kid, key).status == 201


def test_a_revoked_secret_ends_everything(world: World) -> None:
    """T-ACME-08: cached authorisations die with what they stand on."""
    kid, key = world.secret()
    client = Client(world).register(eab=(kid, key))
    order = client.order("a.example.test")
    client.prove(order)
    drive(world.bench.secrets.revoke(ADMIN, "default", kid))
    for path, payload in (("new-order", {}), (order.headers["Location"], "")):
        answer = client.post(path, payload)
        assert (answer.status, answer.problem) == (401, "unauthorized")


def test_an_account_of_a_person_ends_with_the_person(world: World) -> None:
    people = world.bench.accounts
    drive(people.person("alice", "correct horse battery", mail="alice@example.test"))
    client = Client(world).register(eab=world.secret(person="alice"))
    certificate = client.issued("a.example.test")[0]
    row = drive(
        world.bench.database.read(
            certificates.by_sha256, "default", certificate.fingerprint(hashes.SHA256())
        )
    )
    assert row is not None
    assert row.owner == "person:alice"
    drive(people.people.disable(ADMIN, "default", "alice"))
    assert client.order("a.example.test").status == 401
    assert bind(Client(world), *world.secret(person="nobody")).problem == "unauthorized"


# -- key change -----------------------------------------------------------------------------------


def change_key(client: Client, new: Any, **other: Any) -> Answer:
    url = client.address("key-change")
    payload = {"account": client.kid, "oldKey": jwk(client.key)}
    payload |= {name: other.pop(name) for name in ("account", "oldKey") if name in other}
    header = {"alg": "ES256", "jwk": jwk(new), "url": url, **other}
    return client.post("key-change", json.loads(sign(new, header, payload)))


def test_a_key_changes(world: World, client: Client) -> None:
    order = client.order("a.example.test")
    client.prove(order)
    new = ec.generate_private_key(ec.SECP256R1())
    assert change_key(client, new).status == 200
    assert client.post(client.kid).problem == "malformed"  # the old key
    client.key = new
    assert client.post(client.kid).body["status"] == "valid"
    # T-ACME-08: what the old key has shown counts no more.
    assert client.post(order.headers["Location"]).body["status"] == "invalid"
    assert client.finalize(order).problem == "orderNotReady"


def test_a_key_of_another_account_is_not_taken(world: World, client: Client) -> None:
    other = Client(world).register()
    answer = change_key(client, other.key)
    assert (answer.status, answer.headers["Location"]) == (409, other.kid)
    assert change_key(client, client.key).status == 409


def test_key_changes_that_make_no_sense(world: World, client: Client) -> None:
    new, other = ec.generate_private_key(ec.SECP256R1()), Client(world).register()
    for case in (
        {"account": other.kid},
        {"oldKey": jwk(other.key)},
        {"oldKey": None},
        {"url": f"{BASE}/other"},
        {"nonce": world.nonce()},
        {"jwk": jwk(client.key)},
        {"alg": "RS256"},
    ):
        assert change_key(client, new, **case).status == 400, case
    assert client.post("key-change", {}).problem == "malformed"
    assert client.post(client.kid).status == 200


# -- limits ---------------------------------------------------------------------------------------


def test_accounts_of_one_address_are_limited(world: World) -> None:
    world.change(options={"new_accounts_per_hour": 2})
    answers = [Client(world).post("new-account", {}) for _ in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 429]
    assert answers[2].problem == "rateLimited"
    assert int(answers[2].headers["Retry-After"]) > 0
    world.bench.clock.advance(hours=1, seconds=1)
    assert Client(world).post("new-account", {}).status == 201


def test_the_error_table_is_complete() -> None:
    assert set(codec.FAULTS) == set(FaultCode)
    for code in FaultCode:
        for word in codec.PROBLEMS:
            status, body = codec.problem(Fault(code, "x", values={"problem": word}))
            assert body["type"] == codec.NAMESPACE + word
            assert 400 <= status <= 503
        status, word = codec.problem_of(Fault(code, "x"))
        assert word in codec.PROBLEMS
