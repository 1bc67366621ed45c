"""Agents' reports: how the core's failures look over HTTP; wire/reports.py has the format."""

from __future__ import annotations

from collections.abc import Mapping

from tmad.errors import FaultCode

FAULTS: Mapping[FaultCode, int] = {
    FaultCode.MALFORMED: 400,
    FaultCode.UNSUPPORTED: 400,
    FaultCode.BAD_ALGORITHM: 400,
    FaultCode.BAD_INTEGRITY: 400,
    FaultCode.BAD_TIME: 400,
    FaultCode.BAD_PROOF: 400,
    FaultCode.UNAUTHENTICATED: 403,
    FaultCode.FORBIDDEN: 403,
    FaultCode.REJECTED: 400,
    FaultCode.NOT_FOUND: 404,
    FaultCode.CONFLICT: 409,
    FaultCode.RATE_LIMITED: 429,
    FaultCode.UNAVAILABLE: 503,
    FaultCode.INTERNAL: 500,
}
