"""The running director from outside: the control socket, its server and its client."""
