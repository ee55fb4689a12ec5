# C types for thresholds.py; the rules are there.
cpdef bint after_bind(bint new, int upper, int lower, int total, bint template, bint overloaded) noexcept nogil
cpdef bint after_unbind(bint new, int upper, int lower, int total, bint template, bint overloaded) noexcept nogil
cpdef bint after_edit(bint new, int upper, int lower, int before, int lower_before, int total,
                      bint overloaded) noexcept nogil
cpdef int lower_of(int upper, int lower) noexcept nogil
