"""What a refusal of iptables-restore is told as: its first reason, on one line."""
from __future__ import annotations

import pytest

from lbq.errors import HostError, RulesNotApplied
from lbq.host import iptables
from lbq.model import AF_INET, AF_INET6

NO_NF_TABLES = """iptables-restore v1.8.9 (nf_tables):
line 2: TABLE_ADD failed (Operation not supported): table raw
line 2: CHAIN_USER_ADD failed (No such file or directory): chain LBQ-NOTRACK
"""


def refusing(tmp_path, said: str) -> iptables.Iptables:
    """Return an iptables whose restore always fails and says *said*."""
    program = tmp_path / "iptables-restore"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] && exit\ncat >&2 <<'END'\n{said}END\nexit 4\n")
    program.chmod(0o755)
    return iptables.Iptables(str(program))


def test_a_refusal_is_the_first_reason_only(tmp_path):
    with pytest.raises(RulesNotApplied) as refusal:
        refusing(tmp_path, "line 3: no such set\nline 4: and so on\n").restore("*raw\nCOMMIT\n")

    assert str(refusal.value) == "iptables-restore refused: line 3: no such set"


def test_a_kernel_without_nf_tables_is_told_with_its_cure(tmp_path):
    with pytest.raises(RulesNotApplied) as refusal:
        refusing(tmp_path, NO_NF_TABLES).restore("*raw\nCOMMIT\n")

    assert "line 2: TABLE_ADD failed" in str(refusal.value)
    assert "LBQ_IPTABLES_RESTORE=iptables-legacy-restore" in str(refusal.value)
    assert "CHAIN_USER_ADD" not in str(refusal.value)


def test_a_silent_refusal_says_the_exit_status(tmp_path):
    with pytest.raises(RulesNotApplied, match="exit status 4"):
        refusing(tmp_path, "").restore("*raw\nCOMMIT\n")


def test_a_program_that_is_not_there_is_said_with_what_to_install():
    with pytest.raises(HostError, match="apt install iptables"):
        iptables.find("no-such-iptables-restore", AF_INET)


@pytest.mark.parametrize(("program", "ipv6"), [
    ("iptables-restore", "ip6tables-restore"), ("iptables-legacy-restore", "ip6tables-legacy-restore"),
    ("/opt/iptables-1.9/iptables-nft-restore", "/opt/iptables-1.9/ip6tables-nft-restore")])
def test_the_program_for_ipv6_is_the_one_beside(program, ipv6):
    assert iptables.of_family(program, AF_INET6) == ipv6
    assert iptables.of_family(program, AF_INET) == program


def test_a_missing_program_for_ipv6_is_named():
    with pytest.raises(HostError, match=r"cannot find no-such-ip6tables-restore: lbq needs ip6tables.*apt install"):
        iptables.find("no-such-iptables-restore", AF_INET6)
