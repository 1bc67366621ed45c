"""An operation's hold on a private key in a token, and what all such keys share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pkcs11.exceptions as errors
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from pkcs11 import Mechanism

from tmad.errors import Fault, FaultCode
from tmad.signer.calls import TokenError, code_of, fault_of
from tmad.signer.token import Connection

# Errors about the caller's data; everything else may mean that the token is in trouble.
DATA_ERRORS = (
    errors.ArgumentsBad,
    errors.AttributeSensitive,
    errors.DataInvalid,
    errors.DataLenRange,
    errors.FunctionNotSupported,
    errors.KeySizeRange,
    errors.KeyTypeInconsistent,
    errors.MechanismInvalid,
    errors.MechanismParamInvalid,
)


class Grip:
    """One operation's hold on one key object; ``trouble`` tells how it went."""

    def __init__(self, connection: Connection, key: Any) -> None:
        self.mechanisms = connection.mechanisms
        self.trouble: TokenError | None = None
        self.wrong_signatures = 0
        self.signatures = 0
        self._connection = connection
        self._key = key
        self._is_over = False

    def let_go(self) -> None:
        """End the operation: the key objects that were lent refuse from now on."""
        self._is_over = True

    def sign(self, data: bytes, mechanism: Mechanism, parameter: Any = None) -> bytes:
        """C_Sign."""
        self._may_call()
        try:
            signature: bytes = self._key.sign(data, mechanism=mechanism, mechanism_param=parameter)
        except errors.PKCS11Error as error:
            raise self.failed("C_Sign", mechanism, error) from error
        self.signatures += 1
        return signature

    def decrypt(self, data: bytes, mechanism: Mechanism, parameter: Any = None) -> bytes:
        """C_Decrypt; lets python-pkcs11's exceptions through."""
        self._may_call()
        plaintext: bytes = self._key.decrypt(data, mechanism=mechanism, mechanism_param=parameter)
        return plaintext

    def verified(self, signature: bytes, verify: Callable[[bytes], None]) -> bytes:
        """Return the signature if it is right; a wrong one never leaves."""
        try:
            verify(signature)
        except InvalidSignature:
            self.wrong_signatures += 1
            self.trouble = TokenError("C_Sign", "wrong signature", "the HSM's answer is wrong")
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the HSM cannot be used now",
                private="the token returned a signature that its public key does not verify",
                retry_after=1,
                rule="signer.wrong-signature",
            ) from None
        return signature

    def _may_call(self) -> None:
        if self._is_over or self._connection.generation != self._connection.module.generation:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the HSM cannot be used now",
                private="a key object of an operation that is over, or of an earlier connection",
                retry_after=1,
                rule="signer.stale-handle",
            )

    def failed(self, call: str, mechanism: Mechanism, error: errors.PKCS11Error) -> Fault:
        """Note what a call's failure says about the token; return the Fault to raise."""
        if isinstance(error, DATA_ERRORS):
            return unsupported(f"{call} with CKM_{mechanism.name}", code_of(error))
        self.trouble = TokenError(call, code_of(error))
        return fault_of(self.trouble)


def unsupported(what: str, why: str = "") -> Fault:
    """Return the Fault for something that the token, or a token at all, cannot do."""
    return Fault(
        FaultCode.UNSUPPORTED,
        f"the HSM does not offer {what}",
        private=why,
        rule="signer.mechanism",
        values={"mechanism": what},
    )


class TokenKey:
    """What all key objects share: the public half, and that nothing can be exported."""

    _grip: Grip

    def _no_export(self) -> NoReturn:
        raise Fault(
            FaultCode.UNSUPPORTED,
            "a key in the HSM cannot be exported",
            rule="signer.non-extractable",
        )

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002
        self._no_export()

    def private_bytes_raw(self) -> bytes:
        self._no_export()

    def private_numbers(self) -> Any:
        self._no_export()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> str:
        raise TypeError("a key in the HSM is never pickled")


def hashed(data: bytes, algorithm: Any) -> tuple[str, bytes]:
    """Return the hash's name and the digest; ``data`` is it already if Prehashed."""
    if isinstance(algorithm, Prehashed):
        if len(data) != algorithm.digest_size:
            raise ValueError("the prehashed data has the wrong length for the hash")
        return algorithm._algorithm.name, data
    if not isinstance(algorithm, hashes.HashAlgorithm):
        raise unsupported(f"signatures with {type(algorithm).__name__} for a hash")
    context = hashes.Hash(algorithm)
    context.update(data)
    return algorithm.name, context.finalize()
