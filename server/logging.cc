#include "server/logging.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/text/utf8.h"
#include "server/json_text.h"
#include "server/log_writer.h"

namespace tessera {
namespace {

enum class Level : uint8_t { kDebug, kInfo, kWarning, kError };

struct LevelName {
  absl::string_view name;
  absl::string_view colour;
};

constexpr std::array<LevelName, 4> kLevels = {{
    {"debug", "\033[36m"},
    {"info", "\033[32m"},
    {"warning", "\033[33m\033[1m"},
    {"error", "\033[31m\033[1m"},
}};

// How long the end of the process waits for a reader of stderr.
constexpr absl::Duration kLastWords = absl::Seconds(1);

std::atomic<Level> threshold{Level::kInfo};
std::atomic<LogFormat> chosen_format{LogFormat::kText};

// Names of files may be bytes that are no text: each becomes the character of its value.
std::string AsText(absl::string_view bytes) {
  if (IsValidUtf8({bytes.data(), bytes.size()})) return std::string(bytes);
  std::string text;
  for (const unsigned char c : bytes) {
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else {
      text += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    }
  }
  return text;
}

std::string Line(Level level, absl::string_view text) {
  const LevelName& shown = kLevels[static_cast<size_t>(level)];
  const absl::Time now = absl::Now();
  if (chosen_format.load() == LogFormat::kJson) {
    return absl::StrCat(
        "{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", now, absl::UTCTimeZone()),
        "\",\"level\":\"", shown.name, "\",\"message\":", JsonQuoted(AsText(text)), "}\n");
  }
  static const bool is_terminal = isatty(STDERR_FILENO) != 0;
  return absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3S", now, absl::LocalTimeZone()), " ",
                      is_terminal ? shown.colour : "", shown.name, is_terminal ? "\033[m" : "", " ",
                      text, "\n");
}

LogWriter& Writer() {
  static LogWriter* const writer = [] {
    std::atexit(&FlushLog);
    return new LogWriter(STDERR_FILENO, [](int64_t dropped) {
      return Line(Level::kWarning,
                  absl::StrCat(dropped, " log lines were dropped: nobody read them in time"));
    });
  }();
  return *writer;
}

void Log(Level level, const std::string& text) {
  if (level >= threshold.load()) Writer().Add(Line(level, text));
}

}  // namespace

void InitLogging(const std::string& level, LogFormat format) {
  chosen_format = format;
  for (size_t i = 0; i < kLevels.size(); ++i) {
    if (kLevels[i].name == level) threshold = static_cast<Level>(i);
  }
}

void LogInfo(const std::string& text) { Log(Level::kInfo, text); }
void LogWarning(const std::string& text) { Log(Level::kWarning, text); }
void LogError(const std::string& text) { Log(Level::kError, text); }
bool LogsDebug() { return threshold.load() == Level::kDebug; }
void LogDebug(const std::string& text) { Log(Level::kDebug, text); }

void LogLast(const std::string& text) {
  const bool is_json = chosen_format.load() == LogFormat::kJson;
  Writer().Add(is_json ? Line(Level::kError, absl::StripSuffix(text, "\n")) : text);
  FlushLog();
}

int64_t LogLinesDropped() { return Writer().dropped(); }
void FlushLog() { Writer().Flush(kLastWords); }

}  // namespace tessera
