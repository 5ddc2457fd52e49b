// W3C Trace Context: which trace of the client a call belongs to.
#ifndef TESSERA_SERVER_TRACE_CONTEXT_H_
#define TESSERA_SERVER_TRACE_CONTEXT_H_

#include <string_view>

namespace tessera {

// The trace id (32 hexadecimal digits) of a `traceparent` header, a part of it; empty when the
// header is not a valid one, which the standard wants ignored.
std::string_view TraceIdOf(std::string_view traceparent);

}  // namespace tessera

#endif  // TESSERA_SERVER_TRACE_CONTEXT_H_
