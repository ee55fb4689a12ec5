"""What a change would do to connections, before it is made (``lbq whatif``).

    table.py     all that a director has, services and connections, taken from a running one or a file
    changes.py   the change, made to a copy of it, the readable engine
    effects.py   the next packet of every connection, before and after
    command.py   the command
"""
