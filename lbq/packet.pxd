# C types for packet.py; the meaning is there.
cimport cython

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* Ones' complement sum of n bytes, in the host's word order, folded, returned in network order.
       32-bit words into 64-bit lanes: the compiler turns the loop into vector code. */
    static inline int lbq_sum_words(const unsigned char *p, int n) {
        uint64_t total = 0; uint32_t word; int i = 0;
        for (; i + 4 <= n; i += 4) { memcpy(&word, p + i, 4); total += word; }
        word = 0;
        if (i < n) { memcpy(&word, p + i, n - i); total += word; }
        total = (total & 0xffffffff) + (total >> 32);
        total = (total & 0xffffffff) + (total >> 32);
        total = (total & 0xffff) + (total >> 16);
        total = (total & 0xffff) + (total >> 16);
        return __builtin_bswap16((uint16_t) total);
    }
    """
    int sum_words "lbq_sum_words"(const unsigned char *packet, int length) noexcept nogil

cdef int IP_TOS, IP_LENGTH, IP_ID, IP_FRAGMENT, IP_TTL, IP_PROTOCOL, IP_CHECKSUM, IP_SOURCE, IP_DESTINATION
cdef int PORT_SOURCE, PORT_DESTINATION, UDP_LENGTH, UDP_CHECKSUM
cdef int TCP_SEQUENCE, TCP_ACKNOWLEDGED, TCP_OFFSET, TCP_FLAGS, TCP_CHECKSUM, SCTP_CHECKSUM
cdef int DONT_FRAGMENT, MORE_FRAGMENTS, OFFSET_MASK, FRAGMENT_MASK
cdef int TCP, UDP, SCTP
cdef int CHECKSUM_NOT_READY, SEGMENTED_LATER, CHECKSUM_NOT_VERIFIED
cdef unsigned int ALL_ONES
cdef unsigned int CRC32C[256]

cpdef int get16(unsigned char *packet, int at) noexcept nogil
cpdef void put16(unsigned char *packet, int at, int value) noexcept nogil
cpdef unsigned int get32(unsigned char *packet, int at) noexcept nogil
cpdef void put32(unsigned char *packet, int at, unsigned int value) noexcept nogil
cpdef int fold(unsigned int total) noexcept nogil
cpdef int adjust(int checksum, int old, int new) noexcept nogil
cpdef int adjust32(int checksum, unsigned int old, unsigned int new) noexcept nogil


@cython.locals(total="unsigned int", at=int)
cpdef int word_sum(unsigned char *packet, int start, int end) noexcept nogil
cpdef int header_checksum(unsigned char *packet, int header) noexcept nogil


@cython.locals(total="unsigned int", result=int)
cpdef int transport_checksum(unsigned char *packet, int header, int end, int field) noexcept nogil
cpdef int pseudo_sum(unsigned char *packet, int header, int end) noexcept nogil


@cython.locals(old=int)
cpdef void decrement_ttl(unsigned char *packet) noexcept nogil


@cython.locals(crc="unsigned int", at=int)
cpdef unsigned int crc32c(unsigned char *packet, int start, int end) noexcept nogil


@cython.locals(crc="unsigned int", i=int)
cpdef void put_crc32c(unsigned char *packet, int header, int end) noexcept nogil
