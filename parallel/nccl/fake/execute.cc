// What launches do once their peers are there.
#include <cstring>
#include <utility>

#include "kernels/core/dtype.h"
#include "parallel/nccl/fake/cliques.h"

namespace tessera::simt::fake {

size_t Call::bytes() const {
  switch (type) {
    case ncclInt32:
    case ncclFloat32:
      return count * 4;
    case ncclBfloat16:
      return count * 2;
    default:
      return count;
  }
}

namespace {

using Bytes = std::vector<char>;

const char* NameOf(Kind kind) {
  switch (kind) {
    case Kind::kSend:
      return "ncclSend";
    case Kind::kRecv:
      return "ncclRecv";
    case Kind::kAllGather:
      return "ncclAllGather";
    case Kind::kBroadcast:
      return "ncclBroadcast";
    default:
      return "ncclAllReduce";
  }
}

// A rank's end of a collective or of a transfer.
struct End {
  int rank = 0;
  Launch* launch = nullptr;
  Call* call = nullptr;
};

// Looks where the launch is in its stream; remembers its position there.
bool IsAtHead(Launch* launch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  const CUstream_st& stream = *launch->stream;
  if (stream.busy || stream.queue.empty()) return false;
  const Operation& first = stream.queue.front();
  if (first.position.sequence != launch->sequence) return false;
  if (first.after.stream != nullptr && first.after.stream->done < first.after.sequence) {
    return false;
  }
  launch->position = first.position;
  return true;
}

bool Meets(const Call& mine, int my_rank, const Call& other) {
  if (mine.collective()) return other.collective() && other.number == mine.number;
  return !other.collective() && other.kind != mine.kind && other.peer == my_rank &&
         other.number == mine.number;
}

// Where a peer's end is, if its launch is the one at the head of its stream.
End FindEnd(const ncclComm& comm, const Call& call, int peer)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  const ncclComm* other = comm.clique->ranks[peer].get();
  if (other == nullptr || other->aborted || other->open.empty()) return {};
  Launch* launch = other->open.front().get();
  if (!IsAtHead(launch)) return {};
  for (Call& theirs : launch->calls) {
    if (Meets(call, comm.rank, theirs)) return {peer, launch, &theirs};
  }
  return {};
}

std::vector<int> PeersOf(const ncclComm& comm, const Call& call) {
  if (!call.collective()) return {call.peer};
  std::vector<int> peers;
  for (int r = 0; r < static_cast<int>(comm.clique->ranks.size()); ++r) {
    if (r != comm.rank) peers.push_back(r);
  }
  return peers;
}

// All that a launch still has to do, by the ends of each call, in the order of ranks. False: a peer
// has given up since the launch became ready.
bool FindMeetings(const ncclComm& comm, Launch* launch, std::vector<std::vector<End>>* meetings)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(R().mutex) {
  for (Call& call : launch->calls) {
    if (call.done) continue;
    std::vector<End> ends;
    for (int peer : PeersOf(comm, call)) {
      ends.push_back(FindEnd(comm, call, peer));
      if (ends.back().call == nullptr) return false;
    }
    const auto place = call.collective() ? ends.begin() + comm.rank : ends.begin();
    ends.insert(place, {comm.rank, launch, &call});
    meetings->push_back(std::move(ends));
  }
  return true;
}

std::string Read(const End& end, const void* from, size_t bytes, Bytes* to) {
  to->resize(bytes);
  return emulation::CopyOut(to->data(), from, bytes, end.launch->position);
}
std::string Write(const End& end, void* to, const Bytes& from) {
  return emulation::CopyIn(to, from.data(), from.size(), end.launch->position);
}

// After the reads of the same launch, which may be of the same memory.
std::string WriteInPlace(const End& end, void* to, const Bytes& from) {
  StreamPosition at = end.launch->position;
  const auto stream = static_cast<size_t>(at.stream);
  if (at.seen.size() <= stream) at.seen.resize(stream + 1, 0);
  at.seen[stream] = at.sequence;
  return emulation::CopyIn(to, from.data(), from.size(), at);
}

std::string Describe(const End& end) {
  return "rank " + std::to_string(end.rank) + " " + NameOf(end.call->kind) + " of " +
         std::to_string(end.call->bytes()) + " bytes";
}

std::string Transfer(const End& a, const End& b) {
  const bool sends = a.call->kind == Kind::kSend;
  const End& from = sends ? a : b;
  const End& to = sends ? b : a;
  if (from.call->bytes() != to.call->bytes()) {
    return "a send and a receive do not agree: " + Describe(from) + ", " + Describe(to);
  }
  Bytes bytes;
  std::string error = Read(from, from.call->in, from.call->bytes(), &bytes);
  return error.empty() ? Write(to, to.call->out, bytes) : error;
}

void AddTo(Bytes* sum, const Bytes& part, size_t i, ncclDataType_t type) {
  if (type == ncclFloat32) {
    float a;
    float b;
    std::memcpy(&a, sum->data() + i * 4, 4);
    std::memcpy(&b, part.data() + i * 4, 4);
    a += b;
    std::memcpy(sum->data() + i * 4, &a, 4);
    return;
  }
  uint16_t a;
  uint16_t b;
  std::memcpy(&a, sum->data() + i * 2, 2);
  std::memcpy(&b, part.data() + i * 2, 2);
  a = FloatToBF16(BF16ToFloat(a) + BF16ToFloat(b));
  std::memcpy(sum->data() + i * 2, &a, 2);
}

// As a ring: rounded at every hop, in an order that begins at a rank which depends on the place.
Bytes RingSum(const std::vector<Bytes>& parts, const Call& call) {
  const size_t ranks = parts.size();
  const size_t element = call.bytes() / call.count;
  Bytes sum(call.bytes());
  for (size_t i = 0; i < call.count; ++i) {
    const size_t first = i * ranks / call.count;
    std::memcpy(sum.data() + i * element, parts[first].data() + i * element, element);
    for (size_t hop = 1; hop < ranks; ++hop) {
      AddTo(&sum, parts[(first + hop) % ranks], i, call.type);
    }
  }
  return sum;
}

// Whether a rank's input lies where it may: apart from its output, or exactly in its place there.
bool Overlaps(const End& end, size_t ranks) {
  const Call& call = *end.call;
  if (call.kind == Kind::kBroadcast && end.rank != call.peer) return false;
  const bool gathers = call.kind == Kind::kAllGather;
  const auto in = reinterpret_cast<uintptr_t>(call.in);
  const auto out = reinterpret_cast<uintptr_t>(call.out);
  const size_t out_bytes = call.bytes() * (gathers ? ranks : 1);
  const size_t place = gathers ? call.bytes() * static_cast<size_t>(end.rank) : 0;
  return in != out + place && in < out + out_bytes && out < in + call.bytes();
}

// What was aborted leaves anything in its outputs, which later kernels of the stream may read.
void LeaveGarbage(const Launch& launch, size_t ranks, const StreamPosition& at) {
  constexpr char kGarbage = '\xff';
  for (const Call& call : launch.calls) {
    if (call.done || call.out == nullptr) continue;
    const Bytes bytes(call.bytes() * (call.kind == Kind::kAllGather ? ranks : 1), kGarbage);
    emulation::CopyIn(call.out, bytes.data(), bytes.size(), at);
  }
}

// `ends` by rank.
std::string Collective(const std::vector<End>& ends) {
  const Call& first = *ends[0].call;
  for (const End& end : ends) {
    const Call& call = *end.call;
    if (call.kind != first.kind || call.bytes() != first.bytes() || call.peer != first.peer) {
      return "ranks call different collectives: " + Describe(ends[0]) + ", " + Describe(end);
    }
    if (Overlaps(end, ends.size())) return "input and output overlap: " + Describe(end);
  }
  std::vector<Bytes> parts(ends.size());
  for (size_t r = 0; r < ends.size(); ++r) {
    if (first.kind == Kind::kBroadcast && static_cast<int>(r) != first.peer) continue;
    std::string error = Read(ends[r], ends[r].call->in, first.bytes(), &parts[r]);
    if (!error.empty()) return error;
  }
  Bytes result;
  if (first.kind == Kind::kAllReduce) {
    if (first.count > 0) result = RingSum(parts, first);
  } else {
    for (const Bytes& part : parts) result.insert(result.end(), part.begin(), part.end());
  }
  for (const End& end : ends) {
    std::string error = WriteInPlace(end, end.call->out, result);
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace

bool IsReady(ncclComm* comm, Launch* launch) {
  if (comm->aborted) return true;
  if (!IsAtHead(launch)) return false;
  for (const Call& call : launch->calls) {
    if (call.done) continue;
    for (int peer : PeersOf(*comm, call)) {
      if (FindEnd(*comm, call, peer).call == nullptr) return false;
    }
  }
  return true;
}

std::string Execute(ncclComm* comm, const std::shared_ptr<Launch>& launch,
                    const StreamPosition& at) {
  std::vector<std::vector<End>> meetings;
  bool complete = false;
  {
    MutexLock lock(&R().mutex);
    std::erase(comm->open, launch);
    launch->position = at;
    complete = !comm->aborted && FindMeetings(*comm, launch.get(), &meetings);
    if (complete) {
      for (const std::vector<End>& ends : meetings) {
        for (const End& end : ends) end.call->done = true;
      }
    }
  }
  if (!complete) {
    LeaveGarbage(*launch, comm->clique->ranks.size(), at);
    return "";
  }
  // Nothing else executes, and what has not run cannot be freed.
  for (const std::vector<End>& ends : meetings) {
    const bool collective = ends[0].call->collective();
    const std::string error = collective ? Collective(ends) : Transfer(ends[0], ends[1]);
    if (error.empty()) continue;
    for (const End& end : ends) end.launch->error = error;
  }
  return launch->error;
}

}  // namespace tessera::simt::fake
