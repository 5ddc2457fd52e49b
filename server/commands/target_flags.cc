#include "server/commands/target_flags.h"

namespace tessera {

void AddTargetOptions(OptionTable* table, ServerTarget* target) {
  table->Section("Connection to a server");
  table->Flag("tls", &target->uses_tls,
              "Connect by TLS; the next three options imply it. A unix:PATH is never encrypted.");
  table->Text("ca", &target->authority,
              "PEM file of who signs the server's certificate; empty: the system's authorities.");
  table->Text("cert", &target->certificate,
              "PEM file of this client's certificate, for servers that ask for one.");
  table->Text("key", &target->key, "PEM file of the key of --cert.");
  table->Text("api-key-file", &target->api_key_file,
              "File with the API key, for servers that want one.");
}

}  // namespace tessera
