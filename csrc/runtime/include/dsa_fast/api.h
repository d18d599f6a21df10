// Marks the symbols that libdsa_runtime exports.
#pragma once

#if defined(_WIN32)
#error "dsa_runtime is for POSIX systems"
#endif
#define DSA_FAST_API __attribute__((visibility("default")))
