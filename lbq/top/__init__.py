"""``lbq top``: a live view of services, servers and connections.

    watch     what is known of the director, from as many questions a look, however much it has
    newest    the newest connections among what was looked at
    decisions the newest decisions out of a trace
    levels    services, the servers of one, the connections of one: rows, columns, order
    layout    columns that fit into a width
    keys      what each key is for
    model     what they do, and which lines are on the screen
    view      the terminal
    command   the command line
"""
