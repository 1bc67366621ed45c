"""How a command reaches the core: settings, reactor, actor; and how refusals look.

::

    @endpoint.command("list")
    @with_core
    async def list_(core: Session) -> None:
        output.rows(await core.objects.list(core.actor, core.tenant, "endpoint"))
"""

from __future__ import annotations

import functools
import inspect
import os
import pwd
import shutil
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from tmad.cli.options import options
from tmad.errors import Fault, FaultCode

if TYPE_CHECKING:
    from pydantic import BaseModel

    from tmad.config import NodeSettings
    from tmad.identity.actors import Actor

T = TypeVar("T")

DONE, USAGE, REFUSED, NOTHING, WAITS, UNREACHABLE = range(6)

_HINTS = {
    FaultCode.NOT_FOUND: "the list command of the noun shows what there is; --tenant says whose",
    FaultCode.CONFLICT: "look at what is there now, then repeat the command",
    FaultCode.FORBIDDEN: "somebody who holds it can do this, or grant it: tmad grant create",
}


class Ended(Exception):  # noqa: N818  a way to end, not always an error
    """A command that ended otherwise than done; ``exit_code`` is one of this module's."""

    def __init__(self, exit_code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.hint = hint

    def show(self) -> None:
        """Print the message and the hint on standard error."""
        click.echo(self.message, err=True)
        if self.hint:
            click.echo(f"  hint: {self.hint}", err=True)


def nothing_to_do(message: str) -> NoReturn:
    """End with exit code 3: what was asked for is so already."""
    raise Ended(NOTHING, f"nothing to do: {message}")


def waits(message: str) -> NoReturn:
    """End with exit code 4: a person has to approve first."""
    raise Ended(WAITS, f"waits for approval: {message}")


def usage(message: str, hint: str = "") -> NoReturn:
    """End with exit code 1: the command or the settings make no sense."""
    raise Ended(USAGE, f"cannot: {message}", hint)


class Session:
    """The opened core together with who uses it.

    Has what Core has (services, objects, requests, secrets, …) and ``actor``, ``tenant`` and
    ``dry_run`` beside it.
    """

    def __init__(self, core: Any, actor: Actor, tenant: str, dry_run: bool) -> None:
        self._core = core
        self.actor = actor
        self.tenant = tenant
        self.dry_run = dry_run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


def with_core(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run ``async function(core, …)`` under the reactor, with the core open around it."""

    @functools.wraps(function)
    def command(*arguments: Any, **named: Any) -> None:
        settings = load_settings()

        async def inside(session: Session) -> None:
            await function(session, *arguments, **named)

        run(functools.partial(in_session, settings, inside))

    return command


def with_settings(function: Callable[..., Any]) -> Callable[..., None]:
    """Run ``function(settings, …)``; a coroutine function gets the reactor running."""

    @functools.wraps(function)
    def command(*arguments: Any, **named: Any) -> None:
        settings = load_settings()
        if inspect.iscoroutinefunction(function):
            run(lambda reactor: function(settings, *arguments, **named))
        else:
            function(settings, *arguments, **named)

    return command


async def in_session(
    settings: NodeSettings, function: Callable[[Session], Coroutine[Any, Any, T]], reactor: Any
) -> T:
    """Open the core, call ``function`` as the user of this terminal, close the core."""
    from tmad.identity.actors import Actor
    from tmad.service import open_core

    core = await open_core(settings, reactor)
    actor = Actor.administrator(local_user())
    chosen = options()
    try:
        if chosen.acting:
            actor = await core.objects.actor(chosen.acting)
        return await function(Session(core, actor, chosen.tenant, chosen.dry_run))
    except Fault as fault:
        await _record(core, fault, actor, chosen.tenant)
        raise
    finally:
        await core.close()


def run(function: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run ``await function(reactor)`` in Twisted's reactor, which a process can do once."""
    from twisted.internet import reactor
    from twisted.internet.defer import ensureDeferred
    from twisted.python.failure import Failure

    results: list[T | Failure] = []

    def finish(result: T | Failure) -> None:
        results.append(result)
        reactor.callLater(0, reactor.stop)

    def start() -> None:
        ensureDeferred(function(reactor)).addBoth(finish)

    reactor.callWhenRunning(start)
    reactor.run()
    if not results:
        raise click.Abort
    [result] = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


def program() -> str:
    """Return how this program can be called again: by its name if the shell finds that."""
    beside = Path(sys.executable).with_name("tmad")
    return "tmad" if shutil.which("tmad") or not beside.exists() else str(beside)


def local_user() -> str:
    """Return who runs this command, as the journal names him."""
    try:
        return f"local:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"local:{os.getuid()}"


def settings_path() -> Path:
    """Return the settings file in force: --config, $TMAD_CONFIG, ./tmad.toml, the system's."""
    from tmad import config

    return config.find(options().config)


def load_settings(protocols: Mapping[str, type[BaseModel]] | None = None) -> NodeSettings:
    """Read the settings in force; end with exit code 1 and every mistake when they are wrong.

    With the models of the protocols' sections, these are checked, too.
    """
    from tmad import config

    path = settings_path()
    if not path.exists():
        usage(f"there is no settings file {path}", "tmad init makes one; --config names another")
    try:
        return config.NodeSettings.load(path, protocols)
    except Fault as fault:
        raise Ended(USAGE, "\n".join(mistakes(fault))) from None


def ended(fault: Fault) -> Ended:
    """Return how a command ends that met this fault: one line, the explain id, a hint."""
    unreachable = fault.code is FaultCode.UNAVAILABLE
    word = "not reachable" if unreachable else "refused"
    lines = mistakes(fault)
    shown = f"{word}: {lines[0]}" if len(lines) == 1 else f"{word}:\n  " + "\n  ".join(lines)
    hint = _HINTS.get(fault.code, "")
    if fault.explain_id:
        shown += f" [{fault.explain_id}]"
        hint = f"tmad explain {fault.explain_id}"
    elif unreachable and fault.retry_after:
        hint = f"try again in {fault.retry_after:.0f} s"
    return Ended(UNREACHABLE if unreachable else REFUSED, shown, hint)


def mistakes(fault: Fault) -> list[str]:
    """Return one line for each thing that a fault names."""
    if fault.rule == "document.invalid":
        return [f"{path}: {text}" for path, text in fault.values.items()]
    return [fault.detail]


# What a person did wrong or may not do is evidence; a question about nothing is not.
_EVIDENCE = frozenset(FaultCode) - {
    FaultCode.UNAVAILABLE,
    FaultCode.NOT_FOUND,
    FaultCode.MALFORMED,
    FaultCode.INTERNAL,
}


async def _record(core: Any, fault: Fault, actor: Actor, tenant: str) -> None:
    """Journal a refusal that no service function has journaled, so that it can be explained."""
    if fault.explain_id or fault.code not in _EVIDENCE or fault.rule == "document.invalid":
        return
    try:
        await core.services.journal.refuse(
            fault,
            tenant=tenant,
            actor=actor.name,
            object="",
            data={"command": click.get_current_context().command_path},
        )
    except Fault:
        # The refusal itself is what the person must see.
        return
