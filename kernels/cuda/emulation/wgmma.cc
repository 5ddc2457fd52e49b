// wgmma: all 128 threads of a warpgroup issue it together; the accumulators are NaN until the group
// of the operation has been waited for. Modelled: bf16, both operands in shared memory, K-major; or
// the first one in registers, the second one in panels (MN-major, 128-byte swizzle).
#include <cstring>

#include "kernels/cuda/emulation/async_copy.h"
#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/scheduler.h"
#include "kernels/cuda/emulation/shared_memory.h"

namespace tessera::simt::emulation {
namespace {

constexpr int kRows = 64, kDepth = 16, kChunks = 2;  // chunks: of 8 elements, 16 bytes

float FromBf16Bits(uint16_t bits) { return __builtin_bit_cast(float, uint32_t{bits} << 16); }

// Address of the 16 bytes that hold k in [8 chunk, 8 chunk + 8) of row `row`; K-major.
size_t OperandAddress(uint64_t descriptor, int row, int chunk) {
  const size_t start = (descriptor & 0x3fff) << 4;
  const size_t leading = (descriptor >> 16 & 0x3fff) << 4;
  const size_t stride = (descriptor >> 32 & 0x3fff) << 4;
  const auto in_group = static_cast<size_t>(row % 8), unit = static_cast<size_t>(chunk);
  const size_t group = start + static_cast<size_t>(row / 8) * stride;
  switch (descriptor >> 62) {
    case 1:
      return Swizzle128(group + in_group * 128 + unit * 16);
    case 0:
      return group + in_group * 16 + unit * leading;
    default:
      Fail("a wgmma descriptor with a swizzle other than 128 bytes and none");
  }
}

// Address of the 16 bytes that hold columns [8 unit, 8 unit + 8) of row k; in panels of 64 columns.
size_t PanelsAddress(uint64_t descriptor, int k, int unit) {
  constexpr int kPanelUnits = 8;
  const size_t start = (descriptor & 0x3fff) << 4;
  const size_t leading = (descriptor >> 16 & 0x3fff) << 4;
  const size_t stride = (descriptor >> 32 & 0x3fff) << 4;
  if (descriptor >> 62 != 1) {
    Fail("a wgmma descriptor with a swizzle other than 128 bytes and none");
  }
  return Swizzle128(start + static_cast<size_t>(k / 8) * stride + static_cast<size_t>(k % 8) * 128 +
                    static_cast<size_t>(unit / kPanelUnits) * leading +
                    static_cast<size_t>(unit % kPanelUnits) * 16);
}

// Calls f(address of 16 bytes) for all of the second operand.
template <typename F>
void ForPanels(uint64_t descriptor, int n, F call) {
  for (int k = 0; k < kDepth; ++k) {
    for (int unit = 0; unit < n / 8; ++unit) call(k, unit, PanelsAddress(descriptor, k, unit));
  }
}

// k runs over rows of 8 floats, so that the inner loops are over n.
void MultiplyTile(float* d, const float* a, const float* b, int n) {
  for (int i = 0; i < kRows; ++i) {
    for (int k = 0; k < kDepth; ++k) {
      const float x = a[i * kDepth + k];
      for (int j = 0; j < n; ++j) d[i * n + j] += x * b[k * n + j];
    }
  }
}

void LoadChunk(const Block& block, uint64_t descriptor, int row, int chunk, uint16_t* to) {
  std::memcpy(to, block.shared + OperandAddress(descriptor, row, chunk), 16);
}

// a [64, 16] of registers, as the instruction spreads it over a warp for its 16 rows.
void FillFromRegisters(const WgmmaRegisters& operand, std::vector<float>& a) {
  for (int t = 0; t < kThreadsPerWarpgroup; ++t) {
    const int lane = t % kWarpSize;
    for (int i = 0; i < 4; ++i) {
      const int row = t / kWarpSize * 16 + lane / 4 + i % 2 * 8;
      const int k = lane % 4 * 2 + i / 2 * 8;
      const uint32_t pair = operand.words[t][i];
      a[row * kDepth + k] = FromBf16Bits(static_cast<uint16_t>(pair));
      a[row * kDepth + k + 1] = FromBf16Bits(static_cast<uint16_t>(pair >> 16));
    }
  }
}

// a [64, 16] and b [16, n] from shared memory, where K lies side by side.
void FillFromRows(const Block& block, const WgmmaOperation& op, std::vector<float>& a,
                  std::vector<float>& b) {
  uint16_t e[8];
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    for (int row = 0; row < kRows; ++row) {
      LoadChunk(block, op.a, row, chunk, e);
      for (int i = 0; i < 8; ++i) a[row * kDepth + chunk * 8 + i] = FromBf16Bits(e[i]);
    }
    for (int row = 0; row < op.n; ++row) {
      LoadChunk(block, op.b, row, chunk, e);
      for (int i = 0; i < 8; ++i) b[(chunk * 8 + i) * op.n + row] = FromBf16Bits(e[i]);
    }
  }
}

void FillFromPanels(const Block& block, const WgmmaOperation& op, std::vector<float>& b) {
  ForPanels(op.b, op.n, [&](int k, int unit, size_t address) {
    uint16_t e[8];
    std::memcpy(e, block.shared + address, sizeof(e));
    for (int i = 0; i < 8; ++i) b[k * op.n + unit * 8 + i] = FromBf16Bits(e[i]);
  });
}

void Compute(Block& block, Warpgroup& g, WgmmaOperation& op) {
  if (op.computed) return;
  op.computed = true;
  thread_local std::vector<float> a, b;
  a.resize(kRows * kDepth);
  b.resize(kDepth * op.n);
  if (op.of_registers != nullptr) {
    FillFromRegisters(*op.of_registers, a);
    FillFromPanels(block, op, b);
  } else {
    FillFromRows(block, op, a, b);
  }
  Accumulator& acc = g.accumulators[op.key];
  if (!op.accumulate) std::fill(acc.values.begin(), acc.values.end(), 0.0F);
  MultiplyTile(acc.values.data(), a.data(), b.data(), op.n);
}

int RegisterIndex(int thread, int i, int n) {  // into [64, n]
  const int lane = thread % kWarpSize;
  const int row = thread / kWarpSize * 16 + lane / 4 + i % 4 / 2 * 8;
  return row * n + i / 4 * 8 + lane % 4 * 2 + i % 2;
}

uint32_t WgmmaComponent(const Block& block, int group) {
  return block.cluster->first_wgmma +
         static_cast<uint32_t>(block.rank) * static_cast<uint32_t>(block.groups.size()) +
         static_cast<uint32_t>(group);
}

// The operands are read by the leave of what all four warps know.
void CheckOperands(Block& block, const Warpgroup& g, int group) {
  const size_t n = block.cluster->components;
  const Thread* threads = &block.threads[static_cast<size_t>(group) * kThreadsPerWarpgroup];
  thread_local ClockVector clock, proxied;
  clock.assign(threads[0].clock, threads[0].clock + n);
  proxied.assign(threads[0].proxied, threads[0].proxied + n);
  for (int i = 1; i < kThreadsPerWarpgroup; ++i) {
    if (i % kWarpSize != 0 && i % kWarpSize != kWarpSize - 1) continue;
    for (size_t c = 0; c < n; ++c) {
      clock[c] = std::min(clock[c], threads[i].clock[c]);
      proxied[c] = std::min(proxied[c], threads[i].proxied[c]);
    }
  }
  const uint32_t component = WgmmaComponent(block, group);
  clock[component] = kClockMask;  // its own reads
  const Epoch own = EpochOf(component, g.clock);
  const auto check = [&](size_t address) {
    CheckShared(block, {address, 16, false, own, clock.data(), proxied.data()});
  };
  const auto check_rows = [&](uint64_t descriptor, int rows) {
    for (int row = 0; row < rows; ++row) {
      for (int chunk = 0; chunk < kChunks; ++chunk) check(OperandAddress(descriptor, row, chunk));
    }
  };
  if (g.a_registers[0] != nullptr) {
    ForPanels(g.b, g.n, [&](int, int, size_t address) { check(address); });
    return;
  }
  check_rows(g.a, kRows);
  check_rows(g.b, g.n);
}

bool SameWords(const WgmmaRegisters& operand) {
  for (int t = 0; t < kThreadsPerWarpgroup; ++t) {
    if (std::memcmp(operand.registers[t], operand.words[t], sizeof(operand.words[t])) != 0) {
      return false;
    }
  }
  return true;
}

void NoteWords(WgmmaRegisters& operand) {
  for (int t = 0; t < kThreadsPerWarpgroup; ++t) {
    std::memcpy(operand.words[t], operand.registers[t], sizeof(operand.words[t]));
  }
}

// The first operand, if it is one of registers.
std::shared_ptr<const WgmmaRegisters> TakeOperand(Warpgroup& g) {
  if (g.a_registers[0] == nullptr) return nullptr;
  const auto [known, is_new] = g.operands.try_emplace(g.a_registers[0]);
  if (!is_new && !SameWords(known->second)) {
    Fail("registers of a first operand changed behind wgmma.fence");
  }
  std::memcpy(known->second.registers, g.a_registers, sizeof(g.a_registers));
  NoteWords(known->second);
  return std::make_shared<WgmmaRegisters>(known->second);
}

void CheckUntouched(const Accumulator& acc) {
  const int count = acc.n / 2;
  for (const float* registers : acc.registers) {
    for (int i = 0; i < count; ++i) {
      if (__builtin_bit_cast(uint32_t, registers[i]) != 0xffffffffU) {
        Fail("accumulators were touched while wgmma was in flight");
      }
    }
  }
}

// Takes the accumulators out of the registers, and leaves NaN there.
void TakeRegisters(Accumulator& acc, const Warpgroup& g) {
  const int count = g.n / 2;
  const bool known = static_cast<int>(acc.last.size()) == kThreadsPerWarpgroup * count;
  acc.n = g.n;
  acc.registers.assign(g.registers, g.registers + kThreadsPerWarpgroup);
  acc.values.resize(static_cast<size_t>(kRows) * static_cast<size_t>(g.n));
  for (int t = 0; t < kThreadsPerWarpgroup; ++t) {
    for (int i = 0; i < count; ++i) {
      const float v = g.registers[t][i];
      acc.values[RegisterIndex(t, i, g.n)] = v;
      if (known && g.accumulate && BitsOf(v) != BitsOf(acc.last[t * count + i])) {
        Fail("accumulators changed behind wgmma.fence");
      }
    }
  }
  for (float* registers : g.registers) {
    std::memset(registers, 0xff, static_cast<size_t>(count) * sizeof(float));
  }
}

void Issue(Block& block, Warpgroup& g, int group) {
  ++M().statistics.wgmma;
  if (!g.fenced) Fail("wgmma.mma_async without wgmma.fence before it");
  CheckOperands(block, g, group);
  Accumulator& acc = g.accumulators[g.registers[0]];
  if (acc.in_flight > 0) {
    CheckUntouched(acc);
  } else {
    TakeRegisters(acc, g);
  }
  ++acc.in_flight;
  g.open.push_back({g.a, g.b, g.n, g.accumulate, false, g.registers[0], TakeOperand(g)});
}

void WriteBack(Warpgroup& g, const WgmmaOperation& op) {
  if (op.of_registers != nullptr && !SameWords(*op.of_registers)) {
    Fail("registers of a first operand changed while wgmma was in flight");
  }
  Accumulator& acc = g.accumulators[op.key];
  if (--acc.in_flight > 0) return;
  CheckUntouched(acc);
  const int count = acc.n / 2;
  acc.last.resize(kThreadsPerWarpgroup * count);
  for (int t = 0; t < kThreadsPerWarpgroup; ++t) {
    for (int i = 0; i < count; ++i) {
      float& r = acc.registers[static_cast<size_t>(t)][i];
      r = acc.values[RegisterIndex(t, i, acc.n)];
      acc.last[t * count + i] = r;
    }
  }
}

// All 128 threads of a warpgroup; the last one runs `run`.
template <typename Run>
void Gather(const char* kind, Run run, int64_t extra = 0) {
  Thread* t = Current();
  Block& block = *t->block;
  M().address = nullptr;
  NeedCapability(90, kind);
  const int index = t->id / kThreadsPerWarpgroup;
  if (index >= static_cast<int>(block.groups.size())) Fail("%s needs a whole warpgroup", kind);
  Warpgroup& g = block.groups[static_cast<size_t>(index)];
  if (g.arrived == 0) {
    g.kind = kind;
    g.extra = extra;
  } else if (std::strcmp(g.kind, kind) != 0 || g.extra != extra) {
    Fail("the threads of a warpgroup execute %s and %s", g.kind, kind);
  }
  if (++g.arrived < kThreadsPerWarpgroup) {
    g.waiting.push_back(t);
    WaitFor(kind);
    return;
  }
  g.arrived = 0;
  run(block, g, index);
  for (Thread* other : g.waiting) MakeRunnable(other);
  g.waiting.clear();
}

void NoteRegisters(Warpgroup& g) {
  g.fenced = true;
  for (auto& [key, operand] : g.operands) NoteWords(operand);
  for (auto& [key, acc] : g.accumulators) {
    if (acc.in_flight > 0) continue;
    const int count = acc.n / 2;
    for (int t = 0; t < kThreadsPerWarpgroup; ++t) {
      for (int i = 0; i < count; ++i) {
        acc.last[t * count + i] = acc.registers[static_cast<size_t>(t)][i];
      }
    }
  }
}

void CommitGroup(Block& block, Warpgroup& g) {
  if (M().random.Below(2) == 0) {  // early; otherwise when it is waited for
    for (auto& [clock, operations] : g.groups) {
      for (WgmmaOperation& op : operations) Compute(block, g, op);
    }
    for (WgmmaOperation& op : g.open) Compute(block, g, op);
  }
  g.groups.emplace_back(g.clock, std::move(g.open));
  g.open.clear();
  if (++g.clock >= kClockMask) Fail("the emulator's clock overflows");
}

void WaitGroups(Block& block, Warpgroup& g, int group, int pending) {
  const uint32_t component = WgmmaComponent(block, group);
  Thread* threads = &block.threads[static_cast<size_t>(group) * kThreadsPerWarpgroup];
  while (static_cast<int>(g.groups.size()) > pending) {
    auto& [clock, operations] = g.groups.front();
    for (WgmmaOperation& op : operations) {
      Compute(block, g, op);
      WriteBack(g, op);
    }
    for (int i = 0; i < kThreadsPerWarpgroup; ++i) {
      uint32_t& known = threads[i].clock[component];
      known = std::max(known, clock);
    }
    g.groups.pop_front();
  }
}

}  // namespace

void CheckNoWgmma(const Thread* t) {
  const auto group = static_cast<size_t>(t->id / kThreadsPerWarpgroup);
  if (group >= t->block->groups.size()) return;
  const Warpgroup& g = t->block->groups[group];
  if (!g.open.empty() || !g.groups.empty()) Fail("a thread ends with wgmma in flight");
}

}  // namespace tessera::simt::emulation

namespace tessera::simt::ptx {

using namespace emulation;  // NOLINT: the bodies of ptx.h are written in the emulator's words

void WgmmaFence() {
  M().pc = __builtin_return_address(0);
  Gather("wgmma.fence", [](Block&, Warpgroup& g, int) { NoteRegisters(g); });
}

namespace {

// What the running thread passes to an instruction of its warpgroup.
struct Operands {
  float* d;
  int n;
  uint64_t a;
  const uint32_t* a_registers;
  uint64_t b;
  bool accumulate;
};

void IssueTogether(const Operands& operands) {
  Thread* t = Current();
  if (t->id / kThreadsPerWarpgroup < static_cast<int>(t->block->groups.size())) {
    Warpgroup& g = t->block->groups[static_cast<size_t>(t->id / kThreadsPerWarpgroup)];
    if (g.arrived > 0 && (g.a != operands.a || g.b != operands.b || g.n != operands.n ||
                          g.accumulate != operands.accumulate)) {
      Fail("the threads of a warpgroup pass different wgmma operands");
    }
    g.a = operands.a;
    g.b = operands.b;
    g.n = operands.n;
    g.accumulate = operands.accumulate;
    g.registers[t->id % kThreadsPerWarpgroup] = operands.d;
    g.a_registers[t->id % kThreadsPerWarpgroup] = operands.a_registers;
  }
  Gather(
      "wgmma.mma_async", [](Block& block, Warpgroup& g, int group) { Issue(block, g, group); },
      operands.a_registers != nullptr ? 1 : 0);
}

}  // namespace

void WgmmaIssue(float* d, int n, uint64_t a, uint64_t b, bool accumulate) {
  M().pc = __builtin_return_address(0);
  IssueTogether({.d = d, .n = n, .a = a, .a_registers = nullptr, .b = b, .accumulate = accumulate});
}

void WgmmaIssueOfRegisters(float* d, int n, const uint32_t* a, uint64_t b) {
  M().pc = __builtin_return_address(0);
  IssueTogether({.d = d, .n = n, .a = 0, .a_registers = a, .b = b, .accumulate = true});
}

void WgmmaCommit() {
  M().pc = __builtin_return_address(0);
  Gather("wgmma.commit_group", [](Block& block, Warpgroup& g, int) { CommitGroup(block, g); });
}

void WgmmaWaitGroups(int pending) {
  M().pc = __builtin_return_address(0);
  Gather(
      "wgmma.wait_group",
      [pending](Block& block, Warpgroup& g, int group) { WaitGroups(block, g, group, pending); },
      pending);
}

void SetRegisters(int registers) {
  M().pc = __builtin_return_address(0);
  if (registers % 8 != 0 || registers < 24 || registers > 256) Fail("setmaxnreg %d", registers);
  Gather(
      "setmaxnreg", [](Block&, Warpgroup&, int) {}, registers);
}

}  // namespace tessera::simt::ptx
