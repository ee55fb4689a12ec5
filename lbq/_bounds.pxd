# Which bytes of a buffer are the packet's, told to AddressSanitizer.  Only a sanitized build (setup.py) hears of it;
# in any other these two are nothing.
cdef extern from *:
    """
    #if !defined(__SANITIZE_ADDRESS__) && defined(__has_feature)
    #if __has_feature(address_sanitizer)
    #define __SANITIZE_ADDRESS__ 1
    #endif
    #endif
    #ifdef __SANITIZE_ADDRESS__
    #include <sanitizer/asan_interface.h>
    #define lbq_close_bytes(at, size) __asan_poison_memory_region(at, size)
    #define lbq_open_bytes(at, size) __asan_unpoison_memory_region(at, size)
    #else
    #define lbq_close_bytes(at, size) ((void) (at), (void) (size))
    #define lbq_open_bytes(at, size) ((void) (at), (void) (size))
    #endif
    """
    void close_bytes "lbq_close_bytes"(const void *at, size_t size) noexcept nogil
    void open_bytes "lbq_open_bytes"(const void *at, size_t size) noexcept nogil
