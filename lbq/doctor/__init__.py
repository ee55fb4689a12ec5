"""``lbq doctor``: what on this host, or around it, keeps packets from their way, and the command that mends it.

    gather.py, probing.py   facts: what the director, the kernel and the neighbours say
    facts.py                … as plain values
    queue.py, rules.py …    checks by theme: from facts to findings; one more is a function there and a line here
    command.py, show.py     the command and what it prints
"""
from __future__ import annotations

from lbq.doctor import firewall, host, neighbours, offload, queue, rules, servers, tunnels

CHECKS = (
    queue.nfqueue, queue.queue_bound, queue.queue_drops, queue.socket_overruns, queue.losses, queue.kernel_races,
    rules.rules_present, rules.set_members, rules.rules_hit,
    host.ip_forward, host.rp_filter, host.client_route, host.send_redirects, host.accept_local,
    firewall.before_lbq, firewall.conntrack, firewall.forward, firewall.input_rules,
    offload.device_offloads, offload.conntrack_settings,
    neighbours.vip_address, neighbours.vip_answers, neighbours.vip_announced,
    servers.server_reachable, servers.server_listens, servers.return_path, servers.vip_on_server, servers.path_mtu,
    tunnels.tunnel_mtu,
)
