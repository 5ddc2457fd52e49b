#include "parallel/cluster/quiet_libraries.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

namespace tessera {

void SilenceLibraries() {
  gpr_set_log_function([](gpr_log_func_args*) {});
  google::protobuf::SetLogHandler(nullptr);
}

}  // namespace tessera
