"""Telling the server how a certificate is, and hearing what it says about it.

``POST …/agent/report`` over mutual TLS with the certificate itself (wire/reports.py).
"""

from __future__ import annotations

from tmad.agent.source import Window, refused
from tmad.agent.transport import Trust, ask
from tmad.wire import reports
from tmad.wire.reports import Report


def send(url: str, trust: Trust, report: Report) -> Window:
    """Send a report; return what the server says about the certificate.

    Fault(UNAVAILABLE), Fault(FORBIDDEN), Fault(MALFORMED).
    """
    answer = ask(
        "POST",
        f"{url.rstrip('/')}/report",
        trust,
        body=reports.encode_report(report),
        headers={"Content-Type": "application/json"},
    )
    if answer.status != 200:
        raise refused("the report", answer.status, answer.text)
    advice = reports.decode_advice(answer.body)
    start, end = advice.window or (None, None)
    return Window(start, end, advice.again_seconds, advice.status)
