#include "parallel/carrier/carrier.h"

#include <algorithm>
#include <utility>

#include "kernels/core/monotonic_time.h"
#include "kernels/core/relax_core.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// There are at most as many carriers as cores, and what they wait for takes microseconds: a rank of
// another carrier inside a step, the next plan between steps. Waking a thread that sleeps takes
// longer.
constexpr absl::Duration kPollTime = absl::Microseconds(200);
// After this time somebody else may have the core: it is needed for what is waited for, perhaps.
constexpr absl::Duration kSelfishTime = absl::Microseconds(10);
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
  limit_ =
      deadline == absl::InfiniteFuture() ? absl::InfiniteDuration() : deadline - MonotonicNow();
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
    work();
  }
}

struct Carrier::State {
  State(int num_seats, std::shared_ptr<Bell> shared_bell, bool shared)
      : bell(std::move(shared_bell)) {
    for (int i = 0; i < num_seats; ++i) {
      seats.push_back(std::make_unique<Seat>(bell.get(), shared));
      if (shared) seats.back()->BeginFiber();
    }
  }

  bool finished() const {
    return std::all_of(seats.begin(), seats.end(),
                       [](const auto& seat) { return seat->finished_; });
  }

  const std::shared_ptr<Bell> bell;
  std::vector<std::unique_ptr<Seat>> seats;
  Mutex mutex;
  CondVar end;
  bool thread_ended ABSL_GUARDED_BY(mutex) = false;
};

Carrier::Carrier(int seats, std::shared_ptr<Bell> bell, Host host)
    : state_(std::make_shared<State>(seats, std::move(bell), seats > 1 || host == Host::kCaller)) {
  if (host == Host::kOwnThread) {
    thread_ = std::thread([state = state_] { Run(*state); });
  }
}

Carrier::~Carrier() { Stop(absl::InfiniteFuture()); }

Seat& Carrier::seat(int index) { return *state_->seats[index]; }

void Carrier::BeginStop() {
  for (const auto& seat : state_->seats) seat->stop_.store(true);
  state_->bell->Ring();
}

bool Carrier::Stop(absl::Time deadline) {
  if (state_ == nullptr) return true;
  BeginStop();
  const bool stopped = thread_.joinable() ? StopOwnThread(deadline) : StopOnCaller(deadline);
  state_.reset();
  return stopped;
}

bool Carrier::StopOwnThread(absl::Time deadline) {
  {
    MutexLock lock(&state_->mutex);
    while (!state_->thread_ended) {
      const absl::Duration left = deadline - MonotonicNow();
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

bool Carrier::StopOnCaller(absl::Time deadline) {
  if (RunUntil([this] { return state_->finished(); }, deadline)) return true;
  // Its ranks are in the middle of something: their stacks must stay.
  static_cast<void>(new std::shared_ptr<State>(state_));
  return false;
}

void Carrier::Run(State& state) {
  if (state.seats.front()->shared()) {
    RunSeats(
        state, [&state] { return state.finished(); }, absl::InfiniteFuture());
  } else {
    state.seats.front()->WorkUntilStopped();
  }
  MutexLock lock(&state.mutex);
  state.thread_ended = true;
  state.end.SignalAll();
}

bool Carrier::RunUntil(absl::FunctionRef<bool()> done, absl::Time deadline) {
  return RunSeats(*state_, done, deadline);
}

bool Carrier::RunSeats(State& state, absl::FunctionRef<bool()> done, absl::Time deadline) {
  const absl::Duration limit = deadline - MonotonicNow();
  while (!done()) {
    bool ran = false;
    for (const auto& seat : state.seats) {
      if (!seat->Ready()) continue;
      seat->fiber_->Resume();
      ran = true;
    }
    if (ran) continue;
    AwaitAny(state, done, deadline);
    const absl::Time now = MonotonicNow();
    deadline = PatientDeadline(deadline, now, limit);
    if (now >= deadline) return done();
  }
  return true;
}

// Nobody can run. Returns when somebody can or it is done, and at deadlines.
void Carrier::AwaitAny(State& state, absl::FunctionRef<bool()> done, absl::Time deadline) {
  const auto change = [&] {
    return done() || std::any_of(state.seats.begin(), state.seats.end(),
                                 [](const auto& seat) { return seat->Ready(); });
  };
  const absl::Time begun = MonotonicNow();
  for (absl::Time now = begun; now < begun + kPollTime; now = MonotonicNow()) {
    for (int look = 0; look < kLooksPerTime; ++look) {
      if (change()) return;
      RelaxCore();
    }
    if (now > begun + kSelfishTime) std::this_thread::yield();
  }
  for (const auto& seat : state.seats) deadline = std::min(deadline, seat->deadline_);
  if (state.bell->Wait(change, deadline)) return;
  TimeOutSeats(state);
}

void Carrier::TimeOutSeats(State& state) {
  const absl::Time now = MonotonicNow();
  for (const auto& seat : state.seats) {
    seat->deadline_ = PatientDeadline(seat->deadline_, now, seat->limit_);
    seat->timed_out_ = seat->deadline_ <= now;
  }
}

}  // namespace tessera
