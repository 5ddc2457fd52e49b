// What can be wrong with the machine of emulated GPUs: its driver, the GPUs' models, a GPU that
// vanishes, GPUs that do not reach each other.
#ifndef TESSERA_KERNELS_CUDA_FAKE_MACHINE_FAULTS_H_
#define TESSERA_KERNELS_CUDA_FAKE_MACHINE_FAULTS_H_

#include <string>
#include <vector>

namespace tessera::simt::fake {

constexpr int kRuntimeVersion = 13000;  // 1000 * major + 10 * minor: of the API that is imitated

struct MachineFaults {
  int driver_version = kRuntimeVersion;  // 0: there is no driver
  std::vector<std::string> names;        // of the GPUs, the first ones; "": the usual name
  int vanishing_gpu = -1;
  // The GPU is lost as soon as there is such a file, which may say why: "uncorrectable ECC error".
  std::string vanishes_with;
  bool peer_access = true;  // GPUs can get access to each other's memory
};

// From the environment: TESSERA_EMULATION_DRIVER (12020), _NAMES ("A,B"), _VANISH ("1:FILE") and
// _PEERS (0).
MachineFaults FaultsFromEnvironment();
// Not while anything executes. Those of the environment hold until the first call.
void SetFaults(const MachineFaults& faults);
const MachineFaults& GetFaults();

// What the driver says of a GPU that has vanished; empty: it has not.
std::string WhyLost(int device);

}  // namespace tessera::simt::fake

#endif  // TESSERA_KERNELS_CUDA_FAKE_MACHINE_FAULTS_H_
