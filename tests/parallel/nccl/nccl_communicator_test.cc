#include "tests/parallel/communicator_conformance.h"
#include "tests/parallel/nccl/emulated_ranks.h"

namespace tessera {
namespace {

INSTANTIATE_TEST_SUITE_P(Nccl, CommunicatorConformance, testing::Values(EmulatedGpus()),
                         TransportName);
INSTANTIATE_TEST_SUITE_P(Nccl, CommunicatorTimeouts, testing::Values(EmulatedGpus()),
                         TransportName);

}  // namespace
}  // namespace tessera
