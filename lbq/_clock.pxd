# CLOCK_MONOTONIC in nanoseconds, without a system call.
from libc.stdint cimport uint64_t

cdef extern from "<time.h>" nogil:
    cdef struct timespec "timespec":
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE


cdef inline uint64_t coarse_now() noexcept nogil:
    """Return the time, a few ms coarse: read from memory."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <uint64_t> now.tv_sec * 1000000000 + now.tv_nsec


cdef inline uint64_t fine_now() noexcept nogil:
    """Return the time; some 25 ns."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t> now.tv_sec * 1000000000 + now.tv_nsec
