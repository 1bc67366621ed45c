"""``tmad hsm``: is the token well, and what is in it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tmad.cli import output
from tmad.cli.context import REFUSED, Ended, usage, with_settings

if TYPE_CHECKING:
    from tmad.config import NodeSettings
    from tmad.signer.token import TokenSettings


@click.group()
def hsm() -> None:
    """PKCS#11 tokens: check and list."""


@hsm.command("check")
@with_settings
def check(settings: NodeSettings) -> None:
    """Try every PKCS#11 call from loading the module to a signature, with a test key.

    It logs in even after a wrong PIN, which the daemon does not: correct pin_file first.
    """
    from tmad.signer.check import check as steps

    found = [
        {"state": step.state, "call": step.call, "result": step.result, "hint": step.hint}
        for step in steps(_token(settings))
    ]
    output.rows(found, columns=("state", "call", "result", "hint"), name="call")
    for line in found:
        if line["state"] == "failed":
            raise Ended(REFUSED, f"failed: {line['call']}: {line['result']}", line["hint"])


@hsm.command("list")
@with_settings
def list_(settings: NodeSettings) -> None:
    """Show the private keys in the token, tmad's and others."""
    from tmad.signer.check import find

    output.rows(
        [
            {
                "label": key.label,
                "cka_id": key.cka_id,
                "kind": key.kind,
                "extractable": key.is_extractable,
                "was_ever_extractable": key.was_ever_extractable,
            }
            for key in find(_token(settings))
        ],
        name="cka_id",
    )


def _token(settings: NodeSettings) -> TokenSettings:
    token = settings.keyring.pkcs11
    if token is None:
        usage("no token is configured", "see the section [keyring.pkcs11] of the settings file")
    return token
