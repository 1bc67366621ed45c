"""The ways that a node's settings describe."""

from __future__ import annotations

from typing import Any

from tmad.config import DeliverySection
from tmad.events import utc_now
from tmad.identity.delivery.http import HTTPDelivery
from tmad.identity.delivery.mail import MailDelivery
from tmad.identity.delivery.outbox import Delivery
from tmad.identity.delivery.smpp import SMPPDelivery
from tmad.identity.delivery.spool import SpoolDelivery


def ways(settings: DeliverySection, reactor: Any, *, host: str) -> dict[str, Delivery]:
    """Return how "sms" and "mail" go out; ``host`` is how this node calls itself (EHLO)."""
    found: dict[str, Delivery] = {}
    if settings.sms == "http" and settings.http is not None:
        found["sms"] = HTTPDelivery(settings.http, reactor)
    elif settings.sms == "smpp" and settings.smpp is not None:
        found["sms"] = SMPPDelivery(settings.smpp, reactor, validity=settings.lifetime_seconds)
    elif settings.sms == "spool" and settings.spool is not None:
        found["sms"] = SpoolDelivery(settings.spool, reactor)
    if settings.mail is not None:
        found["mail"] = MailDelivery(settings.mail, reactor, utc_now, host=host)
    return found
