// How fast a model can decode at most: every step reads its active weights once.
#ifndef TESSERA_SERVER_COMMANDS_DECODE_LIMIT_H_
#define TESSERA_SERVER_COMMANDS_DECODE_LIMIT_H_

#include <cstdint>

#include "kernels/core/dtype.h"

namespace tessera {

// Decoding reads every active weight once per token and sequence batch: the memory's bandwidth
// bounds the steps per second.
struct DecodeModel {
  int64_t num_active_parameters;
  DType dtype;
};

// Output tokens per second of `concurrency` sequences.
double DecodeLimit(const DecodeModel& model, double bytes_per_second, int32_t concurrency);

// Bytes per second, read by so many threads (0: one for each CPU); 0 when there is no memory to
// measure with.
double HostBandwidth(int32_t num_threads);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_DECODE_LIMIT_H_
