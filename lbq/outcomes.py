"""What can become of a packet, by the names that ``lbq stats`` shows."""
from __future__ import annotations

DROP = 0                # netfilter's verdicts
ACCEPT = 1
QUEUE = 3

PASSED = ("not_ours", "no_service", "not_opening", "no_connection", "ftp_data", "local", "reply", "bypass", "icmp",
          "later_fragment", "whole")
DROPPED = ("truncated", "malformed", "fragment", "no_server", "server_gone", "table_full", "defence", "ttl", "too_big",
           "no_route", "boundary", "unsegmentable", "ftp", "icmp_checksum", "icmp_ours", "nat_icmp")
COUNTED = ("packets", "bytes", "accepted", "rewritten", "forwarded", "conns", "expired", "started_over",
           "icmp_sent", "icmp_limited", "verdict_errors", "send_errors", "scheduler_errors",
           *(f"passed_{reason}" for reason in PASSED), *(f"dropped_{reason}" for reason in DROPPED))
