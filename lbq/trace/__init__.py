"""Watching a director decide: one line a packet, live (``lbq trace``), and the packets as a capture.

    records.py   what the packet process keeps of a packet (``_trace.pyx``), in words; which packets are wanted
    capture.py   the packets before and after as pcapng, with the decision as a comment that Wireshark shows
    command.py   the command
"""
