// Symbol visibility of the shared library.
#pragma once

#if defined(_WIN32)
#error "affekt builds on Linux and macOS"
#else
#define AFFEKT_API __attribute__((visibility("default")))
#endif
