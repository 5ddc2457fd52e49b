// A function with a stack of its own that can pause in the middle of its work.
#ifndef TESSERA_PARALLEL_CARRIER_FIBER_H_
#define TESSERA_PARALLEL_CARRIER_FIBER_H_

#include <functional>
#include <memory>

namespace tessera {

// Used by one thread at a time; another one may take over while the body pauses. It pauses only
// where it calls Pause, so between two pauses it may use thread-local memory like any function;
// what it finds there afterwards is what others left.
class Fiber {
 public:
  // `body` begins with the first Resume. It must not throw.
  explicit Fiber(std::function<void()> body);
  ~Fiber();  // the body has returned or has never begun
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the body until it pauses or returns. Not from inside a fiber.
  void Resume();
  // Inside the body: back to Resume.
  void Pause();

 private:
  struct Contexts;
  std::unique_ptr<Contexts> contexts_;
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CARRIER_FIBER_H_
