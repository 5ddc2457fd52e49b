// Requests and responses of HTTP/1.1 as the routes see them.
#ifndef TESSERA_SERVER_HTTP_HTTP_MESSAGE_H_
#define TESSERA_SERVER_HTTP_HTTP_MESSAGE_H_

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct HttpHeader {
  std::string name;
  std::string value;
};

struct HttpRequest {
  std::string method;               // as sent: "GET"
  std::string path;                 // of the target, as sent: "/v1/models"
  std::string query;                // behind the first '?', without it
  std::vector<HttpHeader> headers;  // names in lower case, values without outer white space
  std::string body;
  // The client's x-request-id where it is [A-Za-z0-9._:-]{1,128}, else made up.
  std::string id;
  bool is_http_1_0 = false;

  // The first value of a header, by its name in lower case; empty when there is none.
  std::string_view Header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type;  // empty: no such header
  std::string body;
  std::vector<HttpHeader> headers;  // besides those that the listener writes itself
};

// "OK", "Not Found", …; "Unknown" for what this server never sends.
std::string_view HttpReason(int status);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_HTTP_MESSAGE_H_
