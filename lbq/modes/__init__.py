"""One file per forwarding method: nat now; dr and tun follow."""
