"""Signatures a second: software keys, and the same kinds of keys in SoftHSM.

    python -m benchmarks.keyring [--seconds 1]

Each column is one store with one or two threads, through the keyring as the daemon uses it:
callers in the reactor, 32 operations in flight. The ratio is SoftHSM over software, both with
two threads, in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from tests.pumping import Pump, pumping
from tests.softhsm import create_token
from tmad.signer.algorithms import CURVES, RSA_BITS, KeyAlgorithm
from tmad.signer.keyring import KeyHandle, Keyring, KeyStore
from tmad.signer.pkcs11 import PKCS11Store
from tmad.signer.seal import Seal
from tmad.signer.soft import SoftStore

IN_FLIGHT = 32
DATA = b"d" * 600  # about one TBSCertificate


class Shelf:
    """Handles in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, KeyHandle] = {}

    async def load(self, key_id: str) -> KeyHandle:
        return self.rows[key_id]

    async def save(self, handle: KeyHandle) -> None:
        self.rows[handle.id] = handle

    async def remove(self, key_id: str) -> None:
        del self.rows[key_id]


def sign(algorithm: KeyAlgorithm) -> Any:
    if algorithm in RSA_BITS:
        return lambda key: key.sign(DATA, padding.PKCS1v15(), hashes.SHA256())
    if algorithm in CURVES:
        return lambda key: key.sign(DATA, ec.ECDSA(hashes.SHA256()))
    return lambda key: key.sign(DATA)


def rate(
    pump: Pump, store: KeyStore, algorithm: KeyAlgorithm, threads: int, seconds: float
) -> float:
    """Return signatures a second, or 0 where the store has no such keys."""
    keyring = Keyring(Shelf(), {"it": store}, default="it", reactor=pump.reactor, threads=threads)
    pump.run(keyring.generate(KeyAlgorithm.P256, tenant="bench", label="warm"))
    if algorithm not in keyring.algorithms():
        pump.run(keyring.close())
        return 0.0
    handle = pump.run(keyring.generate(algorithm, tenant="bench", label="bench"), 120)
    operation = sign(algorithm)
    done = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        batch = [pump.begin(keyring.use(handle.id, operation)) for _ in range(IN_FLIGHT)]
        pump.until(lambda batch=batch: all(batch), 60)
        done += IN_FLIGHT
    result = done / (time.perf_counter() - begin)
    pump.run(keyring.close())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="a measurement")
    seconds = parser.parse_args().seconds
    print(f"{'algorithm':10} {'soft 1':>9} {'soft 2':>9} {'HSM 1':>9} {'HSM 2':>9} {'ratio':>7}")
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        pumping() as pump,
    ):
        token = create_token(Path(folder) / "softhsm")
        for name, value in token.environment.items():
            patch.setenv(name, value)
        for algorithm in KeyAlgorithm:
            rates = []
            for threads in (1, 2):
                store: KeyStore = SoftStore(Seal(b"m" * 32))
                rates.append(rate(pump, store, algorithm, threads, seconds))
            for threads in (1, 2):
                store = PKCS11Store(token.settings(threads=threads, timeout_seconds=30))
                rates.append(rate(pump, store, algorithm, threads, seconds))
            shown = " ".join(f"{value:9,.0f}" if value else f"{'-':>9}" for value in rates)
            ratio = f"{rates[3] / rates[1]:7.2f}" if rates[3] else f"{'-':>7}"
            print(f"{algorithm:10} {shown} {ratio}", flush=True)


if __name__ == "__main__":
    main()
