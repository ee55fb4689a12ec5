"""Why a packet goes where it goes: a decision of the director, told step by step.

    look.py     what a running director knows of one packet: a short question to its packet process
    twin.py     a readable director that knows the same, decides the same, and notes why
    reasons.py  every candidate of a scheduler, its score, and why it lost
    fields.py   a packet's header fields, and the arithmetic of a checksum that changed
    words.py    what each outcome means
    show.py     all of it as text
"""
