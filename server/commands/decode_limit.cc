#include "server/commands/decode_limit.h"

#include <algorithm>

#include "kernels/core/control_group.h"
#include "kernels/core/read_bandwidth.h"

namespace tessera {

double DecodeLimit(const DecodeModel& model, double bytes_per_second, int32_t concurrency) {
  const double bytes =
      static_cast<double>(model.num_active_parameters) * static_cast<double>(SizeOf(model.dtype));
  return bytes_per_second / bytes * concurrency;
}

double HostBandwidth(int32_t num_threads) {
  const int32_t cpus = UsableCpus();
  return MeasureReadBandwidth(num_threads > 0 ? std::min(num_threads, cpus) : cpus).value_or(0);
}

}  // namespace tessera
