# C types for estimator.py; the arithmetic is there.
cpdef long long step(long long average, long long before, long long now, int scale) noexcept nogil
cpdef long long count_step(long long average, long long before, long long now) noexcept nogil
cpdef long long byte_step(long long average, long long before, long long now) noexcept nogil
cpdef long long count_rate(long long average) noexcept nogil
cpdef long long byte_rate(long long average) noexcept nogil
