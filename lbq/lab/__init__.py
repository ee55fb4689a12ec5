"""The lab: the topology of the LVS article in network namespaces, to try lbq in and to test it in."""
