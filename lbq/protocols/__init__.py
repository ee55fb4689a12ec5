"""One file per transport: its states, their timeouts, and what a packet does to them."""
