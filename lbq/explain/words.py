"""What each outcome of a packet means, in a sentence: the names are those of ``lbq stats`` (outcomes.py)."""
from __future__ import annotations

MEANING = {
    "rewritten": "goes on with other addresses (NAT)",
    "forwarded": "has left for the real server, as it is (DR) or in a tunnel (TUN): a copy is sent, not the original",
    "passed_not_ours": "is of no protocol that is balanced; the host gets it",
    "passed_no_service": "is for no virtual service; the host gets it",
    "passed_not_opening": "belongs to no connection and does not open one (TCP: SYN without RST); the host answers, "
                          "with a reset as a rule",
    "passed_no_connection": "comes from no real server of a connection that is known; the host forwards it as it is",
    "passed_ftp_data": "is FTP data that no connection waits for, or an answer of a real server on this host",
    "passed_local": "is for a real server on this host: it is delivered here",
    "passed_reply": "is a reply by DR or TUN, which has the VIP as its source already: the host forwards it",
    "passed_bypass": "goes where the client wanted, because no server can take it (sysctl cache_bypass)",
    "passed_icmp": "is ICMP about no connection; the host gets it",
    "passed_later_fragment": "is a later fragment of IPv6 and has no ports; the host gets it",
    "passed_whole": "must be seen whole: it is queued once more",
    "dropped_truncated": "is not here whole and would be cut if it were sent back",
    "dropped_malformed": "has headers that contradict each other",
    "dropped_fragment": "is a fragment; the kernel puts fragments together before lbq sees them",
    "dropped_no_server": "finds no real server that can take it: all are quiesced (weight 0), overloaded, or there is "
                         "none; the client gets ICMP port unreachable",
    "dropped_server_gone": "belongs to a connection whose server was deleted: silently dropped until the connection "
                           "ends (sysctl expire_nodest_conn, or --on-delete end, let it start over)",
    "dropped_table_full": "would be one connection more than --max-connections",
    "dropped_defence": "is one of the new connections dropped for lack of memory (sysctl drop_packet)",
    "dropped_ttl": "has no hops left; the client gets ICMP time exceeded",
    "dropped_too_big": "is too long for the way to the real server and may not be cut; the client is told the MTU",
    "dropped_no_route": "has a real server that no route leads to; the client gets ICMP host unreachable",
    "dropped_boundary": "crosses between this host's own addresses and others, where it must not",
    "dropped_unsegmentable": "is an aggregate that cannot be cut into packets",
    "dropped_ftp": "is an FTP message that cannot be rewritten",
    "dropped_icmp_checksum": "is ICMP with a wrong checksum",
    "dropped_icmp_ours": "is ICMP about a packet of this director's own, which has learnt from it",
    "dropped_nat_icmp": "comes from a real server to a client that nobody waits for: the server is told (sysctl "
                        "nat_icmp_send)",
}
