#include "engine/model/preparation.h"

namespace tessera {

Preparation::Preparation(int num_threads) {
  if (num_threads < 2) return;
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Work(); });
}

Preparation::~Preparation() {
  {
    MutexLock lock(&mutex_);
    waiting_.clear();
    ends_ = true;
    changed_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

void Preparation::Note(int64_t number, const absl::Status& status) {
  if (status.ok() || (!failure_.ok() && failed_ < number)) return;
  failure_ = status;
  failed_ = number;
}

absl::Status Preparation::Add(Piece piece) {
  if (threads_.empty()) {
    const absl::Status status = piece();
    MutexLock lock(&mutex_);
    Note(added_++, status);
    return failure_;
  }
  MutexLock lock(&mutex_);
  while (failure_.ok() && waiting_.size() >= threads_.size()) changed_.Wait(&mutex_);
  if (!failure_.ok()) return failure_;
  waiting_.push_back({added_++, std::move(piece)});
  changed_.SignalAll();
  return absl::OkStatus();
}

absl::Status Preparation::Finish() {
  MutexLock lock(&mutex_);
  while (at_work_ > 0 || (failure_.ok() && !waiting_.empty())) changed_.Wait(&mutex_);
  return failure_;
}

void Preparation::Work() {
  MutexLock lock(&mutex_);
  while (true) {
    while (!ends_ && (waiting_.empty() || !failure_.ok())) changed_.Wait(&mutex_);
    if (ends_) return;
    Numbered next = std::move(waiting_.front());
    waiting_.pop_front();
    ++at_work_;
    changed_.SignalAll();
    mutex_.Unlock();
    const absl::Status status = next.piece();
    next.piece = nullptr;
    mutex_.Lock();
    Note(next.number, status);
    --at_work_;
    changed_.SignalAll();
  }
}

}  // namespace tessera
