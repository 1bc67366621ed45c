"""Every address of an ACME endpoint, as clients know it (RFC 8555, 7.1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses below one directory; ``base`` ends with the endpoint's label."""

    base: str

    @property
    def directory(self) -> str:
        return f"{self.base}/directory"

    def operation(self, name: str) -> str:
        """Return what the directory lists: "new-order" and the like."""
        return f"{self.base}/{name}"

    def account(self, account_id: str) -> str:
        return f"{self.base}/account/{account_id}"

    def orders(self, account_id: str) -> str:
        return f"{self.base}/orders/{account_id}"

    def order(self, order_id: str) -> str:
        return f"{self.base}/order/{order_id}"

    def finalize(self, order_id: str) -> str:
        return f"{self.base}/finalize/{order_id}"

    def authorization(self, authorization_id: str) -> str:
        return f"{self.base}/authz/{authorization_id}"

    def challenge(self, authorization_id: str, kind: str) -> str:
        return f"{self.base}/challenge/{authorization_id}/{kind}"

    def certificate(self, order_id: str, alternate: int = 0) -> str:
        number = f"/{alternate}" if alternate else ""
        return f"{self.base}/certificate/{order_id}{number}"

    def account_id(self, kid: str) -> str | None:
        """Return the id in the address of an account of this endpoint."""
        prefix = f"{self.base}/account/"
        return kid.removeprefix(prefix) if kid.startswith(prefix) else None
