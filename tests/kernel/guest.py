"""Boots a real kernel with IPVS on this machine's own file system, runs one program in it, and ends it.

Two kernels, both from Debian packages: *classic*, User-Mode Linux (6.1.176 when written), and *new*,
Debian's stock kernel under qemu's software emulation.  Neither is installed; the stock kernel's package is
fetched with apt-get once and unpacked in a cache.

    with Guest("classic", [sys.executable, "-m", "tests.kernel.agent", ...], seconds=200) as guest:
        guest.wait()

The guest has a network stack of its own with nothing outside, a tmpfs on /run, and sees every file of this
machine; what the program writes it must fsync, a halting guest writes nothing back.
"""
from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

KINDS = ("classic", "new")
PACKAGES = {"linux.uml": "user-mode-linux", "qemu-system-x86_64": "qemu-system-x86", "ipvsadm": "ipvsadm",
            "modprobe": "kmod", "busybox": "busybox-static", "cpio": "cpio", "iptables-legacy-restore": "iptables"}
NEEDED = {"classic": ("modprobe", "ipvsadm", "iptables-legacy-restore", "linux.uml"),
          "new": ("modprobe", "ipvsadm", "iptables-legacy-restore", "qemu-system-x86_64", "busybox", "cpio")}
MODULES = ("ip_vs ip_vs_rr ip_vs_wrr ip_vs_lc ip_vs_wlc ip_vs_lblc ip_vs_lblcr ip_vs_dh ip_vs_sh ip_vs_mh ip_vs_sed"
           " ip_vs_nq ip_vs_fo ip_vs_ovf tun ip_tables iptable_mangle ip6_tables ip6table_mangle xt_mark")
# What the stock kernel needs before it can see this machine's files; in this order.
BOOT_MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
                "9pnet", "9pnet_virtio", "netfs", "fscache", "9p")
CACHE = Path(os.environ.get("LBQ_KERNEL_CACHE", "/var/cache/lbq-kernel"))
UML_MODULES = Path("/usr/lib/uml/modules")

INIT = """#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/tmp /lib/modules && mount -t tmpfs tmpfs /lib/modules && ln -s {modules}/"$(uname -r)" /lib/modules/
export TMPDIR=/run/tmp
for module in {names}; do modprobe -q $module; done
ip link set lo up
cd {directory}
timeout {seconds} {program} >{job}/output 2>&1 </dev/null
echo $? >{job}/status
sync
"""
# Before the root is the shared one, the kernel's requests for modules must find them in it, too.
INITRD_MODPROBE = '#!/bin/busybox sh\nexec /bin/busybox chroot /root /sbin/modprobe "$@"\n'
INITRD_INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
for m in {modules}; do [ -e /m/$m.ko ] && $B insmod /m/$m.ko; done
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose host /root || $B poweroff -f
for d in proc sys dev; do $B mount --move /$d /root/$d; done
$B chroot /root "$($B sed -n 's/.*run=\\([^ ]*\\).*/\\1/p' /root/proc/cmdline)"
$B poweroff -f
"""


class GuestError(Exception):
    """A guest could not be started or did not do its work: one line."""


class Guest:
    """A running guest; leaving the ``with`` block ends it, whatever state it is in."""

    def __init__(self, kind: str, program: list[str], *, seconds: int, megabytes: int = 1024):
        check(kind)
        self.kind = kind
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.job = Path(tempfile.mkdtemp(prefix="lbq-guest-", dir="/var/tmp"))
        try:
            self._write_init(program)
            command = (uml if kind == "classic" else qemu)(self.job, megabytes)
            with open(self.job / "console", "wb") as console:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console,
                                                stderr=subprocess.STDOUT, start_new_session=True, cwd="/")
        except BaseException:
            shutil.rmtree(self.job, ignore_errors=True)
            raise

    def _write_init(self, program: list[str]) -> None:
        modules = UML_MODULES if self.kind == "classic" else stock_kernel() / "lib/modules"
        ending = "halt -f\n" if self.kind == "classic" else ""
        script = INIT.format(modules=modules, names=MODULES, directory=shlex.quote(os.getcwd()), seconds=self.seconds,
                             program=shlex.join(program), job=self.job)
        init = self.job / "init"
        init.write_text(script + ending)
        init.chmod(0o755)

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.job, ignore_errors=True)

    def is_running(self) -> bool:
        """Return whether the guest is still up, and raise when it should have finished by now."""
        if self.process.poll() is not None:
            return False
        if time.monotonic() > self.deadline:
            raise GuestError(f"the {self.kind} guest did not finish within {self.seconds} s; {self._last_words()}")
        return True

    def check_success(self) -> None:
        """Raise unless the program ran and ended well."""
        status = self.job / "status"
        if not status.exists():
            raise GuestError(f"the {self.kind} guest ended before its program did; {self._last_words()}")
        if status.read_text().strip() != "0":
            raise GuestError(f"in the {self.kind} guest: exit {status.read_text().strip()}; {self._last_words()}")

    def wait(self) -> str:
        """Wait for the program's end and return what it printed."""
        while self.is_running():
            time.sleep(0.05)
        self.check_success()
        return (self.job / "output").read_text(errors="replace")

    def _last_words(self) -> str:
        for name in ("output", "console"):
            path = self.job / name
            lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
            if lines:
                return f"its last words: {' | '.join(line.strip() for line in lines[-12:])}"
        return "it said nothing"


def check(kind: str) -> None:
    """Raise when this machine cannot boot a guest of this *kind*."""
    if kind not in KINDS:
        raise GuestError(f"no guest called {kind}: there are {' and '.join(KINDS)}")
    if os.geteuid():
        raise GuestError("a guest shares this machine's files, and its init needs root; run as root")
    for program in NEEDED[kind]:
        if not shutil.which(program):
            raise GuestError(f"{program} not found; apt-get install {PACKAGES[program]}")


def uml(job: Path, megabytes: int) -> list[str]:
    """Return the command that boots User-Mode Linux."""
    return ["linux.uml", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"mem={megabytes}M",
            f"init={job}/init", "con=null", "con0=null,fd:1", "quiet"]


def qemu(job: Path, megabytes: int) -> list[str]:
    """Return the command that boots the stock kernel under emulation."""
    kernel = next(stock_kernel().glob("boot/vmlinuz-*"))
    return ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(megabytes),
            "-nographic", "-no-reboot", "-nic", "none", "-kernel", str(kernel), "-initrd", str(CACHE / "initrd.gz"),
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,multidevs=remap",
            "-append", f"console=ttyS0 quiet panic=-1 run={job}/init"]


def stock_kernel() -> Path:
    """Return the folder with Debian's stock kernel, fetched and unpacked if it is not there yet."""
    tree = CACHE / "tree"
    if (CACHE / "initrd.gz").exists():
        return tree
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    depends = _run("apt-cache", "depends", "linux-image-amd64").split()
    if "Depends:" not in depends:
        raise GuestError("apt knows no package linux-image-amd64; run apt-get update")
    # apt downloads as its own user, who need not be allowed into the cache.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        os.chmod(scratch, 0o777)
        _run("apt-get", "-qq", "download", "-o", "Acquire::Retries=3", depends[depends.index("Depends:") + 1],
             cwd=scratch)
        package = next(Path(scratch).glob("*.deb"))
        _run("dpkg", "-x", str(package), str(tree))
    _run("depmod", "-b", str(tree), next((tree / "lib/modules").iterdir()).name)
    _write_initrd(tree)
    return tree


def _write_initrd(tree: Path) -> None:
    """Pack what the stock kernel needs to reach this machine's files; last of all, so that it marks success."""
    root = CACHE / "initrd"
    for folder in ("bin", "sbin", "m", "proc", "sys", "dev", "root"):
        (root / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for module in BOOT_MODULES:
        for path in tree.glob(f"lib/modules/**/{module}.ko"):
            shutil.copy(path, root / "m")
    for name, text in (("init", INITRD_INIT.format(modules=" ".join(BOOT_MODULES))),
                       ("sbin/modprobe", INITRD_MODPROBE)):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    packed = CACHE / "initrd.new"
    _run("sh", "-c", f"cd {root} && find . | cpio -o -H newc --quiet | gzip -1 >{packed}")
    packed.rename(CACHE / "initrd.gz")


def _run(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"exit {done.returncode}").splitlines()[-1]
        raise GuestError(f"{' '.join(command[:3])} failed: {reason}")
    return done.stdout
