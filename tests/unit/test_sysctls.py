"""lbq.sysctls: names, limits, and the automatic defences."""
from __future__ import annotations

import re

import pytest

from lbq import sysctls
from lbq.errors import ConfigError


def with_values(**changed):
    """Return the defaults with some *changed*."""
    return {**sysctls.defaults(), **changed}


def test_the_defaults_are_the_kernels():
    on = {name: value for name, value in sysctls.defaults().items() if value}

    assert on == {"amemthresh": 1024, "am_droprate": 10, "pmtu_disc": 1, "conn_reuse_mode": 1, "run_estimation": 1,
                  "lblc_expiration": 86400, "lblcr_expiration": 86400}


@pytest.mark.parametrize(("name", "value"), [("drop_entry", 0), ("drop_packet", 3), ("secure_tcp", 3),
                                             ("amemthresh", 2**31 - 1)])
def test_a_value_within_its_limits_is_taken(name, value):
    sysctls.check(name, value)


@pytest.mark.parametrize(("name", "value", "said"), [
    ("drop_entry", 4, "from 0 to 3"),
    ("secure_tcp", -1, "from 0 to 3"),
    ("amemthresh", 2**31, "from 0 to 2147483647"),
    ("conntrack", 1, "out of conntrack"),
    ("sync_ports", 1, "no sync daemon"),
    ("tcp_sloppy", 1, "no sysctl net.ipv4.vs.tcp_sloppy; did you mean 'sloppy_tcp'?; lbq sysctl"),
    ("", 1, "no sysctl net.ipv4.vs.; lbq sysctl lists"),
])
def test_another_is_refused_with_the_reason(name, value, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        sysctls.check(name, value)


@pytest.mark.parametrize("name", sysctls.DEFENCES)
@pytest.mark.parametrize(("value", "free", "after"), [
    (0, 0, 0), (1, 1023, 2), (1, 1024, 1), (2, 1023, 2), (2, 1024, 1), (3, 9999, 3)])
def test_a_defence_switches_itself_on_when_memory_is_short(name, value, free, after):
    values = with_values(**{name: value})

    sysctls.defend(values, free)

    assert values == with_values(**{name: after})


@pytest.mark.parametrize(("mode", "free", "rate"), [
    (0, 0, 0), (1, 0, 0), (3, 9999, 7), (2, 1024, 0), (2, 1023, 1024), (2, 512, 2), (2, 0, 1)])
def test_one_new_connection_in_so_many_is_dropped(mode, free, rate):
    assert sysctls.drop_rate(with_values(drop_packet=mode, am_droprate=7), free) == rate
