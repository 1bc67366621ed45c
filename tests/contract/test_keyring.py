"""One suite for every kind of key store: soft, and PKCS#11 on SoftHSM."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from tests.pumping import Pump, pumping
from tests.softhsm import SoftToken, create_token
from tests.unit.test_signer_keyring import Shelf
from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import CURVES, RSA_BITS, KeyAlgorithm
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.signer.pkcs11 import PKCS11Store
from tmad.signer.seal import Seal
from tmad.signer.soft import SoftStore

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Contract")])
ML_DSA = {KeyAlgorithm.ML_DSA_44, KeyAlgorithm.ML_DSA_65, KeyAlgorithm.ML_DSA_87}


class Bench:
    """A keyring, the reactor that drives it, and one key of each algorithm, made once."""

    def __init__(self, kind: str, pump: Pump, token: SoftToken) -> None:
        self.kind = kind
        self.pump = pump
        store = (
            SoftStore(Seal(b"m" * 32)) if kind == "soft" else PKCS11Store(token.settings(threads=2))
        )
        self.keyring = Keyring(
            Shelf(), {kind: store}, default=kind, reactor=pump.reactor, now=lambda: NOW
        )
        # What a store offers is known once its token has been opened.
        self.make(KeyAlgorithm.P256)
        self._handles: dict[KeyAlgorithm, KeyHandle] = {}

    def make(self, algorithm: KeyAlgorithm) -> KeyHandle:
        return self.pump.run(self.keyring.generate(algorithm, tenant="default", label="contract"))

    def handle(self, algorithm: KeyAlgorithm) -> KeyHandle:
        if algorithm not in self._handles:
            self._handles[algorithm] = self.make(algorithm)
        return self._handles[algorithm]

    def refuses(self, algorithm: KeyAlgorithm) -> bool:
        """Tell whether the store does without an algorithm; then its Fault must say why."""
        if algorithm in self.keyring.algorithms():
            return False
        assert self.kind != "soft"
        with pytest.raises(Fault) as caught:
            self.make(algorithm)
        assert caught.value.code is FaultCode.UNSUPPORTED
        assert "CKM_" in caught.value.detail
        return True

    def use(self, algorithm: KeyAlgorithm, operation: Callable[[Any], Any]) -> Any:
        return self.pump.run(self.keyring.use(self.handle(algorithm).id, operation))

    def public(self, algorithm: KeyAlgorithm) -> Any:
        return self.pump.run(self.keyring.public_key(self.handle(algorithm).id))


@pytest.fixture(scope="module", params=["soft", "pkcs11"])
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, require_client: Any
) -> Iterator[Bench]:
    require_client("softhsm2-util")
    with pytest.MonkeyPatch.context() as patch, pumping() as pump:
        token = create_token(tmp_path_factory.mktemp("contract") / "softhsm")
        for name, value in token.environment.items():
            patch.setenv(name, value)
        bench = Bench(request.param, pump, token)
        yield bench
        pump.run(bench.keyring.close())


def hash_for(algorithm: KeyAlgorithm) -> Any:
    return hashes.SHA256() if algorithm in CURVES or algorithm in RSA_BITS else None


def certificate(key: Any, algorithm: KeyAlgorithm, **kwargs: Any) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=9999))
        .not_valid_after(NOW + timedelta(days=9999))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hash_for(algorithm), **kwargs)
    )


def check_by_openssl(tmp_path: Path, *arguments: str, **files: bytes) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing; tests/run installs it"
    result = subprocess.run(
        [openssl, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_gen_30_each_algorithm_signs_certificates(
    bench: Bench, algorithm: KeyAlgorithm, tmp_path: Path
) -> None:
    if bench.refuses(algorithm):
        return
    made = bench.use(algorithm, lambda key: certificate(key, algorithm))
    made.verify_directly_issued_by(made)
    assert made.public_key() == bench.public(algorithm)
    if algorithm not in ML_DSA:  # openssl 3.0 cannot decode them
        pem = made.public_bytes(Encoding.PEM)
        check_by_openssl(
            tmp_path, "verify", "-check_ss_sig", "-CAfile", "ca.pem", "ca.pem", **{"ca.pem": pem}
        )


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_gen_30_each_algorithm_signs_requests(
    bench: Bench, algorithm: KeyAlgorithm, tmp_path: Path
) -> None:
    if bench.refuses(algorithm):
        return

    def sign(key: Any) -> x509.CertificateSigningRequest:
        builder = x509.CertificateSigningRequestBuilder().subject_name(NAME)
        return builder.sign(key, hash_for(algorithm))

    request = bench.use(algorithm, sign)
    assert request.is_signature_valid
    if algorithm not in ML_DSA:
        der = request.public_bytes(Encoding.DER)
        check_by_openssl(
            tmp_path, "req", "-inform", "DER", "-in", "csr", "-verify", "-noout", csr=der
        )


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_gen_30_each_algorithm_signs_crls(
    bench: Bench, algorithm: KeyAlgorithm, tmp_path: Path
) -> None:
    if bench.refuses(algorithm):
        return

    def sign(key: Any) -> tuple[x509.Certificate, x509.CertificateRevocationList]:
        builder = x509.CertificateRevocationListBuilder().issuer_name(NAME)
        builder = builder.last_update(NOW).next_update(NOW + timedelta(days=7))
        return certificate(key, algorithm), builder.sign(key, hash_for(algorithm))

    ca, crl = bench.use(algorithm, sign)
    assert crl.is_signature_valid(bench.public(algorithm))
    if algorithm not in ML_DSA:
        check_by_openssl(
            tmp_path,
            *("crl", "-inform", "DER", "-in", "crl", "-CAfile", "ca.pem", "-noout"),
            **{"crl": crl.public_bytes(Encoding.DER), "ca.pem": ca.public_bytes(Encoding.PEM)},
        )


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_gen_30_each_algorithm_signs_ocsp_answers(
    bench: Bench, algorithm: KeyAlgorithm, tmp_path: Path
) -> None:
    if bench.refuses(algorithm):
        return

    def sign(key: Any) -> tuple[x509.Certificate, ocsp.OCSPResponse]:
        ca = certificate(key, algorithm)
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=ca,
            issuer=ca,
            algorithm=hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=datetime.now(UTC) - timedelta(minutes=1),
            next_update=datetime.now(UTC) + timedelta(days=1),
            revocation_time=None,
            revocation_reason=None,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, ca)
        return ca, builder.sign(key, hash_for(algorithm))

    ca, answer = bench.use(algorithm, sign)
    answer = ocsp.load_der_ocsp_response(answer.public_bytes(Encoding.DER))
    verify(bench.public(algorithm), answer.signature, answer.tbs_response_bytes, algorithm)
    if algorithm not in ML_DSA:
        check_by_openssl(
            tmp_path,
            *("ocsp", "-respin", "answer", "-CAfile", "ca.pem", "-issuer", "ca.pem"),
            *("-sha256", "-cert", "ca.pem", "-no_nonce"),
            **{
                "answer": answer.public_bytes(Encoding.DER),
                "ca.pem": ca.public_bytes(Encoding.PEM),
            },
        )


def verify(public: Any, signature: bytes, data: bytes, algorithm: KeyAlgorithm) -> None:
    if algorithm in RSA_BITS:
        public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    elif algorithm in CURVES:
        public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    else:
        public.verify(signature, data)


def sign(key: Any, data: bytes, algorithm: KeyAlgorithm) -> bytes:
    if algorithm in RSA_BITS:
        return bytes(key.sign(data, padding.PKCS1v15(), hashes.SHA256()))
    if algorithm in CURVES:
        return bytes(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return bytes(key.sign(data))


@pytest.mark.parametrize("salt", [32, padding.PSS.DIGEST_LENGTH, padding.PSS.MAX_LENGTH])
def test_pss_certificates(bench: Bench, salt: Any, tmp_path: Path) -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    algorithm = KeyAlgorithm.RSA_2048
    made = bench.use(algorithm, lambda key: certificate(key, algorithm, rsa_padding=pss))
    made.verify_directly_issued_by(made)
    pem = made.public_bytes(Encoding.PEM)
    check_by_openssl(
        tmp_path, "verify", "-check_ss_sig", "-CAfile", "ca.pem", "ca.pem", **{"ca.pem": pem}
    )


HASHES = [hashes.SHA1(), hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]


@pytest.mark.parametrize("digest", HASHES, ids=lambda d: d.name)
def test_gen_33_rsa_signs_with_each_hash_plain_and_prehashed(bench: Bench, digest: Any) -> None:
    public: rsa.RSAPublicKey = bench.public(KeyAlgorithm.RSA_2048)
    context = hashes.Hash(digest)
    context.update(b"data")
    hashed = context.finalize()
    for scheme in (padding.PKCS1v15(), padding.PSS(padding.MGF1(digest), digest.digest_size)):
        plain = bench.use(
            KeyAlgorithm.RSA_2048, lambda key, scheme=scheme: key.sign(b"data", scheme, digest)
        )
        public.verify(plain, b"data", scheme, digest)
        pre = bench.use(
            KeyAlgorithm.RSA_2048,
            lambda key, scheme=scheme: key.sign(hashed, scheme, utils.Prehashed(digest)),
        )
        public.verify(pre, b"data", scheme, digest)


@pytest.mark.parametrize("digest", HASHES, ids=lambda d: d.name)
@pytest.mark.parametrize("algorithm", CURVES)
def test_gen_31_ecdsa_signs_with_each_hash_plain_and_prehashed(
    bench: Bench, algorithm: KeyAlgorithm, digest: Any
) -> None:
    public = bench.public(algorithm)
    context = hashes.Hash(digest)
    context.update(b"data")
    hashed = context.finalize()
    plain = bench.use(algorithm, lambda key: key.sign(b"data", ec.ECDSA(digest)))
    public.verify(plain, b"data", ec.ECDSA(digest))
    prehashed = ec.ECDSA(utils.Prehashed(digest))
    pre = bench.use(algorithm, lambda key: key.sign(hashed, prehashed))
    public.verify(pre, b"data", ec.ECDSA(digest))


def test_scep_ra_keys_decrypt_pkcs1_and_oaep(bench: Bench) -> None:
    public = bench.public(KeyAlgorithm.RSA_2048)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    for scheme in (padding.PKCS1v15(), oaep):
        for secret in (b"k" * 16, b"\0" * 24, b""):
            sealed = public.encrypt(secret, scheme)
            opened = bench.use(
                KeyAlgorithm.RSA_2048,
                lambda key, sealed=sealed, scheme=scheme: key.decrypt(sealed, scheme),
            )
            assert opened == secret


def test_gen_26_bad_padding_gives_octets_not_an_error(bench: Bench) -> None:
    public: rsa.RSAPublicKey = bench.public(KeyAlgorithm.RSA_2048)
    n = public.public_numbers().n

    def encrypted(block: bytes) -> bytes:
        return pow(int.from_bytes(block, "big"), 65537, n).to_bytes(256, "big")

    good_padding = b"\x55" * 237
    blocks = {
        "type 1": b"\0\1" + good_padding + b"\0" + b"k" * 16,
        "first octet": b"\1\2" + good_padding + b"\0" + b"k" * 16,
        "no zero": b"\0\2" + b"\x55" * 254,
        "short padding": b"\0\2" + b"\x55" * 7 + b"\0" + b"k" * 246,
        "zero first": b"\0\2\0" + b"k" * 253,
    }
    answers = set()
    for name, block in blocks.items():
        sealed = encrypted(block)
        first, second = (
            bench.use(
                KeyAlgorithm.RSA_2048,
                lambda key, sealed=sealed: key.decrypt(sealed, padding.PKCS1v15()),
            )
            for _ in range(2)
        )
        assert first == second, name
        assert b"k" * 16 not in first, name
        answers.add(first)
    assert len(answers) == len(blocks)
    (health,) = bench.pump.run(bench.keyring.health())
    assert health.state == "ok"


def test_gen_26_bad_oaep_is_one_error(bench: Bench) -> None:
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    with pytest.raises(ValueError, match="failed"):
        bench.use(KeyAlgorithm.RSA_2048, lambda key: key.decrypt(b"\1" * 256, oaep))
    assert bench.use(KeyAlgorithm.RSA_2048, lambda key: key.key_size) == 2048


@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_keys_of_one_algorithm_differ(bench: Bench, algorithm: KeyAlgorithm) -> None:
    if bench.refuses(algorithm):
        return
    if algorithm in (KeyAlgorithm.RSA_4096, KeyAlgorithm.RSA_3072):
        algorithm = KeyAlgorithm.RSA_2048
    bench.handle(algorithm)
    other = bench.make(algorithm)
    assert other.public_key_der != bench.handle(algorithm).public_key_der
    signature = bench.use(algorithm, lambda key: sign(key, b"data", algorithm))
    public = bench.pump.run(bench.keyring.public_key(other.id))
    with pytest.raises(InvalidSignature):
        verify(public, signature, b"data", algorithm)


def test_a_removed_key_signs_no_more(bench: Bench) -> None:
    handle = bench.make(KeyAlgorithm.P256)
    bench.pump.run(bench.keyring.remove(handle.id))
    with pytest.raises(Fault) as caught:
        bench.pump.run(bench.keyring.use(handle.id, lambda key: key))
    assert caught.value.code is FaultCode.NOT_FOUND


def test_what_an_operation_raises_comes_back(bench: Bench) -> None:
    def fail(key: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        bench.use(KeyAlgorithm.P256, fail)
    assert bench.use(KeyAlgorithm.P256, lambda key: key.key_size) == 256


def test_a_store_is_healthy_after_all_this(bench: Bench) -> None:
    (health,) = bench.pump.run(bench.keyring.health())
    assert (health.store, health.state, health.reason) == (bench.kind, "ok", "")
    assert health.queue == 0


def stress(bench: Bench, operations: int) -> None:
    """Keep many operations in flight on all threads; every result must be right."""
    algorithms = [KeyAlgorithm.P256, KeyAlgorithm.ED25519, KeyAlgorithm.RSA_2048]
    algorithms += [KeyAlgorithm.ED448, KeyAlgorithm.P384]
    handles = [(a, bench.handle(a)) for a in algorithms]
    publics = {a: bench.public(a) for a in algorithms}
    threads = set()

    def operate(key: Any, data: bytes, algorithm: KeyAlgorithm) -> bytes:
        threads.add(threading.get_ident())
        return sign(key, data, algorithm)

    done = 0
    while done < operations:
        batch = []
        for number in range(done, min(done + 60, operations)):
            algorithm, handle = handles[number % len(handles)]
            data = f"operation {number}".encode()
            coroutine = bench.keyring.use(
                handle.id, lambda key, d=data, a=algorithm: operate(key, d, a)
            )
            batch.append((algorithm, data, bench.pump.begin(coroutine)))
        bench.pump.until(lambda batch=batch: all(results for _, _, results in batch), 60)
        for algorithm, data, results in batch:
            verify(publics[algorithm], results[0], data, algorithm)
        done += len(batch)
    assert len(threads) > 1


def test_500_mixed_operations_on_all_threads(bench: Bench) -> None:
    stress(bench, 500)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_10_000_mixed_operations_on_8_threads(
    tmp_path: Path, require_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_client("softhsm2-util")
    token = create_token(tmp_path / "softhsm")
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    with pumping() as pump:
        bench = Bench("pkcs11", pump, token)
        pump.run(bench.keyring.close())
        store = PKCS11Store(token.settings(threads=8, timeout_seconds=30))
        bench.keyring = Keyring(
            Shelf(), {"pkcs11": store}, default="pkcs11", reactor=pump.reactor, now=lambda: NOW
        )
        stress(bench, 10_000)
        pump.run(bench.keyring.close())
