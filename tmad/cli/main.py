"""The tmad command: its nouns, loaded when they are used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from tmad.cli.options import Options, common, equip

# noun -> (module, attribute, what the overview says about it); nothing is imported for --help.
NOUNS = {
    "init": ("init", "init", "Set up this node: keys, database, a root and an issuing CA."),
    "quickstart": ("quickstart", "quickstart", "Try everything on this machine, in one command."),
    "run": ("run", "run", "Run the daemon in the foreground."),
    "status": ("status", "status", "Show how the node and its doors are."),
    "check-config": ("run", "check_config", "Check the settings file, change nothing."),
    "migrate": ("run", "migrate", "Bring the database to this version's schema."),
    "tenant": ("tenant", "tenant", "Tenants: whose objects are invisible to others."),
    "ca": ("ca", "ca", "Authorities: roots and sub-CAs, their keys and certificates."),
    "profile": ("profile", "profile", "Profiles: what a kind of certificate looks like."),
    "endpoint": ("endpoint", "endpoint", "Endpoints: the doors for enrolment."),
    "enroll-secret": ("secret", "enroll_secret", "Enrolment secrets (SCEP challenges)."),
    "session": ("session", "session", "Sessions on the network: who is on, end one."),
    "radius-client": ("radius_client", "radius_client", "RADIUS clients: switches, APs, VPNs."),
    "radius-policy": ("radius_policy", "radius_policy", "Who may join the network, with what."),
    "snmp": ("snmp", "snmp", "The SNMP agent: users, communities, targets of traps."),
    "trust-anchor": ("trust_anchor", "trust_anchor", "Other CAs whose certificates may join."),
    "user": ("user", "user", "People: accounts, passwords, groups."),
    "otp": ("otp", "otp", "Tokens for one-time passwords."),
    "device": ("device", "device", "Devices: owners, MAC addresses, blocking."),
    "log-collector": ("log_collector", "log_collector", "Log collectors: syslog servers, SIEMs."),
    "directory": ("directory", "directory", "Directories: what LDAP shows, and to whom."),
    "active-directory": (
        "active_directory",
        "active_directory",
        "Active Directories: domains whose accounts get certificates.",
    ),
    "grant": ("grant", "grant", "Grants: who may do what."),
    "cert": ("cert", "cert", "Certificates: issue, find, revoke, export."),
    "crl": ("crl", "crl", "Certificate revocation lists."),
    "acme-account": ("acme_account", "acme_account", "ACME accounts: list, show, deactivate."),
    "acme-order": ("acme_account", "acme_order", "ACME orders: names, states, failures."),
    "request": ("request", "request", "Requests that wait for a person."),
    "export": ("configuration", "export", "Write all managed objects as TOML."),
    "apply": ("configuration", "apply", "Bring the managed objects to what a TOML file says."),
    "audit": ("audit", "audit", "The journal: read, verify, export."),
    "notification": ("notification", "notification", "Mail and webhooks about what happens."),
    "explain": ("explain", "explain", "Why was it refused?"),
    "agent": ("agent", "agent", "The agent: certificates of other machines, kept fresh."),
    "hsm": ("hsm", "hsm", "PKCS#11 tokens: check and list."),
}


class Nouns(click.Group):
    """Finds a noun's module by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NOUNS:
            return None
        module, attribute, _ = NOUNS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"tmad.cli.{module}"), attribute)
        return equip(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(noun, text) for noun, (_, _, text) in NOUNS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in NOUNS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], NOUNS, n=1)
            ctx.fail(f"no command {args[0]!r}" + (f", did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=Nouns, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tmad", prog_name="tmad", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Trust Management Appliance: authorities, enrolment, validation."""
    context.ensure_object(Options)


cli.params += list(common())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(exit_code(arguments))


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 done, 1 usage, 2 refused, 3 nothing, 4 waits, 5 away."""
    from tmad.cli.context import REFUSED, USAGE, Ended, ended
    from tmad.errors import Fault

    try:
        cli.main(args=arguments, prog_name="tmad", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return USAGE
    except Ended as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return USAGE
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return REFUSED
    except Fault as fault:
        end = ended(fault)
        end.show()
        return end.exit_code
    except BrokenPipeError:
        # The reader has seen enough; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("TMAD_DEBUG"):
            raise
        click.echo(f"failed: {type(error).__name__}; TMAD_DEBUG=1 shows where", err=True)
        return REFUSED
    return 0


if __name__ == "__main__":
    main()
