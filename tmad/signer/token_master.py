"""The master key protected by a key that never leaves the HSM.

AES-GCM in the token where it is offered, else AES key wrapping (RFC 3394, RFC 5649), else
RSAES-OAEP (RFC 8017): whatever it is, it is tried before anything depends on it.
"""

from __future__ import annotations

import base64
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pkcs11.exceptions as errors
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pkcs11 import MGF, Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass

from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.calls import TokenError, calling, code_of
from tmad.signer.grip import unsupported
from tmad.signer.module import Module
from tmad.signer.objects import public_key_of
from tmad.signer.token import Connection, TokenSettings

T = TypeVar("T")

_SECONDS = 30.0
_ABOUT = b"tmad master key"
_SCHEMES = (
    Mechanism.AES_GCM,
    Mechanism.AES_KEY_WRAP_PAD,
    Mechanism.AES_KEY_WRAP,
    Mechanism.RSA_PKCS_OAEP,
)
_KEPT = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}


class TokenMaster:
    """Wraps the master key by a non-extractable key with ``label`` in the token.

    ``wrap`` makes that key when the token has none. Whoever loses it loses everything that
    is sealed: back up the HSM as its maker says. Blocks for as long as the token takes, and
    gives up after half a minute; use it before anything is served.
    """

    kind = "pkcs11"

    def __init__(
        self,
        settings: TokenSettings,
        label: str,
        *,
        schemes: tuple[Mechanism, ...] = _SCHEMES,
    ) -> None:
        self._settings = settings
        self._label = label
        self._schemes = schemes

    def wrap(self, master: bytes) -> Mapping[str, object]:
        return self._in_token(lambda connection: self._wrap(connection, master))

    def unwrap(self, stored: Mapping[str, object]) -> bytes:
        return self._in_token(lambda connection: self._unwrap(connection, stored))

    def _wrap(self, connection: Connection, master: bytes) -> Mapping[str, object]:
        scheme = next((m for m in self._schemes if m in connection.mechanisms), None)
        if scheme is None:
            names = ", ".join(f"CKM_{m.name}" for m in self._schemes)
            raise unsupported(f"any of {names}, which the master key needs")
        cka_id = secrets.token_bytes(20)
        nonce = os.urandom(12)
        with calling("C_GenerateKey"):
            wrapper = _make(connection, scheme, cka_id, self._label)
        if scheme is Mechanism.AES_GCM:
            with calling("C_Encrypt"):
                key = wrapper.encrypt(
                    master, mechanism=scheme, mechanism_param=GCMParams(nonce, _ABOUT, 128)
                )
        elif scheme is Mechanism.RSA_PKCS_OAEP:
            key = wrapper.encrypt(master, _oaep())
        else:
            key = _wrap_object(connection, wrapper, scheme, master)
        stored = {
            "mechanism": f"CKM_{scheme.name}",
            "token_serial": connection.serial,
            "cka_id": cka_id.hex(),
            "nonce": nonce.hex(),
            "key": base64.b64encode(key).decode(),
        }
        if self._unwrap(connection, stored) != master:
            raise TokenError("C_Decrypt", "wrong result", "the token does not undo what it did")
        return stored

    def _unwrap(self, connection: Connection, stored: Mapping[str, object]) -> bytes:
        try:
            name = str(stored["mechanism"]).removeprefix("CKM_")
            scheme = {m.name: m for m in _SCHEMES}[name]
            cka_id, nonce = (bytes.fromhex(str(stored[n])) for n in ("cka_id", "nonce"))
            key = base64.b64decode(str(stored["key"]), validate=True)
            serial = str(stored["token_serial"])
        except (KeyError, TypeError, ValueError) as error:
            raise Fault(FaultCode.MALFORMED, "the master key file is damaged") from error
        if serial != connection.serial:
            raise TokenError(
                "C_GetTokenInfo",
                "another token",
                f"the master key is protected by token {serial}; this is {connection.serial}",
            )
        is_rsa = scheme is Mechanism.RSA_PKCS_OAEP
        found = connection.objects(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY if is_rsa else ObjectClass.SECRET_KEY,
                Attribute.ID: cka_id,
            }
        )
        if len(found) != 1:
            raise TokenError("C_FindObjects", "no such key", f"CKA_ID {cka_id.hex()}")
        [wrapper] = found
        try:
            if scheme is Mechanism.AES_GCM:
                plain = wrapper.decrypt(
                    key, mechanism=scheme, mechanism_param=GCMParams(nonce, _ABOUT, 128)
                )
            elif is_rsa:
                plain = wrapper.decrypt(
                    key, mechanism=scheme, mechanism_param=(Mechanism.SHA_1, MGF.SHA1, None)
                )
            else:
                plain = _unwrap_object(wrapper, scheme, key)
        except errors.PKCS11Error as error:
            # A damaged file and a token in trouble look the same (CKR_GENERAL_ERROR).
            raise TokenError(
                "C_Decrypt", code_of(error), "the master key file is damaged, or the token is"
            ) from error
        return bytes(plain)

    def _in_token(self, function: Callable[[Connection], T]) -> T:
        results: list[T] = []
        failures: list[BaseException] = []

        def work() -> None:
            module = Module.at(self._settings.module)
            try:
                module.acquire()
                try:
                    results.append(function(Connection(module, self._settings)))
                finally:
                    module.release()
            except BaseException as error:  # it belongs to the caller, who waits
                failures.append(error)

        # In a thread of its own because nothing else gets out of a hung module.
        thread = threading.Thread(target=work, name="master key", daemon=True)
        thread.start()
        thread.join(_SECONDS)
        if results:
            return results[0]
        error = failures[0] if failures else TokenError("C_Login", f"no answer in {_SECONDS:.0f} s")
        if not isinstance(error, TokenError):
            raise error
        raise Fault(
            FaultCode.UNAVAILABLE,
            f"the HSM does not give the master key: {error}",
            rule="seal.token",
            values={"call": error.call, "code": error.code},
        ) from error


def _make(connection: Connection, scheme: Mechanism, cka_id: bytes, label: str) -> Any:
    """Make the wrapping key; return it, or the public half of an RSA pair."""
    session = connection.session()
    if scheme is Mechanism.RSA_PKCS_OAEP:
        public, _ = session.generate_keypair(
            KeyType.RSA,
            3072,
            id=cka_id,
            label=label,
            store=True,
            capabilities=MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT,
            private_template=_KEPT,
        )
        key = public_key_of(public, KeyAlgorithm.RSA_3072)
        assert isinstance(key, rsa.RSAPublicKey)
        return key
    return session.generate_key(
        KeyType.AES,
        256,
        id=cka_id,
        label=label,
        store=True,
        capabilities=(
            MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
            if scheme is Mechanism.AES_GCM
            else MechanismFlag.WRAP | MechanismFlag.UNWRAP
        ),
        template=_KEPT,
    )


def _wrap_object(connection: Connection, wrapper: Any, scheme: Mechanism, master: bytes) -> bytes:
    with calling("C_CreateObject"):
        master_object = connection.session().create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.AES,
                Attribute.VALUE: master,
                Attribute.TOKEN: False,
                Attribute.SENSITIVE: False,
                Attribute.EXTRACTABLE: True,
            }
        )
    try:
        with calling("C_WrapKey"):
            wrapped: bytes = wrapper.wrap_key(master_object, mechanism=scheme)
    finally:
        master_object.destroy()
    return wrapped


def _unwrap_object(wrapper: Any, scheme: Mechanism, key: bytes) -> bytes:
    master_object = wrapper.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        key,
        mechanism=scheme,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True},
    )
    try:
        value: bytes = master_object[Attribute.VALUE]
    finally:
        master_object.destroy()
    return value


def _oaep() -> padding.OAEP:
    # SHA-1 is what every token offers; OAEP needs no collision resistance of it.
    return padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
