"""Chains, requests and files between tmad and the openssl command.

openssl 3.0 cannot read ML-DSA (spec pki-protocols, 10.7): those chains are verified by
cryptography in tests/unit/test_hierarchy.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.hierarchy_world import ADMIN, World, pem
from tests.support import drive
from tmad.ca.authority import AuthorityDocument
from tmad.ca.importing import read_bundle
from tmad.ca.trust import chain
from tmad.events import utc_now
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage.issuers import IssuerState

pytestmark = pytest.mark.interop

CLASSICAL = [a for a in KeyAlgorithm if not a.value.startswith("ml-dsa")]
PSS = AuthorityDocument.model_validate({"signature": {"pss": True}})


@pytest.fixture
def openssl(
    require_client: Callable[[str], str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    program = require_client("openssl")

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def world() -> World:
    world = World()
    world.clock.time = utc_now().replace(microsecond=0)  # openssl has no other clock
    return world


def verify(openssl: Any, directory: Path, leaf: x509.Certificate, path: Any) -> str:
    *upper, root = path
    (directory / "root.pem").write_bytes(pem(root))
    (directory / "upper.pem").write_bytes(pem(*upper) or b"\n")
    (directory / "leaf.pem").write_bytes(pem(leaf))
    untrusted = ("-untrusted", "upper.pem") if upper else ()
    done = openssl(
        "verify", "-x509_strict", "-CAfile", "root.pem", *untrusted, "leaf.pem", check=False
    )
    return str(done.stdout + done.stderr)


@pytest.mark.parametrize("algorithm", CLASSICAL)
def test_openssl_verifies_root_sub_leaf_strictly(
    world: World, openssl: Any, tmp_path: Path, algorithm: KeyAlgorithm
) -> None:
    world.create("root", algorithm=algorithm)
    sub = world.create("sub", parent="root", algorithm=algorithm)
    leaf = world.leaf("sub").certificate
    assert verify(openssl, tmp_path, leaf, sub.chain).strip() == "leaf.pem: OK"


def test_openssl_verifies_pss(world: World, openssl: Any, tmp_path: Path) -> None:
    algorithm = KeyAlgorithm.RSA_2048
    world.create("root", algorithm=algorithm, document=PSS)
    sub = world.create("sub", parent="root", algorithm=algorithm, document=PSS)
    leaf = world.leaf("sub").certificate
    assert verify(openssl, tmp_path, leaf, sub.chain).strip() == "leaf.pem: OK"
    text = openssl("x509", "-in", "leaf.pem", "-noout", "-text").stdout
    assert "rsassaPss" in text


def test_openssl_verifies_four_levels_and_refuses_a_fifth_certificate_in_their_name(
    world: World, openssl: Any, tmp_path: Path
) -> None:
    world.create("root", path_length=2)
    world.create("policy", parent="root")
    world.create("issuing", parent="policy")
    lowest = drive(world.hierarchy.active("default", "issuing"))
    leaf = world.leaf("issuing").certificate
    assert verify(openssl, tmp_path, leaf, lowest.chain).strip() == "leaf.pem: OK"
    stranger = World()
    stranger.clock.time = world.clock.time
    stranger.create("issuing", subject=lowest.chain[0].subject)
    forged = stranger.leaf("issuing").certificate
    assert "OK" not in verify(openssl, tmp_path, forged, lowest.chain)


def test_openssl_follows_a_rollover_both_ways(world: World, openssl: Any, tmp_path: Path) -> None:
    old = world.create("root")
    before = world.leaf("root").certificate
    drive(world.ceremony.rekey(ADMIN, "default", "root", algorithm=KeyAlgorithm.P384))
    new = drive(world.ceremony.activate(ADMIN, "default", "root"))
    after = world.leaf("root").certificate
    assert "OK" in verify(openssl, tmp_path, before, old.chain)
    assert "OK" in verify(openssl, tmp_path, after, new.chain)
    assert "OK" not in verify(openssl, tmp_path, after, old.chain)


def test_openssl_obeys_our_name_constraints(world: World, openssl: Any, tmp_path: Path) -> None:
    world.create("root")
    only = x509.NameConstraints([x509.DNSName("good.test")], None)
    sub = world.create("sub", parent="root", name_constraints=only)
    good = world.leaf("sub", host="www.good.test").certificate
    assert "OK" in verify(openssl, tmp_path, good, sub.chain)


def test_an_openssl_ca_signs_our_request_and_we_install_it(
    world: World, openssl: Any, tmp_path: Path
) -> None:
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/O=Elsewhere/CN=Root"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    world.create("sub", external=True)
    request = drive(world.adoption.csr(ADMIN, "default", "sub"))
    (tmp_path / "sub.csr").write_bytes(pem(request))  # type: ignore[arg-type]  # it has PEM too
    assert "verify OK" in openssl("req", "-in", "sub.csr", "-noout", "-verify").stderr
    (tmp_path / "ca.ext").write_text(
        "basicConstraints=critical,CA:TRUE,pathlen:0\n"
        "keyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    openssl(
        *("x509", "-req", "-in", "sub.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
        *("-days", "365", "-extfile", "ca.ext", "-out", "sub.pem"),
    )
    world.clock.time = utc_now()
    files = (tmp_path / "ca.pem").read_bytes() + (tmp_path / "sub.pem").read_bytes()
    done = drive(world.adoption.install(ADMIN, "default", "sub", read_bundle(files).certificates))
    assert done.state is IssuerState.ACTIVE
    leaf = world.leaf("sub").certificate
    assert "OK" in verify(openssl, tmp_path, leaf, done.chain)


@pytest.mark.parametrize("form", ["p12", "p12-legacy", "pkcs8", "sec1"])
def test_an_openssl_ca_moves_in_with_its_key(
    world: World, openssl: Any, tmp_path: Path, form: str
) -> None:
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Moved in"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    password = None
    if form.startswith("p12"):
        legacy = ("-legacy",) if form.endswith("legacy") else ()
        openssl(
            *("pkcs12", "-export", *legacy, "-inkey", "ca.key", "-in", "ca.pem"),
            *("-out", "ca.p12", "-passout", "pass:secret"),
        )
        data, password = (tmp_path / "ca.p12").read_bytes(), b"secret"
    else:
        data = (tmp_path / "ca.pem").read_bytes()
        if form == "sec1":
            openssl("ec", "-in", "ca.key", "-out", "ca.key")
        data += (tmp_path / "ca.key").read_bytes()
    bundle = read_bundle(data, password)
    world.clock.time = utc_now()
    found = drive(
        world.adoption.import_(
            ADMIN,
            "default",
            "moved",
            certificates=bundle.certificates,
            private_key=bundle.private_key,
        )
    )
    leaf = world.leaf("moved").certificate
    assert "OK" in verify(openssl, tmp_path, leaf, chain(found, include_root=True))


def test_openssl_pkcs7_files_are_read(world: World, openssl: Any, tmp_path: Path) -> None:
    sub_chain = (world.create("root"), world.create("sub", parent="root"))[1].chain
    (tmp_path / "chain.pem").write_bytes(pem(*sub_chain))
    openssl("crl2pkcs7", "-nocrl", "-certfile", "chain.pem", "-out", "chain.p7b")
    found = read_bundle((tmp_path / "chain.p7b").read_bytes())
    assert set(found.certificates) == set(sub_chain)
