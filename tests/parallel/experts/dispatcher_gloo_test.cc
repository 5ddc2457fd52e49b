#include "tests/parallel/experts/dispatch_invariants.h"
#include "tests/parallel/gloo_transport.h"

namespace tessera {
namespace {

INSTANTIATE_TEST_SUITE_P(Gloo, DispatchInvariants, testing::Values(GlooThreads(), GlooProcesses()),
                         TransportName);

}  // namespace
}  // namespace tessera
