"""RSA keys in a token: signatures and decryption (RFC 8017 over PKCS#11)."""

from __future__ import annotations

import hmac
import os
from typing import Any

import pkcs11.exceptions as errors
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as schemes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from pkcs11 import MGF, Mechanism

from tmad.signer.calls import TokenError, code_of
from tmad.signer.grip import DATA_ERRORS, Grip, TokenKey, hashed, unsupported

_PADDING_ERRORS = (
    errors.DataInvalid,
    errors.DataLenRange,
    errors.EncryptedDataInvalid,
    errors.EncryptedDataLenRange,
)

# DER of DigestInfo up to the digest (RFC 8017, 9.2, note 1).
_DIGEST_INFO = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha224": bytes.fromhex("302d300d06096086480165030402040500041c"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
# The hash as a mechanism, its mask generation function, and signing with hashing in the token.
_HASHES: dict[str, tuple[Mechanism, MGF, Mechanism, Mechanism]] = {
    "sha1": (
        Mechanism.SHA_1,
        MGF.SHA1,
        Mechanism.SHA1_RSA_PKCS,
        Mechanism.SHA1_RSA_PKCS_PSS,
    ),
    "sha224": (
        Mechanism.SHA224,
        MGF.SHA224,
        Mechanism.SHA224_RSA_PKCS,
        Mechanism.SHA224_RSA_PKCS_PSS,
    ),
    "sha256": (
        Mechanism.SHA256,
        MGF.SHA256,
        Mechanism.SHA256_RSA_PKCS,
        Mechanism.SHA256_RSA_PKCS_PSS,
    ),
    "sha384": (
        Mechanism.SHA384,
        MGF.SHA384,
        Mechanism.SHA384_RSA_PKCS,
        Mechanism.SHA384_RSA_PKCS_PSS,
    ),
    "sha512": (
        Mechanism.SHA512,
        MGF.SHA512,
        Mechanism.SHA512_RSA_PKCS,
        Mechanism.SHA512_RSA_PKCS_PSS,
    ),
}
# Makes the answer to a bad ciphertext the same each time it is asked, and unpredictable.
_REJECTION_KEY = os.urandom(32)


class TokenRSAKey(TokenKey, rsa.RSAPrivateKey):
    """An RSA key in a token: PKCS#1 v1.5, PSS, decryption."""

    def __init__(self, grip: Grip, public_key: rsa.RSAPublicKey) -> None:
        self._grip = grip
        self._public_key = public_key

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public_key

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        data = bytes(data)
        name, digest = hashed(data, algorithm)
        if name not in _HASHES:
            raise unsupported(f"RSA with {name}")
        if isinstance(padding, schemes.PSS):
            signature = self._sign_pss(data, digest, name, padding, algorithm)
        else:
            signature = self._sign_pkcs1(data, digest, name, padding, algorithm)
        return self._grip.verified(
            signature, lambda s: self._public_key.verify(s, data, padding, algorithm)
        )

    def decrypt(self, ciphertext: Any, padding: Any) -> bytes:
        """Like cryptography's: a PKCS#1 v1.5 padding error gives random octets, not an error."""
        ciphertext = bytes(ciphertext)
        if isinstance(padding, schemes.OAEP):
            return self._decrypt_oaep(ciphertext, padding)
        if not isinstance(padding, schemes.PKCS1v15):
            raise unsupported(f"RSA decryption with {type(padding).__name__}")
        return self._decrypt_pkcs1(ciphertext)

    def __copy__(self) -> TokenRSAKey:
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> TokenRSAKey:
        return self

    def _sign_pkcs1(
        self, data: bytes, digest: bytes, name: str, padding: Any, algorithm: Any
    ) -> bytes:
        if not isinstance(padding, schemes.PKCS1v15):
            raise unsupported(f"RSA signatures with {type(padding).__name__}")
        if Mechanism.RSA_PKCS in self._grip.mechanisms:
            # Hashing here keeps a CRL of many megabytes off the way to the HSM.
            return self._grip.sign(_DIGEST_INFO[name] + digest, Mechanism.RSA_PKCS)
        if isinstance(algorithm, Prehashed):
            raise unsupported("CKM_RSA_PKCS, which hashed data needs")
        return self._grip.sign(data, _HASHES[name][2])

    def _sign_pss(
        self, data: bytes, digest: bytes, name: str, padding: Any, algorithm: Any
    ) -> bytes:
        mechanism, _, _, combined = _HASHES[name]
        mask = padding.mgf._algorithm.name
        if mask not in _HASHES:
            raise unsupported(f"RSASSA-PSS with MGF1 and {mask}")
        parameter = (mechanism, _HASHES[mask][1], _salt_length(self._public_key, padding, name))
        if Mechanism.RSA_PKCS_PSS in self._grip.mechanisms:
            return self._grip.sign(digest, Mechanism.RSA_PKCS_PSS, parameter)
        if isinstance(algorithm, Prehashed):
            raise unsupported("CKM_RSA_PKCS_PSS, which hashed data needs")
        return self._grip.sign(data, combined, parameter)

    def _decrypt_pkcs1(self, ciphertext: bytes) -> bytes:
        """RSAES-PKCS1-v1_5 with implicit rejection, so that nobody learns of bad padding.

        A token answers a bad padding with an error, which would make every caller an oracle
        for Bleichenbacher's attack, and some (SoftHSM) with one that also means a dead token.
        So the token does the exponentiation only, where it may.
        """
        size = (self.key_size + 7) // 8
        stand_in = _stand_in(ciphertext, size)
        modulus = self._public_key.public_numbers().n
        if len(ciphertext) != size or int.from_bytes(ciphertext, "big") >= modulus:
            return stand_in
        if Mechanism.RSA_X_509 in self._grip.mechanisms:
            try:
                block = self._grip.decrypt(ciphertext, Mechanism.RSA_X_509)
            except errors.PKCS11Error as error:
                raise self._grip.failed("C_Decrypt", Mechanism.RSA_X_509, error) from error
            return _unpad(block.rjust(size, b"\0"), stand_in)
        # The token looks the same after a bad padding and after its own failure, so the store
        # examines it after every decryption, good ones too: time must not tell them apart.
        self._grip.trouble = TokenError("C_Decrypt", "unclear", "bad padding, or a lost token")
        try:
            return self._grip.decrypt(ciphertext, Mechanism.RSA_PKCS)
        except errors.PKCS11Error:
            return stand_in

    def _decrypt_oaep(self, ciphertext: bytes, padding: Any) -> bytes:
        name, mask = padding.algorithm.name, padding.mgf._algorithm.name
        if name not in _HASHES or mask not in _HASHES:
            raise unsupported(f"RSA-OAEP with {name}, MGF1 and {mask}")
        label = padding._label or None
        parameter = (_HASHES[name][0], _HASHES[mask][1], label)
        try:
            return self._grip.decrypt(ciphertext, Mechanism.RSA_PKCS_OAEP, parameter)
        except _PADDING_ERRORS:
            raise ValueError("Decryption failed") from None
        except DATA_ERRORS as error:
            raise self._grip.failed("C_Decrypt", Mechanism.RSA_PKCS_OAEP, error) from error
        except errors.PKCS11Error as error:
            # SoftHSM says CKR_GENERAL_ERROR for a bad ciphertext, too.
            self._grip.trouble = TokenError("C_Decrypt", code_of(error))
            raise ValueError("Decryption failed") from None


def _salt_length(public_key: rsa.RSAPublicKey, pss: schemes.PSS, name: str) -> int:
    size = _HASH_SIZES[name]
    wanted = pss._salt_length
    if isinstance(wanted, int):
        return wanted
    if wanted is schemes.PSS.DIGEST_LENGTH:
        return size
    if wanted is schemes.PSS.MAX_LENGTH:
        # emLen - hLen - 2 (RFC 8017, 9.1.1)
        return (public_key.key_size + 6) // 8 - size - 2
    raise ValueError("PSS salt length AUTO is for verifying only")


_HASH_SIZES = {"sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}


def _stand_in(ciphertext: bytes, size: int) -> bytes:
    """Return octets of a random length that depend on nothing but the ciphertext."""
    seed = hmac.digest(_REJECTION_KEY, ciphertext, "sha256")
    shake = hashes.Hash(hashes.SHAKE256(size + 2))
    shake.update(seed)
    stream = shake.finalize()
    return stream[2 : 2 + int.from_bytes(stream[:2], "big") % (size - 10)]


def _unpad(block: bytes, stand_in: bytes) -> bytes:
    """EME-PKCS1-v1_5 decoding (RFC 8017, 7.2.2); the stand-in for every kind of mistake.

    All octets are always looked at, and the choice is made once, at the end.
    """
    zero_at = 0
    is_found = 0
    for position in range(2, len(block)):
        is_zero = ((block[position] - 1) >> 8) & 1
        zero_at |= -(is_zero & (is_found ^ 1)) & position
        is_found |= is_zero
    is_bad = block[0] | (block[1] ^ 2) | (is_found ^ 1) | (((zero_at - 10) >> 63) & 1)
    return (block[zero_at + 1 :], stand_in)[is_bad != 0]
