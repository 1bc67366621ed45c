"""What the quickstart prints: where everything is, and a client's line for each protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tmad.cli import init, output
from tmad.events import Secret

# For whom the one-time secrets are; CMC renews what EST has enrolled.
DEVICES: Mapping[str, str] = {"scep": "device-1", "est": "device-2", "cmp": "device-3"}
# Where ACME looks for an answer: 80 is not for everybody to open.
VALIDATION_PORT = 8402
SUFFIX = "o=quickstart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The node that runs; ``config`` are the words that every command of it begins with."""

    config: str
    directory: Path
    urls: Mapping[str, str]
    radius_secret: Secret
    snmp: Mapping[str, str]


def show(node: Node, secrets: Mapping[str, tuple[str, Secret]]) -> None:
    """Print it all; ``secrets`` are reference and secret for each of DEVICES."""
    parts = (_addresses(node), _scep(node, secrets), _est(node, secrets), _cmp(node, secrets),
             _cmc(node), _acme(node), _validation(node), _network(node))  # fmt: skip
    output.say("\n".join(("", *parts, "  Ctrl-C stops the daemon.", "")))


def _trusted(node: Node) -> tuple[Path, Path]:
    return node.directory / f"{init.ROOT}.pem", node.directory / f"{init.ISSUING}.pem"


def _named(url: str) -> str:
    """Return an HTTPS address by the name that is in the certificate."""
    return url.replace("//127.0.0.1:", "//localhost:")


def _addresses(node: Node) -> str:
    http, https = node.urls["http"], _named(node.urls["https"])
    label = init.LABEL
    return f"""\
  SCEP       {http}/scep/{label}
  EST        {https}/.well-known/est
  CMP        {http}/.well-known/cmp
  CMC        {https}/cmc/{label}
  ACME       {https}/acme/{label}/directory
  OCSP       {http}/ocsp
  CRL        {http}/crl/{init.ISSUING}.crl   {http}/crl/{init.ROOT}.crl
  CA         {http}/aia/{init.ISSUING}.cer
  HTTPS      {https}
  RADIUS     {node.urls["radius"]}   shared secret {node.radius_secret.reveal().decode()}
  SNMP       {node.urls["snmp"]}   user {node.snmp["user"]}
  metrics    {node.urls["ops"]}/metrics

  Try it in another terminal:
"""


def _scep(node: Node, secrets: Mapping[str, tuple[str, Secret]]) -> str:
    root, issuing = _trusted(node)
    url = f"{node.urls['http']}/scep/{init.LABEL}"
    return f"""\
  # SCEP: a certificate for a device (strongSwan's pki)
  openssl genrsa -traditional -out device.key 2048
  pki --scepca --url {url} --caout ca --raout ra --outform pem
  pki --scep --url {url} --in device.key --dn "CN={DEVICES["scep"]}" \\
      --password {_text(secrets["scep"])} --cacert-enc ra.pem --cacert-sig ra.pem \\
      --cacert {issuing} --cacert {root} --outform pem > device.pem
"""


def _est(node: Node, secrets: Mapping[str, tuple[str, Secret]]) -> str:
    root, _ = _trusted(node)
    return f"""\
  # EST: the same by HTTPS (curl)
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout est.key \\
      -subj /CN={DEVICES["est"]} -outform DER | base64 > est.b64
  curl -s --cacert {root} --user x:{_text(secrets["est"])} \\
      -H 'Content-Type: application/pkcs10' --data-binary @est.b64 \\
      {_named(node.urls["https"])}/.well-known/est/simpleenroll \\
      | base64 -d | openssl pkcs7 -inform DER -print_certs -out est.pem
"""


def _cmp(node: Node, secrets: Mapping[str, tuple[str, Secret]]) -> str:
    root, _ = _trusted(node)
    reference, secret = secrets["cmp"]
    return f"""\
  # CMP: the same by a shared secret (openssl cmp)
  openssl ecparam -name prime256v1 -genkey -noout -out cmp.key
  openssl cmp -config= -server {node.urls["http"].removeprefix("http://")} -path /.well-known/cmp \\
      -recipient /CN=CA -trusted {root} -cmd ir -ref {reference} \\
      -secret pass:{secret.reveal().decode()} -newkey cmp.key -subject /CN={DEVICES["cmp"]} \\
      -certout cmp.pem
"""


def _cmc(node: Node) -> str:
    root, _ = _trusted(node)
    return f"""\
  # CMC: the next certificate of the device above (curl)
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout cmc.key \\
      -subj /CN={DEVICES["est"]} -outform DER > cmc.der
  curl -s --cacert {root} --cert est.pem --key est.key \\
      -H 'Content-Type: application/pkcs10' --data-binary @cmc.der \\
      {_named(node.urls["https_client"])}/cmc/{init.LABEL} \\
      | openssl pkcs7 -inform DER -print_certs -out cmc.pem
"""


def _acme(node: Node) -> str:
    root, _ = _trusted(node)
    return f"""\
  # ACME: a server's certificate, by showing control of its name (lego)
  LEGO_CA_CERTIFICATES={root} lego --path lego --accept-tos --email me@example.test \\
      --server {_named(node.urls["https"])}/acme/{init.LABEL}/directory \\
      --domains localhost --http --http.port 127.0.0.1:{VALIDATION_PORT} run

  # a profile for a phone or a laptop, as a link and a QR code
  {node.config} endpoint profile scep/{init.LABEL} --platform apple --subject CN=my-phone --link
"""


def _validation(node: Node) -> str:
    root, issuing = _trusted(node)
    http = node.urls["http"]
    return f"""\
  # OCSP: is it good?
  openssl ocsp -issuer {issuing} -CAfile {root} -cert device.pem -url {http}/ocsp

  # CRL
  curl -s {http}/crl/{init.ISSUING}.crl | openssl crl -inform DER -noout -text
"""


def _network(node: Node) -> str:
    root, _ = _trusted(node)
    radius, word = node.urls["radius"], node.radius_secret.reveal().decode()
    snmp, config = node.snmp, node.config
    return f"""\
  # RADIUS: join the network with it (wpa_supplicant's eapol_test)
  printf 'network={{\n key_mgmt=IEEE8021X\n eap=TLS\n identity="device-1"\n' > device.conf
  printf ' ca_cert="%s"\n client_cert="%s"\n private_key="%s"\n}}\n' \\
      {root} device.pem device.key >> device.conf
  eapol_test -c device.conf -p {radius.rpartition(":")[2]} -s {word}

  # RADIUS: a person with a password (radtest of freeradius-utils)
  {config} user create alice --generate
  {config} radius-policy rule {init.POLICY} people --method pap --person "*"
  radtest alice PASSWORD {radius} 0 {word}

  # SNMP: how is it? (snmpwalk of the package snmp)
  snmpwalk -v3 -l authPriv -u {snmp["user"]} -a SHA-256 -A {snmp["authentication_passphrase"]} \\
      -x AES -X {snmp["privacy_passphrase"]} {node.urls["snmp"]} 1.3.6.1.2.1.1

  # LDAP: whose certificate is for this address? (ldapsearch of ldap-utils)
  {config} user create carol --mail carol@example.test
  {config} cert issue carol --profile user --san email:carol@example.test
  ldapsearch -x -LLL -H {node.urls["ldap"]} -b {SUFFIX} mail=carol@example.test

  # revoke it, then ask again
  {config} cert list
  {config} cert revoke SERIAL
"""


def _text(secret: tuple[str, Secret]) -> str:
    return secret[1].reveal().decode()
