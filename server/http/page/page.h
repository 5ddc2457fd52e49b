// The page to talk to the model: one text without anything from elsewhere.
#ifndef TESSERA_SERVER_HTTP_PAGE_PAGE_H_
#define TESSERA_SERVER_HTTP_PAGE_PAGE_H_

#include "server/http/http_message.h"

namespace tessera {

// The answer to GET /. Its Content-Security-Policy lets nothing run or load but the page's own
// script and style, and requests go to this server only. Any thread.
HttpResponse PageResponse();

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_PAGE_PAGE_H_
