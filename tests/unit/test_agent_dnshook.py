"""The agent's DNS hook: what it is called with, and programs that fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tmad.agent import dnshook
from tmad.agent.acme import _domain
from tmad.agent.settings import ACMESource
from tmad.errors import Fault, FaultCode

RECORD = ("_acme-challenge.www.example.org.", "gfj9Xq...Rg85nM")


def hook(folder: Path, body: str, **more: float) -> ACMESource:
    """Return settings with a hook that writes down its calls, then does something."""
    script = folder / "hook"
    script.write_text(f'#!/bin/sh\necho "$TMAD_AGENT_NAME $*" >>{folder}/calls\n{body}\n')
    script.chmod(0o755)
    return ACMESource(
        directory="https://a.test/", dns_hook=(str(script), "an argument"), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_the_record_is_that_of_rfc_8555() -> None:
    """RFC 8555, 8.4: base64url of SHA-256 of the key authorization (computed by openssl)."""
    found = dnshook.record("www.example.org", "token.thumbprint")
    assert found == (
        "_acme-challenge.www.example.org.", "61rBZ_4knHblO0MNoxFsXZ_eTFUHum0B6IVRbhvUn5I",
    )  # fmt: skip


def test_records_are_there_in_the_block_and_gone_behind(tmp_path: Path) -> None:
    waited: list[float] = []
    settings = hook(tmp_path, "", dns_wait_seconds=7.0)
    other = ("_acme-challenge.example.org.", "other")
    with dnshook.published(settings, (RECORD, other), "www", waited.append):
        present = [f"www an argument present {' '.join(each)}" for each in (RECORD, other)]
        assert calls(tmp_path) == present
    assert waited == [7.0]
    assert calls(tmp_path)[2:] == [line.replace("present", "cleanup") for line in present]


def test_a_hook_that_fails_is_told_and_what_was_begun_is_cleaned_up(tmp_path: Path) -> None:
    settings = hook(tmp_path, "echo no such zone >&2; exit 3")
    with (
        pytest.raises(Fault, match="exit code 3: no such zone") as caught,
        dnshook.published(settings, (RECORD, RECORD), "www"),
    ):
        pytest.fail("it began")
    assert (caught.value.code, caught.value.rule) == (FaultCode.UNAVAILABLE, "agent.dns-hook")
    assert [line.split()[3] for line in calls(tmp_path)] == ["present", "cleanup"]


def test_a_hook_that_takes_for_ever_is_ended_with_its_children(tmp_path: Path) -> None:
    settings = hook(tmp_path, f'[ "$2" = cleanup ] || {{ echo $$ >{tmp_path}/pid; sleep 60; }}',
                    dns_hook_seconds=0.5)  # fmt: skip
    with (
        pytest.raises(Fault, match=r"not done after 0\.5 s"),
        dnshook.published(settings, (RECORD,), "www"),
    ):
        pytest.fail("it began")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_failed_cleanup_changes_nothing(tmp_path: Path) -> None:
    settings = hook(tmp_path, '[ "$2" = present ]')
    with dnshook.published(settings, (RECORD,), "www"):
        pass


@pytest.mark.parametrize(
    "identifier",
    [
        None, "www.example.org", {"type": "dns"}, {"type": "dns", "value": 7},
        {"type": "dns", "value": "-x.example.org"}, {"type": "dns", "value": "a b"},
        {"type": "dns", "value": "a\n"}, {"type": "dns", "value": "$(reboot)"},
        {"type": "dns", "value": ""}, {"type": "dns", "value": "a" * 254},
    ],
)  # fmt: skip
def test_what_is_no_domain_reaches_no_program(identifier: object) -> None:
    with pytest.raises(Fault) as caught:
        _domain({"identifier": identifier})
    assert caught.value.code is FaultCode.MALFORMED


def test_an_address_has_no_record() -> None:
    assert _domain({"identifier": {"type": "ip", "value": "192.0.2.1"}}) == ""
