"""systemd units for the agent: a service that stays, or one that a timer starts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tmad.agent import files

SERVICE: Final = "tmad-agent.service"
ONCE: Final = "tmad-agent-once.service"
TIMER: Final = "tmad-agent-once.timer"

# No sandbox: the reload command talks to other services, and places are where a person says.
_COMMON: Final = """\
Environment=TMAD_AGENT_DIR={directory}
# HTTPS_PROXY=http://HOST:PORT and the like, where there is no straight way out.
EnvironmentFile=-/etc/default/tmad-agent
UMask=0077
NoNewPrivileges=yes
LimitCORE=0
PrivateTmp=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
LockPersonality=yes
RestrictRealtime=yes
"""

_SERVICE: Final = """\
# Keeps this machine's certificates fresh; instead of tmad-agent-once.timer.
[Unit]
Description=tmad agent
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={program} agent run
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=30
{common}
[Install]
WantedBy=multi-user.target
"""

_ONCE: Final = """\
# What tmad-agent-once.timer starts.
[Unit]
Description=tmad agent, one look at every certificate
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart={program} agent once
{common}"""

_TIMER: Final = """\
# A look at every certificate, several times a day, each machine at a time of its own.
[Unit]
Description=tmad agent, several times a day

[Timer]
OnBootSec=2min
OnUnitActiveSec=1h
RandomizedDelaySec=15min
Persistent=yes

[Install]
WantedBy=timers.target
"""


def contents(program: str, directory: Path) -> dict[str, str]:
    """Return the text of each unit by its file's name."""
    common = _COMMON.format(directory=directory)
    return {
        SERVICE: _SERVICE.format(program=program, common=common),
        ONCE: _ONCE.format(program=program, common=common),
        TIMER: _TIMER,
    }


def write(program: str, directory: Path, where: Path) -> list[Path]:
    """Write the units into a directory; return their paths. Raise OSError."""
    found = []
    for name, text in contents(program, directory).items():
        files.write(where / name, text.encode(), mode=0o644)
        found.append(where / name)
    return found
