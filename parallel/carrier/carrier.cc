#include "parallel/carrier/carrier.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/core/status_macros.h"
#include "parallel/carrier/futex.h"

namespace tessera {
namespace {

// A rank of another carrier that this one waits for inside a step is there within some
// microseconds, when it has a core. Between steps nobody polls: the core belongs to the thread that
// plans the next one.
constexpr absl::Duration kPollTime = absl::Microseconds(50);
constexpr int kLooksPerTime = 16;

}  // namespace

void Seat::Post(std::function<void()> work) {
  {
    MutexLock lock(&mutex_);
    work_.push_back(std::move(work));
    num_posted_.fetch_add(1);
  }
  bell_.Ring();
}

bool Seat::Wait(absl::FunctionRef<bool()> ready, absl::Time deadline) {
  TESSERA_CHECK(shared_);
  ready_ = &ready;
  deadline_ = deadline;
  fiber_->Pause();
  ready_ = nullptr;
  deadline_ = absl::InfiniteFuture();
  return !std::exchange(timed_out_, false) || ready();
}

void Seat::BeginFiber() {
  fiber_.emplace([this] {
    WorkUntilStopped();
    finished_ = true;
  });
}

void Seat::AwaitWork() {
  const auto has_work = [this] { return HasWork(); };
  if (has_work()) return;
  if (shared_) {
    Wait(has_work);
  } else {
    bell_.Wait(has_work, absl::InfiniteFuture());
  }
}

void Seat::WorkUntilStopped() {
  while (true) {
    AwaitWork();
    std::function<void()> work;
    {
      MutexLock lock(&mutex_);
      if (work_.empty()) return;
      work = std::move(work_.front());
      work_.pop_front();
      num_posted_.fetch_sub(1);
    }
    working_ = true;
    work();
    working_ = false;
  }
}

struct Carrier::State {
  State(int num_seats, std::shared_ptr<Bell> shared_bell) : bell(std::move(shared_bell)) {
    for (int i = 0; i < num_seats; ++i) {
      seats.push_back(std::make_unique<Seat>(bell.get(), num_seats > 1));
    }
  }

  const std::shared_ptr<Bell> bell;
  std::vector<std::unique_ptr<Seat>> seats;
  Mutex mutex;
  CondVar end;
  bool finished ABSL_GUARDED_BY(mutex) = false;
};

Carrier::Carrier(int seats, std::shared_ptr<Bell> bell)
    : state_(std::make_shared<State>(seats, std::move(bell))),
      thread_([state = state_] { Run(*state); }) {}

Carrier::~Carrier() { Stop(absl::InfiniteFuture()); }

Seat& Carrier::seat(int index) { return *state_->seats[index]; }

void Carrier::BeginStop() {
  for (const auto& seat : state_->seats) seat->stop_.store(true);
  state_->bell->Ring();
}

bool Carrier::Stop(absl::Time deadline) {
  if (!thread_.joinable()) return true;
  BeginStop();
  {
    MutexLock lock(&state_->mutex);
    while (!state_->finished) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) {
        thread_.detach();
        return false;
      }
      state_->end.WaitWithTimeout(&state_->mutex, left);
    }
  }
  thread_.join();
  return true;
}

void Carrier::Run(State& state) {
  if (state.seats.size() == 1) {
    state.seats.front()->WorkUntilStopped();
  } else {
    RunSeats(state);
  }
  MutexLock lock(&state.mutex);
  state.finished = true;
  state.end.SignalAll();
}

void Carrier::RunSeats(State& state) {
  for (const auto& seat : state.seats) seat->BeginFiber();
  const auto finished = [](const auto& seat) { return seat->finished_; };
  while (!std::all_of(state.seats.begin(), state.seats.end(), finished)) {
    bool ran = false;
    for (const auto& seat : state.seats) {
      if (!seat->Ready()) continue;
      seat->fiber_->Resume();
      ran = true;
    }
    if (!ran) AwaitAny(state);
  }
}

// Nobody can run. Returns when somebody can.
void Carrier::AwaitAny(State& state) {
  const auto any_ready = [&] {
    return std::any_of(state.seats.begin(), state.seats.end(),
                       [](const auto& seat) { return seat->Ready(); });
  };
  const bool inside_step = std::any_of(state.seats.begin(), state.seats.end(),
                                       [](const auto& seat) { return seat->working_; });
  const absl::Time end = absl::Now() + kPollTime;
  while (inside_step && absl::Now() < end) {
    for (int look = 0; look < kLooksPerTime; ++look) {
      if (any_ready()) return;
      RelaxCore();
    }
  }
  absl::Time deadline = absl::InfiniteFuture();
  for (const auto& seat : state.seats) deadline = std::min(deadline, seat->deadline_);
  if (state.bell->Wait(any_ready, deadline)) return;
  for (const auto& seat : state.seats) seat->timed_out_ = seat->deadline_ <= absl::Now();
}

}  // namespace tessera
