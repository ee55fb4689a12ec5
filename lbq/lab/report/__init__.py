"""The lab page: one connection of each lab on its way, packet by packet, in one HTML file.

    recording   one request, recorded: every interface of every machine, lbq's own trace, lbq explain
    capture     the sockets on the interfaces
    story       out of that, hop by hop: which packet, where, what changed, who changed it, what the table says
    places      where machines are on the picture, and which way a packet takes between two of them
    contest     all schedulers and the same hundred connections
    page        the HTML file; page.html, page.css and page.js are its parts

Only ``recording`` and ``capture`` need the lab; the others turn data into data.
"""
