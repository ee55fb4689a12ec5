# C types for packet.py; the meaning is there.  What is C here becomes part of its callers, in every module.
cimport cython

cpdef enum:
    IP_TOS = 1
    IP_LENGTH = 2
    IP_ID = 4
    IP_FRAGMENT = 6
    IP_TTL = 8
    IP_PROTOCOL = 9
    IP_CHECKSUM = 10
    IP_SOURCE = 12
    IP_DESTINATION = 16
    IP6_LENGTH = 4
    IP6_NEXT = 6
    IP6_HOPS = 7
    IP6_SOURCE = 8
    IP6_DESTINATION = 24
    IP6_HEADER = 40
    PORT_SOURCE = 0
    PORT_DESTINATION = 2
    UDP_LENGTH = 4
    UDP_CHECKSUM = 6
    TCP_SEQUENCE = 4
    TCP_ACKNOWLEDGED = 8
    TCP_OFFSET = 12
    TCP_FLAGS = 13
    TCP_CHECKSUM = 16
    SCTP_CHECKSUM = 8
    DONT_FRAGMENT = 0x4000
    MORE_FRAGMENTS = 0x2000
    OFFSET_MASK = 0x1FFF
    FRAGMENT_MASK = 0x3FFF
    TCP = 6
    UDP = 17
    SCTP = 132
    ICMPV6 = 58
    HOP_BY_HOP = 0
    ROUTING = 43
    FRAGMENT = 44
    AUTHENTICATION = 51
    DESTINATION_OPTIONS = 60
    PROTOCOL_MASK = 0xFF
    IS_FRAGMENT = 0x100
    IS_LATER = 0x200
    START_SHIFT = 10
    CHECKSUM_NOT_READY = 1
    SEGMENTED_LATER = 2
    CHECKSUM_NOT_VERIFIED = 4

cdef extern from *:
    """
    #include <endian.h>
    #include <stdint.h>
    #include <string.h>
    static inline int lbq_get16(const unsigned char *packet, int at) {
        uint16_t word; memcpy(&word, packet + at, 2); return be16toh(word);
    }
    static inline void lbq_put16(unsigned char *packet, int at, int value) {
        uint16_t word = htobe16((uint16_t) value); memcpy(packet + at, &word, 2);
    }
    static inline uint32_t lbq_get32(const unsigned char *packet, int at) {
        uint32_t word; memcpy(&word, packet + at, 4); return be32toh(word);
    }
    static inline void lbq_put32(unsigned char *packet, int at, uint32_t value) {
        uint32_t word = htobe32(value); memcpy(packet + at, &word, 4);
    }
    /* Twice is enough for 32 bits, and has no branch that depends on the packet. */
    static inline int lbq_fold(uint32_t total) {
        total = (total & 0xffff) + (total >> 16);
        return (total & 0xffff) + (total >> 16);
    }
    static inline int lbq_adjust(int checksum, int old, int new) {
        return ~lbq_fold((~checksum & 0xffff) + (~old & 0xffff) + new) & 0xffff;
    }
    static inline int lbq_change32(uint32_t old, uint32_t new) {
        return lbq_fold((~old >> 16) + (~old & 0xffff) + (new >> 16) + (new & 0xffff));
    }
    static inline void lbq_put_address(unsigned char *packet, int at, const unsigned char *address) {
        memcpy(packet + at, address, 16);
    }
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
    int get16 "lbq_get16"(const unsigned char *packet, int at) noexcept nogil
    void put16 "lbq_put16"(unsigned char *packet, int at, int value) noexcept nogil
    unsigned int get32 "lbq_get32"(const unsigned char *packet, int at) noexcept nogil
    void put32 "lbq_put32"(unsigned char *packet, int at, unsigned int value) noexcept nogil
    int fold "lbq_fold"(unsigned int total) noexcept nogil
    int adjust "lbq_adjust"(int checksum, int old, int new) noexcept nogil
    int change32 "lbq_change32"(unsigned int old, unsigned int new) noexcept nogil
    void put_address "lbq_put_address"(unsigned char *packet, int at, const unsigned char *address) noexcept nogil
    int sum_words "lbq_sum_words"(const unsigned char *packet, int length) noexcept nogil

cdef unsigned int ALL_ONES
cdef unsigned int CRC32C[256]


@cython.locals(total="unsigned int", at=int)
cpdef int word_sum(unsigned char *packet, int start, int end) noexcept nogil
cpdef int header_checksum(unsigned char *packet, int header) noexcept nogil


@cython.locals(total="unsigned int")
cpdef int pseudo_sum(unsigned char *packet, int protocol, int header, int end) noexcept nogil


@cython.locals(total="unsigned int", result=int)
cpdef int transport_checksum(unsigned char *packet, int protocol, int header, int end, int field) noexcept nogil
cpdef int whole_length(unsigned char *packet) noexcept nogil


@cython.locals(protocol=int, flags=int, size=int)
cpdef int find_transport(unsigned char *packet, int at, int end) noexcept nogil
cpdef bint is_extension(int protocol) noexcept nogil


@cython.locals(old=int)
cpdef void decrement_ttl(unsigned char *packet) noexcept nogil


@cython.locals(crc="unsigned int", at=int)
cpdef unsigned int crc32c(unsigned char *packet, int start, int end) noexcept nogil


@cython.locals(crc="unsigned int", i=int)
cpdef void put_crc32c(unsigned char *packet, int header, int end) noexcept nogil
