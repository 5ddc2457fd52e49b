#include "tests/bench/server_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <new>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/grpc/grpc_server.h"
#include "server/inference_context.h"
#include "server/metrics/recorder.h"

namespace tessera {
namespace {

// What the server says once. Small enough that a pipe takes it in one piece.
struct Greeting {
  absl::StatusCode code = absl::StatusCode::kOk;
  int32_t port = 0;
  int32_t vocab_size = 0;
  std::array<char, 1024> message{};  // of an error, cut to fit

  void Fail(const absl::Status& status) {
    code = status.code();
    const size_t length = std::min(status.message().size(), message.size() - 1);
    std::copy_n(status.message().data(), length, message.data());
  }
};

struct Pipe {
  int read_end = -1;
  int write_end = -1;
};

absl::StatusOr<Pipe> MakePipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  return Pipe{.read_end = ends[0], .write_end = ends[1]};
}

// False when the other side has gone.
bool ReadAll(int fd, void* data, size_t size) {
  ssize_t got = 0;
  do {
    got = read(fd, data, size);
  } while (got < 0 && errno == EINTR);
  return got == static_cast<ssize_t>(size);
}

class Server {
 public:
  absl::Status Start(const RuntimeOptions& options, std::atomic<int64_t>* execution_ns) {
    ASSIGN_OR_RETURN(
        runtime_,
        ModelRuntime::Load(
            options, LogLoadProgress(options.engine.model.model_dir),
            {.on_step =
                 [this, execution_ns](const StepEvent& step) {
                   *execution_ns += absl::ToInt64Nanoseconds(step.execution);
                   metrics_.ObserveStep(step);
                 },
             .on_dead = [](const absl::Status& status) { FailAtOnce("overhead_bench", status); }}));
    context_ = std::make_unique<InferenceContext>(&runtime_->model(), &runtime_->engine(),
                                                  &metrics_, runtime_->options(), ServiceLimits{});
    ASSIGN_OR_RETURN(server_, GrpcServer::Start(context_.get(), {.port = 0}));
    return absl::OkStatus();
  }

  void Describe(Greeting* greeting) const {
    greeting->port = server_->port();
    greeting->vocab_size = runtime_->model().vocab_size;
  }

 private:
  MetricsRecorder metrics_;
  std::unique_ptr<ModelRuntime> runtime_;
  std::unique_ptr<InferenceContext> context_;
  std::unique_ptr<GrpcServer> server_;
};

// The life of the forked process.
void Serve(const RuntimeOptions& options, std::atomic<int64_t>* execution_ns, int greeting_fd,
           int lifeline_fd) {
  Server server;
  Greeting greeting;
  const absl::Status status = server.Start(options, execution_ns);
  if (status.ok()) {
    server.Describe(&greeting);
  } else {
    greeting.Fail(status);
  }
  if (write(greeting_fd, &greeting, sizeof(greeting)) != sizeof(greeting)) return;
  char nothing = 0;
  ReadAll(lifeline_fd, &nothing, 1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerProcess>> ServerProcess::Start(const RuntimeOptions& options) {
  void* const memory =
      mmap(nullptr, sizeof(Nanoseconds), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap");
  auto* const execution_ns = new (memory) Nanoseconds(0);
  ASSIGN_OR_RETURN(const Pipe greetings, MakePipe());
  ASSIGN_OR_RETURN(const Pipe lifeline, MakePipe());
  const pid_t pid = fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "fork");
  if (pid == 0) {
    close(greetings.read_end);
    close(lifeline.write_end);
    Serve(options, execution_ns, greetings.write_end, lifeline.read_end);
    _exit(0);
  }
  close(greetings.write_end);
  close(lifeline.read_end);
  std::unique_ptr<ServerProcess> process(new ServerProcess(pid, lifeline.write_end, execution_ns));
  Greeting greeting;
  const bool greeted = ReadAll(greetings.read_end, &greeting, sizeof(greeting));
  close(greetings.read_end);
  if (!greeted) return absl::UnavailableError("the server's process ended before it served");
  if (greeting.code != absl::StatusCode::kOk)
    return absl::Status(greeting.code, greeting.message.data());
  process->port_ = greeting.port;
  process->vocab_size_ = greeting.vocab_size;
  return process;
}

ServerProcess::~ServerProcess() {
  close(lifeline_);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  munmap(execution_ns_, sizeof(Nanoseconds));
}

std::string ServerProcess::address() const { return absl::StrCat("127.0.0.1:", port_); }

}  // namespace tessera
