// A library that calls itself cuBLASLt and has nothing but a version.
#include <cstddef>

extern "C" size_t cublasLtGetVersion() { return TESSERA_VERSION; }
