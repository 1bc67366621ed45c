"""The agent and the appliance's own ACME server: two workers, one database; window and names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.agent_world import Machine, same_pair
from tests.interop.acme_world import ACMENode

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def node(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ACMENode]:
    """A node of two workers, whose presets let everybody renew at any time."""
    require_client("openssl")
    found = ACMENode(
        tmp_path_factory.mktemp("node"), workers=2, settings="[protocols.agent]\nrate = 0\n"
    )
    found.daemon.tmad("profile", "set", "tls-server", "renewal.window=0s")
    found.endpoint("inside", "--set", "challenge.recoverable=true", mode="eab-preauthorized",
                   external_account_required=True)  # fmt: skip
    found.daemon.start()
    yield found
    found.close()


def options(node: ACMENode, label: str = "default") -> list[str]:
    return [
        "--acme", node.directory(label), "--trust", str(node.trust), "--agree", "--report",
        f"https://127.0.0.1:{node.daemon.client_port}/agent",
    ]  # fmt: skip


def test_http_01_renewal_information_and_reports(node: ACMENode, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.run(
        "enroll", "a.example.test", *options(node), "--san", "dns:a.example.test", "--san",
        "dns:b.example.test", "--listen", f"127.0.0.1:{node.http_port}",
        "--link", machine.path("live"),
    )  # fmt: skip
    first = same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"a.example.test", "b.example.test"}
    machine.run("once", "--now")
    second = same_pair(tmp_path / "live/key.pem", tmp_path / "live/fullchain.pem")
    assert second.serial_number != first.serial_number
    (row,) = node.daemon.json("agent", "list")
    shown = node.daemon.json("agent", "show", row["id"])
    assert (shown["source"], shown["state"]) == ("acme", "good")
    # The server's window: after two thirds of its life.
    machine.run("once")
    life = second.not_valid_after_utc - second.not_valid_before_utc
    state = machine.remembers("a.example.test")
    assert state["window_start"] is not None
    assert (
        machine.status("a.example.test")["renew_at"]
        >= f"{second.not_valid_after_utc - life / 3:%FT%T}"
    )


def test_f30_a_revoked_certificate_whose_window_is_in_the_past_is_not_renewed(
    node: ACMENode, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    machine.run(
        "enroll", "www", *options(node), "--san", "dns:www.example.test", "--listen",
        f"127.0.0.1:{node.http_port}", "--bundle-out", machine.path("www.pem"),
    )  # fmt: skip
    before = (tmp_path / "www.pem").read_bytes()
    node.daemon.tmad("cert", "revoke", machine.status("www")["serial"], "--reason", "superseded")
    refused = machine.run("once", "--now", expect=2)
    assert "the certificate is revoked; it is not renewed" in refused.stdout
    assert (tmp_path / "www.pem").read_bytes() == before


def test_names_that_an_external_account_may_have_need_no_challenge(
    node: ACMENode, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    account = node.external_account("inside", "--name", "dns:db.inside.test")
    key = tmp_path / "eab"
    key.write_text(account["eab_hmac_key"] + "\n")
    eab = ["--eab-kid", account["eab_kid"], "--eab-key-file", str(key)]
    machine.run("enroll", "db", *options(node, "inside"), *eab, "--san", "dns:db.inside.test",
                "--bundle-out", machine.path("db.pem"))  # fmt: skip
    same_pair(tmp_path / "db.pem", tmp_path / "db.pem")
    machine.run("once", "--now")
    # The same account has no other names.
    settings = machine.state / "db/settings.toml"
    settings.write_text(settings.read_text().replace("db.inside.test", "other.inside.test"))
    refused = machine.run("once", "--now", expect=2)
    assert "the ACME server says no" in refused.stdout
