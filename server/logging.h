// The server's log: lines on stderr. No prompt and no output ever gets there.
#ifndef TESSERA_SERVER_LOGGING_H_
#define TESSERA_SERVER_LOGGING_H_

#include <cstdint>
#include <string>

namespace tessera {

enum class LogFormat : uint8_t {
  kText,  // "2026-01-31T12:00:00.123 info TEXT", local time
  kJson,  // {"time":"2026-01-31T12:00:00.123Z","level":"info","message":"TEXT"}
};

// level: "debug", "info", "warning", "error". Before the first log line of a command; without it
// everything but debug lines is logged, as text.
void InitLogging(const std::string& level, LogFormat format = LogFormat::kText);

// Any thread; none waits for stderr.
void LogInfo(const std::string& text);
void LogWarning(const std::string& text);
void LogError(const std::string& text);
// Whether debug lines appear: spares making them.
bool LogsDebug();
void LogDebug(const std::string& text);

// For people at the end of a command: `text`, which ends with a line feed, as it is (as an error
// line with kJson), whatever the level. Waits a moment for what is written before it and for
// itself.
void LogLast(const std::string& text);

// Lines that were lost because nobody read them in time.
int64_t LogLinesDropped();
// Waits a moment for what was logged to be written. For the end of the process.
void FlushLog();

}  // namespace tessera

#endif  // TESSERA_SERVER_LOGGING_H_
