# cmake -DSOURCE=folder -DOUTPUT=file -P embed.cmake: the page's parts as one text, in a .cc file.
foreach(part page.html page.css markdown.js stream.js settings.js page.js)
  file(READ "${SOURCE}/${part}" text)
  string(MAKE_C_IDENTIFIER "${part}" name)
  set(${name} "${text}")
endforeach()
string(REPLACE "/*STYLE*/" "${page_css}" page "${page_html}")
string(REPLACE "/*SCRIPT*/" "${markdown_js}${stream_js}${settings_js}${page_js}" page "${page}")
file(WRITE "${OUTPUT}" "namespace tessera {
extern const char kPageText[];
const char kPageText[] = R\"PAGE_TEXT(${page})PAGE_TEXT\";
}  // namespace tessera
")
