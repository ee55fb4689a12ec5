"""The list of compiled modules, and nothing else (metadata is in pyproject.toml).

Every ``.py`` named here is compiled together with the ``.pxd`` of the same name.
A failed compilation is an error; ``LBQ_PURE=1 pip install .`` asks for no compilation at all.
``LBQ_SANITIZE=1`` compiles what the fuzz suite runs: every wrong access and every undefined operation ends the program.
"""
import os
from pathlib import Path

from setuptools import Extension, setup

COMPILED = [
    "lbq/model.py",
    "lbq/packet.py",
    "lbq/thresholds.py",
    "lbq/estimator.py",
    "lbq/protocols/icmp.py",
    "lbq/protocols/icmpv6.py",
    "lbq/protocols/tcp.py",
    "lbq/protocols/sctp.py",
    "lbq/modes/dr.py",
    "lbq/modes/tun.py",
    "lbq/modes/pieces.py",
    "lbq/modes/nat.py",
    "lbq/schedulers/base.py",
    "lbq/schedulers/rr.py",
    "lbq/schedulers/wrr.py",
    "lbq/schedulers/wlc.py",
    "lbq/schedulers/lc.py",
    "lbq/schedulers/sed.py",
    "lbq/schedulers/nq.py",
    "lbq/schedulers/fo.py",
    "lbq/schedulers/ovf.py",
    "lbq/schedulers/hashing.py",
    "lbq/schedulers/dh.py",
    "lbq/schedulers/sh.py",
    "lbq/schedulers/mh.py",
    "lbq/schedulers/locality.py",
    "lbq/schedulers/lblc.py",
    "lbq/schedulers/lblcr.py",
    "lbq/schedulers/twos.py",
    "lbq/_batch.pyx",
    "lbq/_trace.pyx",
    "lbq/_slots.pyx",
    "lbq/_connections.pyx",
    "lbq/_forwarding.pyx",
    "lbq/_related.pyx",
    "lbq/_offload.pyx",
    "lbq/_fastpath.pyx",
]
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # the .pxd has the types; annotations are for people and mypy
    "binding": True,
    "embedsignature": True,
}
# Without SLP: gcc puts a packet's fields together into vectors, and that takes longer than what it spares.
FLAGS = ["-O3", "-fno-tree-slp-vectorize", "-fno-strict-aliasing", "-Wno-unused-function"]
SANITIZERS = []
if os.environ.get("LBQ_SANITIZE") == "1":
    SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    FLAGS += ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZERS]     # the last -O holds


def sheets_changed():
    """Return True when a type sheet is newer than C made with it: Cython overlooks `from lbq cimport packet as pkt`."""
    made = [path.stat().st_mtime for source in COMPILED if (path := Path("build/c", source).with_suffix(".c")).exists()]
    return bool(made) and max(sheet.stat().st_mtime for sheet in Path("lbq").rglob("*.pxd")) > min(made)


def extensions():
    """Return the cythonized extension modules, or none when LBQ_PURE asks for interpreted code."""
    if os.environ.get("LBQ_PURE") == "1":
        return []
    from Cython.Build import cythonize

    modules = [
        Extension(str(Path(source).with_suffix("")).replace("/", "."), [source], extra_compile_args=FLAGS,
                  extra_link_args=SANITIZERS)
        for source in COMPILED
    ]
    return cythonize(modules, build_dir="build/c", compiler_directives=DIRECTIVES, nthreads=os.cpu_count(),
                     force=sheets_changed(),
                     annotate=bool(os.environ.get("LBQ_ANNOTATE")))


setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count()}})
