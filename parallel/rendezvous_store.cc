#include "parallel/rendezvous_store.h"

#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"

namespace tessera {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(5);

absl::Status NotInTime(const std::string& key, absl::Duration timeout) {
  return absl::DeadlineExceededError(
      absl::StrCat("nobody has set '", key, "' within ", absl::FormatDuration(timeout)));
}

}  // namespace

absl::Status MemoryRendezvousStore::Set(const std::string& key, const std::string& value) {
  {
    const std::lock_guard lock(mutex_);
    values_[key] = value;
  }
  changed_.notify_all();
  return absl::OkStatus();
}

absl::StatusOr<std::string> MemoryRendezvousStore::Get(const std::string& key,
                                                       absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  const bool found = changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                                       [&] { return values_.count(key) != 0; });
  if (!found) return NotInTime(key, timeout);
  return values_[key];
}

std::string FileRendezvousStore::PathOf(const std::string& key) const {
  // Any key becomes one file name.
  std::string name;
  for (const char c : key) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      name += c;
    } else {
      absl::StrAppend(&name, "_", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  return absl::StrCat(folder_, "/key-", name);
}

absl::Status FileRendezvousStore::Set(const std::string& key, const std::string& value) {
  // Written aside and renamed: a reader sees all of it or nothing.
  const std::string path = PathOf(key);
  const std::string aside = absl::StrCat(path, ".", getpid());
  std::ofstream file(aside, std::ios::binary);
  file.write(value.data(), static_cast<std::streamsize>(value.size()));
  file.close();
  if (!file || std::rename(aside.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot write rendezvous file ", path));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FileRendezvousStore::Get(const std::string& key,
                                                     absl::Duration timeout) {
  const std::string path = PathOf(key);
  const absl::Time deadline = MonotonicNow() + timeout;
  for (;;) {
    std::ifstream file(path, std::ios::binary);
    if (file) return std::string(std::istreambuf_iterator<char>(file), {});
    if (MonotonicNow() >= deadline) return NotInTime(key, timeout);
    absl::SleepFor(kPollInterval);
  }
}

}  // namespace tessera
