// Log lines on stderr: time, level, text. Never prompts or outputs.
#ifndef TESSERA_SERVER_LOGGING_H_
#define TESSERA_SERVER_LOGGING_H_

#include <string>

namespace tessera {

// "debug", "info", "warning" or "error". Call before the other threads start.
void InitLogging(const std::string& level);

void LogInfo(const std::string& text);
void LogWarning(const std::string& text);
void LogError(const std::string& text);
bool LogsDebug();  // whether anybody reads it: building the text may cost more than the rest
void LogDebug(const std::string& text);

}  // namespace tessera

#endif  // TESSERA_SERVER_LOGGING_H_
