"""``lbq bench``: lbq beside plain forwarding, DNAT, proxies and the floor of NFQUEUE, on the machine at hand.

``run`` is the command: the order of things, and what goes wrong.  ``network`` builds the namespaces, ``columns`` says
who forwards in them, ``workloads`` what is sent through them, ``usage`` reads processor time.  ``series`` and
``memory`` measure without a network.  ``report`` makes tables of the numbers, ``plot`` charts.
The helpers in C and Lua lie beside them.  bench/README.md of the source says what is measured how.
"""
