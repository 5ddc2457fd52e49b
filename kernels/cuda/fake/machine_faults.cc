#include "kernels/cuda/fake/machine_faults.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace tessera::simt::fake {
namespace {

std::string Variable(const char* name) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here changes the environment
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

MachineFaults& Faults() {
  static MachineFaults faults = FaultsFromEnvironment();
  return faults;
}

}  // namespace

MachineFaults FaultsFromEnvironment() {
  MachineFaults faults;
  const std::string driver = Variable("TESSERA_EMULATION_DRIVER");
  if (!driver.empty()) faults.driver_version = std::atoi(driver.c_str());
  faults.names = Split(Variable("TESSERA_EMULATION_NAMES"));
  const std::string vanish = Variable("TESSERA_EMULATION_VANISH");
  const size_t colon = vanish.find(':');
  if (colon != std::string::npos) {
    faults.vanishing_gpu = std::atoi(vanish.c_str());
    faults.vanishes_with = vanish.substr(colon + 1);
  }
  faults.peer_access = Variable("TESSERA_EMULATION_PEERS") != "0";
  return faults;
}

void SetFaults(const MachineFaults& faults) { Faults() = faults; }
const MachineFaults& GetFaults() { return Faults(); }

std::string WhyLost(int device) {
  const MachineFaults& faults = Faults();
  if (device != faults.vanishing_gpu || access(faults.vanishes_with.c_str(), F_OK) != 0) return "";
  std::string why;
  std::getline(std::ifstream(faults.vanishes_with), why);
  return "GPU " + std::to_string(device) + ": " + (why.empty() ? "the GPU is lost (Xid 79)" : why);
}

}  // namespace tessera::simt::fake
