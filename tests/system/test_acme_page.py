"""The lines of docs/acme.md, run as an administrator would."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acme_wire import Client
from tests.daemon import Daemon
from tests.pages import Page
from tests.unit.acme_world import Client as Signer
from tests.unit.acme_world import World

PAGE = Page("acme.md")


def test_the_lines_of_the_page_open_doors(tmp_path: Path) -> None:
    node = Daemon(tmp_path / "node").start()
    try:
        said = PAGE.run(node, tmp_path)
        found = dict(re.findall(r"^(eab_kid|eab_hmac_key) +(\S+)$", said, re.MULTILINE))
        directory = f"{node.https_url}/acme/inside/directory"
        client = Client(directory, str(tmp_path / "root.pem"))
        refused = client.post(client.places["newAccount"], {})
        assert refused.problem == "externalAccountRequired"
        # The last secret is that of the endpoint "inside".
        signer = Signer(World(), key=client.key, label="inside")
        binding = signer.binding(
            found["eab_kid"], found["eab_hmac_key"], url=client.places["newAccount"]
        )
        client.register(externalAccountBinding=binding)
        assert client.issued("a.inside.test").serial_number
        assert client.order("a.outside.test").problem == "rejectedIdentifier"
        client.close()
        (account,) = node.json("acme-account", "list")
        assert account["secret"] == found["eab_kid"]
        orders = node.json("acme-order", "list", "--account", account["id"])
        assert [order["state"] for order in orders] == ["valid"]
        shown = node.json("acme-order", "show", orders[0]["id"])
        assert shown["authorizations"][0]["record"] == {"by": "external account binding"}
        node.tmad("acme-account", "deactivate", account["id"])
        node.tmad("acme-account", "deactivate", account["id"], expect=3)
        assert node.json("acme-account", "show", account["id"])["state"] == "revoked"
    finally:
        node.kill()
