#include "kernels/cuda/emulation/report.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/emulation/scheduler.h"

namespace tessera::simt::emulation {

ShortText Where(const Thread* t) {
  ShortText out;
  const uint3& b = t->view->block_idx;
  std::snprintf(out.text, sizeof(out.text), "block (%u,%u,%u) thread %d", b.x, b.y, b.z, t->id);
  return out;
}

ShortText Who(const Cluster& cluster, Epoch e) {
  ShortText out;
  const uint32_t c = ComponentOf(e);
  const auto per_block =
      static_cast<uint32_t>(cluster.threads) / static_cast<uint32_t>(cluster.blocks.size());
  const auto print = [&](const char* what, uint32_t thread) {
    const uint3& b = cluster.blocks[thread / per_block].threads[0].view->block_idx;
    std::snprintf(out.text, sizeof(out.text), "%sblock (%u,%u,%u) thread %u", what, b.x, b.y, b.z,
                  thread % per_block);
  };
  if (c < cluster.first_copy) {
    print(IsAtomic(e) ? "an atomic of " : "", c);
  } else if (c < cluster.first_wgmma) {
    print("cp.async of ", c - cluster.first_copy);
  } else if (c < cluster.first_tma) {
    std::snprintf(out.text, sizeof(out.text), "wgmma of warpgroup %u", c - cluster.first_wgmma);
  } else {
    std::snprintf(out.text, sizeof(out.text), "a TMA transfer");
  }
  return out;
}

ShortText WhoOf(const OperationRecord& record, uint32_t serial, Epoch e) {
  ShortText out;
  if (!record.is_kernel) {
    std::snprintf(out.text, sizeof(out.text), "'%s'", record.name.c_str());
    return out;
  }
  const Shape& s = record.shape;
  const uint32_t per_block = s.block.x * s.block.y * s.block.z;
  const uint32_t index = serial - record.first_serial, thread = ComponentOf(e) % per_block;
  const uint32_t rank = ComponentOf(e) / per_block;
  const dim3 clusters(s.grid.x / s.cluster.x, s.grid.y / s.cluster.y, s.grid.z / s.cluster.z);
  std::snprintf(out.text, sizeof(out.text), "block (%u,%u,%u) thread %u of '%s'",
                index % clusters.x * s.cluster.x + rank % s.cluster.x,
                index / clusters.x % clusters.y * s.cluster.y + rank / s.cluster.x % s.cluster.y,
                index / clusters.x / clusters.y * s.cluster.z + rank / s.cluster.x / s.cluster.y,
                thread, record.name.c_str());
  return out;
}

std::string SourceLine(const void* return_address) {
  Dl_info info;
  void* extra = nullptr;
  if (return_address == nullptr || dladdr1(return_address, &info, &extra, RTLD_DL_LINKMAP) == 0) {
    return "";
  }
  const auto bias = static_cast<const link_map*>(extra)->l_addr;
  const char* file = info.dli_fname;
  if (file == nullptr || std::strchr(file, '/') == nullptr) file = "/proc/self/exe";
  char command[512];
  // -i: the chain of inlined functions; the outermost line of a kernel source says most.
  std::snprintf(command, sizeof(command), "addr2line -e '%s' -i %#lx 2>/dev/null", file,
                static_cast<unsigned long>(reinterpret_cast<uintptr_t>(return_address) - bias - 1));
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return "";
  std::string found;
  char line[512];
  while (std::fgets(line, sizeof(line), pipe) != nullptr) {
    if (!found.empty() || std::strstr(line, ".cu:") == nullptr) continue;
    const char* slash = std::strrchr(line, '/');
    found = slash == nullptr ? line : slash + 1;
    found.resize(std::min(found.find_first_of(" \n"), found.size()));
  }
  pclose(pipe);
  return found;
}

std::string HowToRepeat() {
  return " (TESSERA_EMULATION_SEED=" + std::to_string(M().options.seed) + " repeats it)";
}

void Fail(const char* format, ...) {
  Machine& m = M();
  m.format = format;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(m.finding, sizeof(m.finding), format, arguments);
  va_end(arguments);
  LeaveForGood();
}

void NeedCapability(int capability, const char* what) {
  const int has = M().options.compute_capability;
  if (has < capability) Fail("%s needs sm_%d; this GPU is an sm_%d", what, capability, has);
}

std::string Report(const Thread* t) {
  Machine& m = M();
  m.formats.insert(m.format);
  std::string text = std::string(GridOf(t).name) + ": " + m.finding;
  text += std::string(" [") + Where(t).c_str();
  if (m.address != nullptr) {
    char address[32];
    std::snprintf(address, sizeof(address), ", address %p", m.address);
    text += address;
  }
  text += "]";
  const std::string line = SourceLine(m.pc);
  if (!line.empty()) text += " at " + line;
  return text + HowToRepeat();
}

}  // namespace tessera::simt::emulation
