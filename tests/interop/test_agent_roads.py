"""The agent through a proxy, to an authority in a token, by SCEP from the first, and by dns-01."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.agent_world import Machine, Pebble, Proxy, same_pair
from tests.interop.acme_world import ACMENode, dns_names, hook
from tests.softhsm import create_token

pytestmark = pytest.mark.interop

SETTINGS = "[protocols.agent]\nrate = 0\n[protocols.est]\nrate = 0\n"


@pytest.fixture(scope="module")
def node(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ACMENode]:
    """A node whose authority for machines has its key in a token."""
    for program in ("tinyproxy", "softhsm2-util", "curl"):
        require_client(program)
    token = create_token(tmp_path_factory.mktemp("token") / "softhsm")
    found = ACMENode(
        tmp_path_factory.mktemp("node"), settings=SETTINGS + token.toml,
        environment=token.environment,
    )  # fmt: skip
    daemon = found.daemon
    daemon.tmad("ca", "create", "hsm", "--algorithm", "p256", "--parent", "root",
                "--store", "pkcs11")  # fmt: skip
    daemon.tmad("profile", "set", "tls-server", "renewal.window=0s")
    daemon.endpoint("web", "--ca", "hsm", "--profile", "tls-server", protocol="est")
    daemon.endpoint("checked", "--ca", "hsm", "--approval", "manual", protocol="est")
    daemon.endpoint("devices", "--ca", "hsm", protocol="scep")
    found.endpoint("hsm", "--ca", "hsm")
    daemon.start()
    yield found
    found.close()


@pytest.fixture(scope="module")
def proxy(node: ACMENode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    daemon = node.daemon
    found = Proxy(tmp_path_factory.mktemp("proxy"), daemon.https_port, daemon.client_port)
    yield found
    found.stop()


def est(node: ACMENode, folder: Path, label: str) -> list[str]:
    secret = folder / "secret"
    secret.write_text(node.daemon.secret(f"est/{label}"))
    base = f"https://127.0.0.1:{node.daemon.client_port}"
    return [
        "--est", f"{base}/.well-known/est/{label}", "--trust", str(node.trust),
        "--secret-file", str(secret), "--report", f"{base}/agent",
    ]  # fmt: skip


def of_the_token(node: ACMENode, certificate: x509.Certificate) -> None:
    issuer = x509.load_pem_x509_certificate(node.daemon.pem("hsm").read_bytes())
    certificate.verify_directly_issued_by(issuer)


def test_est_renewal_and_reports_through_a_proxy(
    node: ACMENode, proxy: Proxy, tmp_path: Path
) -> None:
    machine, way = Machine(tmp_path), proxy.environment()
    before = len(proxy.asked())
    machine.run(
        "enroll", "www.example.test", *est(node, tmp_path, "web"), "--san",
        "dns:www.example.test", "--link", machine.path("live"), environment=way,
    )  # fmt: skip
    first = same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    of_the_token(node, first)
    machine.run("once", "--now", environment=way)
    second = same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    assert second.serial_number != first.serial_number
    (row,) = [one for one in node.daemon.json("agent", "list") if "www" in one["label"]]
    assert row["state"] == "good"
    asked = proxy.asked()[before:]
    target = f"CONNECT 127.0.0.1:{node.daemon.client_port} HTTP/1.1"
    assert len(asked) >= 4  # certificate and authorities, twice; and the reports
    assert set(asked) == {target}


def test_a_proxy_that_says_no_is_told(node: ACMENode, proxy: Proxy, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    told = machine.run(
        "enroll", "www.example.test", *est(node, tmp_path, "web"), "--san", "dns:www.example.test",
        "--bundle-out", machine.path("www.pem"), environment=proxy.environment("another"), expect=5,
    )  # fmt: skip
    # tinyproxy means 407.
    assert f"{proxy.port} does not let us through: 401 Unauthorized" in told.stdout
    # The next run has the right word, and goes on.
    machine.run("once", "--now", environment=proxy.environment())
    same_pair(tmp_path / "www.pem", tmp_path / "www.pem")


def test_a_request_to_a_token_waits_for_a_person(node: ACMENode, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.run("enroll", "waits", *est(node, tmp_path, "checked"), "--bundle-out",
                machine.path("waits.pem"), expect=4)  # fmt: skip
    (request,) = node.daemon.json("request", "list")
    node.daemon.tmad("request", "approve", request["id"])
    machine.run("once", "--now")
    of_the_token(node, same_pair(tmp_path / "waits.pem", tmp_path / "waits.pem"))


def test_scep_from_the_first_and_renewal_through_a_proxy(
    node: ACMENode, proxy: Proxy, tmp_path: Path
) -> None:
    machine, way, secret = Machine(tmp_path), proxy.environment(), tmp_path / "secret"
    secret.write_text(node.daemon.secret("scep/devices") + "\n")
    url = f"{node.daemon.url}/scep/devices"
    machine.run(
        "enroll", "box", "--scep", url, "--trust", str(node.trust), "--secret-file", str(secret),
        "--subject", "CN=box", "--bundle-out", machine.path("box.pem"), environment=way,
    )  # fmt: skip
    first = same_pair(tmp_path / "box.pem", tmp_path / "box.pem")
    assert first.subject.rfc4514_string() == "CN=box"
    of_the_token(node, first)
    secret.unlink()  # which was good once
    machine.run("once", "--now", environment=way)
    second = same_pair(tmp_path / "box.pem", tmp_path / "box.pem")
    assert second.serial_number != first.serial_number
    assert f"POST {url}?operation=PKIOperation HTTP/1.1" in proxy.asked()


def test_scep_without_a_good_challenge_is_refused(node: ACMENode, tmp_path: Path) -> None:
    machine, secret = Machine(tmp_path), tmp_path / "secret"
    secret.write_text("AAAA-BBBB-CCCC\n")
    told = machine.run(
        "enroll", "box", "--scep", f"{node.daemon.url}/scep/devices", "--trust", str(node.trust),
        "--secret-file", str(secret), "--bundle-out", machine.path("box.pem"), expect=2,
    )  # fmt: skip
    assert "the SCEP server says no" in told.stdout


def test_a_wildcard_by_dns_01_through_a_proxy(node: ACMENode, proxy: Proxy, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    node.names.zone = tmp_path
    machine.run(
        "enroll", "wild", "--acme", node.directory("hsm"), "--trust", str(node.trust), "--agree",
        "--san", "dns:*.wild.test", "--san", "dns:wild.test", "--dns-hook", str(hook(tmp_path)),
        "--link", machine.path("live"), environment=proxy.environment(),
    )  # fmt: skip
    first = same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    assert set(dns_names(first)) == {"*.wild.test", "wild.test"}
    machine.run("once", "--now", environment=proxy.environment())
    second = same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    assert second.serial_number != first.serial_number


def test_dns_01_at_a_server_that_others_wrote(
    require_client: Callable[[str], str], tmp_path: Path
) -> None:
    for program in ("pebble", "pebble-challtestsrv", "curl"):
        require_client(program)
    pebble = Pebble(tmp_path / "pebble")
    told = tmp_path / "told"
    script = tmp_path / "hook"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$TMAD_AGENT_NAME $@" >>{told}\n'
        '[ "$1" = present ] && verb=set-txt || verb=clear-txt\n'
        'curl -sSf -d "{\\"host\\":\\"$2\\",\\"value\\":\\"$3\\"}" '
        f"http://127.0.0.1:{pebble.control}/$verb\n"
    )
    script.chmod(0o755)
    machine = Machine(tmp_path)
    try:
        machine.run(
            "enroll", "wild", "--acme", pebble.directory_url, "--trust", str(pebble.trust),
            "--agree", "--san", "dns:*.example.test", "--dns-hook", str(script),
            "--bundle-out", machine.path("wild.pem"),
        )  # fmt: skip
    finally:
        pebble.stop()
    certificate = same_pair(tmp_path / "wild.pem", tmp_path / "wild.pem")
    assert dns_names(certificate) == ["*.example.test"]
    calls = [line.split() for line in told.read_text().splitlines()]
    assert [call[:3] for call in calls] == [
        ["wild", "present", "_acme-challenge.example.test."],
        ["wild", "cleanup", "_acme-challenge.example.test."],
    ]
    assert calls[0][3] == calls[1][3]
