"""What clients ask besides certificates: genm and genp (RFC 9810, 5.3.19; RFC 9483, 4.3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier

from tmad.ca.profile import ATTRIBUTES, ProfileDocument
from tmad.protocols.cmp import bodies, codec
from tmad.protocols.cmp.bodies import Reply
from tmad.protocols.cmp.codec import Body, Info
from tmad.storage.issuers import IssuerState
from tmad.wire import crmf, der, parsing
from tmad.wire.signatures import EC_PUBLIC_KEY, RSA_ENCRYPTION

if TYPE_CHECKING:
    from tmad.ca.hierarchy import Issuer
    from tmad.plugin import Services
    from tmad.protocols.cmp.visit import Visit

_Answering: TypeAlias = "Callable[[Visit, bytes | None], Awaitable[Info]]"
_MOST: Final = 30  # questions in one message
_MOST_SOURCES: Final = 10  # of CRLs in one question


def _it(number: int) -> bytes:
    return der.oid(f"1.3.6.1.5.5.7.4.{number}")


CA_PROT_ENC_CERT: Final = _it(1)
SIGN_KEY_PAIR_TYPES: Final = _it(2)
ENC_KEY_PAIR_TYPES: Final = _it(3)
PREFERRED_SYMM_ALG: Final = _it(4)
CA_KEY_UPDATE_INFO: Final = _it(5)
CURRENT_CRL: Final = _it(6)
UNSUPPORTED_OIDS: Final = _it(7)
KEY_PAIR_PARAM_REQ: Final = _it(10)
KEY_PAIR_PARAM_REP: Final = _it(11)
SUPP_LANG_TAGS: Final = _it(16)
CA_CERTS: Final = _it(17)
ROOT_CA_KEY_UPDATE: Final = _it(18)
CERT_REQ_TEMPLATE: Final = _it(19)
ROOT_CA_CERT: Final = _it(20)
CRL_STATUS_LIST: Final = _it(22)
CRLS: Final = _it(23)

_AES_256_CBC: Final = der.oid("2.16.840.1.101.3.4.1.42")
_P256: Final = der.oid("1.2.840.10045.3.1.7")
# AlgorithmIdentifiers of keys, by the names that profiles have for them.
_KEYS: Final[Mapping[str, bytes]] = {
    "rsa": der.sequence(RSA_ENCRYPTION, der.NULL_DER),
    "p256": der.sequence(EC_PUBLIC_KEY, _P256),
    "p384": der.sequence(EC_PUBLIC_KEY, der.oid("1.3.132.0.34")),
    "p521": der.sequence(EC_PUBLIC_KEY, der.oid("1.3.132.0.35")),
    "ed25519": der.sequence(der.oid("1.3.101.112")),
    "ed448": der.sequence(der.oid("1.3.101.113")),
    "ml-dsa-44": der.sequence(der.oid("2.16.840.1.101.3.4.3.17")),
    "ml-dsa-65": der.sequence(der.oid("2.16.840.1.101.3.4.3.18")),
    "ml-dsa-87": der.sequence(der.oid("2.16.840.1.101.3.4.3.19")),
    "x25519": der.sequence(der.oid("1.3.101.110")),
    "x448": der.sequence(der.oid("1.3.101.111")),
    "ml-kem-768": der.sequence(der.oid("2.16.840.1.101.3.4.4.2")),
    "ml-kem-1024": der.sequence(der.oid("2.16.840.1.101.3.4.4.3")),
}
# The usage that a certificate has for a key that something can be encrypted to.
_RECEIVING: Final[Mapping[str, str]] = {
    **dict.fromkeys(("rsa", "ml-kem-768", "ml-kem-1024"), "key_encipherment"),
    **dict.fromkeys(("p256", "p384", "p521", "x25519", "x448"), "key_agreement"),
}
_SIGNING: Final = frozenset(_KEYS) - {"x25519", "x448", "ml-kem-768", "ml-kem-1024"}


class Support:
    """Answers genm, one piece of information after the other."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._answers: Mapping[bytes, _Answering] = {
            CA_PROT_ENC_CERT: self._nothing(CA_PROT_ENC_CERT),
            SIGN_KEY_PAIR_TYPES: self._sign_key_pair_types,
            ENC_KEY_PAIR_TYPES: self._enc_key_pair_types,
            PREFERRED_SYMM_ALG: self._preferred_cipher,
            CA_KEY_UPDATE_INFO: self._nothing(CA_KEY_UPDATE_INFO),
            CURRENT_CRL: self._current_crl,
            KEY_PAIR_PARAM_REQ: self._key_parameters,
            SUPP_LANG_TAGS: self._languages,
            CA_CERTS: self._ca_certs,
            CERT_REQ_TEMPLATE: self._template,
            ROOT_CA_CERT: self._root_update,
            CRL_STATUS_LIST: self._crls,
        }

    async def answer(self, visit: Visit, content: bytes) -> Reply:
        """Return genp; what is not known here is listed in it (RFC 9810, 5.3.19.7)."""
        questions = bodies.read_questions(content)
        if not 1 <= len(questions) <= _MOST:
            raise codec.bad_request(f"genm asks 1 to {_MOST} things", "cmp.general.number")
        infos: list[Info] = []
        unknown: list[bytes] = []
        for question in questions:
            answering = self._answers.get(question.type)
            if answering is None:
                unknown.append(question.type)
            else:
                infos.append(await answering(visit, question.value))
        if unknown:
            infos.append(Info(UNSUPPORTED_OIDS, der.sequence(*unknown)))
        return Reply(body=Body.GENP, content=bodies.infos(infos))

    # -- answers ------------------------------------------------------------------------------

    def _nothing(self, oid: bytes) -> _Answering:
        """Return what says, by an absent value, that there is none (RFC 9810, 5.3.19)."""

        async def answer(visit: Visit, value: bytes | None) -> Info:
            _check_absent(oid, value)
            return Info(oid)

        return answer

    async def _sign_key_pair_types(self, visit: Visit, value: bytes | None) -> Info:
        _check_absent(SIGN_KEY_PAIR_TYPES, value)
        document = await self._profile(visit)
        names = [name for name in document.keys.algorithms if name in _SIGNING]
        return Info(SIGN_KEY_PAIR_TYPES, _kinds(names))

    async def _enc_key_pair_types(self, visit: Visit, value: bytes | None) -> Info:
        _check_absent(ENC_KEY_PAIR_TYPES, value)
        document = await self._profile(visit)
        usages = document.extensions.key_usage
        names = [name for name in document.keys.algorithms if _RECEIVING.get(name) in usages]
        return Info(ENC_KEY_PAIR_TYPES, _kinds(names))

    async def _preferred_cipher(self, visit: Visit, value: bytes | None) -> Info:
        _check_absent(PREFERRED_SYMM_ALG, value)
        return Info(PREFERRED_SYMM_ALG, der.sequence(_AES_256_CBC))

    async def _languages(self, visit: Visit, value: bytes | None) -> Info:
        return Info(SUPP_LANG_TAGS, codec.free_text(["en"]))

    async def _key_parameters(self, visit: Visit, value: bytes | None) -> Info:
        """Say which parameters a kind of key should have (RFC 9810, 5.3.19.10)."""
        kind = der.Reader(value or b"").raw(der.OBJECT_IDENTIFIER)
        if kind != EC_PUBLIC_KEY:
            return Info(KEY_PAIR_PARAM_REP)
        document = await self._profile(visit)
        curves = [name for name in document.keys.algorithms if name in ("p256", "p384", "p521")]
        return Info(KEY_PAIR_PARAM_REP, _KEYS[curves[0]] if curves else None)

    async def _current_crl(self, visit: Visit, value: bytes | None) -> Info:
        _check_absent(CURRENT_CRL, value)
        issuer = await self._issuer(visit)
        return Info(CURRENT_CRL, (await self._services.crls.current(issuer.id)).der)

    async def _ca_certs(self, visit: Visit, value: bytes | None) -> Info:
        """Send the CA certificates; a root only where there is nothing else (RFC 9483, 4.3.1)."""
        _check_absent(CA_CERTS, value)
        chain = (await self._issuer(visit)).chain
        sent = [each for each in chain if each.issuer != each.subject] or list(chain)
        return Info(CA_CERTS, der.sequence(*[each.public_bytes(Encoding.DER) for each in sent]))

    async def _root_update(self, visit: Visit, value: bytes | None) -> Info:
        """Send the root that follows the client's, if there is one (RFC 9483, 4.3.2)."""
        old = _certificate(value) if value is not None else None
        root = (await self._issuer(visit)).chain[-1]
        mine = old or root
        following = await self._following(visit, mine)
        if following is None:
            return Info(ROOT_CA_KEY_UPDATE)
        new = der.sequence(following.public_bytes(Encoding.DER))
        return Info(ROOT_CA_KEY_UPDATE, new)

    async def _following(self, visit: Visit, root: x509.Certificate) -> x509.Certificate | None:
        """Return the newest root of the authority whose earlier one a client has."""
        tenant = visit.endpoint.tenant
        for own in await self._services.hierarchy.by_subject(root.subject.public_bytes()):
            if own.tenant != tenant or own.certificate != root or not own.is_self_signed:
                continue
            later = [
                each
                for each in await self._services.hierarchy.generations(tenant, own.authority)
                if each.generation > own.generation
                and each.state in (IssuerState.ACTIVE, IssuerState.NEXT)
                and each.is_self_signed
                and each.compromised_at is None
            ]
            return later[-1].certificate if later else None
        return None

    async def _template(self, visit: Visit, value: bytes | None) -> Info:
        """Say what a request should look like (RFC 9483, 4.3.3): fixed names, kinds of key."""
        _check_absent(CERT_REQ_TEMPLATE, value)
        document = await self._profile(visit)
        controls = [
            der.sequence(crmf.ALG_ID, _KEYS[name])
            for name in document.keys.algorithms
            if name in _KEYS and name != "rsa"
        ]
        if "rsa" in document.keys.algorithms:
            controls.append(der.sequence(crmf.RSA_KEY_LEN, der.integer(document.keys.rsa_min)))
        subject = der.explicit(5, _fixed_subject(document).public_bytes())
        return Info(CERT_REQ_TEMPLATE, der.sequence(der.sequence(subject), der.sequence(*controls)))

    async def _crls(self, visit: Visit, value: bytes | None) -> Info:
        """Send the CRLs that are newer than the client's (RFC 9483, 4.3.4).

        A source is compared with names of our own; nothing that it says is ever fetched.
        """
        sources = der.read(value or b"", der.SEQUENCE)
        found: list[bytes] = []
        for count, _ in enumerate(sources.each()):
            if count >= _MOST_SOURCES:
                raise codec.bad_request("too many sources of CRLs", "cmp.general.sources")
            since, names = _read_source(sources.enter(der.SEQUENCE))
            for issuer in await self._named(visit, names):
                crl = await self._services.crls.current(issuer.id)
                if (since is None or crl.this_update > since) and crl.der not in found:
                    found.append(crl.der)
        return Info(CRLS, der.sequence(*found) if found else None)

    async def _named(self, visit: Visit, names: list[bytes]) -> list[Issuer]:
        """Return the issuers that GeneralNames mean: by directory name, or by our CRL's address."""
        found = []
        for issuer in await self._services.hierarchy.of_tenant(visit.endpoint.tenant):
            if not issuer.signs:
                continue
            address = self._services.hierarchy.urls(issuer).crl.encode()
            known = {der.explicit(4, issuer.subject_der)}
            if address:
                known.add(der.tlv(0x86, address))
            if not known.isdisjoint(names):
                found.append(issuer)
        return found

    # -- steps --------------------------------------------------------------------------------

    async def _issuer(self, visit: Visit) -> Issuer:
        return await self._services.hierarchy.active(
            visit.endpoint.tenant, visit.endpoint.document.authority
        )

    async def _profile(self, visit: Visit) -> ProfileDocument:
        stored = await self._services.objects.load(
            visit.endpoint.tenant, "profile", visit.endpoint.document.profile
        )
        document: ProfileDocument = stored.document
        return document


def _check_absent(oid: bytes, value: bytes | None) -> None:
    """Refuse a question that brings a value where none belongs; NULL counts as none."""
    if value not in (None, der.NULL_DER):
        raise codec.bad_request(
            "the question must have no value", "cmp.general.value", type=der.dotted(oid)
        )


def _kinds(names: Sequence[str]) -> bytes | None:
    """Return AlgorithmIdentifiers of kinds of keys; None where there are none."""
    return der.sequence(*[_KEYS[name] for name in names]) if names else None


def _certificate(value: bytes) -> x509.Certificate:
    try:
        return parsing.certificate(value)
    except ValueError:
        raise codec.bad_request(
            "the question does not hold a certificate", "cmp.general.value"
        ) from None


def _fixed_subject(document: ProfileDocument) -> x509.Name:
    """Return the attributes that a profile writes, whatever a request says."""
    fixed = []
    for name, rule in document.subject.attributes.items():
        if rule.fixed:
            oid = ATTRIBUTES.get(name) or ObjectIdentifier(name)
            fixed.append(x509.NameAttribute(oid, rule.fixed))
    return x509.Name(fixed)


def _read_source(reader: der.Reader) -> tuple[datetime | None, list[bytes]]:
    """Read a CRLStatus: since when, and the GeneralNames that mean the CRL."""
    tag = reader.peek()
    source = reader.enter(tag if tag in (0xA0, 0xA1) else 0xA0)
    names: list[bytes] = []
    if tag == 0xA1:
        inside = source.enter(der.SEQUENCE)
        names = [inside.raw() for _ in inside.each()]
    elif source.peek() == 0xA0:  # fullName of a DistributionPointName
        inside = source.enter(0xA0)
        names = [inside.raw() for _ in inside.each()]
    since = der.instant(reader.raw()) if reader.peek() >= 0 else None
    reader.finish()
    return since, names
