"""Programs that the administrator has named: run without a shell, and not for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Final

from tmad.errors import Fault, FaultCode

_OUTPUT: Final = 2_000  # octets of what a program says, in a Fault


def run(command: Sequence[str], seconds: float, *, what: str, rule: str, name: str) -> None:
    """Run a program; Fault(UNAVAILABLE) with what it said when it fails or takes too long.

    ``what`` has failed stands in the Fault; the program finds the certificate's ``name`` as
    TMAD_AGENT_NAME.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # noqa: S603  what the administrator has written
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, env={**os.environ, "TMAD_AGENT_NAME": name},
            )  # fmt: skip
        except OSError as error:
            raise _failed(what, rule, f"{command[0]}: {error.strerror}") from None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise _failed(what, rule, f"not done after {seconds:g} s") from None
        if code != 0:
            output.seek(0)
            said = output.read(_OUTPUT).decode("utf-8", "replace").strip()
            raise _failed(what, rule, f"exit code {code}: {said}".rstrip(": "))


def _failed(what: str, rule: str, why: str) -> Fault:
    return Fault(FaultCode.UNAVAILABLE, f"{what}: {why}", rule=rule)
