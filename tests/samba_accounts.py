"""Fills a Samba domain with accounts: run by Debian's Python, which has Samba's modules.

samba_accounts.py SMB.CONF KEYTAB < accounts.json: {"people": {NAME: {"password": …, ATTRIBUTE:
…}}, "computers": {…}, "groups": {NAME: [MEMBER…]}, "services": {NAME: [SPN…]}}. Then again with
the verb "change" in the place of KEYTAB: {NAME: {ATTRIBUTE: VALUE}}.
"""

import json
import os
import sys

import samba.dckeytab  # noqa: F401  adds export_keytab
from ldb import FLAG_MOD_REPLACE, Dn, Message, MessageElement
from samba.auth import system_session
from samba.credentials import Credentials
from samba.net import Net
from samba.param import LoadParm
from samba.samdb import SamDB


def find(database: SamDB, name: str) -> Dn:
    found = database.search(
        database.domain_dn(), expression=f"(sAMAccountName={name})", attrs=["cn"]
    )
    return found[0].dn


def change(database: SamDB, name: str, attributes: dict[str, str]) -> None:
    message = Message(find(database, name))
    for key, value in attributes.items():
        message[key] = MessageElement(value, FLAG_MOD_REPLACE, key)
    if attributes:
        database.modify(message)


def fill(database: SamDB, accounts: dict[str, dict]) -> None:
    for name, attributes in accounts["people"].items():
        database.newuser(name, attributes.pop("password"))
        change(database, name, attributes)
    for name, attributes in accounts["computers"].items():
        database.newcomputer(name.rstrip("$"))
        database.setpassword(f"(sAMAccountName={name})", attributes.pop("password"))
        change(database, name, {"userAccountControl": "4096", **attributes})
    for name, members in accounts["groups"].items():
        database.newgroup(name)
        database.add_remove_group_members(name, members)
    for name, principals in accounts["services"].items():
        change(database, name, {"servicePrincipalName": principals})


def main() -> None:
    parameters = LoadParm(sys.argv[1])
    own = Credentials()
    own.guess(parameters)
    database = SamDB(session_info=system_session(), credentials=own, lp=parameters)
    given = json.load(sys.stdin)
    if sys.argv[2] == "change":
        for name, attributes in given.items():
            change(database, name, attributes)
        return
    fill(database, given)
    net = Net(own, parameters)
    for principals in given["services"].values():
        for principal in principals:
            net.export_keytab(keytab=sys.argv[2], principal=principal)
    os.chmod(sys.argv[2], 0o600)


main()
