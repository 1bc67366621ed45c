"""Key objects of a token over a stand-in for the token: what goes in, what may come out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from hypothesis import given
from hypothesis import strategies as st
from pkcs11 import Mechanism, exceptions

from tmad.errors import Fault, FaultCode
from tmad.signer.calls import TokenError, calling, code_of
from tmad.signer.grip import Grip
from tmad.signer.hsm_keys import challenge, key_for
from tmad.signer.hsm_rsa import _stand_in, _unpad

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NUMBERS = PRIVATE.private_numbers()
SHA256 = hashes.SHA256()


class RSAToken:
    """An RSA key that does what the mechanisms say, in software; records what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Mechanism] = []
        self.error: Exception | None = None

    def _begin(self, mechanism: Mechanism) -> None:
        self.asked.append(mechanism)
        if self.error is not None:
            raise self.error

    def sign(self, data: bytes, *, mechanism: Mechanism, mechanism_param: Any) -> bytes:
        self._begin(mechanism)
        if mechanism is Mechanism.SHA256_RSA_PKCS:
            return PRIVATE.sign(data, padding.PKCS1v15(), SHA256)
        if mechanism is Mechanism.SHA256_RSA_PKCS_PSS:
            pss = padding.PSS(padding.MGF1(SHA256), mechanism_param[2])
            return PRIVATE.sign(data, pss, SHA256)
        assert mechanism is Mechanism.RSA_PKCS
        block = b"\0\1" + b"\xff" * (253 - len(data)) + b"\0" + data
        return pow(
            int.from_bytes(block, "big"), NUMBERS.d, PRIVATE.public_key().public_numbers().n
        ).to_bytes(256, "big")

    def decrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: Any) -> bytes:
        self._begin(mechanism)
        return PRIVATE.decrypt(data, padding.PKCS1v15())


class Connection:
    """As much of a connection as a Grip looks at."""

    def __init__(self, *mechanisms: Mechanism) -> None:
        self.mechanisms = frozenset(int(m) for m in mechanisms)
        self.generation = 1
        self.module = self


def rsa_key(*mechanisms: Mechanism) -> tuple[Any, RSAToken, Grip]:
    token = RSAToken()
    grip = Grip(Connection(*mechanisms), token)  # type: ignore[arg-type]
    return key_for(grip, PRIVATE.public_key()), token, grip


def test_a_token_that_must_hash_itself_gets_the_data() -> None:
    key, token, _ = rsa_key(Mechanism.SHA256_RSA_PKCS)
    signature = key.sign(b"data", padding.PKCS1v15(), SHA256)
    PRIVATE.public_key().verify(signature, b"data", padding.PKCS1v15(), SHA256)
    pss = padding.PSS(padding.MGF1(SHA256), 32)
    PRIVATE.public_key().verify(key.sign(b"data", pss, SHA256), b"data", pss, SHA256)
    assert token.asked == [Mechanism.SHA256_RSA_PKCS, Mechanism.SHA256_RSA_PKCS_PSS]


def test_hashed_data_needs_the_plain_mechanism() -> None:
    key, token, _ = rsa_key(Mechanism.SHA256_RSA_PKCS)
    for scheme in (padding.PKCS1v15(), padding.PSS(padding.MGF1(SHA256), 32)):
        with pytest.raises(Fault) as caught:
            key.sign(b"h" * 32, scheme, utils.Prehashed(SHA256))
        assert caught.value.code is FaultCode.UNSUPPORTED
    assert token.asked == []


def test_data_of_the_wrong_length_is_not_signed() -> None:
    key, token, _ = rsa_key(Mechanism.RSA_PKCS)
    with pytest.raises(ValueError, match="length"):
        key.sign(b"h" * 31, padding.PKCS1v15(), utils.Prehashed(SHA256))
    assert token.asked == []


@pytest.mark.parametrize("algorithm", [hashes.MD5(), hashes.SHA3_256(), None, utils.NoDigestInfo()])
def test_other_hashes_are_refused(algorithm: Any) -> None:
    key, _, _ = rsa_key(Mechanism.RSA_PKCS)
    with pytest.raises(Fault) as caught:
        key.sign(b"data", padding.PKCS1v15(), algorithm)
    assert caught.value.code is FaultCode.UNSUPPORTED


def test_pss_salt_lengths_for_verifying_only_are_refused() -> None:
    key, _, _ = rsa_key(Mechanism.RSA_PKCS_PSS)
    with pytest.raises(ValueError, match="AUTO"):
        key.sign(b"data", padding.PSS(padding.MGF1(SHA256), padding.PSS.AUTO), SHA256)


def test_deterministic_ecdsa_is_refused_not_ignored() -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = key_for(Grip(Connection(), RSAToken()), public)  # type: ignore[arg-type]
    with pytest.raises(Fault) as caught:
        key.sign(b"data", ec.ECDSA(SHA256, deterministic_signing=True))
    assert caught.value.code is FaultCode.UNSUPPORTED


@pytest.mark.parametrize(
    ("error", "code", "is_trouble"),
    [
        (exceptions.DeviceError(), FaultCode.UNAVAILABLE, True),
        (exceptions.GeneralError(), FaultCode.UNAVAILABLE, True),
        (exceptions.SessionHandleInvalid(), FaultCode.UNAVAILABLE, True),
        (exceptions.UserNotLoggedIn(), FaultCode.UNAVAILABLE, True),
        (exceptions.DataLenRange(), FaultCode.UNSUPPORTED, False),
        (exceptions.MechanismInvalid(), FaultCode.UNSUPPORTED, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_about_the_data_are_no_trouble_of_the_token(
    error: Exception, code: FaultCode, is_trouble: bool
) -> None:
    key, token, grip = rsa_key(Mechanism.RSA_PKCS)
    token.error = error
    with pytest.raises(Fault) as caught:
        challenge(key)
    assert caught.value.code is code
    assert (grip.trouble is not None) is is_trouble
    assert grip.signatures == 0


def test_gen_26_a_token_that_unpads_itself_is_no_oracle() -> None:
    """Without CKM_RSA_X_509 every error gives the stand-in, and the store looks each time."""
    sealed = PRIVATE.public_key().encrypt(b"k" * 16, padding.PKCS1v15())
    key, token, grip = rsa_key(Mechanism.RSA_PKCS)
    assert key.decrypt(sealed, padding.PKCS1v15()) == b"k" * 16
    assert grip.trouble is not None
    expected = _stand_in(sealed, 256)
    for error in (exceptions.EncryptedDataInvalid(), exceptions.GeneralError()):
        token.error = error
        key, token, grip = rsa_key(Mechanism.RSA_PKCS)
        token.error = error
        assert key.decrypt(sealed, padding.PKCS1v15()) == expected
        assert grip.trouble is not None


def test_gen_26_impossible_ciphertexts_do_not_reach_the_token() -> None:
    key, token, _ = rsa_key(Mechanism.RSA_X_509)
    for sealed in (b"", b"\1" * 255, b"\1" * 257, b"\xff" * 256):
        answers = {key.decrypt(sealed, padding.PKCS1v15()) for _ in range(2)}
        assert answers == {_stand_in(sealed, 256)}
    assert token.asked == []


def test_gen_26_stand_ins_have_all_lengths_and_no_pattern() -> None:
    answers = [_stand_in(n.to_bytes(4, "big"), 256) for n in range(4000)]
    lengths = {len(answer) for answer in answers}
    assert min(lengths) < 8
    assert max(lengths) == 245
    assert len(set(answers)) > 3900


@given(st.binary(min_size=64, max_size=64))
def test_gen_26_unpadding_any_block_is_decoding_or_the_stand_in(block: bytes) -> None:
    stand_in = b"stand-in"
    assert _unpad(block, stand_in) == reference(block, stand_in)


@given(
    st.binary(max_size=1),
    st.sampled_from([b"\0\2", b"\0\1", b"\1\2", b"\0\0"]),
    st.binary(min_size=0, max_size=20).map(lambda octets: octets.replace(b"\0", b"\1")),
    st.sampled_from([b"\0", b""]),
)
def test_gen_26_unpadding_blocks_that_are_nearly_right(
    tail: bytes, head: bytes, filler: bytes, zero: bytes
) -> None:
    block = (head + filler + zero + tail).ljust(40, b"\7")
    assert _unpad(block, b"stand-in") == reference(block, b"stand-in")


def reference(block: bytes, stand_in: bytes) -> bytes:
    """EME-PKCS1-v1_5 decoding as RFC 8017, 7.2.2 says it, without care for time."""
    zero = block.find(b"\0", 2)
    if not block.startswith(b"\0\2") or zero < 10:
        return stand_in
    return block[zero + 1 :]


def test_key_objects_are_not_copied_exported_or_pickled() -> None:
    key, _, _ = rsa_key(Mechanism.RSA_PKCS)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key
    assert repr(key) == "<TokenRSAKey>"
    for export in (key.private_numbers, lambda: key.private_bytes(1, 2, 3)):
        with pytest.raises(Fault) as caught:
            export()
        assert caught.value.rule == "signer.non-extractable"
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_wrong_signature_of_each_kind_is_kept_back() -> None:
    class Liar:
        def sign(self, data: bytes, **_: Any) -> bytes:
            return b"\1" * 64

    for public in (
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
        PRIVATE.public_key(),
    ):
        grip = Grip(Connection(Mechanism.RSA_PKCS), Liar())  # type: ignore[arg-type]
        with pytest.raises(Fault) as caught:
            challenge(key_for(grip, public))
        assert caught.value.rule == "signer.wrong-signature"
        assert grip.wrong_signatures == 1


def test_return_codes_have_the_standards_names() -> None:
    assert code_of(exceptions.PinIncorrect()) == "CKR_PIN_INCORRECT"
    assert code_of(exceptions.SessionHandleInvalid()) == "CKR_SESSION_HANDLE_INVALID"
    assert code_of(exceptions.SlotIDInvalid()) == "CKR_SLOT_ID_INVALID"
    with pytest.raises(TokenError, match="C_Sign: CKR_DEVICE_ERROR"), calling("C_Sign"):
        raise exceptions.DeviceError
