"""The director's front: puts host, packet process and control socket together, and takes them apart again.

    start    lock · host check · packet process (queue bound) · services · host rules · control socket · ready
    run      once a second: losses into the log, deleted servers off the host, the host's own addresses
    stop     rules out · count what ends · packet process · state; on SIGTERM, SIGINT, SIGHUP and `lbq stop`

Every way out of ``start`` and ``run`` goes through the same clean-up, with one exception: when the packet
process dies, the rules stay in, so that no packet of a service reaches a host that would answer for itself.
"""
from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time

from lbq import __version__
from lbq.control.channel import PacketProcess, end_of
from lbq.control.client import SOCKET_NAME
from lbq.control.kernel import KernelCommands
from lbq.control.operations import HostThread, Operations
from lbq.control.server import ControlServer
from lbq.errors import HostError, LbqError
from lbq.grammar import format_address, format_service
from lbq.host.probes import check_permission, free_pages
from lbq.host.routes import Routes, largest_mtu, look, neighbours
from lbq.host.setup import HostSetup, cleanup, local_addresses, state_directory
from lbq.host.systemd import notify
from lbq.lock import DirectoryLock
from lbq.losses import queue_counters
from lbq.model import AF_INET, AF_INET6
from lbq.options import Options

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK_SECONDS = 1
ROUTES_SECONDS = 0.05       # routes are read at most this often
ROUTES_PAGE = 32            # routes that the packet process is told of at a time
LAST_WORDS_SECONDS = 2      # what counting the connections that end may take

logger = logging.getLogger("lbq")


def run(options: Options) -> int:
    """Run one director in the foreground until it is told to stop; return its exit status."""
    check_permission()
    return asyncio.run(Front(options).run())


def clean_up_after_crash() -> list[str]:
    """Undo what a killed director left in this network namespace; return what was done."""
    check_permission()
    directory = state_directory()
    if not directory.exists():
        return []
    with DirectoryLock(directory):
        lines = cleanup(directory)
        (directory / SOCKET_NAME).unlink(missing_ok=True)
    return lines


class Front:
    """One director in this network namespace."""

    def __init__(self, options: Options):
        self.options = options
        self.directory = state_directory()
        self.setup = HostSetup(self.directory, options.queues, accept_forward=options.accept_forward,
                               add_vip=options.add_vip, mark_mask=options.mark_mask)
        self.host = HostThread(self.setup, _hold_back_signals)
        self.lock = DirectoryLock(self.directory)
        self.control: ControlServer | None = None
        self.process: PacketProcess | None = None
        self.operations: Operations | None = None
        self.local: dict[int, list[int]] = {}           # what the engine knows, by family
        self.routes: Routes | None = None
        self.known_routes: dict[int, dict[int, tuple]] = {}     # by family and address
        self.known_mtu = 0
        self.route_changed = asyncio.Event()
        self.stopping = asyncio.Event()

    async def run(self) -> int:
        """Start, serve until a reason to stop comes, clean up; return the exit status."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:      # as nohup wants it
                asyncio.get_running_loop().add_signal_handler(number, self._stop, signal.Signals(number).name)
        try:
            with self.lock:
                return await self._run_locked()
        finally:
            if self.routes is not None:
                asyncio.get_running_loop().remove_reader(self.routes)
                self.routes.close()
            if self.control is not None:
                await self.control.disconnect()
            _hold_back_signals()        # one Ctrl-C more on the last metres is no failure

    async def _run_locked(self) -> int:
        try:
            await self._start()
            await self._serve()
            if self.process.gone.is_set() and not self.stopping.is_set():
                return await self._abandon()
        except BaseException as error:
            await self._clean_up(error)
            raise
        await self._clean_up()
        return 0

    async def _start(self) -> None:
        options = self.options
        await self.host.call("check", options.service.family if options.service else AF_INET)
        self.process = await PacketProcess.start(options.engine, options.queues, options.max_connections,
                                                 options.profile)
        self.operations = Operations(self.process, self.host, self._facts(), self._tell_way)
        await self.operations.begin(options.service, options.settings, options.servers, options.sysctls)
        await self._refresh_local_addresses()
        self.routes = Routes()
        asyncio.get_running_loop().add_reader(self.routes, self._hear_of_routes)
        await self._refresh_routes()
        for line in await self.host.call("install", *self.operations.members(), self.operations.steered(),
                                         self.operations.offloaded()):
            logger.info(line)
        await self._refresh_local_addresses()       # --add-vip may have made the VIP one of them
        methods = {**self.operations.methods(), **KernelCommands(self.operations).methods(), "stop": self.stop}
        self.control = ControlServer(self.directory / SOCKET_NAME, methods)
        await self.control.start()
        for line in await self.host.call("describe_vips"):
            logger.info(line)
        for line in await self.host.call("warnings"):
            logger.warning(line)
        if options.service is None:
            logger.info("no virtual service yet; add one with: lbq add service [tcp:|udp:|sctp:]VIP:PORT")
        elif not options.servers:
            logger.warning("no real server yet: clients get port unreachable; add one with: "
                           "lbq add server %s RIP[:PORT][,weight=N]", format_service(options.service))
        self._announce()

    def _facts(self) -> dict:
        options = self.options
        return {"version": __version__, "pid": os.getpid(), "mode": options.mode, "engine": options.engine,
                "queue": options.queue, "workers": options.workers, "mark_mask": options.mark_mask,
                "data_path": options.data_path, "profile": options.profile, "started": int(time.time())}

    def _announce(self) -> None:
        """Say on standard output and to systemd that packets are handled from now on."""
        options = self.options
        what = "no service yet" if options.service is None else (
            f"{format_service(options.service)} {options.mode} {options.scheduler}, "
            f"real servers: {len(options.servers)}")
        with contextlib.suppress(OSError):      # nobody may be reading
            queues = f"queue {options.queue}" if options.workers == 1 else (
                f"queues {options.queue} to {options.queues.whole[-1]}")
            print(f"ready: {what}, engine {options.engine}, {queues}, pid {os.getpid()}", flush=True)
        notify("READY=1")

    async def _serve(self) -> None:
        """Tick once a second until told to stop, or until the packet process is gone."""
        tasks = [asyncio.ensure_future(part)
                 for part in (self.stopping.wait(), self.process.gone.wait(), self._keep_ticking(),
                              self._follow_routes())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()       # a tick may be waiting for an answer; what it began is finished without it

    async def _keep_ticking(self) -> None:
        last = ""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._tick()
            except Exception as error:      # packets go on whatever is wrong with their statistics
                if str(error) != last and not self.process.gone.is_set():
                    logger.error("%s", error, exc_info=not isinstance(error, LbqError))
                last = str(error)

    async def _tick(self) -> None:
        counters = await self.process.call("statistics")
        queue = queue_counters(self.options.queues.all)
        if queue is not None:
            counters.update(queue._asdict())
        for kind, packets, sentence in self.operations.losses.warnings(counters, time.monotonic()):
            logger.warning(sentence, extra={"fields": {"kind": kind, "packets": packets}})
        await self.operations.tick()
        await self.process.call("set_memory", free_pages())
        await self._refresh_local_addresses()
        await self._refresh_routes()

    async def _refresh_local_addresses(self) -> None:
        """Tell the engine what is delivered on this host, when that has changed."""
        for family, suffix in self._families():
            local = sorted(await self.host.run(local_addresses, family))
            if local != self.local.get(family, []):
                await self.process.call(f"set_local_addresses{suffix}", local)
                self.local[family] = local
                logger.debug("this host's own addresses: %s",
                             ", ".join(format_address(address, family) for address in local))

    def _families(self) -> list[tuple[int, str]]:
        """Return the families that the engine is to know the host's addresses and routes of, with its methods' suffix.

        Where nothing is balanced over IPv6, nothing is asked about it once a second.
        """
        return [(AF_INET, ""), (AF_INET6, "6")] if self.operations.has_ipv6() else [(AF_INET, "")]

    def _hear_of_routes(self) -> None:
        self.routes.drain()
        self.route_changed.set()

    async def _follow_routes(self) -> None:
        """Tell the engine of changed neighbours and routes at once: the next tick may be a second away."""
        while True:
            await self.route_changed.wait()
            self.route_changed.clear()
            with contextlib.suppress(LbqError, OSError):        # the next tick says what is wrong
                await self._refresh_routes()
            await asyncio.sleep(ROUTES_SECONDS)

    async def _tell_way(self, address: int, family: int) -> None:
        """Tell the engine of the way to a real server before it is one: what it sends there must not be too long."""
        known = self.known_routes.setdefault(family, {})
        if address not in known:
            route = await self.host.run(look, address, family, {})
            await self.process.call("set_routes6" if family == AF_INET6 else "set_routes", [route])
            known[address] = route

    async def _refresh_routes(self) -> None:
        """Tell the engine what the host knows of the ways to real servers, when that has changed."""
        for family, suffix in self._families():
            known = self.known_routes.setdefault(family, {})
            before = dict(known)            # of a server that is added meanwhile, more is known than is found here
            addresses, found = self.operations.server_addresses(family), {}
            near = await self.host.run(neighbours, family)
            for at in range(0, len(addresses), ROUTES_PAGE):        # the host's thread has other things to do, too
                routes = await self.host.run(self.routes.read, addresses[at:at + ROUTES_PAGE], family, near)
                found |= {route[0]: route for route in routes}
            changed = [route for address, route in found.items() if before.get(address) != route]
            # While a server is being added its address is one already; what is gone can be forgotten a second later.
            gone = [] if self.operations.change.locked() else [address for address in before if address not in found]
            changed += [(address, 0, 0, 0, "") for address in gone]
            for at in range(0, len(changed), ROUTES_PAGE):
                await self.process.call(f"set_routes{suffix}", changed[at:at + ROUTES_PAGE])
            known |= found
            for address in gone:
                known.pop(address, None)
        if self.operations.has_ipv6():
            largest = await self.host.run(largest_mtu)
            if largest != self.known_mtu:
                await self.process.call("set_largest_mtu", largest)
                self.known_mtu = largest

    async def stop(self) -> dict:
        """Begin to stop; the asker's connection closes when all is cleaned up."""
        connections = await self._count_connections()
        self._stop("lbq stop")
        return {"connections": connections}

    def _stop(self, reason: str) -> None:
        if self.stopping.is_set():
            logger.info("%s: already stopping; the rules are being taken out", reason)
            return
        logger.info("%s: stopping", reason)
        self.stopping.set()

    async def _abandon(self) -> int:
        """Leave the rules in and go: the packet process died."""
        status = await self.process.stop()
        self.control.close()
        logger.error("the packet process died (%s); the rules stay in and close the service: "
                     "start lbq again, or run lbq cleanup", end_of(status))
        return 1

    async def _clean_up(self, error: BaseException | None = None) -> None:
        """Take out whatever is in: rules first, then the packet process, then the control socket."""
        notify("STOPPING=1")
        if self.control is not None:
            self.control.close()
        # Before: what conntrack carries ends with the rules.
        connections = "unknown" if self.process is None or error is not None else await self._count_connections()
        try:
            for line in await self.host.call("undo"):
                logger.info(line)
        except HostError as failure:
            logger.error("%s; when that is cured, run lbq cleanup", failure)
        if self.process is None:
            return
        if error is None:
            logger.info("stopped; connections that end with it: %s", connections)
        await self.process.stop()

    async def _count_connections(self) -> int | str:
        try:
            counters = await asyncio.wait_for(self.process.call("statistics"), LAST_WORDS_SECONDS)
            return counters["connections"]
        except (LbqError, TimeoutError):
            return "unknown"


def _hold_back_signals() -> None:
    """Keep signals from this thread and the programs it starts: an iptables-restore must come to its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
