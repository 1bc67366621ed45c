"""Token files: every form that makers send, and what is wrong with a file said in words."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.tokenfiles import TokenFile, Wishes, read

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SEED = b"12345678901234567890"  # RFC 4226, appendix D
SEED_HEX = SEED.hex()

# RFC 6030, 6.1 (figure 6) and its key; 6.2 (figure 7) and its passphrase "qwerty".
SHARED_KEY = bytes.fromhex("12345678901234567890123456789012")
SHARED = """<?xml version="1.0" encoding="UTF-8"?>
<KeyContainer Version="1.0" xmlns="urn:ietf:params:xml:ns:keyprov:pskc"
    xmlns:ds="http://www.w3.org/2000/09/xmldsig#" xmlns:xenc="http://www.w3.org/2001/04/xmlenc#">
  <EncryptionKey><ds:KeyName>Pre-shared-key</ds:KeyName></EncryptionKey>
  <MACMethod Algorithm="http://www.w3.org/2000/09/xmldsig#hmac-sha1"><MACKey>
    <xenc:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>
    <xenc:CipherData><xenc:CipherValue>
      ESIzRFVmd4iZABEiM0RVZgKn6WjLaTC1sbeBMSvIhRejN9vJa2BOlSaMrR7I5wSX
    </xenc:CipherValue></xenc:CipherData>
  </MACKey></MACMethod>
  <KeyPackage>
    <DeviceInfo><Manufacturer>Manufacturer</Manufacturer><SerialNo>987654321</SerialNo></DeviceInfo>
    <CryptoModuleInfo><Id>CM_ID_001</Id></CryptoModuleInfo>
    <Key Id="12345678" Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:hotp">
      <Issuer>Issuer</Issuer>
      <AlgorithmParameters><ResponseFormat Length="8" Encoding="DECIMAL"/></AlgorithmParameters>
      <Data>
        <Secret>
          <EncryptedValue>
            <xenc:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>
            <xenc:CipherData><xenc:CipherValue>
              AAECAwQFBgcICQoLDA0OD+cIHItlB3Wra1DUpxVvOx2lef1VmNPCMl8jwZqIUqGv
            </xenc:CipherValue></xenc:CipherData>
          </EncryptedValue>
          <ValueMAC>Su+NvtQfmvfJzF6bmQiJqoLRExc=</ValueMAC>
        </Secret>
        <Counter><PlainValue>0</PlainValue></Counter>
      </Data>
    </Key>
  </KeyPackage>
</KeyContainer>"""
DERIVED = """<?xml version="1.0" encoding="UTF-8"?>
<pskc:KeyContainer xmlns:pskc="urn:ietf:params:xml:ns:keyprov:pskc"
    xmlns:xenc11="http://www.w3.org/2009/xmlenc11#"
    xmlns:pkcs5="http://www.rsasecurity.com/rsalabs/pkcs/schemas/pkcs-5v2-0#"
    xmlns:xenc="http://www.w3.org/2001/04/xmlenc#" Version="1.0">
  <pskc:EncryptionKey><xenc11:DerivedKey>
    <xenc11:KeyDerivationMethod
        Algorithm="http://www.rsasecurity.com/rsalabs/pkcs/schemas/pkcs-5v2-0#pbkdf2">
      <pkcs5:PBKDF2-params>
        <Salt><Specified>Ej7/PEpyEpw=</Specified></Salt>
        <IterationCount>1000</IterationCount><KeyLength>16</KeyLength><PRF/>
      </pkcs5:PBKDF2-params>
    </xenc11:KeyDerivationMethod>
    <xenc:ReferenceList><xenc:DataReference URI="#ED"/></xenc:ReferenceList>
    <xenc11:MasterKeyName>My Password 1</xenc11:MasterKeyName>
  </xenc11:DerivedKey></pskc:EncryptionKey>
  <pskc:MACMethod Algorithm="http://www.w3.org/2000/09/xmldsig#hmac-sha1"><pskc:MACKey>
    <xenc:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>
    <xenc:CipherData><xenc:CipherValue>
      2GTTnLwM3I4e5IO5FkufoOEiOhNj91fhKRQBtBJYluUDsPOLTfUvoU2dStyOwYZx
    </xenc:CipherValue></xenc:CipherData>
  </pskc:MACKey></pskc:MACMethod>
  <pskc:KeyPackage>
    <pskc:DeviceInfo><pskc:Manufacturer>TokenVendorAcme</pskc:Manufacturer>
      <pskc:SerialNo>987654321</pskc:SerialNo></pskc:DeviceInfo>
    <pskc:CryptoModuleInfo><pskc:Id>CM_ID_001</pskc:Id></pskc:CryptoModuleInfo>
    <pskc:Key Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:hotp" Id="123456">
      <pskc:Issuer>Example-Issuer</pskc:Issuer>
      <pskc:AlgorithmParameters><pskc:ResponseFormat Length="8" Encoding="DECIMAL"/>
      </pskc:AlgorithmParameters>
      <pskc:Data><pskc:Secret>
        <pskc:EncryptedValue Id="ED">
          <xenc:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>
          <xenc:CipherData><xenc:CipherValue>
            oTvo+S22nsmS2Z/RtcoF8Hfh+jzMe0RkiafpoDpnoZTjPYZu6V+A4aEn032yCr4f
          </xenc:CipherValue></xenc:CipherData>
        </pskc:EncryptedValue>
        <pskc:ValueMAC>LP6xMvjtypbfT9PdkJhBZ+D6O4w=</pskc:ValueMAC>
      </pskc:Secret></pskc:Data>
    </pskc:Key>
  </pskc:KeyPackage>
</pskc:KeyContainer>"""


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def key(
    serial: str = "T1",
    kind: str = "totp",
    secret: str = f"<PlainValue>{b64(SEED)}</PlainValue>",
    more: str = "",
    parameters: str = '<ResponseFormat Length="6" Encoding="DECIMAL"/>',
    policy: str = "",
    inside: str = "",
) -> str:
    return (
        f"<KeyPackage><DeviceInfo><SerialNo>{serial}</SerialNo></DeviceInfo>"
        f'<Key Id="7" Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:{kind}">'
        f"<AlgorithmParameters>{parameters}</AlgorithmParameters>"
        f"<Data><Secret>{secret}</Secret>{more}</Data>{inside}{policy}</Key></KeyPackage>"
    )


def container(*parts: str, version: str = "1.0") -> bytes:
    return (
        f'<KeyContainer Version="{version}" xmlns="urn:ietf:params:xml:ns:keyprov:pskc"'
        ' xmlns:ds="http://www.w3.org/2000/09/xmldsig#"'
        ' xmlns:xenc11="http://www.w3.org/2009/xmlenc11#"'
        f' xmlns:xenc="http://www.w3.org/2001/04/xmlenc#">{"".join(parts)}</KeyContainer>'
    ).encode()


def encrypted(
    plain: bytes,
    key_octets: bytes = SHARED_KEY,
    mac: bytes | None = SHARED_KEY,
    hashed: str = "sha1",
) -> str:
    """Return an EncryptedValue with its ValueMAC, AES-CBC."""
    pad = 16 - len(plain) % 16
    encryptor = Cipher(algorithms.AES(key_octets), modes.CBC(bytes(range(16)))).encryptor()
    octets = bytes(range(16)) + encryptor.update(plain + bytes((pad,)) * pad)
    shown = f"<ValueMAC>{b64(hmac.digest(mac, octets, hashed))}</ValueMAC>" if mac else ""
    return (
        f"<EncryptedValue>{cipher(octets, f'aes{len(key_octets) * 8}-cbc')}</EncryptedValue>{shown}"
    )


def cipher(octets: bytes, name: str) -> str:
    return (
        f'<xenc:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#{name}"/>'
        f"<xenc:CipherData><xenc:CipherValue>{b64(octets)}</xenc:CipherValue></xenc:CipherData>"
    )


NAMED = "<EncryptionKey><ds:KeyName>k</ds:KeyName></EncryptionKey>"


def mac_method(name: str = "http://www.w3.org/2000/09/xmldsig#hmac-sha1") -> str:
    return f'<MACMethod Algorithm="{name}"/>'


def refused(data: bytes | str, **wishes: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        load(data, **wishes)
    return caught.value


def load(data: bytes | str, **wishes: Any) -> TokenFile:
    octets = data.encode() if isinstance(data, str) else data
    return read(octets, NOW, Wishes(**wishes))


def only(file: TokenFile) -> tuple[Any, ...]:
    assert file.mistakes == []
    [seed] = file.seeds
    return (
        seed.serial,
        seed.kind,
        seed.algorithm,
        seed.digits,
        seed.period,
        seed.counter,
        seed.seed.reveal(),
        seed.person,
    )


def mistake(file: TokenFile) -> str:
    assert file.seeds == []
    [found] = file.mistakes
    return str(found)


# -- PSKC ------------------------------------------------------------------------------------


def test_rfc_6030_6_1_a_shared_key() -> None:
    found = load(SHARED, key=Secret(SHARED_KEY))
    assert found.format == "pskc"
    assert only(found) == ("987654321", "hotp", "sha1", 8, 0, 0, SEED, None)


def test_rfc_6030_6_2_a_passphrase() -> None:
    found = load(DERIVED, passphrase=Secret("qwerty"))
    assert only(found) == ("987654321", "hotp", "sha1", 8, 0, 0, SEED, None)


@pytest.mark.parametrize(
    ("data", "wishes", "rule"),
    [
        (SHARED, {}, "otp.pskc.key"),
        (SHARED, {"key": Secret(b"x" * 16)}, "otp.pskc.mac"),
        (SHARED, {"key": Secret(b"x" * 32)}, "otp.pskc.key-size"),
        (SHARED, {"passphrase": Secret("qwerty")}, "otp.pskc.key"),
        (SHARED.replace("AAECAw", "AAECBw"), {"key": Secret(SHARED_KEY)}, "otp.pskc.mac"),
        (SHARED.replace("Su+N", "Su+M"), {"key": Secret(SHARED_KEY)}, "otp.pskc.mac"),
        (DERIVED, {}, "otp.pskc.key"),
        (DERIVED, {"key": Secret(SHARED_KEY)}, "otp.pskc.key"),
        (DERIVED, {"passphrase": Secret("qwertz")}, "otp.pskc.mac"),
        (
            DERIVED.replace(">1000<", ">2000001<"),
            {"passphrase": Secret("qwerty")},
            "otp.pskc.pbkdf2",
        ),
        (DERIVED.replace(">16<", ">17<"), {"passphrase": Secret("q")}, "otp.pskc.pbkdf2"),
        (DERIVED.replace("Ej7/PEpyEpw=", ""), {"passphrase": Secret("q")}, "otp.pskc.pbkdf2"),
        (DERIVED.replace("#pbkdf2", "#scrypt"), {"passphrase": Secret("q")}, "otp.pskc.algorithm"),
        (DERIVED.replace(">1000<", ">٣<"), {"passphrase": Secret("q")}, "otp.pskc.structure"),
    ],
)
def test_what_does_not_open_a_container(data: str, wishes: dict[str, Any], rule: str) -> None:
    assert refused(data, **wishes).rule == rule


@pytest.mark.parametrize("prf", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("length", [16, 24, 32])
def test_pbkdf2_with_other_functions_and_lengths(prf: str, length: int) -> None:
    space = "2000/09/xmldsig" if prf == "sha1" else "2001/04/xmldsig-more"
    name = f"http://www.w3.org/{space}#hmac-{prf}"
    function = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha512": hashes.SHA512()}[prf]
    derivation = PBKDF2HMAC(algorithm=function, length=length, salt=b"saltsalt", iterations=10)
    derived = derivation.derive(b"open sesame")
    data = container(
        "<EncryptionKey><xenc11:DerivedKey><xenc11:KeyDerivationMethod"
        ' Algorithm="http://www.w3.org/2009/xmlenc11#pbkdf2"><xenc11:PBKDF2-params>'
        f"<Salt><Specified>{b64(b'saltsalt')}</Specified></Salt><IterationCount>10</IterationCount>"
        f'<KeyLength>{length}</KeyLength><PRF Algorithm="{name}"/></xenc11:PBKDF2-params>'
        "</xenc11:KeyDerivationMethod></xenc11:DerivedKey></EncryptionKey>",
        mac_method(name),
        key(secret=encrypted(SEED, derived, derived, prf)),
    )
    assert only(load(data, passphrase=Secret("open sesame")))[6] == SEED


def test_the_mac_of_a_container_without_mac_key_uses_the_encryption_key() -> None:
    data = container(NAMED, mac_method(), key(secret=encrypted(SEED)))
    assert only(load(data, key=Secret(SHARED_KEY)))[6] == SEED


def test_cbc_without_mac_is_refused() -> None:
    for parts in (
        (NAMED, mac_method(), key(secret=encrypted(SEED, mac=None))),
        (NAMED, key(secret=encrypted(SEED))),
    ):
        fault = refused(container(*parts), key=Secret(SHARED_KEY))
        assert (fault.code, fault.rule) == (FaultCode.BAD_INTEGRITY, "otp.pskc.mac-missing")


def test_key_wrap_protects_itself() -> None:
    plain = SEED + b"abcd"  # a multiple of eight octets
    wrapped = aes_key_wrap(SHARED_KEY, plain)
    secret = f"<EncryptedValue>{cipher(wrapped, 'kw-aes128')}</EncryptedValue>"
    data = container(NAMED, key(secret=secret))
    assert only(load(data, key=Secret(SHARED_KEY)))[6] == plain
    assert refused(data, key=Secret(b"x" * 16)).rule == "otp.pskc.mac"


@pytest.mark.parametrize("name", ["tripledes-cbc", "aes128-gcm", "kw-aes128-cbc", "aes128"])
def test_other_ciphers_are_not_supported(name: str) -> None:
    secret = f"<EncryptedValue>{cipher(bytes(32), name)}</EncryptedValue><ValueMAC>AA==</ValueMAC>"
    fault = refused(container(NAMED, mac_method(), key(secret=secret)), key=Secret(SHARED_KEY))
    assert (fault.code, fault.rule) == (FaultCode.UNSUPPORTED, "otp.pskc.algorithm")


def test_numbers_may_be_encrypted_too() -> None:
    data = container(
        NAMED,
        mac_method(),
        key(
            kind="hotp",
            secret=encrypted(SEED),
            more=f"<Counter>{encrypted((515).to_bytes(8))}</Counter>",
        ),
    )
    assert only(load(data, key=Secret(SHARED_KEY)))[5] == 515
    data = container(
        NAMED,
        mac_method(),
        key(secret=encrypted(SEED), more=f"<Counter>{encrypted(b'')}</Counter>"),
    )
    assert "1 to 8 octets" in mistake(load(data, key=Secret(SHARED_KEY)))


def test_a_certificate_as_recipient_is_not_supported() -> None:
    data = container("<EncryptionKey><ds:X509Data/></EncryptionKey>", key())
    assert refused(data).rule == "otp.pskc.algorithm"


@pytest.mark.parametrize(
    ("parameters", "more", "expected"),
    [
        ("", "", ("sha1", 6, 30)),
        ('<ResponseFormat Length="8" Encoding="DECIMAL"/>', "", ("sha1", 8, 30)),
        ("<Suite>HMAC-SHA256</Suite>", "", ("sha256", 6, 30)),
        ("<Suite>SHA-512</Suite>", "", ("sha512", 6, 30)),
        ("", "<TimeInterval><PlainValue>60</PlainValue></TimeInterval>", ("sha1", 6, 60)),
    ],
)
def test_what_a_clock_token_says_of_itself(
    parameters: str, more: str, expected: tuple[Any, ...]
) -> None:
    found = only(load(container(key(parameters=parameters, more=more))))
    assert found[2:5] == expected
    assert found[1] == "totp"


@pytest.mark.parametrize(
    ("package", "why"),
    [
        (key(kind="ocra"), "neither HOTP nor TOTP"),
        (key(kind="hotp2"), "neither HOTP nor TOTP"),
        (key(serial="a b"), "not a serial number"),
        (key(serial="=cmd|'/c calc'!A1"), "not a serial number"),
        (key(secret=""), "its secret is empty"),
        (key(secret="<PlainValue>%%</PlainValue>"), "not base64"),
        (key(secret=f"<PlainValue>{b64(b'short')}</PlainValue>"), "5 octets"),
        (key(secret=f"<PlainValue>{b64(bytes(129))}</PlainValue>"), "129 octets"),
        (key(parameters='<ResponseFormat Length="5" Encoding="DECIMAL"/>'), "5 digits"),
        (key(parameters='<ResponseFormat Length="-6" Encoding="DECIMAL"/>'), "whole number"),
        (key(parameters='<ResponseFormat Length="6" Encoding="HEXADECIMAL"/>'), "not decimal"),
        (key(parameters='<ResponseFormat Length="6" CheckDigits="true"/>'), "check digit"),
        (key(parameters="<Suite>MD5</Suite>"), "algorithm"),
        (key(more="<TimeInterval><PlainValue>1</PlainValue></TimeInterval>"), "period"),
        (key(policy="<Policy><ExpiryDate>2026-11-23T12:00:00Z</ExpiryDate></Policy>"), "ended"),
        (key(policy="<Policy><StartDate>2027-01-01T00:00:00Z</StartDate></Policy>"), "begins"),
        (key(policy="<Policy><StartDate>soon</StartDate></Policy>"), "cannot be read"),
        (key(policy="<Policy><KeyUsage>Integrity</KeyUsage></Policy>"), "not OTP"),
        (key(policy="<Policy><NumberOfTransactions>4</NumberOfTransactions></Policy>"), "policy"),
        (key(policy='<Policy><PINPolicy PINUsageMode="Algorithmic"/></Policy>'), "PIN"),
    ],
)
def test_a_token_that_cannot_be_taken_is_named(package: str, why: str) -> None:
    found = load(container(package))
    assert why in mistake(found)
    with pytest.raises(Fault) as caught:
        found.require_clean()
    assert caught.value.rule == "otp.file.tokens-wrong"
    assert why in caught.value.detail


def test_expired_tokens_can_be_wanted() -> None:
    package = key(policy="<Policy><ExpiryDate>2022-09-01T00:00:00Z</ExpiryDate></Policy>")
    assert only(load(container(package), expired_too=True))[0] == "T1"


def test_policies_that_allow_otp_are_fine() -> None:
    policy = (
        "<Policy><StartDate>2020-01-01T00:00:00</StartDate><KeyUsage>OTP</KeyUsage>"
        '<PINPolicy PINUsageMode="Append"/></Policy>'
    )
    found = load(container(key(policy=policy)))
    assert len(found.seeds) == 1
    assert "PIN" in found.notes[0]


def test_rfc_6030_figure_10_one_device_may_have_several_keys() -> None:
    second = key(serial="T1").replace('Id="7"', 'Id="8"')
    found = load(container(key(serial="T1"), second))
    assert [seed.serial for seed in found.seeds] == ["T1", "T1-8"]


def test_several_keys_of_one_package_are_all_taken() -> None:
    """The schema allows one; a file that has two must not lose the second in silence."""
    package = key(serial="T1")
    again = package[package.index("<Key ") : package.index("</KeyPackage>")]
    data = container(package.replace("</KeyPackage>", f"{again.replace('7', '9', 1)}</KeyPackage>"))
    assert [seed.serial for seed in load(data).seeds] == ["T1", "T1-9"]


def test_a_key_without_device_is_named_by_its_id() -> None:
    data = container(key().replace("<DeviceInfo><SerialNo>T1</SerialNo></DeviceInfo>", ""))
    assert only(load(data))[0] == "7"


@pytest.mark.parametrize(
    ("user", "person"),
    [
        ("bob", "bob"),
        ("UID=jsmith,DC=example,DC=net", "jsmith"),
        ("CN=Smith, uid=js, O=x", "js"),
        ("CN=x", None),
    ],
)
def test_the_user_of_a_key(user: str, person: str | None) -> None:
    found = load(container(key(inside=f"<UserId>{user}</UserId>")))
    assert only(found)[7] == person


def test_signature_extensions_and_devices_without_key_are_noted() -> None:
    data = container(
        key(),
        "<KeyPackage><DeviceInfo><SerialNo>9</SerialNo></DeviceInfo></KeyPackage>",
        "<ds:Signature/>",
        "<Extensions/>",
    )
    assert len(load(data).notes) == 3


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "otp.file.empty"),
        (b" \n ", "otp.file.empty"),
        (b"<KeyContainer>", "otp.file.xml"),
        (b"<KeyContainer/>", "otp.file.empty"),
        (b"<x>keyprov</x>", "otp.pskc.structure"),
        (b"<Other/>", "otp.file.xml"),
        (container(key(), version="2.0"), "otp.pskc.version"),
        (container("<Nonsense/>"), "otp.pskc.structure"),
        (b'<?xml version="1.0" encoding="EBCDIC-XX"?><KeyContainer/>', "otp.file.xml"),
        (b"<!DOCTYPE KeyContainer><KeyContainer/>", "otp.file.doctype"),
        (
            b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><KeyContainer>&a;</KeyContainer>',
            "otp.file.doctype",
        ),
        (
            b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><KeyContainer>&b;'
            b"</KeyContainer>",
            "otp.file.doctype",
        ),
        (b"<KeyContainer>" + b"<a>" * 40, "otp.file.xml"),
        (b"<KeyContainer><KeyPackage>" + b"<a/>" * 20_001, "otp.file.xml"),
        (b"<KeyContainer>&undefined;</KeyContainer>", "otp.file.xml"),
        (b"x" * ((10 << 20) + 1), "otp.file.size"),
    ],
)
def test_files_that_are_no_token_files(data: bytes, rule: str) -> None:
    assert refused(data).rule == rule


def test_utf_16_is_read() -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?>' + container(key()).decode()
    assert only(load(text.encode("utf-16")))[0] == "T1"


def test_a_hundred_thousand_tokens_are_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmad.identity.pskc.MOST_TOKENS", 2)
    monkeypatch.setattr("tmad.identity.tokenfiles.MOST_TOKENS", 2)
    assert refused(container(key("a"), key("b"), key("c"))).rule == "otp.file.tokens"
    lines = "".join(f"T{n},{SEED_HEX},hotp\n" for n in range(3))
    assert refused(lines).rule == "otp.file.tokens"


# -- lists -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"t1,{SEED_HEX},hotp,8,,5\n", ("T1", "hotp", "sha1", 8, 0, 5, SEED, None)),
        (f"t1;{SEED_HEX};totp;6;60\r\n", ("T1", "totp", "sha1", 6, 60, 0, SEED, None)),
        (f"\ufefft1\t{SEED_HEX}\ttotp", ("T1", "totp", "sha1", 6, 30, 0, SEED, None)),
        (
            "Serial Number,Secret Key,User,Time Step,hash,type\n"
            f"A-1,{b64(SEED)},bob,60,SHA256,TOTP\n",
            ("A-1", "totp", "sha256", 6, 60, 0, SEED, "bob"),
        ),
        (
            f"# upn,serial number,secret key,time interval,manufacturer,model\n"
            f"upn,serial number,secret key,time interval,manufacturer,model\n"
            f"bob@example.test,7,{base64.b32encode(SEED).decode()},30,Acme,C200\n",
            ("7", "totp", "sha1", 6, 30, 0, SEED, "bob@example.test"),
        ),
        (
            f'"t1","{base64.b32encode(SEED).decode().lower()}","hotp"\n\n',
            ("T1", "hotp", "sha1", 6, 0, 0, SEED, None),
        ),
    ],
)
def test_generic_lists(text: str, expected: tuple[Any, ...]) -> None:
    found = load(text, kind=None if "hotp" in text or "totp" in text.lower() else "totp")
    assert found.format == "csv"
    assert only(found) == expected


def test_a_list_needs_a_type_from_somewhere() -> None:
    text = f"serial,secret\nt1,{SEED_HEX}\n"
    assert refused(text).rule == "otp.file.type"
    assert only(load(text, kind="totp", period=60, digits=8, algorithm="sha512")) == (
        "T1",
        "totp",
        "sha512",
        8,
        60,
        0,
        SEED,
        None,
    )
    assert "--type" in mistake(load(f"t1,{SEED_HEX}"))


@pytest.mark.parametrize(
    ("text", "wishes", "rule"),
    [
        (f"serial,secret,colour\nt1,{SEED_HEX},red\n", {}, "otp.file.columns"),
        (f"serial,secret,seed\nt1,{SEED_HEX},x\n", {}, "otp.file.columns"),
        ("t1,not/hex!,hotp\n", {}, "otp.file.encoding"),
        ('t1,"unclosed,hotp\n', {}, "otp.file.text"),
        ("t1,\0,hotp\n", {}, "otp.file.text"),
        (b"t1,\xff\xfe,hotp\n", {}, "otp.file.text"),
        ("t1," + "a" * 3_000, {}, "otp.file.text"),
        ("# nothing\n", {}, "otp.file.empty"),
    ],
)
def test_lists_that_cannot_be_read(text: str, wishes: dict[str, Any], rule: str) -> None:
    assert refused(text, **wishes).rule == rule


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"t1,{SEED_HEX},hotp,6,30,0,extra", "7 columns"),
        (f"t1,{SEED_HEX},motp", "must be hotp or totp"),
        (f"t1,{SEED_HEX},hotp,six", "whole number"),
        (f"t1,{SEED_HEX},hotp,٦", "whole number"),
        (f"t1,{SEED_HEX},hotp,6,30,99999999999999999999", "whole number"),
        (f"t1,{SEED_HEX},hotp,6,30,9999999999999999999", "out of range"),
        (f",{SEED_HEX},hotp", "not a serial number"),
        ("t1,,hotp", "0 octets"),
        ("t1,abcdef,hotp", "3 octets"),
    ],
)
def test_wrong_lines_are_named_with_their_number(line: str, why: str) -> None:
    text = mistake(load("# list of Acme\n" + line + "\n"))
    assert text.startswith("line 2: ")
    assert why in text


def test_a_serial_number_twice_is_a_mistake() -> None:
    found = load(f"t1,{SEED_HEX},hotp\nT1,{SEED_HEX},hotp\n")
    assert len(found.seeds) == 1
    assert "there twice" in str(found.mistakes[0])


def test_a_named_encoding_finds_the_wrong_line() -> None:
    found = load(f"t1,{SEED_HEX},hotp\nt2,xyz!,hotp\n", encoding="hex")
    assert len(found.seeds) == 1
    assert str(found.mistakes[0]) == "line 2: t2: the seed is not hexadecimal"


# Lines as Yubico's Personalization Tool and its "Yubico format" write them.
YUBICO = f"""LOGGING START,11.12.13 18:55
Yubico OTP,11.12.13 16:43,1,cccccccirblh,b321173a2fb8,6faa3ce885fcd5eda7efa5195e5a5d44,,,0,0
OATH-HOTP,11.12.13 18:55,1,cccccccccccc,,{SEED_HEX},,,0,0,0,8,0,0,0,0,0,0
"""


def test_yubico_traditional_format() -> None:
    found = load(YUBICO)
    assert found.format == "yubico"
    assert only(found) == ("CCCCCCCCCCCC", "hotp", "sha1", 8, 0, 0, SEED, None)
    assert "not OATH" in found.notes[0]


def test_yubico_format() -> None:
    text = (
        "# serial,identity,private id,key,access code,time\n"
        f"508327,,0,{SEED_HEX},,2013-12-12T08:41:07,\n"
        f"508328,cccccccccccc,83cebdfb7b93,{SEED_HEX[:32]},,2013-12-12T08:43:17,\n"
        f"508329,,,{SEED_HEX[:32]},,2013-12-12T08:44:34,\n"
    )
    found = load(text)
    assert only(found) == ("508327", "hotp", "sha1", 6, 0, 0, SEED, None)
    assert len(found.notes) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("OATH-HOTP,11.12.13 18:55,1,cccccccccccc,,zz,,,0,0,0,6", "not hexadecimal"),
        ("OATH-HOTP,11.12.13 18:55,1", "too few columns"),
        (f"OATH-HOTP,x,1,,,{SEED_HEX},,,0,0,0,6", "not a serial number"),
        ("508327,,0", "too few columns"),
    ],
)
def test_yubico_lines_that_are_wrong(text: str, why: str) -> None:
    assert why in mistake(load(text, format="yubico"))


def test_feitian_lists() -> None:
    text = f"# C200\n2600215704919  {SEED_HEX.upper()}\n"
    assert refused(text).rule == "otp.file.type"
    found = load(text, kind="totp", period=60)
    assert found.format == "feitian"
    assert only(found) == ("2600215704919", "totp", "sha1", 6, 60, 0, SEED, None)
    broken = load(text + "2600215704920\n", kind="totp")
    assert "line 3" in str(broken.mistakes[0])


def test_safenet_xml() -> None:
    def token(serial: str, seed: str) -> str:
        return (
            f"<Token serial='{serial}'><CaseModel>5</CaseModel><Applications><Application "
            f"ConnectorID='{{ab1397d2-ddb6-4705-b66e-9f83f322deb9}}'>{seed}"
            "<MovingFactor>1</MovingFactor></Application></Applications></Token>"
        )

    long = (SEED + b"123456789012").hex()
    text = (
        f"<Tokens>{token('00040008CFA5', f'<Seed>{SEED_HEX}</Seed>')}"
        f"{token('00040008CFA6', f'<seed>{long}</seed>')}{token('none', '')}<Token/></Tokens>"
    )
    found = load(text)
    assert found.format == "safenet"
    assert [(seed.serial, seed.algorithm, seed.counter) for seed in found.seeds] == [
        ("00040008CFA5", "sha1", 1),
        ("00040008CFA6", "sha256", 1),
    ]
    assert [mistake.why for mistake in found.mistakes] == [
        "it has no seed",
        "no token with an application",
    ]


def test_many_mistakes_are_one_refusal() -> None:
    found = load("".join(f"t{n},,hotp\n" for n in range(50)))
    with pytest.raises(Fault) as caught:
        found.require_clean()
    assert caught.value.detail.startswith("50 tokens of the file cannot be taken")
    assert "and 30 more" in caught.value.detail


@pytest.mark.parametrize("make", [repr, str, lambda seed: repr([seed])])
def test_secret_1_a_seed_is_never_shown(make: Callable[[Any], str]) -> None:
    found = load(f"t1,{SEED_HEX},hotp\n{SEED_HEX},t2,hotp\n", encoding="hex")
    assert SEED_HEX not in make(found.seeds)
    assert SEED.decode() not in make(found.seeds)


def test_secret_1_columns_in_the_wrong_order_show_no_seed() -> None:
    found = load(f"t1,t1,{SEED_HEX}\n", encoding="hex")
    assert SEED_HEX not in str(found.mistakes)
