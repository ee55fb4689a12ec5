"""When a real server has enough connections: the overload flag of ipvsadm's -x and -y, in both kernel profiles.

A server with an *upper* threshold U is passed over by every scheduler from its U-th connection on, until it has
fallen to the *lower* threshold L, or to three quarters of U when there is none.  Connections that it has, and
clients that persistence sends to it, are not affected.

    classic   looks at the numbers whenever a connection or a template comes or goes; an edit that raises U clears
    new       changes the flag only in the very step that crosses a threshold, and on an edit

Numbers only, so that both directors share them: *total* is active + inactive, after the step.

Kernel: ip_vs_conn.c, ip_vs_bind_dest() and ip_vs_unbind_dest(); ip_vs_ctl.c, __ip_vs_update_dest().
"""
from __future__ import annotations


def after_bind(new: bool, upper: int, lower: int, total: int, template: bool, overloaded: bool) -> bool:
    """Return the overload flag after a connection, or a *template*, was bound to the server."""
    if not new:
        return overloaded or (upper != 0 and total >= upper)
    if template or total != upper:
        return overloaded
    return total >= lower_of(upper, lower)


def after_unbind(new: bool, upper: int, lower: int, total: int, template: bool, overloaded: bool) -> bool:
    """Return the overload flag after a connection, or a *template*, was taken off the server."""
    if not new:
        if lower != 0:
            return overloaded and total >= lower
        if upper != 0:
            return overloaded and 4 * total >= 3 * upper
        return False
    if template or total + 1 != lower_of(upper, lower):
        return overloaded
    return total >= upper


def after_edit(new: bool, upper: int, lower: int, before: int, lower_before: int, total: int, overloaded: bool) -> bool:
    """Return the overload flag after the thresholds went from *before* and *lower_before* to *upper* and *lower*."""
    if not new:
        return overloaded and upper != 0 and upper <= before
    if upper == before and lower == lower_before:
        return overloaded
    if upper == 0:
        return False
    if total >= upper:
        return True
    return overloaded and total >= lower_of(upper, lower)


def lower_of(upper: int, lower: int) -> int:
    """Return where the new profile clears the flag: below *lower*, or below three quarters of *upper*, rounded up."""
    return lower if lower != 0 else upper - (upper >> 2)
