"""One file per forwarding method: nat, dr, tun; and pieces, which cuts what is too large for a tunnel."""
