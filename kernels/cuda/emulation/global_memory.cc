#include "kernels/cuda/emulation/global_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <set>

#include "kernels/core/status_macros.h"
#include "kernels/cuda/emulation/device_memory.h"
#include "kernels/cuda/emulation/report.h"

namespace tessera::simt::emulation {
namespace {

// Whether an earlier operation is ordered before the present one.
enum class Past { kDone, kOrdered, kUnordered };

const OperationRecord* OperationOf(uint32_t serial) {
  const auto& operations = M().operations;
  if (operations.empty() || serial < operations.front().first_serial) return nullptr;
  auto it = std::upper_bound(
      operations.begin(), operations.end(), serial,
      [](uint32_t s, const OperationRecord& record) { return s < record.first_serial; });
  return &*(it - 1);
}

bool Reaches(const std::vector<uint64_t>& seen, const StreamPosition& position) {
  return static_cast<size_t>(position.stream) < seen.size() &&
         seen[static_cast<size_t>(position.stream)] >= position.sequence;
}

Past PastOf(const OperationRecord* then, const OperationRecord& now) {
  if (then == nullptr) return Past::kDone;
  if (then == &now) return Past::kUnordered;
  if (Reaches(now.position.host, then->position)) return Past::kDone;
  return Reaches(now.position.seen, then->position) ? Past::kOrdered : Past::kUnordered;
}

// The same for many accesses in a row, most of which meet the operation that the last one met.
Past PastOf(uint32_t serial, const OperationRecord& now) {
  static const OperationRecord* memo_now = nullptr;
  static uint32_t memo_now_serial = 0, memo_begin = 0, memo_end = 0;
  static Past memo = Past::kDone;
  if (memo_now == &now && memo_now_serial == now.first_serial && serial >= memo_begin &&
      serial < memo_end) {
    return memo;
  }
  const OperationRecord* then = OperationOf(serial);
  const Past past = PastOf(then, now);
  memo_now = &now;
  memo_now_serial = now.first_serial;
  memo_begin = then == nullptr ? 0 : then->first_serial;
  memo_end = then == nullptr ? FirstOpenSerial() : then->first_serial + then->clusters;
  memo = past;
  return past;
}

// Who accessed a cell: operations that everybody knows to be over are forgotten.
ShortText WhoOf(Cell cell) {
  const OperationRecord* record = OperationOf(SerialOf(cell));
  if (record == nullptr) return {"an earlier operation"};
  return WhoOf(*record, SerialOf(cell), static_cast<Epoch>(cell));
}

struct Access {
  Thread* thread;
  GlobalAccess what;
  Cell own;
};

// Fails if the access is not ordered after the one of `cell`.
void CheckOrder(const Access& a, Cell cell, const char* what) {
  if (cell == 0 || cell == a.own) return;
  const auto e = static_cast<Epoch>(cell);
  const uint32_t serial = SerialOf(cell);
  Cluster& cluster = *a.thread->block->cluster;
  if (serial == cluster.serial) {
    if ((a.what.atomic && IsAtomic(e)) || Ordered(e, a.thread->clock)) return;
    Fail("race on global memory: %s by %s, not ordered after the %s by %s (%s)", Verb(a.what.write),
         Who(cluster, static_cast<Epoch>(a.own)).c_str(), what, Who(cluster, e).c_str(),
         DescribeAccess(a.what).c_str());
  }
  const OperationRecord& now = *OperationOf(cluster.serial);
  const Past past = PastOf(serial, now);
  if (past == Past::kDone) return;
  if (past == Past::kOrdered) {
    // A dependent launch sees what earlier operations did only behind griddepcontrol.wait.
    if (a.thread->waited_for_grid || !OperationOf(serial)->is_kernel) return;
    Fail("%s before griddepcontrol.wait of memory that %s used for a %s (%s)", Verb(a.what.write),
         WhoOf(cell).c_str(), what, DescribeAccess(a.what).c_str());
  }
  if (a.what.atomic && IsAtomic(e)) return;
  const auto found = cluster.acquired.find(serial);
  if (found != cluster.acquired.end() && Ordered(e, found->second.data())) return;
  Fail("race on global memory: %s by %s, not ordered after the %s by %s (%s)", Verb(a.what.write),
       Who(cluster, static_cast<Epoch>(a.own)).c_str(), what, WhoOf(cell).c_str(),
       DescribeAccess(a.what).c_str());
}

// One cell pair: of a whole word, or of a byte of a split one.
void CheckCell(const Access& a, Cell* written, Cell* read) {
  CheckOrder(a, *written, "store");
  if (a.what.write) {
    CheckOrder(a, *read, "load");
    *written = a.own;
    *read = 0;
  } else if (*read != a.own) {
    const bool known = SerialOf(*read) != a.thread->block->cluster->serial ||
                       Ordered(static_cast<Epoch>(*read), a.thread->clock);
    if (known || M().random.Below(2) == 0) *read = a.own;
  }
}

void CheckWord(const Access& a, size_t word, size_t begin, size_t end) {
  Cell* written = WrittenCells() + word;
  Cell* read = ReadCells() + word;
  const bool whole = begin == 0 && end == 4;
  if (!IsSplit(*written)) {
    const bool nothing_new = *written == a.own && (*read == a.own || (a.what.write && *read == 0));
    if (whole || nothing_new) return CheckCell(a, written, read);
    Split(written, read);
  }
  SplitWord& split = SplitOf(*written);
  for (size_t i = begin; i < end; ++i) CheckCell(a, &split.written[i], &split.read[i]);
  if (whole && a.what.write) Merge(written, read);
}

void CheckExists(Thread* t, const GlobalAccess& a) {
  const unsigned char* state = ByteStates() + GlobalOffset(a.pointer);
  for (size_t i = 0; i < a.bytes; ++i) {
    if (state[i] == kNotAllocated) Fail("%s, outside", DescribeAccess(a).c_str());
    if (!a.write && state[i] == kAllocated) {
      Fail("load of global memory that nobody has written: %s", DescribeAccess(a).c_str());
    }
  }
  const int owner = DeviceOf(a.pointer);
  const int device = GridOf(t).device;
  if (owner != device && !PeerAccessEnabled(device, owner)) {
    Fail("GPU %d: %s of GPU %d, to which it has no peer access", device, DescribeAccess(a).c_str(),
         owner);
  }
}

}  // namespace

uint32_t FirstOpenSerial() {
  const Machine& m = M();
  return m.operations.empty() ? m.next_serial : m.operations.front().first_serial;
}

OperationRecord* RecordOperation(const char* name, const StreamPosition& at, uint32_t clusters,
                                 bool is_kernel) {
  Machine& m = M();
  // What the host has waited for is known to every later operation.
  while (!m.operations.empty() && Reaches(at.host, m.operations.front().position)) {
    m.operations.pop_front();
  }
  m.operations.push_back({m.next_serial, clusters, at, name, is_kernel, {}});
  m.next_serial += clusters;
  return &m.operations.back();
}

void CheckGlobal(Thread* t, const GlobalAccess& a) {
  CheckExists(t, a);
  Machine& m = M();
  const size_t offset = GlobalOffset(a.pointer);
  if (a.write) {
    m.statistics.global_bytes_written += a.bytes;
    std::memset(ByteStates() + offset, kWritten, a.bytes);
  } else {
    m.statistics.global_bytes_read += a.bytes;
  }
  if (!m.options.check_races) return;
  const Epoch e = Now(t) | (a.atomic ? kAtomicEpoch : 0);
  const Access access{t, a, CellOf(t->block->cluster->serial, e)};
  for (size_t word = offset / 4; word <= (offset + a.bytes - 1) / 4; ++word) {
    const size_t begin = std::max(offset, word * 4) - word * 4;
    const size_t end = std::min(offset + a.bytes, word * 4 + 4) - word * 4;
    CheckWord(access, word, begin, end);
  }
}

namespace {

// A copy's or fill's access to device memory; what is wrong with it.
std::string CheckRange(const OperationRecord& now, const GlobalAccess& a) {
  if (a.bytes == 0) return "";
  if (DeviceOf(a.pointer) < 0) return now.name + ": an address that is no GPU's";
  const size_t offset = GlobalOffset(a.pointer);
  for (size_t i = 0; i < a.bytes; ++i) {
    const unsigned char state = ByteStates()[offset + i];
    if (state == kNotAllocated) return now.name + ": " + DescribeAccess(a).c_str() + ", outside";
    if (!a.write && state == kAllocated) {
      return now.name + ": load of memory that nobody has written: " + DescribeAccess(a).c_str();
    }
  }
  if (a.write) std::memset(ByteStates() + offset, kWritten, a.bytes);
  const Cell own = CellOf(now.first_serial, 0);
  std::string found;
  const auto check = [&](Cell* written, Cell* read) {
    for (const Cell cell : {*written, a.write ? *read : 0}) {
      if (cell == 0 || !found.empty()) continue;
      if (PastOf(SerialOf(cell), now) == Past::kUnordered && SerialOf(cell) != now.first_serial) {
        found = now.name + ": " + DescribeAccess(a).c_str() + ", not ordered after an access by " +
                WhoOf(cell).c_str();
      }
    }
    *(a.write ? written : read) = own;
    if (a.write) *read = 0;
  };
  for (size_t word = offset / 4; word <= (offset + a.bytes - 1) / 4; ++word) {
    Cell* written = WrittenCells() + word;
    Cell* read = ReadCells() + word;
    const size_t begin = std::max(offset, word * 4) - word * 4;
    const size_t end = std::min(offset + a.bytes, word * 4 + 4) - word * 4;
    const bool whole = end - begin == 4;
    if (!IsSplit(*written)) {
      if (whole) {
        check(written, read);
        continue;
      }
      Split(written, read);
    }
    SplitWord& split = SplitOf(*written);
    for (size_t i = begin; i < end; ++i) check(&split.written[i], &split.read[i]);
    if (whole && a.write) Merge(written, read);
  }
  return found;
}

std::string Finish(std::string found) {
  if (!found.empty()) found += HowToRepeat();
  return found;
}

}  // namespace

std::string CopyIn(void* device, const void* host, size_t bytes, const StreamPosition& at) {
  const OperationRecord* now = RecordOperation("copy to the GPU", at, 1, false);
  std::string error = CheckRange(*now, {device, bytes, true});
  if (error.empty()) std::memcpy(device, host, bytes);
  return Finish(error);
}

std::string CopyOut(void* host, const void* device, size_t bytes, const StreamPosition& at) {
  const OperationRecord* now = RecordOperation("copy to the host", at, 1, false);
  std::string error = CheckRange(*now, {device, bytes, false});
  if (error.empty()) std::memcpy(host, device, bytes);
  return Finish(error);
}

std::string CopyBetween(void* to, const void* from, size_t bytes, const StreamPosition& at) {
  const OperationRecord* now = RecordOperation("copy on the GPU", at, 1, false);
  std::string error = CheckRange(*now, {from, bytes, false});
  if (error.empty()) error = CheckRange(*now, {to, bytes, true});
  if (error.empty()) std::memmove(to, from, bytes);
  return Finish(error);
}

std::string Fill(void* device, int value, size_t bytes, const StreamPosition& at) {
  const OperationRecord* now = RecordOperation("fill", at, 1, false);
  std::string error = CheckRange(*now, {device, bytes, true});
  if (error.empty()) std::memset(device, value, bytes);
  return Finish(error);
}

}  // namespace tessera::simt::emulation
