"""O-23: a clock that has jumped is not believed until somebody vouches for it."""

from __future__ import annotations

import pytest

from tests.support import Clock
from tmad.identity.hostclock import HostClock, kernel_disciplines


class Machine:
    """A wall clock, a time since boot, and what the kernel says of them."""

    def __init__(self) -> None:
        self.wall = Clock()
        self.running = 1_000.0
        self.disciplined = False
        self.clock = HostClock(
            self.wall, running=lambda: self.running, is_disciplined=lambda: self.disciplined
        )

    def goes_on(self, seconds: float) -> None:
        self.wall.advance(seconds=seconds)
        self.running += seconds


@pytest.mark.parametrize("jump", [61.0, -61.0, 86_400.0])
def test_o_23_a_jump_is_not_believed(jump: float) -> None:
    machine = Machine()
    machine.goes_on(3_600)
    assert not machine.clock.is_wrong()
    machine.wall.advance(seconds=jump)
    assert machine.clock.is_wrong()
    machine.goes_on(3_600)
    assert machine.clock.is_wrong()
    machine.wall.advance(seconds=-jump)
    assert not machine.clock.is_wrong()


def test_a_jump_that_the_kernel_vouches_for_is_believed() -> None:
    machine = Machine()
    machine.wall.advance(seconds=600)
    assert machine.clock.is_wrong()
    machine.disciplined = True
    assert not machine.clock.is_wrong()
    machine.disciplined = False
    machine.goes_on(60)
    assert not machine.clock.is_wrong()


def test_a_small_step_does_no_harm() -> None:
    machine = Machine()
    for _ in range(3):
        machine.goes_on(600)
        machine.wall.advance(seconds=15)
    assert not machine.clock.is_wrong()


def test_the_kernel_can_be_asked() -> None:
    assert kernel_disciplines() in (True, False)
