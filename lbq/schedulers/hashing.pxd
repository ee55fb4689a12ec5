# C types for hashing.py; the arithmetic is there.
cdef unsigned int GOLDEN_RATIO
cdef unsigned long long MASK

cpdef unsigned int fold(address)
cpdef unsigned int hash32(unsigned int value, int bits) noexcept
