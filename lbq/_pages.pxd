# Where the table lies: mappings that begin on the boundary of a huge page, and huge pages under what is in use.
#
# A processor looks up where a page is in memory, too; of pages of 4 KiB it remembers far fewer than a large table has,
# of pages of 2 MiB enough for millions of connections.  A memfd gets none by itself (shmem_enabled is "never" nearly
# everywhere), but on demand, whatever is set: MADV_COLLAPSE, Linux 6.1.
from libc.stdint cimport uint8_t, uintptr_t

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE
    int MADV_HUGEPAGE
    void *MAP_FAILED

cdef enum:
    HUGE = 2097152
    MADV_COLLAPSE = 25              # not in every libc's headers


cdef inline size_t whole_pages(size_t size) noexcept nogil:
    """Return *size* rounded up to whole huge pages."""
    return (size + HUGE - 1) & ~<size_t> (HUGE - 1)


cdef inline uint8_t *map_aligned(size_t size, int fd) noexcept nogil:
    """Map *size* bytes, whole huge pages, of the file *fd*, or of new memory with -1; NULL when there is no room."""
    cdef int access = PROT_READ | PROT_WRITE
    cdef uint8_t *room = <uint8_t *> mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                          -1, 0)
    cdef uint8_t *place
    cdef void *mapped
    if room == MAP_FAILED:
        return NULL
    place = <uint8_t *> whole_pages(<uintptr_t> room)
    mapped = mmap(place, size, access, MAP_FIXED | (MAP_SHARED if fd >= 0 else MAP_PRIVATE | MAP_ANONYMOUS), fd, 0)
    if mapped == MAP_FAILED:
        munmap(room, size + HUGE)
        return NULL
    if place > room:
        munmap(room, place - room)
    if place < room + HUGE:
        munmap(place + size, room + HUGE - place)
    return place
