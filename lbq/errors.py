"""Every exception lbq raises on purpose.

    LbqError
      ConfigError            an option or a file is wrong: what was tried, what is wrong, what would be right
      ServiceError           the running director refuses a change of its services
        NoSuchService  ServiceExists  NoSuchServer  ServerExists  UnknownScheduler  ThresholdsReversed  NotUnicast
      HostError              this machine refused: the request, its answer, the usual cure
        PermissionMissing    needs root (CAP_NET_ADMIN, CAP_NET_RAW)
        QueueBusy            another program has bound this queue number
        RulesNotApplied      iptables or ipset said no
        DirectorRunning      this network namespace already has a director
        NotRunning           this network namespace has no director to ask
      PeerError              the other end of the control socket spoke nonsense

The message of each is one line: what we tried, what happened, what to do.
Only ``cli.py`` prints them and chooses the exit status (2 for all of them; a bug is a traceback).
"""
from __future__ import annotations


class LbqError(Exception):
    """Base of everything lbq raises on purpose."""


class ConfigError(LbqError):
    """An option or a configuration file is wrong."""


class ServiceError(LbqError):
    """The running director refuses a change of its services or servers."""


class NoSuchService(ServiceError):
    """No virtual service has this protocol, address and port."""


class ServiceExists(ServiceError):
    """A virtual service with this protocol, address and port is already there."""


class NoSuchServer(ServiceError):
    """The virtual service has no real server with this address and port."""


class ServerExists(ServiceError):
    """The virtual service already has a real server with this address and port."""


class UnknownScheduler(ServiceError):
    """No scheduler has this name."""


class ThresholdsReversed(ServiceError):
    """A real server's lower threshold is above its upper one."""


class NotUnicast(ServiceError):
    """A real server's address is not one that a single host can have."""


class HostError(LbqError):
    """The machine refused something that lbq needs from it."""


class PermissionMissing(HostError):
    """The caller is not root, or lacks CAP_NET_ADMIN or CAP_NET_RAW."""


class QueueBusy(HostError):
    """Another program has bound the NFQUEUE number."""


class RulesNotApplied(HostError):
    """iptables or ipset refused a change."""


class DirectorRunning(HostError):
    """Another director already runs in this network namespace."""


class NotRunning(HostError):
    """No director runs in this network namespace."""


class PeerError(LbqError):
    """The other end of a socket spoke something else than the protocol."""
